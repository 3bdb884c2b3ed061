//! The packet path over [`MemoryMaps`]: parse excepted, what the kernel half does with a packet.

use std::net::IpAddr;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed},
};

use xdp_lb_common::{
    affinity::{self, Named},
    backend::{BACKEND_ALIVE, BACKEND_USED},
    classify,
    flow::{TICKS, WAYS},
    hash::{self, FlowHash, fold},
    parse::{Addresses, Ports, Segment, Version, Words, words},
    reason::{DropReason, FlowEvent, Reason},
    ring::{NO_BACKEND, Slot},
    select::{self, Choice, Flow, Set},
    service::CLIENT_IP,
    vip::{PortPage, VIP_BALANCED, VipSlot},
};

use super::MemoryMaps;
use crate::{sources, template::map_address};

/// A CPU at one moment: the maps and the kernel's clock.
#[derive(Clone, Copy, Debug)]
pub struct Cpu<'a> {
    /// The maps.
    pub maps: &'a MemoryMaps,
    /// The clock, `control.hz` a second.
    pub jiffies: u64,
}

/// What of a packet decides where it goes. Both addresses are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Client.
    pub source: (IpAddr, u16),
    /// VIP.
    pub destination: (IpAddr, u16),
    /// IP protocol number.
    pub protocol: u8,
    /// What it means for its flow.
    pub segment: Segment,
    /// What it says of its backend, where the affinity asks.
    pub named: Named,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// No VIP that is balanced here: to the kernel.
    NotAVip,
    /// No service takes it.
    NoService,
    /// The service has nobody.
    EmptyService {
        /// Service id.
        service: u16,
    },
    /// To a backend.
    To {
        /// Service id.
        service: u16,
        /// Index in `backends`.
        index: u32,
        /// Ring-local backend and why this one.
        choice: Choice,
    },
    /// Not sent: by the packet path's reason.
    Dropped(DropReason),
    /// A table names an entry that is not there.
    Inconsistent,
}

impl Cpu<'_> {
    /// Works off one packet, with everything it leaves in the flow table.
    #[must_use]
    pub fn send(&self, packet: &Packet) -> Sent {
        let addresses = addresses(packet.source.0, packet.destination.0);
        let Some(vip) = classify::vip(self, &addresses).filter(|vip| vip.flags & VIP_BALANCED != 0) else {
            return Sent::NotAVip;
        };
        let service = classify::service(self, vip, packet.protocol, packet.destination.1);
        if service == 0 {
            return Sent::NoService;
        }
        let Some(entry) = self.maps.services.get(usize::from(service)) else { return Sent::Inconsistent };
        let config = entry.config();
        if config.table_size == 0 {
            return Sent::EmptyService { service };
        }
        let client_ip = config.flags & CLIENT_IP != 0;
        let seed = self.maps.control.seed;
        let ports = Ports::pair_of(packet.source.1, packet.destination.1);
        let hash = hash::packet(seed, &addresses, packet.protocol, ports, client_ip);
        let flow = Flow { service, config, hash, segment: packet.segment };
        let choice = affinity::admit(self, &flow, &addresses).and_then(|()| {
            let asked = affinity::asked(self, config, packet.named);
            affinity::choose(self, &flow, packet.destination.1, asked)
        });
        match choice {
            Err(DropReason::TableInconsistent) => Sent::Inconsistent,
            Err(reason) => Sent::Dropped(reason),
            Ok(choice) if choice.backend == NO_BACKEND => Sent::EmptyService { service },
            Ok(choice) => {
                Sent::To { service, index: config.backend_base + u32::from(choice.backend), choice }
            }
        }
    }
}

/// Both addresses as the parser gives them; mixed families become IPv6.
#[must_use]
fn addresses(source: IpAddr, destination: IpAddr) -> Addresses {
    let version = if source.is_ipv4() && destination.is_ipv4() { Version::V4 } else { Version::V6 };
    let word = |address| words(&map_address(address));
    Addresses { version, l3: 0, source: word(source), destination: word(destination) }
}

impl classify::Tables for Cpu<'_> {
    fn vip_bank(&self) -> u32 {
        self.maps.control.vip_bank
    }
    fn vip_slots(&self) -> u32 {
        self.maps.control.vip_mask + 1
    }
    fn vip_slot(&self, index: u32) -> Option<&VipSlot> {
        self.maps.vips.get(index as usize)
    }
    fn port_page(&self, index: u32) -> Option<&PortPage> {
        self.maps.ports.get(index as usize)
    }
}

/// A set of the flow table.
#[derive(Clone, Copy, Debug)]
pub struct MemorySet<'a>(&'a [AtomicU64; WAYS]);

impl Set for MemorySet<'_> {
    fn load(&self, way: usize) -> u64 {
        self.0[way % WAYS].load(Relaxed)
    }
    fn store(&self, way: usize, entry: u64) {
        self.0[way % WAYS].store(entry, Relaxed);
    }
}

impl<'a> select::Tables for Cpu<'a> {
    type Set = MemorySet<'a>;

    fn slot(&self, index: u32) -> Option<Slot> {
        Some(Slot(self.maps.rings.get(index as usize)?.load(Acquire)))
    }
    fn before(&self, index: u32) -> Option<u16> {
        Some(self.maps.before.get(index as usize)?.load(Relaxed))
    }
    fn is_alive(&self, backend: u32) -> bool {
        const LIVE: u32 = BACKEND_USED | BACKEND_ALIVE;
        self.maps.states.get(backend as usize).is_some_and(|state| state.load(Acquire) & LIVE == LIVE)
    }
    fn flow_set(&self, hash: FlowHash) -> Option<MemorySet<'a>> {
        self.maps.flows.get(hash.set(self.maps.control.flow_set_mask) as usize).map(MemorySet)
    }
    fn tick(&self) -> u16 {
        (self.jiffies >> self.maps.control.tick_shift) as u16 & (TICKS - 1)
    }
    fn sample(&self, hash: FlowHash) -> bool {
        fold(self.jiffies.wrapping_add(hash.entropy()), 0x9e37_79b9_7f4a_7c15) & 15 == 0
    }
    fn admit(&self, service: u16, limit: u32) -> bool {
        let Some(word) = self.maps.admissions.get(usize::from(service)) else { return false };
        let second = self.jiffies >> self.maps.control.second_shift << 32;
        let seen = word.load(Relaxed);
        let count = if seen >> 32 << 32 == second { seen & 0xffff_ffff } else { 0 };
        if count >= u64::from(limit) {
            return false;
        }
        word.store(second | (count + 1), Relaxed);
        true
    }
    fn count(&self, event: FlowEvent) {
        self.maps.events[event.index()].fetch_add(1, Relaxed);
    }
}

impl affinity::Tables for Cpu<'_> {
    fn server_id(&self, index: u32) -> Option<[u64; 2]> {
        let mask = self.maps.capacity.server_ids.checked_sub(1)?;
        let words = self.maps.server_ids.get((index & mask) as usize)?;
        Some(words.each_ref().map(|word| word.load(Acquire)))
    }
    fn admits(&self, service: u16, client: Words) -> bool {
        sources::admits(&self.maps.source_ranges, service, client)
    }
}
