//! One member of a ring: its state by the operator's word and the clock, and the header that leads to it.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::net::IpAddr;

use bytemuck::Zeroable;
use xdp_lb_common::backend::{
    BACKEND_ALIVE, BACKEND_DRAINING, BACKEND_USED, Backend, KIND_UNRESOLVED, NO_TAG, Template,
};

use super::Inputs;
use crate::{
    model::{self, AdminState, DrainMode, DrainPolicy},
    nexthop::{Below, NextHop, Resolution, Tags},
    template::{self, map_address},
};

/// A backend that the operator called down.
pub(super) fn is_down(backend: &Backend) -> bool {
    backend.state & (BACKEND_ALIVE | BACKEND_DRAINING) == 0
}

/// State bits of a member and since when it has them.
pub(super) fn state(
    admin: AdminState,
    service: DrainPolicy,
    before: Option<&Backend>,
    now: u64,
) -> (u32, u64) {
    const DRAIN: u32 = BACKEND_USED | BACKEND_DRAINING;
    let policy = admin.drains_by(service);
    let since = match before {
        Some(b) if b.state & BACKEND_DRAINING != 0 && policy.is_some() => b.since,
        _ => now,
    };
    let bits = match (admin, policy) {
        (_, Some(policy)) if policy.mode == DrainMode::Stick && now < since + policy.max.as_secs() => {
            DRAIN | BACKEND_ALIVE
        }
        (_, Some(_)) => DRAIN,
        (AdminState::Down, None) => BACKEND_USED,
        (_, None) => BACKEND_USED | BACKEND_ALIVE,
    };
    match before {
        Some(b) if b.state == bits => (bits, b.since),
        _ => (bits, since),
    }
}

/// State bits for people.
#[must_use]
pub fn state_name(state: u32) -> &'static str {
    match (state & BACKEND_DRAINING != 0, state & BACKEND_ALIVE != 0) {
        (false, true) => "active",
        (true, true) => "draining",
        (true, false) => "drained",
        (false, false) => "down",
    }
}

/// The ways to members, and those that led there until now.
pub(super) struct Ways<'a> {
    inputs: &'a Inputs<'a>,
    last_known: OnceCell<HashMap<[u8; 16], NextHop>>,
}

impl<'a> Ways<'a> {
    pub(super) fn new(inputs: &'a Inputs<'a>) -> Self {
        Self { inputs, last_known: OnceCell::new() }
    }

    /// The member's entry: used, with the header that leads to it.
    pub(super) fn entry(&self, like: &model::Service, address: IpAddr) -> Backend {
        let resolution = (self.inputs.resolve)(address);
        let mut template = template::build(&like.encap, address, &resolution);
        if template.kind == KIND_UNRESOLVED
            && let Some(last) = self.last_known(address, &resolution)
        {
            template = template::build(&like.encap, address, &Resolution::Resolved(last));
        }
        Backend {
            state: BACKEND_USED,
            address: map_address(address),
            templates: [template; 2],
            ..Backend::zeroed()
        }
    }

    /// The way that led there until now, where the reason leaves hope that it still does. Any ring's header knows it; what
    /// else is in that header is the other ring's.
    fn last_known(&self, address: IpAddr, resolution: &Resolution) -> Option<NextHop> {
        let Resolution::Unresolved(reason) = resolution else { return None };
        if !reason.keeps_last() {
            return None;
        }
        let known = self.last_known.get_or_init(|| {
            // The last one that is collected counts: of several the one of the lowest place.
            let members = self.inputs.observed.rings.values().rev().flat_map(|ring| ring.members.values());
            members
                .filter(|m| m.template().is_tunnel())
                .map(|m| (m.address, next_hop(m.template())))
                .collect()
        });
        known.get(&map_address(address)).cloned()
    }
}

fn tags(tag: [u8; 4]) -> Tags {
    if tag == NO_TAG { Tags::None } else { Tags::One(tag) }
}

/// The way that a header leads.
fn next_hop(template: &Template) -> NextHop {
    let [destination_mac, source_mac] = [0, 6].map(|at| std::array::from_fn(|n| template.bytes[at + n]));
    NextHop {
        ifindex: template.leaves_by(),
        below: template.tag().map(|tag| Below { ifindex: template.leaves_by(), tags: tags(tag) }),
        interface: String::new(),
        source_mac,
        destination_mac,
        mtu: template::outer_mtu(template),
        path_mtu: None,
    }
}
