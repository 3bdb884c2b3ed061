//! Health in the daemon's hands: what is asked follows the configuration and the next hops, what is known goes to the
//! planner, and its words to `status`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use tokio::{sync::watch, task::JoinHandle};
use tracing::{error, info, warn};
use xdp_lb_common::probe::WAY_COUNT;

use crate::{
    dataplane::{
        BpffsRoot,
        health_map::{HealthMap, Words},
    },
    health::{
        self, HealthSnapshot, Key, State, Via, Ways,
        probe::{Network, Tunnels},
        runner::Health,
    },
    model::Desired,
    nexthop::Resolution,
    plan,
    state::Observed,
};

/// Health checks of this node.
pub struct HealthChecks {
    health: Health,
    task: JoinHandle<()>,
    network: Arc<Network>,
    tunnels: Option<Arc<Tunnels>>,
    /// Interfaces that answers through tunnels are taken at.
    interfaces: BTreeSet<String>,
    ways: Ways,
    words: Option<HealthMap>,
    /// Ids of the services in the maps.
    ids: BTreeMap<Arc<str>, u16>,
    /// Whether these still hold: services come and go with the configuration alone.
    is_indexed: bool,
    /// Who is asked.
    asked: BTreeSet<Key>,
    /// Who the file says is to be asked.
    named: BTreeSet<Key>,
    /// Backends that are gone from the file are asked as long as they drain.
    somebody_leaves: bool,
    /// Changes that the planner has seen.
    seen: u64,
}

impl HealthChecks {
    /// Starts what `desired` needs. `len` is the number of entries of `backends`.
    ///
    /// # Errors
    /// When questions through tunnels are wanted and cannot be asked.
    pub async fn start(
        root: &BpffsRoot,
        len: u32,
        desired: &Desired,
        shutdown: watch::Receiver<bool>,
    ) -> Result<Self> {
        let network = Arc::new(Network::new());
        let (health, task) =
            Health::start(Arc::clone(&network), seed(desired), shutdown).context("start health checks")?;
        let words = HealthMap::create(root, len)
            .inspect_err(|error| warn!(%error, "status will not say why backends are down: no map for it"))
            .ok();
        let mut checks = Self {
            health,
            task,
            network,
            tunnels: None,
            interfaces: BTreeSet::new(),
            ways: Ways::new(WAY_COUNT),
            words,
            ids: BTreeMap::new(),
            is_indexed: false,
            asked: BTreeSet::new(),
            named: BTreeSet::new(),
            somebody_leaves: false,
            seen: 0,
        };
        checks.prepare(desired).await?;
        Ok(checks)
    }

    /// Builds what questions through tunnels need, if there are any and it is not there, or anew when the node has
    /// other addresses than before.
    ///
    /// # Errors
    /// What is missing; such questions are then not asked.
    pub async fn prepare(&mut self, desired: &Desired) -> Result<()> {
        let through_tunnels = |check: &health::Check| check.via == Via::Tunnel;
        if !desired.services.iter().filter_map(|s| s.health.as_ref()).any(through_tunnels) {
            return Ok(());
        }
        let interfaces: Vec<String> = desired.interfaces.iter().map(|i| i.name.clone()).collect();
        let vips: BTreeSet<IpAddr> = desired.vips.iter().map(|vip| vip.address).collect();
        let same = match &self.tunnels {
            Some(tunnels) => Tunnels::sources_of_node(&interfaces, &vips).await? == *tunnels.sources(),
            None => false,
        };
        if let Some(tunnels) = self.tunnels.as_ref().filter(|_| same) {
            for interface in interfaces {
                if !self.interfaces.contains(&interface) {
                    tunnels.also_at(&interface).context("prepare health checks")?;
                    self.interfaces.insert(interface);
                }
            }
            return Ok(());
        }
        let tunnels = Arc::new(Tunnels::build(&interfaces, &vips).await.context("prepare health checks")?);
        info!(sources = ?tunnels.sources(), "health checks can be asked through tunnels");
        self.network.use_tunnels(Arc::clone(&tunnels));
        (self.tunnels, self.interfaces) = (Some(tunnels), interfaces.into_iter().collect());
        // New maps, in which no mark leads anywhere yet.
        self.ways = Ways::new(WAY_COUNT);
        Ok(())
    }

    /// Asks what `desired` says from now on, and returns it as the planner is to see it. The maps are looked at when
    /// somebody comes or leaves.
    pub fn judge(
        &mut self,
        desired: &Desired,
        resolve: &dyn Fn(IpAddr) -> Resolution,
        observe: impl FnOnce() -> Observed,
    ) -> Desired {
        // Nobody is leaving without a change of the file; once somebody is, the maps say for how long.
        let named = named(desired);
        let observed = (self.somebody_leaves || named != self.named).then(observe);
        let asked = observed.as_ref().and_then(|observed| health::with_leaving(desired, observed));
        (self.somebody_leaves, self.named) = (asked.is_some(), named);
        let asked = asked.as_ref().unwrap_or(desired);

        let (targets, writes) = self.ways.plan(asked, resolve);
        for (mark, template) in writes {
            let written = self.tunnels.as_ref().map(|tunnels| tunnels.maps().set_way(mark, &template));
            if let Some(Err(error)) = written {
                error!(mark, %error, "write map {}", xdp_lb_common::probe::WAYS);
            }
        }
        let keys: BTreeSet<Key> = targets.keys().cloned().collect();
        self.is_indexed &= keys == self.asked;
        self.asked = keys;
        let known = observed.as_ref().map(health::taken_over).unwrap_or_default();
        let snapshot = self.health.set(targets, &known);
        self.seen = snapshot.changes;
        let mut judged = health::apply(asked, &snapshot);
        health::without_leaving(&mut judged, desired);
        judged
    }

    /// Whether the planner has not seen the latest changes.
    #[must_use]
    pub fn has_changed(&self, snapshot: &HealthSnapshot) -> bool {
        snapshot.changes > self.seen
    }

    /// Snapshots, for the daemon's loop and the metrics.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<HealthSnapshot>> {
        self.health.changes()
    }

    /// After the maps have been brought to what was judged: whom the words are about.
    pub fn index(&mut self, observe: impl FnOnce() -> Observed) {
        if self.is_indexed {
            return self.tell();
        }
        self.ids = observe().services.iter().map(|(&id, s)| (plan::name(s).into(), id)).collect();
        self.is_indexed = true;
        self.tell();
    }

    /// Writes for `status` what is known of every backend in the maps.
    pub fn tell(&mut self) {
        let Some(map) = &mut self.words else { return };
        let (snapshot, now) = (self.health.snapshot(), self.health.now());
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let words = snapshot.targets.iter().filter_map(|(key, target)| {
            let id = *self.ids.get(&key.service)?;
            let since = unix.saturating_sub(now.saturating_sub(target.since)).as_secs();
            let words = Words { text: target.words(), since, is_up: target.state == State::Up };
            Some(((id, key.backend), words))
        });
        if let Err(error) = map.write(words.collect()) {
            error!(%error, "write map health");
        }
    }

    /// Waits for the scheduler, which the shutdown signal has told to end, and takes the tunnels away.
    ///
    /// # Errors
    /// When the task panicked.
    pub async fn end(self) -> Result<()> {
        self.task.await.with_context(|| format!("end the task {}", Health::TASK))
    }
}

/// Backends of services with checks.
fn named(desired: &Desired) -> BTreeSet<Key> {
    let checked = desired.services.iter().filter(|service| service.health.is_some());
    let keys = checked.flat_map(|service| {
        let name: Arc<str> = service.name.as_str().into();
        service.backends.iter().map(move |b| Key { service: name.clone(), backend: b.address })
    });
    keys.collect()
}

/// Another phase on every node, the same after a restart: by the outer sources, which no two nodes share, and the name.
fn seed(desired: &Desired) -> u64 {
    let sources = desired.services.iter().flat_map(|s| s.encap.source_v4.map(|(a, _)| u32::from_be_bytes(a)));
    let name = desired.node.name.bytes().map(u32::from);
    sources
        .take(1)
        .chain(name)
        .fold(desired.seed, |seed, part| xdp_lb_common::hash::mix(seed ^ u64::from(part)).wrapping_add(1))
}
