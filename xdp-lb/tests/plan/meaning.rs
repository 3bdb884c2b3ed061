//! What maps mean, whatever their indexes: by name and address, so that two ways to the same state compare equal.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use xdp_lb::memory::MemoryMaps;
use xdp_lb::model::{Desired, Ports, Protocol};
use xdp_lb::plan::name;
use xdp_lb::state::{Maps, Observed};
use xdp_lb::template::{from_map, map_address};
use xdp_lb_common::backend::Template;
use xdp_lb_common::classify;
use xdp_lb_common::decap::AllowList;
use xdp_lb_common::parse::{Addresses, TCP, UDP, Version, words};
use xdp_lb_common::ring::Slot;
use xdp_lb_common::service::{DEST_PORT, ServiceConfig};
use xdp_lb_common::source::SourceKey;

use crate::common::wanted::vip;
use crate::random::ports;

/// A slot: its backend, and the older one while it is dirty. `Err` is an index that no member has.
type NamedSlot = (Result<IpAddr, u16>, Option<Result<IpAddr, u16>>);

/// What the maps mean.
#[derive(Debug, PartialEq)]
pub struct Meaning {
    vips: BTreeMap<IpAddr, u32>,
    destinations: BTreeMap<(IpAddr, u8, u16), String>,
    services: BTreeMap<String, ServiceMeaning>,
    sources: AllowList,
    tx_ports: BTreeSet<u32>,
}

#[derive(Debug, PartialEq)]
struct ServiceMeaning {
    config: ServiceConfig,
    members: BTreeMap<IpAddr, (u32, Template)>,
    ring: Vec<NamedSlot>,
    ids: BTreeMap<u64, Result<IpAddr, u16>>,
    slices: Vec<(u16, Result<IpAddr, u16>)>,
    ranges: BTreeMap<SourceKey, u32>,
}

pub fn meaning(maps: &MemoryMaps) -> Meaning {
    let o = maps.observe();
    let vips = o.vips.iter().filter(|v| v.flags != 0).map(|v| (from_map(v.address), v.flags)).collect();
    let services = o.services.iter().map(|(&id, s)| (name(s).to_owned(), service(&o, id, s.config())));
    Meaning {
        vips,
        destinations: destinations(maps),
        services: services.collect(),
        sources: o.sources,
        tx_ports: o.tx_ports.clone(),
    }
}

fn service(o: &Observed, id: u16, config: &ServiceConfig) -> ServiceMeaning {
    let place = ServiceConfig { slot_base: 0, backend_base: 0, stats_base: 0, slices: 0, ..*config };
    let ring = o.ring(id).unwrap();
    let members = &ring.members;
    let who = |local: u16| members.get(&local).map(|m| from_map(m.address)).ok_or(local);
    let slot = |(&now, &before): (&u16, &u16)| {
        let now = Slot(now);
        (who(now.backend()), now.is_dirty().then(|| who(before)))
    };
    ServiceMeaning {
        config: place,
        members: members.values().map(|m| (from_map(m.address), (m.state, *m.template()))).collect(),
        ring: ring.slots.now.iter().zip(&ring.slots.before).map(slot).collect(),
        ids: o.server_ids.values().filter(|p| p.service == id).map(|p| (p.id, who(p.local))).collect(),
        slices: owners(o, config).map(|(port, local)| (port, who(local))).collect(),
        ranges: o
            .source_ranges
            .iter()
            .filter(|(key, _)| key.service == u32::from(id))
            .map(|(&key, &value)| (SourceKey { service: 0, ..key }, value))
            .collect(),
    }
}

/// Ports that somebody owns, and whose they are.
pub fn owners(o: &Observed, config: &ServiceConfig) -> impl Iterator<Item = (u16, u16)> {
    let root = (config.flags & DEST_PORT != 0).then(|| o.pages.get(&config.slices)).flatten();
    let leaves = root.into_iter().flat_map(|root| (0u16..).zip(root.values)).filter(|&(_, leaf)| leaf != 0);
    leaves
        .flat_map(|(high, leaf)| (high << 8..=high << 8 | 255).zip(o.pages[&leaf.into()].values))
        .filter(|&(_, owner)| owner != 0)
        .map(|(port, owner)| (port, owner - 1))
}

/// The service of every interesting destination, as packets find it.
pub fn destinations(maps: &MemoryMaps) -> BTreeMap<(IpAddr, u8, u16), String> {
    let cpu = maps.cpu(0);
    let names = maps.observe().services;
    let mut found = BTreeMap::new();
    for address in (0..4).map(vip) {
        let to = words(&map_address(address));
        let version = if address.is_ipv4() { Version::V4 } else { Version::V6 };
        let Some(slot) = classify::vip(&cpu, &Addresses { version, l3: 0, source: [0; 2], destination: to })
        else {
            continue;
        };
        for protocol in [TCP, UDP] {
            for port in ports() {
                let id = classify::service(&cpu, slot, protocol, port);
                if id != 0 {
                    let name = names.get(&id).map_or("missing", name).to_owned();
                    found.insert((address, protocol, port), name);
                }
            }
        }
    }
    found
}

/// The same by the words of the configuration: an exact port beats a range beats a whole address.
pub fn wanted_destinations(desired: &Desired) -> BTreeMap<(IpAddr, u8, u16), String> {
    let mut wanted = BTreeMap::new();
    for address in (0..4).map(vip) {
        for (number, protocol) in [(TCP, Protocol::Tcp), (UDP, Protocol::Udp)] {
            for port in ports() {
                let closeness = |ports: &Ports| match ports {
                    Ports::All => Some(u32::MAX),
                    Ports::Ranges(ranges) => {
                        let mut hits = ranges.iter().filter(|r| r.contains(&port));
                        hits.next().map(|r| u32::from(r.start() != r.end()))
                    }
                };
                let claims = desired.services.iter().filter(|s| s.protocol == protocol);
                let best = claims
                    .filter(|s| s.vips.contains(&address))
                    .filter_map(|s| Some((closeness(&s.ports)?, &s.name)))
                    .min();
                if let Some((_, name)) = best {
                    wanted.insert((address, number, port), name.clone());
                }
            }
        }
    }
    wanted
}
