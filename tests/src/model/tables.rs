//! What the model takes from the agent's plan rather than think of it anew: which slot is whose, which id a service has.
//! How the plan comes to that is tested elsewhere (`xdp-lb/tests/plan`, `maglev`).

use std::collections::BTreeMap;
use std::net::IpAddr;

/// A service's place in the kernel's tables.
#[derive(Clone, Debug, Default)]
pub struct Placed {
    /// Its id: what is admitted is counted by it, and fragments remember it.
    pub id: u16,
    /// Its ring: flows remember it.
    pub ring: u16,
    /// A tracking window is open.
    pub window: bool,
    /// Its ring.
    pub slots: Vec<Slot>,
    /// Its backends by their index in the ring.
    pub members: BTreeMap<u16, Member>,
}

/// A ring slot.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Whose it is.
    pub now: Option<u16>,
    /// It changed not long ago.
    pub dirty: bool,
    /// Whose it was.
    pub before: Option<u16>,
}

/// A backend in a ring.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Its address.
    pub address: IpAddr,
    /// Up or draining.
    pub alive: bool,
}

impl Placed {
    /// Whether flows may be at this backend.
    pub(super) fn is_alive(&self, local: u16) -> bool {
        self.members.get(&local).is_some_and(|member| member.alive)
    }

    /// A backend's index in the ring.
    pub(super) fn local(&self, address: IpAddr) -> Option<u16> {
        self.members.iter().find(|(_, member)| member.address == address).map(|(local, _)| *local)
    }
}

/// The kernel's clock, in the units that tables count in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Jiffies a second.
    pub hz: u32,
    /// Jiffies to ticks of the flow table, as a power of two.
    pub tick_shift: u32,
    /// Jiffies to seconds, nearly, as a power of two.
    pub second_shift: u32,
}

impl Clock {
    /// The clock of a kernel with `hz` jiffies a second: a tick is the smallest power of two of jiffies that lasts four
    /// seconds or more, a second the nearest.
    #[must_use]
    pub fn of(hz: u32) -> Self {
        let tick_shift = (0..32).find(|shift| 1u64 << shift >= u64::from(hz) * 4).unwrap_or(0);
        // Nearest by ratio.
        let far = |shift: &u32| ((f64::from(1u32 << shift) / f64::from(hz)).ln().abs() * 1e9) as u64;
        let second_shift = (0..31).min_by_key(far).unwrap_or(0);
        Self { hz, tick_shift, second_shift }
    }

    /// A timeout in ticks, rounded up, at least one and at most 1920.
    pub(super) fn ticks(self, timeout: std::time::Duration) -> u16 {
        let jiffies = (timeout.as_nanos() * u128::from(self.hz)).div_ceil(1_000_000_000);
        jiffies.div_ceil(1 << self.tick_shift).clamp(1, 1920) as u16
    }

    /// How long a tick lasts, in whole milliseconds.
    pub(super) fn tick(self) -> std::time::Duration {
        std::time::Duration::from_millis((1000 << self.tick_shift) / u64::from(self.hz))
    }
}

/// The moment of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The kernel's clock, its low 32 bits.
    pub jiffies: u32,
    /// Whether `tracking: sampled` takes this packet: one in sixteen, by time and flow, is not foretold.
    pub sampled: bool,
}
