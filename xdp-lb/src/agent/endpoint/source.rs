//! Where a scrape's figures come from: maps that are mapped to be read, links, and what the agent says.
//!
//! Leaner than [`crate::observe`], which copies every slot of every service: a ring that services share is counted once,
//! and neither port pages nor VIPs are looked at.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use tokio::sync::watch;
use tracing::debug;
use xdp_lb_common::{
    backend::{BACKEND_ALIVE, BACKEND_USED, Backend, MAX_MEMBERS},
    flow::WAYS,
    service::{MAX_SERVICES, ServiceConfig},
};

use super::Reporter;
use crate::{
    bgp,
    dataplane::{BpffsRoot, KernelMaps, attach},
    health::{HealthSnapshot, Key, State},
    metrics::{self, Flows, Member, Sample, Service, Tally},
    model::Desired,
    plan,
    scrape::Scraped,
    template::from_map,
};

/// Everything that is read.
pub struct Source {
    root: BpffsRoot,
    maps: KernelMaps,
    reporter: Reporter,
    health: watch::Receiver<Arc<HealthSnapshot>>,
    tally: Mutex<Tally>,
    bgp: Mutex<Option<PathBuf>>,
}

impl Source {
    /// Opens the maps to read.
    ///
    /// # Errors
    /// Which map cannot be opened.
    pub fn open(
        root: &BpffsRoot,
        reporter: &Reporter,
        health: watch::Receiver<Arc<HealthSnapshot>>,
    ) -> Result<Self> {
        Ok(Self {
            root: root.clone(),
            maps: KernelMaps::open_read_only(root).context("open the maps for metrics")?,
            reporter: reporter.clone(),
            health,
            tally: Mutex::default(),
            bgp: Mutex::default(),
        })
    }

    /// Where the speaker leaves its status.
    pub fn follow(&self, desired: &Desired) {
        *lock(&self.bgp) = desired.bgp.as_ref().map(|bgp| bgp.status_file.clone());
    }

    fn interfaces(&self) -> Result<Vec<(String, String)>> {
        let attached = attach::attached(&self.root).context("list the links")?;
        Ok(attached.into_iter().map(|a| (a.interface, a.mode.to_string())).collect())
    }

    /// The status of our own speaker: a file that another agent left says nothing of this one.
    fn speaker(&self) -> Option<bgp::status::Status> {
        let path = lock(&self.bgp).clone()?;
        let status =
            bgp::io::read_status(&path).inspect_err(|e| debug!("metrics without BGP: {e:#}")).ok()?;
        (status.pid == std::process::id()).then_some(status)
    }

    fn services(&self, health: &HealthSnapshot, flows: Option<&Flows>) -> Result<Vec<Service>> {
        let mut dirty = HashMap::new();
        let mut services = Vec::new();
        for id in (1..self.maps.capacity().services.min(MAX_SERVICES + 1)).filter_map(|id| id.try_into().ok())
        {
            let Some(entry) = self.maps.service(id).filter(|entry| entry.used != 0) else { continue };
            let (config, name) = (entry.config(), plan::name(&entry));
            let ring = (config.slot_base, config.table_size);
            let mut service = Service {
                name: name.to_owned(),
                traffic: self
                    .maps
                    .service_traffic(id)
                    .with_context(|| format!("read map svc_stats[{id}]"))?,
                dirty_slots: *dirty.entry(ring).or_insert_with(|| self.maps.dirty_slots(ring.0, ring.1)),
                ..Service::default()
            };
            let shared: Arc<str> = name.into();
            for (local, member) in self.members(config) {
                let index = config.stats_base.saturating_add(u32::from(local));
                let traffic = self.maps.backend_traffic(index);
                let Some(traffic) = traffic.with_context(|| format!("read map backend_stats[{index}]"))?
                else {
                    service.omitted += 1;
                    continue;
                };
                let key = Key { service: Arc::clone(&shared), backend: from_map(member.address) };
                let up = match health.targets.get(&key) {
                    Some(target) => target.state == State::Up,
                    None => member.state & BACKEND_ALIVE != 0,
                };
                let flows = flows.map(|flows| flows.members.get(&(id, local)).copied().unwrap_or(0));
                service.members.push(Member { address: key.backend, up, traffic, flows });
            }
            services.push(service);
        }
        Ok(services)
    }

    /// The block's first entry knows how long it is.
    fn members(&self, config: &ServiceConfig) -> BTreeMap<u16, Backend> {
        let base = config.backend_base;
        let len = self.maps.backend(base).map_or(0, |first| first.block_len.min(MAX_MEMBERS));
        (0..len)
            .map_while(|local| Some((local as u16, self.maps.backend(base.checked_add(local)?)?)))
            .filter(|(_, member)| member.state & BACKEND_USED != 0)
            .collect()
    }
}

impl Scraped for Source {
    fn alive(&self) -> Result<(), String> {
        metrics::alive(&self.reporter.condition(), self.reporter.now()).map_err(|why| why.to_string())
    }

    fn ready(&self) -> Result<Result<(), Vec<String>>> {
        let ready = metrics::ready(&self.reporter.condition(), &self.interfaces()?, self.reporter.now());
        Ok(ready.map_err(|reasons| reasons.iter().map(ToString::to_string).collect()))
    }

    fn scrape(&self) -> Result<String> {
        let condition = self.reporter.condition();
        let health = self.health.borrow().clone();
        let (services, entries) =
            (self.services(&health, condition.flows.as_deref())?, self.maps.capacity().flow_sets);
        Ok(metrics::text(Sample {
            generation: self.maps.control().generation,
            interfaces: self.interfaces()?,
            counters: self.maps.counters().context("read map counters")?,
            flow_entries: u64::from(entries) * WAYS as u64,
            services,
            checks: lock(&self.tally).fold(&health),
            bgp: self.speaker(),
            condition,
        }))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
