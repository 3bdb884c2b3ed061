//! Ranges of addresses, as numbers.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

use super::Family;

/// Addresses from first to last, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    family: Family,
    first: u128,
    last: u128,
}

/// Text that is no range.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "must be addresses as in 203.0.113.0/24, 203.0.113.10-203.0.113.20 or 203.0.113.10, is {text:?}{hint}"
)]
pub struct RangeError {
    text: String,
    hint: &'static str,
}

impl Range {
    /// The family.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        Family::of(address) == self.family && (self.first..=self.last).contains(&number(address))
    }

    /// Whether an address is in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.family == other.family && self.first <= other.last && other.first <= self.last
    }

    /// How many there are; the largest number for more.
    #[must_use]
    pub fn count(&self) -> u64 {
        u64::try_from(self.last - self.first).map_or(u64::MAX, |len| len.saturating_add(1))
    }

    /// The first address that is not taken. It costs as many steps as there are taken ones before it.
    pub(super) fn first_free(&self, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let mut next = self.first;
        for &address in taken.range(self.address(self.first)..=self.address(self.last)) {
            if number(address) != next {
                break;
            }
            next = next.checked_add(1)?;
        }
        (next <= self.last).then(|| self.address(next))
    }

    fn address(&self, number: u128) -> IpAddr {
        match self.family {
            // The number came from an IPv4 address, or lies between two.
            Family::V4 => Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX)).into(),
            Family::V6 => Ipv6Addr::from_bits(number).into(),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    }
}

impl FromStr for Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let wrong = |hint| RangeError { text: text.to_owned(), hint };
        let parse = |part: &str| part.trim().parse::<IpAddr>().map_err(|_| wrong(""));
        let (first, last) = if let Some((address, length)) = text.split_once('/') {
            let address = parse(address)?;
            let width = if address.is_ipv4() { 32 } else { 128 };
            let length: u32 = length.trim().parse().ok().filter(|l| *l <= width).ok_or_else(|| wrong(""))?;
            let hosts = 1_u128.checked_shl(width - length).map_or(u128::MAX, |count| count - 1);
            let first = number(address);
            if first & hosts != 0 {
                return Err(wrong(": there are bits set after the prefix"));
            }
            return Ok(Self { family: Family::of(address), first, last: first | hosts });
        } else if let Some((first, last)) = text.split_once('-') {
            (parse(first)?, parse(last)?)
        } else {
            (parse(text)?, parse(text)?)
        };
        if Family::of(first) != Family::of(last) {
            return Err(wrong(": both ends must be of one family"));
        }
        if number(first) > number(last) {
            return Err(wrong(": it must run upwards"));
        }
        Ok(Self { family: Family::of(first), first: number(first), last: number(last) })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.address(self.first), self.address(self.last))
    }
}
