//! BFD (RFC 5880), asynchronous mode, single hop (RFC 5881) and multihop (RFC 5883): whether a router still hears us.
//!
//! `packet` and `session` are pure. `io` gives them sockets; [`crate::bgp`] takes a session down when BFD does.
//! No echo, no demand mode of our own, no authentication.

pub mod packet;
pub mod session;

#[cfg(feature = "agent")]
pub mod io;

/// State of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Switched off by its owner.
    AdminDown,
    /// Nothing heard, or the other side does not hear us.
    Down,
    /// Something heard, and the other side does not know yet.
    Init,
    /// Both hear each other.
    Up,
}

impl State {
    /// From the two bits of a packet.
    #[must_use]
    pub fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::AdminDown,
            1 => Self::Down,
            2 => Self::Init,
            _ => Self::Up,
        }
    }

    /// The two bits of a packet.
    #[must_use]
    pub fn bits(self) -> u8 {
        match self {
            Self::AdminDown => 0,
            Self::Down => 1,
            Self::Init => 2,
            Self::Up => 3,
        }
    }

    /// As the RFC names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AdminDown => "AdminDown",
            Self::Down => "Down",
            Self::Init => "Init",
            Self::Up => "Up",
        }
    }
}
