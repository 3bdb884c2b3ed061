//! The VIP table and its port pages as a whole: built anew from the desired state, compared with the live
//! one, and written beside it if it differs.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use bytemuck::Zeroable;
use xdp_lb_common::{
    control::VipBank,
    parse::words,
    vip::{
        FRAGMENTS_REFUSED, MAX_PROBES, PortRange, RANGES, VIP_BALANCED, VIP_DECAP, VIP_PASS_UNMATCHED,
        VIP_POD, VIP_USED, VipSlot, probe_start,
    },
};

use super::{Inputs, PlanError, pages::Pages, room::Room};
use crate::{
    fragments::{self, Takes},
    model::{Desired, Ports, Unmatched},
    state::MapOp,
    template::map_address,
};

/// Operations that make the VIP table what the desired state says; `ids` are the services', in the file's order. Empty when
/// the live table is right already.
pub(super) fn plan(inputs: &Inputs, ids: &[u16], room: &mut Room) -> Result<Vec<MapOp>, PlanError> {
    let Inputs { desired, observed, memo, .. } = inputs;
    if memo.are_vips_settled(desired, ids, observed) {
        return Ok(Vec::new());
    }
    let wanted = wanted(desired, ids, room.pages())?;
    let live: BTreeMap<[u8; 16], VipSlot> =
        observed.vips.iter().filter(|s| s.flags & VIP_USED != 0).map(|s| (s.address, *s)).collect();
    if wanted == live {
        memo.settle_vips(desired, ids, observed);
        return Ok(Vec::new());
    }
    let slots = observed.capacity.vip_slots;
    let limit = PlanError::Limit { what: "vips", need: wanted.len() as u64, have: u64::from(slots / 8) };
    let (salt, bank_slots) =
        (0..64).find_map(|salt| Some((salt, place(&wanted, slots, salt)?))).ok_or(limit)?;
    let bank = 1 - VipBank::unpack(observed.control.vip_bank, slots).bank;
    let mut ops = room.fresh_pages();
    ops.push(MapOp::PutVips { bank, slots: bank_slots });
    ops.push(MapOp::SwitchVips { word: VipBank { bank, salt }.pack(slots) });
    // Until the grace period has passed, a packet may still read the old bank and its pages.
    ops.push(MapOp::Grace);
    Ok(ops)
}

fn wanted(
    desired: &Desired,
    ids: &[u16],
    pages: &mut Pages,
) -> Result<BTreeMap<[u8; 16], VipSlot>, PlanError> {
    let listeners = desired.listeners();
    let mut slots: BTreeMap<[u8; 16], VipSlot> = BTreeMap::new();
    for vip in &desired.vips {
        let Some(listeners) = listeners.get(&vip.address) else { continue };
        let ports = |place: &usize| Some((&desired.services.get(*place)?.ports, *ids.get(*place)?));
        let [tcp, udp] = listeners.each_ref().map(|all| all.iter().filter_map(ports).collect::<Vec<_>>());
        let pass = if vip.unmatched == Unmatched::Pass { VIP_PASS_UNMATCHED } else { 0 };
        let address = map_address(vip.address);
        slots.insert(
            address,
            VipSlot {
                address,
                tcp_root: pages.root(&layers(&tcp))?,
                udp_root: pages.root(&layers(&udp))?,
                flags: VIP_USED | VIP_BALANCED | pass,
                fragments: listeners
                    .each_ref()
                    .map(|all| taker(fragments::takes(&desired.services, vip, all), ids)),
                ranges: [ranges(&tcp), ranges(&udp)],
            },
        );
    }
    for &vip in desired.decap.iter().flat_map(|d| &d.vips) {
        let address = map_address(vip);
        let slot = slots.entry(address).or_insert(VipSlot { address, flags: VIP_USED, ..VipSlot::zeroed() });
        slot.flags |= VIP_DECAP;
    }
    for port in desired.decap.iter().flat_map(|d| &d.translate) {
        let address = map_address(port.vip);
        let slot = slots.entry(address).or_insert(VipSlot { address, flags: VIP_USED, ..VipSlot::zeroed() });
        slot.flags |= VIP_POD;
    }
    Ok(slots)
}

/// The slot's word on fragments.
fn taker(takes: Takes, ids: &[u16]) -> u16 {
    match takes {
        Takes::Nobody | Takes::ByFirst => 0,
        Takes::ByClient(place) => ids.get(place).copied().unwrap_or(0),
        Takes::Refused => FRAGMENTS_REFUSED,
    }
}

/// The slot's shortcuts: the ranges of a protocol where two are enough. Ranges that hide in others need the pages.
fn ranges(services: &[(&Ports, u16)]) -> [PortRange; RANGES] {
    let mut shortcuts = [PortRange::default(); RANGES];
    let mut layers = layers(services);
    layers.sort_by_key(|(range, _)| *range.start());
    let disjoint = layers.windows(2).all(|pair| pair[0].0.end() < pair[1].0.start());
    if disjoint && layers.len() <= RANGES {
        for (shortcut, (range, service)) in shortcuts.iter_mut().zip(layers) {
            *shortcut = PortRange { first: *range.start(), last: *range.end(), service, reserved: 0 };
        }
    }
    shortcuts
}

/// A bank with every VIP within reach of its probe, or `None` with this salt.
fn place(vips: &BTreeMap<[u8; 16], VipSlot>, slots: u32, salt: u32) -> Option<Vec<VipSlot>> {
    let mut bank = vec![VipSlot::zeroed(); slots as usize];
    for (address, vip) in vips {
        let start = probe_start(words(address), salt);
        let free = |probe| {
            let at = start.wrapping_add(probe) & slots.wrapping_sub(1);
            (bank.get(at as usize)?.flags & VIP_USED == 0).then_some(at as usize)
        };
        let at = (0..MAX_PROBES).find_map(free)?;
        bank[at] = *vip;
    }
    Some(bank)
}

/// Port ranges in the order of painting: the whole address, then ranges, then single ports over them.
fn layers(services: &[(&Ports, u16)]) -> Vec<(RangeInclusive<u16>, u16)> {
    let mut layers: Vec<(RangeInclusive<u16>, u16)> = Vec::new();
    for (ports, id) in services {
        match ports {
            Ports::All => layers.push((0..=u16::MAX, *id)),
            Ports::Ranges(ranges) => layers.extend(ranges.iter().map(|r| (r.clone(), *id))),
        }
    }
    // `all` includes port 0, which no range does: it sorts before a range of all other ports.
    layers.sort_by_key(|(r, _)| (r.start() == r.end(), *r.start() != 0, *r.start()));
    layers
}
