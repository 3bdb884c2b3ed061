//! The maps at one moment, and where packets go by them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use xdp_lb_common::{
    backend::{BACKEND_ALIVE, Backend},
    flow::FlowEntry,
    hash::slot_of_tag,
    ring::Slot,
    service::{ICE_UFRAG, ServiceConfig},
};

use crate::{
    state::{Observed, Place, Ring},
    status::MemberState,
    template::from_map,
};

/// The maps at one moment, and where packets go by them.
pub(crate) struct Side<'a> {
    pub(crate) observed: &'a Observed,
}

impl<'a> Side<'a> {
    pub(crate) fn of(observed: &'a Observed) -> Self {
        Self { observed }
    }

    pub(crate) fn service(&self, id: u16) -> Option<(&'a ServiceConfig, &'a Ring)> {
        let config = self.observed.services.get(&id)?.config();
        Some((config, self.observed.rings.get(&Place::of(config))?))
    }

    /// Where the next packet of a flow that is remembered goes.
    pub(crate) fn remembered(&self, entry: FlowEntry) -> Option<IpAddr> {
        let (config, ring) = self.service(entry.service())?;
        let own = ring.members.get(&entry.backend()).filter(|member| is_alive(member));
        // Requests alone decide there, whatever the slot.
        if config.flags & ICE_UFRAG == ICE_UFRAG
            && let Some(own) = own
        {
            return Some(from_map(own.address));
        }
        let slot = slot_of_tag(entry.tag(), config.table_size) as usize;
        let now = Slot(*ring.slots.now.get(slot)?);
        match own.filter(|_| now.is_dirty()) {
            Some(own) => Some(from_map(own.address)),
            None => address(ring, now.backend()),
        }
    }

    /// Who takes new flows of a slot.
    pub(crate) fn taker(&self, id: u16, slot: u32) -> Option<IpAddr> {
        let (_, ring) = self.service(id)?;
        address(ring, Slot(*ring.slots.now.get(slot as usize)?).backend())
    }

    pub(crate) fn states(&self, id: u16) -> BTreeMap<IpAddr, &'static str> {
        use crate::status::Word as _;
        let members = self.service(id).into_iter().flat_map(|(_, ring)| ring.members.values());
        members.map(|member| (from_map(member.address), MemberState::of(member).word())).collect()
    }
}

fn is_alive(member: &Backend) -> bool {
    member.state & BACKEND_ALIVE != 0
}

fn address(ring: &Ring, local: u16) -> Option<IpAddr> {
    ring.members.get(&local).map(|member| from_map(member.address))
}
