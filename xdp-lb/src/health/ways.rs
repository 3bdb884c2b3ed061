//! The ways that questions take: which socket mark leads through which tunnel.
//!
//! A mark is an index of the kernel's map `probe_ways`, whose entry is the very header that clients' packets get.
//! Services with equal tunnels to the same backend share one. Marks are given out in a circle, so that a packet under
//! way seldom meets a mark that means somebody else already.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use xdp_lb_common::backend::{KIND_IPV4, KIND_IPV6, KIND_LOCAL, Template};

use super::board::{Key, Target};
use super::check::{Check, Via};
use crate::{
    model::{Desired, Encap, Protocol, Service},
    nexthop::{NextHop, Resolution, UnresolvedReason},
    template,
};

/// The way to one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// To its own address.
    Direct,
    /// The backend is this very node.
    Local,
    /// The backend is a pod of this node: what it listens on for the port that is asked, by VIP. Without an entry nothing
    /// leads there.
    Pod(BTreeMap<IpAddr, u16>),
    /// Through a tunnel.
    Tunnel {
        /// Mark of the socket.
        mark: u32,
        /// Why the next hop is in doubt; the last known one is tried.
        trouble: Option<UnresolvedReason>,
    },
    /// There is none.
    None(UnresolvedReason),
    /// No mark is left.
    NoMark,
    /// Through a kind of tunnel that the program for questions does not write.
    OtherTunnel,
}

/// The marks that are given out and what each leads through.
#[derive(Clone, Debug)]
pub struct Ways {
    given: BTreeMap<(Encap, IpAddr), u32>,
    taken: BTreeSet<u32>,
    templates: BTreeMap<u32, Template>,
    last: u32,
    capacity: u32,
}

impl Ways {
    /// None given out; marks are 1 to `capacity - 1`.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        Self { given: BTreeMap::new(), taken: BTreeSet::new(), templates: BTreeMap::new(), last: 0, capacity }
    }

    /// The targets of `desired`, and the entries of `probe_ways` that change: to be written before the first question.
    pub fn plan(
        &mut self,
        desired: &Desired,
        resolve: impl Fn(IpAddr) -> Resolution,
    ) -> (BTreeMap<Key, Target>, Vec<(u32, Template)>) {
        let mut targets = BTreeMap::new();
        let mut writes = Vec::new();
        let mut used = BTreeSet::new();
        for service in &desired.services {
            let Some(check) = &service.health else { continue };
            let name: std::sync::Arc<str> = service.name.as_str().into();
            for backend in &service.backends {
                let way = match check.via {
                    Via::Direct => Way::Direct,
                    Via::Tunnel => match resolve(backend.address) {
                        Resolution::Pod => Way::Pod(targets_at(desired, service, check, backend.address)),
                        resolution => {
                            let to = (service.encap, backend.address);
                            used.insert(to);
                            self.way(to, &resolution, &mut writes)
                        }
                    },
                };
                let target = Target {
                    check: check.clone(),
                    vips: service.vips.clone(),
                    over_tcp: service.protocol == Protocol::Tcp,
                    way,
                };
                targets.insert(Key { service: name.clone(), backend: backend.address }, target);
            }
        }
        let (templates, taken) = (&mut self.templates, &mut self.taken);
        self.given.retain(|to, mark| {
            let stays = used.contains(to);
            if !stays {
                templates.remove(mark);
                taken.remove(mark);
            }
            stays
        });
        (targets, writes)
    }

    fn way(
        &mut self,
        to: (Encap, IpAddr),
        resolution: &Resolution,
        writes: &mut Vec<(u32, Template)>,
    ) -> Way {
        let fresh = template::build(&to.0, to.1, &by_the_stack(resolution));
        if fresh.kind == KIND_LOCAL {
            return Way::Local;
        }
        let Some(mark) = self.given.get(&to).copied().or_else(|| self.give(to)) else { return Way::NoMark };
        let trouble = match resolution {
            Resolution::Unresolved(reason) => Some(reason.clone()),
            Resolution::Resolved(_) | Resolution::Local | Resolution::Pod => None,
        };
        if fresh.is_tunnel() && !matches!(fresh.kind, KIND_IPV4 | KIND_IPV6) {
            return Way::OtherTunnel;
        }
        if fresh.is_tunnel() {
            if self.templates.insert(mark, fresh) != Some(fresh) {
                writes.push((mark, fresh));
            }
            return Way::Tunnel { mark, trouble: None };
        }
        match trouble {
            Some(trouble) if trouble.keeps_last() && self.templates.contains_key(&mark) => {
                Way::Tunnel { mark, trouble: Some(trouble) }
            }
            Some(trouble) => Way::None(trouble),
            None => Way::None(UnresolvedReason::NoRoute),
        }
    }

    fn give(&mut self, to: (Encap, IpAddr)) -> Option<u32> {
        let mark =
            (self.last + 1..self.capacity).chain(1..=self.last).find(|mark| !self.taken.contains(mark))?;
        self.last = mark;
        self.taken.insert(mark);
        self.given.insert(to, mark);
        Some(mark)
    }
}

/// Where the port that is asked leads at a pod of this node.
fn targets_at(desired: &Desired, service: &Service, check: &Check, pod: IpAddr) -> BTreeMap<IpAddr, u16> {
    let is_tcp = check.kind.is_over_tcp(service.protocol == Protocol::Tcp);
    let protocol = if is_tcp { Protocol::Tcp } else { Protocol::Udp };
    let all = desired.decap.iter().flat_map(|decap| &decap.translate);
    let asked = all.filter(|at| {
        at.pod == pod && (at.protocol, at.port) == (protocol, check.port) && service.vips.contains(&at.vip)
    });
    asked.map(|at| (at.vip, at.target)).collect()
}

/// Questions leave by the kernel's own devices: a VLAN device adds its tag to them, and a bond chooses a member.
fn by_the_stack(resolution: &Resolution) -> Resolution {
    match resolution {
        Resolution::Resolved(hop) => Resolution::Resolved(NextHop { below: None, ..hop.clone() }),
        other => other.clone(),
    }
}
