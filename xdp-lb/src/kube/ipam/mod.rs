//! Who gets which address. Pure: pools, wishes and what was released go in, addresses and reasons come out.
//!
//! Nothing is remembered between two calls: what a Service has is in its status, so a restarted controller gives the same
//! answer. Who has an address keeps it, whatever else happens, also when its pool goes or would not give it any more: an
//! edited pool takes no address out of use. Then older Services come before younger ones.
//!
//! ```text
//!   keep what is held -> addresses that were asked for -> shared ones -> the first free one of the best pool
//! ```

mod addresses;
mod assign;
mod selector;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

pub use self::addresses::{Range, RangeError};
pub use self::assign::assign;
pub use self::selector::{Operator, Requirement, Selector};
use super::Key;
use crate::model::Protocol;

/// Addresses to give away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// Unique name.
    pub name: String,
    /// Addresses, in the order in which they are given.
    pub ranges: Vec<Range>,
    /// Pools of higher priority are asked first; those of equal priority by name.
    pub priority: i32,
    /// Gives addresses to who did not ask for one of them by name or address.
    pub auto_assign: bool,
    /// Namespaces that may have addresses.
    pub namespaces: Selector,
    /// Services that may.
    pub services: Selector,
    /// At most so many addresses for each namespace.
    pub quota: Option<usize>,
    /// Services may share addresses, if they say so.
    pub sharing: bool,
    /// An address that was released is not given to somebody else for so long.
    pub release_delay: Duration,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// An address's family.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// What a Service wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Who.
    pub key: Key,
    /// Since when, seconds since 1970.
    pub created: i64,
    /// Labels of the Service.
    pub labels: BTreeMap<String, String>,
    /// Labels of its namespace.
    pub namespace_labels: BTreeMap<String, String>,
    /// One address of each.
    pub families: BTreeSet<Family>,
    /// Families that it can do without.
    pub optional: BTreeSet<Family>,
    /// These addresses and no others.
    pub addresses: Vec<IpAddr>,
    /// From this pool and no other.
    pub pool: Option<String>,
    /// May share an address with Services of its namespace that say the same.
    pub sharing: Option<String>,
    /// Ports that it takes of its address.
    pub ports: BTreeSet<(Protocol, u16)>,
    /// What it has: its status.
    pub has: Vec<IpAddr>,
}

/// An address that nobody has any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// Who had it, and gets it again at once.
    pub by: Key,
    /// When, seconds since 1970.
    pub at: i64,
}

/// What there is to give, and who asks.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Pools.
    pub pools: Vec<Pool>,
    /// Everybody who wants an address.
    pub wishes: Vec<Wish>,
    /// What was released lately.
    pub released: BTreeMap<IpAddr, Released>,
    /// Seconds since 1970.
    pub now: i64,
}

/// An address and the pool that it is from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Given {
    /// The address.
    pub address: IpAddr,
    /// The pool's name.
    pub pool: String,
}

/// An address that stays with who has it although it would not be given again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kept {
    /// The address.
    pub address: IpAddr,
    /// Why it would not be given.
    pub why: String,
}

/// Who has what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Addresses of everybody who has one, sorted.
    pub given: BTreeMap<Key, Vec<Given>>,
    /// Addresses that stay with who has them, sorted.
    pub kept: BTreeMap<Key, Vec<Kept>>,
    /// What somebody wants and has not, in words for an Event. Who is here may have addresses as well.
    pub refused: BTreeMap<Key, Vec<String>>,
    /// Addresses in use by pool.
    pub used: BTreeMap<String, usize>,
    /// When an address that somebody waits for may be given, seconds since 1970.
    pub wake: Option<i64>,
}
