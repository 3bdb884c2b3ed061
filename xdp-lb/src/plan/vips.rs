//! The VIP table and its port pages as a whole: built anew from the desired state, compared with the live
//! one, and written beside it if it differs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use bytemuck::Zeroable;
use xdp_lb_common::{
    control::VipBank,
    parse::words,
    vip::{
        MAX_PROBES, PAGE_PORTS, PortPage, PortRange, RANGES, VIP_BALANCED, VIP_DECAP, VIP_PASS_UNMATCHED,
        VIP_USED, VipSlot, probe_start,
    },
};

use super::{Inputs, PlanError};
use crate::{
    model::{Desired, Ports, Protocol, Unmatched},
    state::{MapOp, Observed},
    template::map_address,
};

/// Operations that make the VIP table what the desired state says; `ids` are the services', in the file's order. Empty when the
/// live table is right already.
pub fn plan(inputs: &Inputs, ids: &[u16]) -> Result<Vec<MapOp>, PlanError> {
    let Inputs { desired, observed, memo, .. } = inputs;
    if memo.are_vips_settled(desired, ids, observed) {
        return Ok(Vec::new());
    }
    let mut pages = Pages::new(observed);
    let wanted = wanted(desired, ids, &mut pages)?;
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
    let mut ops: Vec<MapOp> = pages
        .fresh
        .into_iter()
        .map(|(page, content)| MapOp::PutPage { page, content: Box::new(content) })
        .collect();
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
    let mut services: BTreeMap<IpAddr, [Vec<(&Ports, u16)>; 2]> = BTreeMap::new();
    for (service, &id) in desired.services.iter().zip(ids) {
        for &vip in &service.vips {
            let [tcp, udp] = services.entry(vip).or_default();
            let list = if service.protocol == Protocol::Tcp { tcp } else { udp };
            list.push((&service.ports, id));
        }
    }
    let mut slots: BTreeMap<[u8; 16], VipSlot> = BTreeMap::new();
    for vip in &desired.vips {
        let Some([tcp, udp]) = services.get(&vip.address) else { continue };
        let pass = if vip.unmatched == Unmatched::Pass { VIP_PASS_UNMATCHED } else { 0 };
        let address = map_address(vip.address);
        slots.insert(
            address,
            VipSlot {
                address,
                tcp_root: pages.root(tcp)?,
                udp_root: pages.root(udp)?,
                flags: VIP_USED | VIP_BALANCED | pass,
                fragments: [0; 2],
                ranges: [ranges(tcp), ranges(udp)],
            },
        );
    }
    for &vip in desired.decap.iter().flat_map(|d| &d.vips) {
        let address = map_address(vip);
        let slot = slots.entry(address).or_insert(VipSlot { address, flags: VIP_USED, ..VipSlot::zeroed() });
        slot.flags |= VIP_DECAP;
    }
    Ok(slots)
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

/// Port pages by content: equal pages are stored once, live ones are never rewritten.
struct Pages {
    by_content: BTreeMap<PortPage, u32>,
    used: BTreeSet<u32>,
    next: u32,
    capacity: u32,
    fresh: Vec<(u32, PortPage)>,
}

const EMPTY: PortPage = PortPage { values: [0; PAGE_PORTS] };

impl Pages {
    fn new(observed: &Observed) -> Self {
        let live = observed.pages.iter().map(|(&page, content)| (*content, page));
        Self {
            by_content: live.chain([(EMPTY, 0)]).collect(),
            used: observed.pages.keys().copied().chain([0]).collect(),
            next: 1,
            capacity: observed.capacity.port_pages,
            fresh: Vec::new(),
        }
    }

    /// Root page of the services of one VIP and protocol.
    fn root(&mut self, services: &[(&Ports, u16)]) -> Result<u32, PlanError> {
        let layers = layers(services);
        let mut root = EMPTY;
        for (high, value) in (0u16..).zip(&mut root.values) {
            let first = high << 8;
            let (mut leaf, mut touched) = (EMPTY, false);
            for (range, id) in &layers {
                let (from, to) = (*range.start().max(&first), *range.end().min(&(first | 255)));
                if from <= to {
                    leaf.values[usize::from(from & 255)..=usize::from(to & 255)].fill(*id);
                    touched = true;
                }
            }
            // Most pages of most addresses: comparing half a kilobyte 256 times would be the whole cost of a plan.
            if !touched {
                continue;
            }
            // Page numbers fit: `limits.port_pages` is at most 65535 where they are stored in 16 bits.
            *value = u16::try_from(self.intern(leaf)?).unwrap_or(0);
        }
        self.intern(root)
    }

    fn intern(&mut self, content: PortPage) -> Result<u32, PlanError> {
        if let Some(&page) = self.by_content.get(&content) {
            return Ok(page);
        }
        let end = self.capacity.min(1 << 16);
        let need = u64::from(end) + 1;
        let full = PlanError::Limit { what: "port_pages", need, have: u64::from(self.capacity) };
        let page = (self.next..end).find(|page| !self.used.contains(page)).ok_or(full)?;
        self.next = page + 1;
        self.by_content.insert(content, page);
        self.fresh.push((page, content));
        Ok(page)
    }
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
