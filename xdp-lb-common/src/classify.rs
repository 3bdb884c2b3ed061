//! From a destination to a service id: one load where the VIP's ports are a range or two, else three, whatever
//! the ports look like (see [`crate::vip`]).

use crate::{
    control::VipBank,
    parse::{Addresses, TCP, UDP, Version, words},
    vip::{MAX_PROBES, PAGE_PORTS, PortPage, VIP_USED, VipSlot, probe_start},
};

/// Where the classifier's tables live.
pub trait Tables {
    /// Bank and salt of the live VIP table, from [`crate::control::Control::vip_bank`].
    fn vip_bank(&self) -> u32;
    /// Slots of one bank, a power of two.
    fn vip_slots(&self) -> u32;
    /// Element of the `vips` map.
    fn vip_slot(&self, index: u32) -> Option<&VipSlot>;
    /// Element of the `ports` map.
    fn port_page(&self, index: u32) -> Option<&PortPage>;
}

/// The VIP that a packet is for. An IPv6 packet to a mapped address is for none: the table holds IPv4
/// addresses in that form, and on the wire it must not mean one (RFC 4942 section 2.2).
#[inline(always)]
pub fn vip<'a, T: Tables>(tables: &'a T, packet: &Addresses) -> Option<&'a VipSlot> {
    let address = packet.destination;
    if packet.version == Version::V6 && address[0] == 0 && address[1] as u32 == 0xffff_0000 {
        return None;
    }
    let (word, slots) = (tables.vip_bank(), tables.vip_slots());
    let base = VipBank::first(word, slots);
    let start = probe_start(address, VipBank::unpack(word, slots).salt);
    for probe in 0..MAX_PROBES {
        let slot = tables.vip_slot(base + ((start + probe) & (slots - 1)))?;
        // An empty slot has address 0, and is no VIP.
        if words(&slot.address) == address {
            return if slot.flags & VIP_USED != 0 { Some(slot) } else { None };
        }
        if slot.flags & VIP_USED == 0 {
            return None;
        }
    }
    None
}

/// The service of a VIP for `protocol` and the destination port; 0 when there is none.
#[inline(always)]
pub fn service<T: Tables>(tables: &T, vip: &VipSlot, protocol: u8, port: u16) -> u16 {
    let (root, ranges) = match protocol {
        TCP => (vip.tcp_root, &vip.ranges[0]),
        UDP => (vip.udp_root, &vip.ranges[1]),
        _ => return 0,
    };
    for range in ranges {
        if range.first <= port && port <= range.last && range.service != 0 {
            return range.service;
        }
    }
    let Some(page) = tables.port_page(root) else { return 0 };
    let page = page.values[(port >> 8) as usize % PAGE_PORTS];
    let Some(page) = tables.port_page(page as u32) else { return 0 };
    page.values[port as usize % PAGE_PORTS]
}
