//! The packet path's tables seen through a lens that can break one mechanism.

use xdp_lb::memory::Cpu;
use xdp_lb_common::flow::{FlowEntry, WAYS};
use xdp_lb_common::hash::FlowHash;
use xdp_lb_common::reason::FlowEvent;
use xdp_lb_common::ring::Slot;
use xdp_lb_common::select::{Set, Tables};

/// A mechanism that does not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// All work.
    Nothing,
    /// `before` always names the slot's backend of now.
    Before,
    /// Nothing is ever remembered.
    Memory,
    /// A changed slot is not marked dirty.
    DirtyBit,
    /// Slots are cleaned whoever is remembered there, and however short a time ago they changed.
    Cleaning,
    /// A free index is given away although entries name it.
    Quarantine,
    /// Windows end as soon as they open.
    Window,
    /// A full set gives its last way to a new flow.
    Victim,
    /// FIN and RST free the entry.
    Closing,
    /// A SYN opens anew what is not closing.
    Reopening,
    /// Clean slots may use up the limit.
    Reserve,
}

/// A CPU with something broken.
#[derive(Clone, Copy)]
pub struct Lens<'a> {
    pub cpu: Cpu<'a>,
    pub broken: Broken,
}

/// A set seen through it.
pub struct LensSet<S> {
    set: S,
    broken: Broken,
}

impl<S: Set> Set for LensSet<S> {
    fn load(&self, way: usize) -> u64 {
        let full = || (0..WAYS).all(|way| self.set.load(way) != 0);
        match self.broken {
            Broken::Victim if way == WAYS - 1 && full() => 0,
            Broken::Reopening => match self.set.load(way) {
                0 => 0,
                entry => entry | 1 << 63,
            },
            _ => self.set.load(way),
        }
    }

    fn store(&self, way: usize, entry: u64) {
        match self.broken {
            Broken::Memory => {}
            Broken::Closing if FlowEntry(entry).is_closing() => self.set.store(way, 0),
            _ => self.set.store(way, entry),
        }
    }
}

impl<'a> Tables for Lens<'a> {
    type Set = LensSet<<Cpu<'a> as Tables>::Set>;

    fn slot(&self, index: u32) -> Option<Slot> {
        self.cpu.slot(index)
    }
    fn before(&self, index: u32) -> Option<u16> {
        match self.broken {
            Broken::Before => self.cpu.slot(index).map(Slot::backend),
            _ => self.cpu.before(index),
        }
    }
    fn is_alive(&self, backend: u32) -> bool {
        self.cpu.is_alive(backend)
    }
    fn flow_set(&self, hash: FlowHash) -> Option<Self::Set> {
        self.cpu.flow_set(hash).map(|set| LensSet { set, broken: self.broken })
    }
    fn tick(&self) -> u16 {
        self.cpu.tick()
    }
    fn sample(&self, hash: FlowHash) -> bool {
        self.cpu.sample(hash)
    }
    fn admit(&self, service: u16, limit: u32) -> bool {
        let limit = if self.broken == Broken::Reserve { limit.div_ceil(3) * 4 } else { limit };
        self.cpu.admit(service, limit)
    }
    fn count(&self, event: FlowEvent) {
        self.cpu.count(event);
    }
}
