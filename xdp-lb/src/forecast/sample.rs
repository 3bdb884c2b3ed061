//! What becomes of flows that nobody remembers: an estimate, by packets that are drawn at random.
//!
//! Each is a later packet of a flow that exists: any client, an address and a port where the service listens now. It is
//! sent through the packet path's own code over the maps as they are and as they would be, both with an empty flow
//! table. So every affinity counts as it is: port slices, server ids, a client's address.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};

use xdp_lb_common::{
    affinity::Named,
    hash::mix,
    parse::{Segment, TCP, UDP},
    server_id::ServerId,
    service::{ICE_UFRAG, LOOKS_INSIDE, QUIC_CID, SOURCE_RANGES},
    vip::VIP_BALANCED,
};

use super::Service;
use crate::{
    memory::{MemoryMaps, Packet, Sent},
    plan,
    state::{Observed, Place},
    template::from_map,
};

/// Draws for all services together: some seconds.
const BUDGET: usize = 4_000_000;
/// Draws for one service: at most 1 percentage point off.
const MOST: usize = 10_000;
/// Fewer would say nothing.
const LEAST: usize = 500;

/// Ports of an address where a service listens: protocol number, first and last port.
type Door = (IpAddr, u8, u16, u16);

/// Both maps, without a flow table.
pub(super) struct Sampler<'a> {
    sides: [(MemoryMaps, &'a Observed); 2],
    /// By service id, as of now.
    doors: BTreeMap<u16, Vec<Door>>,
    /// As of then.
    doors_then: BTreeMap<u16, Vec<Door>>,
    /// By service id and ring-local index, as of now.
    server_ids: HashMap<(u16, u16), ServerId>,
}

impl<'a> Sampler<'a> {
    pub(super) fn new(now: &'a Observed, then: &'a Observed) -> Self {
        let sides = [now, then].map(|observed| (MemoryMaps::holding(observed, 1), observed));
        let places = now.server_ids.values();
        let server_ids = places.map(|place| ((place.service, place.local), ServerId(place.id))).collect();
        Self { sides, doors: doors(now), doors_then: doors(then), server_ids }
    }

    /// Fills the estimates in. What moves as a whole has been told.
    pub(super) fn estimate<'s>(&self, services: impl Iterator<Item = &'s mut Service>) {
        let ids: BTreeMap<&str, u16> =
            self.sides[0].1.services.iter().map(|(&id, entry)| (plan::name(entry), id)).collect();
        let asks = |service: &&mut Service| service.change == "changed" && service.moves_everything.is_none();
        let touched: Vec<(u16, &mut Service)> = services
            .filter(asks)
            .filter_map(|service| Some((*ids.get(service.name.as_str())?, service)))
            .filter(|(id, service)| self.may_move(*id, service))
            .collect();
        let draws = (BUDGET / touched.len().max(1)).clamp(LEAST, MOST);
        for (id, service) in touched {
            let Some(doors) = self.doors.get(&id) else { continue };
            let went = (0..draws as u64).filter_map(|number| self.moves(id, doors, number));
            let (went, moved) = went.fold((0u32, 0u32), |(w, m), moves| (w + 1, m + u32::from(moves)));
            let part = f64::from(moved) / f64::from(went.max(1));
            service.others_sampled = went;
            service.others_moved_percent = (part * 10_000.0).round() / 100.0;
            service.others_margin_percent = margin(part, went);
        }
    }

    /// False where everything that a packet meets stays as it is.
    fn may_move(&self, id: u16, service: &Service) -> bool {
        let [now, then] = self.sides.each_ref().map(|(_, observed)| {
            let config = observed.services.get(&id).map(|entry| *entry.config()).unwrap_or_default();
            (observed, config.flags & (LOOKS_INSIDE | SOURCE_RANGES), config.slices)
        });
        let is_among = |flags| now.1 & flags != 0;
        service.slots_moved > 0
            || !service.backends.is_empty()
            || self.doors.get(&id) != self.doors_then.get(&id)
            || (now.1, now.2) != (then.1, then.2)
            || (is_among(QUIC_CID | ICE_UFRAG) && now.0.server_ids != then.0.server_ids)
            || (is_among(SOURCE_RANGES) && now.0.source_ranges != then.0.source_ranges)
    }

    /// Whether the flow of this number goes elsewhere then; `None` when it goes nowhere now.
    fn moves(&self, id: u16, doors: &[Door], number: u64) -> Option<bool> {
        let mut packet = draw(id, doors, number);
        // A connection tells the id of the server that its first packet was sent to.
        if let Some(named) = self.named(id, &packet) {
            packet.named = named;
        }
        let [now, then] = self.sides.each_ref().map(|side| to(side, &packet));
        now.map(|now| Some(now) != then)
    }

    fn named(&self, id: u16, packet: &Packet) -> Option<Named> {
        let (_, observed) = &self.sides[0];
        let config = observed.services.get(&id)?.config();
        if ![QUIC_CID, ICE_UFRAG].contains(&(config.flags & LOOKS_INSIDE)) {
            return None;
        }
        let (maps, _) = &self.sides[0];
        maps.clear_flows();
        let first = Packet { named: Named::Nobody, ..*packet };
        let Sent::To { choice, .. } = maps.cpu(0).send(&first) else { return None };
        self.server_ids.get(&(config.id, choice.backend)).copied().map(Named::Server)
    }
}

fn to((maps, observed): &(MemoryMaps, &Observed), packet: &Packet) -> Option<IpAddr> {
    // What the last packet left is none of this one's business.
    maps.clear_flows();
    let Sent::To { service, choice, .. } = maps.cpu(0).send(packet) else { return None };
    let ring = observed.rings.get(&Place::of(observed.services.get(&service)?.config()))?;
    Some(from_map(ring.members.get(&choice.backend)?.address))
}

/// A later packet of a flow of the service.
fn draw(id: u16, doors: &[Door], number: u64) -> Packet {
    let dice = |n: u64| mix(mix(u64::from(id) << 48 ^ number << 8 ^ n));
    let pick = |dice: u64, of: u64| ((u128::from(dice) * u128::from(of)) >> 64) as u64;
    let wide = |&(_, _, first, last): &Door| u64::from(last - first) + 1;
    // Every port alike.
    let mut at = pick(dice(0), doors.iter().map(wide).sum());
    let mut door = doors[0];
    for one in doors {
        door = *one;
        if at < wide(one) {
            break;
        }
        at -= wide(one);
    }
    let (vip, protocol, first, _) = door;
    let source = match vip {
        IpAddr::V4(_) => IpAddr::from((dice(1) as u32 | 1 << 24).to_be_bytes()),
        IpAddr::V6(_) => Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(dice(1))).into(),
    };
    Packet {
        source: (source, 1024 + pick(dice(2), 64_512) as u16),
        destination: (vip, first + at as u16),
        protocol,
        segment: if protocol == TCP { Segment::Data } else { Segment::Datagram },
        named: Named::Nothing,
    }
}

/// Where each service listens, as packets find it.
fn doors(observed: &Observed) -> BTreeMap<u16, Vec<Door>> {
    let mut doors: BTreeMap<u16, Vec<Door>> = BTreeMap::new();
    for vip in observed.vips.iter().filter(|vip| vip.flags & VIP_BALANCED != 0) {
        let address = from_map(vip.address);
        for (protocol, root) in [(TCP, vip.tcp_root), (UDP, vip.udp_root)] {
            let Some(root) = observed.pages.get(&root) else { continue };
            // Page 0 is nobody's.
            for (high, &leaf) in (0u16..).zip(&root.values).filter(|&(_, &leaf)| leaf != 0) {
                let Some(page) = observed.pages.get(&u32::from(leaf)) else { continue };
                for (low, &id) in (0u16..).zip(&page.values).filter(|&(_, &id)| id != 0) {
                    let port = high << 8 | low;
                    let found = doors.entry(id).or_default();
                    match found.last_mut() {
                        Some((a, p, _, last))
                            if *a == address && *p == protocol && last.checked_add(1) == Some(port) =>
                        {
                            *last = port;
                        }
                        _ => found.push((address, protocol, port, port)),
                    }
                }
            }
        }
    }
    // The bank's order says nothing.
    doors.values_mut().for_each(|doors| doors.sort_unstable());
    doors
}

/// Half the width of the 95 % interval around a part that `draws` draws found, percentage points (Agresti and Coull 1998:
/// it is not 0 where nobody of them moved).
fn margin(part: f64, draws: u32) -> f64 {
    let draws = f64::from(draws);
    let (z2, part) = (4.0, (part * draws + 2.0) / (draws + 4.0));
    let half = (z2 * part * (1.0 - part) / (draws + z2)).sqrt();
    (half * 10_000.0).ceil() / 100.0
}
