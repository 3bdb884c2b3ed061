//! Exception sync as the daemon's loop does it: looks at the flow table while something is dirty, and takes in what
//! peers tell.

use anyhow::{Context as _, Result};
use tracing::debug;

use crate::{
    dataplane::KernelMaps,
    file,
    model::{self, Desired},
    peers::{
        Counts, Exception, Peers, Refusal, Told,
        channel::Key,
        exceptions,
        link::{Look, Settings},
        message::{Answer, Hashing},
    },
    state::Observed,
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

    /// The next flows that a peer tells; never without peers.
    pub(super) async fn told(&mut self) -> Told {
        match &mut self.running {
            Some((_, peers)) => match peers.told().await {
                Some(told) => told,
                None => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }

    /// Looks for exceptions and has them told; false when no slot is dirty.
    pub(super) fn look(&self, observed: &Observed, maps: &KernelMaps, desired: &Desired) -> Result<bool> {
        let Some((_, peers)) = &self.running else { return Ok(false) };
        if !exceptions::possible(observed) {
            return Ok(false);
        }
        let tick = maps.tick().context("read the flow table's clock")?;
        let found = exceptions::find(observed, &desired.services, maps.flow_sets(), tick);
        let hashing = |service: &model::Service| {
            (service.name.clone(), Hashing::of(desired.seed, service, observed.capacity.flow_sets))
        };
        peers.tell(Look { exceptions: found, hashing: desired.services.iter().map(hashing).collect() });
        Ok(true)
    }

    /// Remembers what a peer has told, where it means something here, and answers.
    pub(super) fn learn(
        &mut self,
        told: Told,
        observed: &Observed,
        maps: &KernelMaps,
        desired: &Desired,
    ) -> Result<()> {
        let (taken, refused) = sift(&told, observed, maps, desired)?;
        debug!(node = told.node, taken = taken.len(), refused, "flows told by a peer");
        if let Some((_, peers)) = &self.running {
            peers.learned(&taken);
        }
        self.counts.received += taken.len() as u64;
        self.counts.refused += u64::from(refused);
        // Who asked may be gone; what it told is here.
        _ = told.answer.send(Answer { taken: taken.len() as u32, refused });
        Ok(())
    }

    /// What has been told; `None` without peers.
    pub(super) fn counts(&self) -> Option<Counts> {
        let (_, peers) = self.running.as_ref()?;
        Some(Counts { sent: self.counts.sent + peers.sent(), ..self.counts })
    }
}

/// The flows that are known here afterwards, and how many are not.
fn sift(
    told: &Told,
    observed: &Observed,
    maps: &KernelMaps,
    desired: &Desired,
) -> Result<(Vec<Exception>, u32)> {
    let ours = desired.services.iter().find(|service| service.name == told.flows.service);
    let ours = ours.map(|service| Hashing::of(desired.seed, service, observed.capacity.flow_sets));
    let total = told.flows.flows.len() as u32;
    if ours.is_none_or(|ours| !told.flows.hashing.serves(&ours)) {
        return Ok((Vec::new(), total));
    }
    let tick = maps.tick().context("read the flow table's clock")?;
    let mut taken = Vec::new();
    for exception in told.flows.unpack() {
        let done = match exceptions::place(observed, &exception, tick) {
            Ok(placement) => maps.remember(placement, tick).context("write map flow_table")?,
            Err(refusal) => Err(refusal),
        };
        if matches!(done, Ok(()) | Err(Refusal::Known)) {
            taken.push(exception);
        }
    }
    let refused = total - taken.len() as u32;
    Ok((taken, refused))
}
