//! What health means to the planner: a desired state in which backends that do not answer are down.
//!
//! ```text
//!   Desired --with_leaving--> who is asked --apply--> some are down --without_leaving--> what the planner sees
//! ```
//!
//! To the planner a dead backend is one that the operator called down: its gate closes and its flows are freed at
//! once. `on_all_down: keep` waits until nobody is still being tried, so that a service that has just come does not
//! send its first packets to backends that nobody has seen answer.

use std::collections::BTreeMap;

use xdp_lb_common::backend::{BACKEND_ALIVE, BACKEND_DRAINING};

use super::board::Key;
use super::check::OnAllDown;
use super::machine::State;
use super::snapshot::HealthSnapshot;
use crate::model::{AdminState, Backend, Desired, Service, Share};
use crate::plan;
use crate::state::Observed;
use crate::template::from_map;

/// `desired` as the planner is to see it.
#[must_use]
pub fn apply(desired: &Desired, health: &HealthSnapshot) -> Desired {
    let mut desired = desired.clone();
    for service in desired.services.iter_mut().filter(|service| service.health.is_some()) {
        judge(service, health);
    }
    desired
}

fn judge(service: &mut Service, health: &HealthSnapshot) {
    let name: std::sync::Arc<str> = service.name.as_str().into();
    let state = |backend: &Backend| {
        let key = Key { service: name.clone(), backend: backend.address };
        health.targets.get(&key).map_or(State::Starting, |target| target.state)
    };
    let mut takers = service.backends.iter().filter(|backend| takes(backend)).map(state).peekable();
    let all_down = takers.peek().is_some() && takers.all(|state| state == State::Down);
    if all_down && service.on_all_down == OnAllDown::Keep {
        return;
    }
    let dead = |backend: &Backend| match backend.state {
        AdminState::Active => state(backend) != State::Up,
        // What drains has flows to keep, whoever has asked it yet.
        AdminState::Drain | AdminState::DrainBy(_) => state(backend) == State::Down,
        AdminState::Down => false,
    };
    let dead: Vec<usize> = (0..service.backends.len()).filter(|&n| dead(&service.backends[n])).collect();
    // Services share lists that nobody changes.
    for n in dead {
        service.backends[n].state = AdminState::Down;
    }
}

/// Whether the file lets new flows go there.
fn takes(backend: &Backend) -> bool {
    backend.state == AdminState::Active && backend.weight > 0 && backend.share > Share::NONE
}

/// `desired` with the backends that are gone from the file and still have flows to keep: they are asked as well, as
/// draining ones that take no slots. `None` when nobody leaves.
#[must_use]
pub fn with_leaving(desired: &Desired, observed: &Observed) -> Option<Desired> {
    let by_name: BTreeMap<&str, u16> = observed.services.iter().map(|(&id, s)| (plan::name(s), id)).collect();
    let mut asked = desired.clone();
    let mut leaves = false;
    for service in asked.services.iter_mut().filter(|service| service.health.is_some()) {
        let ring = by_name.get(&*service.name).and_then(|&id| observed.ring(id));
        for member in ring.into_iter().flat_map(|ring| ring.members.values()) {
            let address = from_map(member.address);
            let stays = service.backends.binary_search_by_key(&address, |backend| backend.address).is_ok();
            if member.state & BACKEND_ALIVE != 0 && !stays {
                let (state, share) = (AdminState::Drain, Share::NONE);
                let (zone, slice, server_id, backup) = (None, Vec::new(), None, false);
                service.backends.push(Backend {
                    address,
                    weight: 0,
                    zone,
                    state,
                    share,
                    slice,
                    server_id,
                    backup,
                });
                service.backends.sort_by_key(|backend| backend.address);
                leaves = true;
            }
        }
    }
    leaves.then_some(asked)
}

/// Takes out of `judged` again who is gone from the file, but for the dead: those the planner is to call down, and with
/// the next plan it forgets them.
pub fn without_leaving(judged: &mut Desired, desired: &Desired) {
    for (service, wanted) in judged.services.iter_mut().zip(&desired.services) {
        // Services share lists that nobody changes, and that are sorted.
        if service.backends.is_same(&wanted.backends) {
            continue;
        }
        let stays = |backend: &Backend| {
            backend.state == AdminState::Down
                || wanted.backends.binary_search_by_key(&backend.address, |b| b.address).is_ok()
        };
        if !service.backends.iter().all(stays) {
            service.backends.retain(stays);
        }
    }
}

/// The states that the maps have: what an earlier agent, or a time without checks, left. A backend whose drain is
/// over says nothing about its health and is left out.
#[must_use]
pub fn taken_over(observed: &Observed) -> BTreeMap<Key, State> {
    let mut states = BTreeMap::new();
    for (id, service) in &observed.services {
        let name: std::sync::Arc<str> = plan::name(service).into();
        for member in observed.ring(*id).into_iter().flat_map(|ring| ring.members.values()) {
            let state = match (member.state & BACKEND_ALIVE != 0, member.state & BACKEND_DRAINING != 0) {
                (true, _) => State::Up,
                (false, false) => State::Down,
                (false, true) => continue,
            };
            states.insert(Key { service: name.clone(), backend: from_map(member.address) }, state);
        }
    }
    states
}
