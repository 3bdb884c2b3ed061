//! Exception sync as the daemon's loop does it: looks at the flow table while something is dirty, tells of drains by
//! command, and takes in what peers tell.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tracing::{debug, info};

use super::{FlowTable, Reconciler};
use crate::{
    drains::{Drains, Written},
    file,
    model::{self, Desired},
    peers::{
        Apart, Counts, Exception, Flows, Heard, Peers, Refusal, Told,
        channel::Key,
        exceptions,
        link::{Look, Settings},
        message::{Answer, Hashing},
    },
    state::{Maps, Observed},
};

/// What runs, if the file names peers.
#[derive(Debug, Default)]
pub(super) struct Sync {
    running: Option<(model::Peers, Peers)>,
    /// What ended peers had sent, and all that was received.
    counts: Counts,
}

impl Sync {
    /// Follows the configuration. What runs goes on if nothing has changed.
    ///
    /// # Errors
    /// When the key cannot be used; nothing runs then.
    pub(super) fn configure(&mut self, desired: &Desired) -> Result<()> {
        let running = self.running.as_ref().map(|(settings, _)| settings);
        if running == desired.peers.as_ref() {
            return Ok(());
        }
        if let Some((_, peers)) = self.running.take() {
            self.counts.sent += peers.sent();
        }
        let Some(settings) = &desired.peers else { return Ok(()) };
        let key = file::secret(&settings.key_file)
            .and_then(|secret| Key::new(&secret))
            .with_context(|| format!("peers: read key_file {}", settings.key_file.display()))?;
        let start = Settings {
            listen: settings.listen,
            key,
            nodes: settings.nodes.clone(),
            name: desired.node.name.clone(),
        };
        self.running = Some((settings.clone(), Peers::start(start)));
        Ok(())
    }

    /// Whether there is anybody to tell.
    pub(super) fn is_on(&self) -> bool {
        self.running.is_some()
    }

    /// The next thing that a peer tells; never without peers.
    pub(super) async fn told(&mut self) -> Told {
        match &mut self.running {
            Some((_, peers)) => match peers.told().await {
                Some(told) => told,
                None => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }

    /// Looks for exceptions and has them told, and our drains; false when no slot is dirty and all drain alike.
    pub(super) fn look<M: Maps + FlowTable>(
        &self,
        reconciler: &Reconciler<M>,
        desired: &Desired,
        own: &Drains,
        apart: &Apart,
    ) -> Result<bool> {
        let Some((_, peers)) = &self.running else { return Ok(false) };
        let (observed, maps) = (reconciler.observe(), reconciler.maps());
        let mut look = Look { drains: own.into(), ..Look::default() };
        let possible = exceptions::possible(&observed) || !apart.is_empty();
        if possible {
            let tick = maps.tick().context("read the flow table's clock")?;
            look.exceptions = exceptions::find(&observed, &desired.services, apart, maps.sets(), tick);
            let hashing = |service: &model::Service| {
                (service.name.clone(), Hashing::of(desired.seed, service, observed.capacity.flow_sets))
            };
            look.hashing = desired.services.iter().map(hashing).collect();
        }
        peers.tell(look);
        Ok(possible)
    }

    /// Takes in what a peer has told, where it means something here, and answers. True when it drains others than before.
    ///
    /// `uptime` is the agent's clock.
    pub(super) fn learn<M: Maps + FlowTable>(
        &mut self,
        told: Told,
        reconciler: &mut Reconciler<M>,
        heard: &mut Heard,
        desired: &Desired,
        uptime: Duration,
    ) -> Result<bool> {
        let mut changed = false;
        if let Some(drains) = told.drains {
            let drains: Drains = drains.into_iter().collect();
            changed = heard.hear(&told.node, drains.clone(), uptime);
            if changed {
                let backends: Vec<Written> = (&drains).into();
                info!(node = told.node, drains = ?backends, "a peer's drains by command");
            }
        }
        let mut answer = Answer::default();
        if let Some(flows) = &told.flows {
            let (taken, refused) = sift(flows, reconciler, desired, uptime)?;
            debug!(node = told.node, taken = taken.len(), refused, "flows told by a peer");
            if let Some((_, peers)) = &self.running {
                peers.learned(&taken);
            }
            self.counts.received += taken.len() as u64;
            self.counts.refused += u64::from(refused);
            answer = Answer { taken: taken.len() as u32, refused };
        }
        // Who asked may be gone; what it told is here.
        _ = told.answer.send(answer);
        Ok(changed)
    }

    /// What has been told; `None` without peers.
    pub(super) fn counts(&self) -> Option<Counts> {
        let (_, peers) = self.running.as_ref()?;
        Some(Counts { sent: self.counts.sent + peers.sent(), ..self.counts })
    }
}

/// The flows that are known here afterwards, and how many are not.
fn sift<M: Maps + FlowTable>(
    flows: &Flows,
    reconciler: &mut Reconciler<M>,
    desired: &Desired,
    uptime: Duration,
) -> Result<(Vec<Exception>, u32)> {
    let observed: Observed = reconciler.observe();
    let ours = desired.services.iter().find(|service| service.name == flows.service);
    let ours = ours.map(|service| Hashing::of(desired.seed, service, observed.capacity.flow_sets));
    let total = flows.flows.len() as u32;
    if ours.is_none_or(|ours| !flows.hashing.serves(&ours)) {
        return Ok((Vec::new(), total));
    }
    let tick = reconciler.maps().tick().context("read the flow table's clock")?;
    let placed = |e: Exception| exceptions::place(&observed, &e, tick).ok().map(|placement| (e, placement));
    let (taken, placements): (Vec<_>, Vec<_>) = flows.unpack().into_iter().filter_map(placed).unzip();
    let done = reconciler.remember(&observed, &placements, tick, uptime)?;
    let known = |done: &Result<(), Refusal>| matches!(done, Ok(()) | Err(Refusal::Known));
    let taken: Vec<_> = taken.into_iter().zip(done).filter(|(_, done)| known(done)).map(|(e, _)| e).collect();
    let refused = total - taken.len() as u32;
    Ok((taken, refused))
}
