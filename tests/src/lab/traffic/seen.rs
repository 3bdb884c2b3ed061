//! What a server says in every answer, and the records that long connections and UDP streams exchange.
//!
//! ```text
//!   answer text            backend1 198.51.100.2 40000          name, client address, client port
//!   TCP request            u64 sequence | u32 n | n bytes       big endian
//!   TCP reply              u64 sequence | u8 n | n bytes        the bytes are the answer text
//!   UDP request            u64 sequence | padding
//!   UDP reply              u64 sequence | answer text
//! ```

use std::fmt;
use std::net::SocketAddr;

/// Length of a TCP request's head.
pub(super) const REQUEST_HEAD: usize = 12;
/// Length of a TCP reply's head.
pub(super) const REPLY_HEAD: usize = 9;
/// Length of a sequence number.
pub(super) const SEQUENCE: usize = 8;

/// Who answered, and whom it saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The server's name.
    pub server: String,
    /// The client's address as the server saw it.
    pub client: SocketAddr,
}

impl Seen {
    /// Reads the answer text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let (server, ip, port) = (words.next()?, words.next()?, words.next()?);
        if words.next().is_some() {
            return None;
        }
        Some(Self { server: server.into(), client: SocketAddr::new(ip.parse().ok()?, port.parse().ok()?) })
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.server, self.client.ip().to_canonical(), self.client.port())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back() {
        for client in ["198.51.100.2:40000", "[2001:db8::2]:1"] {
            let seen = Seen { server: "backend1".into(), client: client.parse().unwrap() };
            assert_eq!(Seen::parse(&seen.to_string()), Some(seen));
        }
        for bad in ["", "a", "a b", "a 1.2.3.4", "a 1.2.3.4 99999", "a 1.2.3.4 5 6"] {
            assert_eq!(Seen::parse(bad), None, "{bad}");
        }
    }
}
