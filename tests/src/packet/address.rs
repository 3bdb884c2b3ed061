//! Addresses as tests write them: text, or the value itself.

use std::fmt::{self, Display};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Everyone on the link.
    pub const BROADCAST: Self = Self([0xff; 6]);
}

/// The text is not six hexadecimal bytes with colons between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAMac;

impl Display for NotAMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not six hexadecimal bytes with colons between them")
    }
}

impl FromStr for Mac {
    type Err = NotAMac;

    fn from_str(text: &str) -> Result<Self, NotAMac> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            *byte = parts.next().and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or(NotAMac)?;
        }
        if parts.next().is_some() { Err(NotAMac) } else { Ok(Self(bytes)) }
    }
}

impl Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What stands for a `T` in a test: the value, or text.
pub trait Literal<T> {
    /// The value.
    ///
    /// # Panics
    /// When text does not parse; a test then has a typing mistake.
    fn value(self) -> T;
}

impl<T: FromStr<Err: Display>> Literal<T> for &str {
    #[track_caller]
    fn value(self) -> T {
        match self.parse() {
            Ok(value) => value,
            Err(error) => panic!("{self:?} in a packet: {error}"),
        }
    }
}

impl Literal<Mac> for Mac {
    fn value(self) -> Self {
        self
    }
}

impl Literal<Mac> for [u8; 6] {
    fn value(self) -> Mac {
        Mac(self)
    }
}

impl Literal<Ipv4Addr> for Ipv4Addr {
    fn value(self) -> Self {
        self
    }
}

impl Literal<Ipv6Addr> for Ipv6Addr {
    fn value(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_read_and_write_alike() {
        let text = "02:00:5e:ff:01:0a";
        assert_eq!(text.parse(), Ok(Mac([2, 0, 0x5e, 0xff, 1, 10])));
        assert_eq!(text.parse::<Mac>().unwrap().to_string(), text);
        for wrong in ["", "02:00", "02:00:5e:ff:01:0a:00", "zz:00:5e:ff:01:0a"] {
            assert_eq!(wrong.parse::<Mac>(), Err(NotAMac), "{wrong:?}");
        }
    }
}
