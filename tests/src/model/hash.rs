//! The flow hash. All edge nodes must agree on it, so it is part of what is promised: docs/architecture.md, "The flow
//! hash".

use std::net::IpAddr;

const K0: u64 = 0x9e37_79b9_7f4a_7c15;
const K1: u64 = 0xbf58_476d_1ce4_e5b9;
const K2: u64 = 0x94d0_49bb_1331_11eb;

/// 64 bits of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash(pub u64);

impl Hash {
    /// What a flow entry keeps of it.
    pub(super) fn tag(self) -> u64 {
        self.0 % (1 << 26)
    }

    /// The ring slot: the tag's part of all tags is the slot's part of all slots.
    pub(super) fn slot(self, slots: usize) -> usize {
        (self.tag() * slots as u64 / (1 << 26)) as usize
    }

    /// Which of `sets` sets of a table, a power of two.
    pub(super) fn set(self, sets: usize) -> usize {
        (self.0 >> 32) as usize % sets
    }

    /// What outer sources, ports and labels are made of.
    pub(super) fn spread(self) -> u64 {
        self.0.rotate_left(23)
    }
}

/// What makes packets one flow.
#[derive(Clone, Copy, Debug)]
pub(super) enum Key {
    /// The client's address alone.
    Client(IpAddr),
    /// Client, VIP, and 40 bits: protocol and ports, or protocol and identification of a datagram in fragments.
    Packet(IpAddr, IpAddr, u8, u32),
}

/// Ports as 32 bits of a [`Key`].
pub(super) fn ports(source: u16, destination: u16) -> u32 {
    u32::from(source.swap_bytes()) | u32::from(destination.swap_bytes()) << 16
}

pub(super) fn hash(seed: u64, key: Key) -> Hash {
    let (source, destination, rest) = match key {
        Key::Client(source) => (source, None, 0),
        Key::Packet(source, destination, protocol, more) => {
            (source, Some(destination), u64::from(protocol) << 32 | u64::from(more))
        }
    };
    let addresses = match source {
        IpAddr::V4(_) => half(source) << 32 | destination.map_or(0, half),
        IpAddr::V6(_) => {
            let ([s0, s1], [d0, d1]) = (halves(source), destination.map_or([0, 0], halves));
            let source = round(round(s0 ^ seed, K1) ^ s1, K2);
            let destination = round(round(d0 ^ seed, K2) ^ d1, K0);
            source ^ destination.rotate_left(32)
        }
    };
    Hash(round(round(addresses ^ seed, K0) ^ rest, K1))
}

fn round(x: u64, k: u64) -> u64 {
    let product = x.wrapping_mul(k);
    product ^ product >> 32
}

/// The bytes of an IPv4 address, the first one lowest.
fn half(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => u32::from_le_bytes(address.octets()).into(),
        IpAddr::V6(_) => 0,
    }
}

/// The bytes of an IPv6 address, the first one of each half lowest.
fn halves(address: IpAddr) -> [u64; 2] {
    match address {
        IpAddr::V4(_) => [0, 0],
        IpAddr::V6(address) => {
            let bytes = u128::from_le_bytes(address.octets());
            [bytes as u64, (bytes >> 64) as u64]
        }
    }
}
