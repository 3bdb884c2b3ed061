//! The control packet of RFC 5880 section 4.1, without authentication.
//!
//! ```text
//!   0                   8                   16                  24
//!   | version 1 | diag  | state PFCADM      | detect mult       | length 24         |
//!   | my discriminator                                                              |
//!   | your discriminator                                                            |
//!   | desired min TX interval, us                                                   |
//!   | required min RX interval, us                                                  |
//!   | required min echo RX interval, us                                             |
//! ```

use super::State;

/// Bytes of a packet.
pub const LENGTH: usize = 24;

const POLL: u8 = 1 << 5;
const FINAL: u8 = 1 << 4;
const AUTHENTICATED: u8 = 1 << 2;
const DEMAND: u8 = 1 << 1;
const MULTIPOINT: u8 = 1;

/// Why a session last changed (RFC 5880 section 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Diagnostic(pub u8);

impl Diagnostic {
    /// None.
    pub const NONE: Self = Self(0);
    /// The detection time has expired.
    pub const EXPIRED: Self = Self(1);
    /// The other side signalled that the session is down.
    pub const SIGNALLED: Self = Self(3);
    /// Administratively down.
    pub const ADMIN_DOWN: Self = Self(7);

    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self.0 {
            0 => "no diagnostic",
            1 => "control detection time expired",
            2 => "echo function failed",
            3 => "neighbour signalled session down",
            4 => "forwarding plane reset",
            5 => "path down",
            6 => "concatenated path down",
            7 => "administratively down",
            8 => "reverse concatenated path down",
            _ => "unknown diagnostic",
        }
    }
}

/// One control packet. C is 0 always: our BFD dies with the agent, though forwarding goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Why the sender's session last changed.
    pub diagnostic: Diagnostic,
    /// The sender's state.
    pub state: State,
    /// P: an answer is wanted at once.
    pub poll: bool,
    /// F: this is the answer.
    pub fin: bool,
    /// D: the sender wants no periodic packets.
    pub demand: bool,
    /// Packets that may be missing.
    pub multiplier: u8,
    /// The sender's discriminator, never 0.
    pub my: u32,
    /// The receiver's, 0 while not known.
    pub your: u32,
    /// Least interval the sender wants to send with, microseconds.
    pub desired_tx: u32,
    /// Least interval it can receive with, microseconds; 0: nothing periodic, please.
    pub required_rx: u32,
}

/// Why a packet is discarded (RFC 5880 section 6.8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Discard {
    /// Less than a packet, or a length that does not fit.
    #[error("the length does not fit")]
    Length,
    /// Not version 1.
    #[error("not version 1")]
    Version,
    /// A field has a value it must not have.
    #[error("a field has a forbidden value")]
    Field,
    /// It is authenticated and we are not.
    #[error("it is authenticated")]
    Authenticated,
}

impl Packet {
    /// Reads the payload of a datagram.
    ///
    /// # Errors
    /// [`Discard`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Discard> {
        let head: &[u8; LENGTH] = bytes.first_chunk().ok_or(Discard::Length)?;
        if head[0] >> 5 != 1 {
            return Err(Discard::Version);
        }
        let (flags, length) = (head[1], usize::from(head[3]));
        if length < LENGTH || length > bytes.len() {
            return Err(Discard::Length);
        }
        if flags & AUTHENTICATED != 0 {
            return Err(Discard::Authenticated);
        }
        let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let packet = Self {
            diagnostic: Diagnostic(head[0] & 0x1f),
            state: State::from_bits(flags >> 6),
            poll: flags & POLL != 0,
            fin: flags & FINAL != 0,
            demand: flags & DEMAND != 0,
            multiplier: head[2],
            my: word(4),
            your: word(8),
            desired_tx: word(12),
            required_rx: word(16),
        };
        let lost = packet.your == 0 && !matches!(packet.state, State::Down | State::AdminDown);
        if packet.multiplier == 0 || flags & MULTIPOINT != 0 || packet.my == 0 || lost {
            return Err(Discard::Field);
        }
        Ok(packet)
    }

    /// The payload of a datagram.
    #[must_use]
    pub fn encode(&self) -> [u8; LENGTH] {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let mut bytes = [0; LENGTH];
        bytes[0] = 1 << 5 | self.diagnostic.0 & 0x1f;
        bytes[1] = self.state.bits() << 6
            | flag(self.poll, POLL)
            | flag(self.fin, FINAL)
            | flag(self.demand, DEMAND);
        bytes[2] = self.multiplier;
        bytes[3] = LENGTH as u8;
        for (at, word) in [(4, self.my), (8, self.your), (12, self.desired_tx), (16, self.required_rx)] {
            bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet() -> Packet {
        Packet {
            diagnostic: Diagnostic::SIGNALLED,
            state: State::Up,
            poll: true,
            fin: false,
            demand: false,
            multiplier: 3,
            my: 0x0102_0304,
            your: 0x0506_0708,
            desired_tx: 100_000,
            required_rx: 1_000_000,
        }
    }

    #[test]
    fn byte_for_byte() {
        let bytes =
            [0x23, 0xe0, 3, 24, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0x86, 0xa0, 0, 0x0f, 0x42, 0x40, 0, 0, 0, 0];
        assert_eq!(packet().encode(), bytes);
        assert_eq!(Packet::decode(&bytes), Ok(packet()));
        // Padding behind it is allowed.
        assert_eq!(Packet::decode(&[&bytes[..], &[1, 2, 3]].concat()), Ok(packet()));
    }

    #[test]
    fn every_rule_of_reception() {
        let with = |at: usize, value: u8| {
            let mut bytes = packet().encode();
            bytes[at] = value;
            Packet::decode(&bytes)
        };
        assert_eq!(Packet::decode(&packet().encode()[..23]), Err(Discard::Length));
        assert_eq!(with(0, 0x43), Err(Discard::Version));
        assert_eq!(with(0, 0x03), Err(Discard::Version));
        assert_eq!(with(3, 23), Err(Discard::Length));
        assert_eq!(with(3, 25), Err(Discard::Length));
        assert_eq!(with(2, 0), Err(Discard::Field));
        assert_eq!(with(1, 0xe1), Err(Discard::Field));
        assert_eq!(with(1, 0xe4), Err(Discard::Authenticated));
        let no_my = Packet { my: 0, ..packet() };
        assert_eq!(Packet::decode(&no_my.encode()), Err(Discard::Field));
        for state in [State::AdminDown, State::Down, State::Init, State::Up] {
            let no_your = Packet { your: 0, state, ..packet() };
            let fine = matches!(state, State::AdminDown | State::Down);
            assert_eq!(Packet::decode(&no_your.encode()).is_ok(), fine, "{state:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(packet) = Packet::decode(&bytes) {
                prop_assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
            }
        }
    }
}
