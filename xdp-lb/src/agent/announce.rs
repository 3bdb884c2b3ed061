//! What the agent tells BGP: the facts that announcements follow, configuration, and the end.
//!
//! A backend is healthy that takes flows by the maps, and where its service is checked has answered as well: with
//! `on_all_down: keep` the maps go on as if everybody lived, which is a last resort and nothing to announce.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;
use xdp_lb_common::backend::{BACKEND_ALIVE, BACKEND_DRAINING, Backend, KIND_UNRESOLVED};

use super::{OnExit, interfaces::carrying};
use crate::{
    bgp::{
        decide::{Facts, Fault, Health},
        io::{Leave, Secrets, Speaker},
        settings::{Bgp, OnStop, Vip, When},
        status::Status,
    },
    health::{HealthSnapshot, Key, State},
    model::{Desired, Interface, Policy},
    nexthop::Links,
    plan,
    state::Observed,
    status,
    template::from_map,
};

/// How long a reload waits for routers to hear of VIPs that it takes away.
const TOLD: Duration = Duration::from_millis(500);

/// The speaker, where the file has a `bgp` section.
pub(super) struct Announcer {
    speaker: Option<Speaker>,
    on_stop: OnStop,
    /// How the speaker is; `None` while there is none.
    status: watch::Sender<Option<Arc<Status>>>,
    secrets: Secrets,
}

impl Announcer {
    /// Starts it. `restarted`: an earlier agent's program was found forwarding.
    /// `secrets`: passwords that are in no file.
    pub(super) fn start(desired: &Desired, restarted: bool, secrets: Secrets) -> Result<Self> {
        let status = watch::Sender::new(None);
        let mut announcer = Self { speaker: None, on_stop: on_stop(desired), status, secrets };
        if let Some(bgp) = desired.bgp.clone() {
            announcer.speak(bgp, restarted)?;
        }
        Ok(announcer)
    }

    fn speak(&mut self, bgp: Bgp, restarted: bool) -> Result<()> {
        self.status.send_replace(Some(Arc::default()));
        self.speaker = Some(Speaker::start(bgp, restarted, self.secrets.clone(), self.status.clone())?);
        Ok(())
    }

    /// How the speaker is, as it changes; `None` while there is none.
    #[cfg(feature = "kubernetes")]
    pub(super) fn status(&self) -> watch::Receiver<Option<Arc<Status>>> {
        self.status.subscribe()
    }

    /// Whether there is anybody to tell.
    pub(super) fn is_silent(&self) -> bool {
        self.speaker.is_none()
    }

    /// Whether the speaker has ended though nobody asked it to.
    pub(super) fn has_died(&self) -> bool {
        self.speaker.as_ref().is_some_and(Speaker::has_died)
    }

    /// States what is known.
    pub(super) fn tell(&self, facts: Facts) {
        if let Some(speaker) = &self.speaker {
            speaker.facts(facts);
        }
    }

    /// Takes over another configuration. Returns once routers have heard of the VIPs that are gone from it, so that
    /// their packets can be given up.
    pub(super) async fn configure(&mut self, desired: &Desired) -> Result<()> {
        self.on_stop = on_stop(desired);
        match (&mut self.speaker, &desired.bgp) {
            (None, None) => {}
            (None, Some(bgp)) => self.speak(bgp.clone(), false)?,
            (Some(_), None) => {
                if let Some(speaker) = self.speaker.take() {
                    speaker.leave(Leave::Withdraw).await;
                }
                self.status.send_replace(None);
            }
            (Some(speaker), Some(bgp)) => {
                speaker.configure(bgp.clone());
                speaker.told(TOLD).await;
            }
        }
        Ok(())
    }

    /// Ends it, and returns when routers send nothing here any more. Forwarding must go on meanwhile.
    pub(super) async fn leave(self, on_exit: OnExit) {
        let how = match (on_exit, self.on_stop) {
            (OnExit::Detach, _) | (OnExit::Keep, OnStop::Withdraw) => Leave::Withdraw,
            (OnExit::Keep, OnStop::Keep) => Leave::Keep,
        };
        if let Some(speaker) = self.speaker {
            speaker.leave(how).await;
        }
    }
}

fn on_stop(desired: &Desired) -> OnStop {
    desired.bgp.as_ref().map(|bgp| bgp.on_stop).unwrap_or_default()
}

/// The configuration, and announcements for what the maps hold beside it: services that another agent had from a cluster which
/// does not answer yet. Each counts by its backends in the maps; what its Service says of announcing is not known, so it
/// is announced while it has one.
pub(super) fn held(desired: &Desired, observed: &Observed) -> Desired {
    let mut held = desired.clone();
    let Some(bgp) = &mut held.bgp else { return held };
    for (id, vips) in status::vips(observed) {
        let Some(name) = observed.services.get(&id).map(plan::name) else { continue };
        if desired.services.iter().any(|service| service.name == name) {
            continue;
        }
        for address in vips {
            let service = (name.to_owned(), When::default());
            match bgp.vips.iter_mut().find(|vip| vip.address == address) {
                Some(vip) => vip.services.push(service),
                None => {
                    let Policy { join, attributes, .. } =
                        desired.inherited.policies.get(&address).cloned().unwrap_or_default();
                    bgp.vips.push(Vip { address, join, services: vec![service], attributes });
                }
            }
        }
    }
    bgp.vips.sort_by_key(|vip| vip.address);
    held
}

/// The facts of one moment. `attached`: interfaces with our program; `failure`: why the last writes failed, if they
/// keep failing.
pub(super) fn facts(
    desired: &Desired,
    observed: &Observed,
    health: &HealthSnapshot,
    links: &Links,
    attached: &BTreeSet<String>,
    failure: Option<String>,
) -> Facts {
    let names = || desired.interfaces.iter().map(|Interface { name, .. }| name);
    let mut faults: BTreeSet<Fault> = carrying(names(), links)
        .into_iter()
        .filter(|name| !attached.contains(name))
        .map(|interface| Fault::NotAttached { interface })
        .collect();
    if !names().any(|name| links.by_name(name).is_some_and(crate::nexthop::Link::usable)) {
        faults.insert(Fault::NoLink);
    }
    faults.extend(failure.map(|why| Fault::NotApplied { why }));
    Facts { faults, services: services(desired, observed, health) }
}

fn services(desired: &Desired, observed: &Observed, known: &HealthSnapshot) -> BTreeMap<String, Health> {
    let count = |members: &BTreeMap<u16, Backend>, is: &dyn Fn(&Backend) -> bool| {
        u32::try_from(members.values().filter(|member| is(member)).count()).unwrap_or(u32::MAX)
    };
    let mut services = BTreeMap::new();
    for (id, service) in &observed.services {
        let name = plan::name(service);
        // `None`: a cluster's, which does not answer yet, or about to go.
        let wanted = desired.services.iter().find(|wanted| wanted.name == name);
        let nobody = BTreeMap::new();
        let members = observed.ring(*id).map_or(&nobody, |ring| &ring.members);
        let shared: Arc<str> = name.into();
        let answers = |member: &Backend| {
            let key = Key { service: shared.clone(), backend: from_map(member.address) };
            wanted.is_none_or(|wanted| wanted.health.is_none())
                || known.targets.get(&key).is_some_and(|t| t.state == State::Up)
        };
        let takes = |member: &Backend| member.state & (BACKEND_ALIVE | BACKEND_DRAINING) == BACKEND_ALIVE;
        let healthy = |member: &Backend| takes(member) && answers(member);
        let reachable = |member: &Backend| healthy(member) && member.template().kind != KIND_UNRESOLVED;
        let health = Health {
            configured: u32::try_from(wanted.map_or(members.len(), |wanted| wanted.backends.len()))
                .unwrap_or(u32::MAX),
            healthy: count(members, &healthy),
            reachable: count(members, &reachable),
        };
        services.insert(name.to_owned(), health);
    }
    services
}
