//! Another configuration: when it is read, whether it can be used while the maps live, and everything that follows it.
//!
//! ```text
//!   SIGHUP, files -> wanted -> read, with the cluster's resources -> Reach::adopt: routers, next hops, health, maps, interfaces, endpoint, MSS, lo, peers
//! ```
//!
//! One that cannot be used changes nothing, and is told in the log, by a metric and by `status`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use tokio::signal::unix::Signal;
use tracing::{error, info, warn};

use super::{
    announce::Announcer,
    cluster::Cluster,
    daemon::{RunOptions, SETTLE},
    endpoint::Endpoint,
    interfaces::carrying,
    peers::Sync,
    programs::{attach_all, hold_vips, interfaces, offer_mss, translate},
    resources::{Documents, Resources, joined},
    state::Agent,
};
use crate::{
    admin::Server,
    config::{ConfigWarning, Document},
    dataplane::Loaded,
    intake::{Offer, Source},
    model::Desired,
    netlink::{NextHops as _, Resolver, addresses::LoopbackVips, settle},
};

/// How long a change of the cluster waits for the next hops of new backends.
const FRESH: Duration = Duration::from_millis(50);

/// Why a configuration is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Because {
    /// Somebody asked.
    Signal,
    /// It may be another.
    Files,
}

impl Because {
    /// What the log says when the configuration is in force.
    fn done(self) -> &'static str {
        match self {
            Self::Signal => "reloaded",
            Self::Files => "changed configuration in force",
        }
    }

    /// What it says when nothing has changed.
    fn failed(self) -> &'static str {
        match self {
            Self::Signal => "reload failed",
            Self::Files => "changed configuration refused",
        }
    }
}

/// Waits until the configuration is to be read. Who asks for it comes before the files, whose change he most often made.
pub(super) async fn wanted(hangup: &mut Signal, source: &mut impl Source) -> Because {
    tokio::select! {
        biased;
        _ = hangup.recv() => Because::Signal,
        () = source.changed() => Because::Files,
    }
}

/// The configuration, if it is good by itself. `None`: it is the one that was read last.
pub(super) fn read(because: Because, source: &mut impl Source) -> Option<Result<Offer, String>> {
    let offer = match because {
        Because::Signal => source.read(),
        Because::Files => source.fresh()?,
    };
    Some(offer.map_err(|e| format!("{e:#}")))
}

/// Which number a configuration gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    /// The next: the files are others.
    Next,
    /// The one that is in force.
    Same,
}

/// A key that cannot change while the agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fixed {
    /// Every flow would move.
    Ever(&'static str),
    /// The next start makes other maps, or loads another program, and takes over.
    Running(&'static str),
}

impl Fixed {
    /// What to do.
    pub(super) fn cure(self) -> String {
        match self {
            Self::Ever(key) => {
                format!(
                    "{key} cannot change while the maps live: `xdp-lb detach` and start again, which moves every flow"
                )
            }
            Self::Running(key) => format!(
                "{key} cannot change in a running agent: restart it; forwarding goes on meanwhile, and flows stay where \
                 they are"
            ),
        }
    }
}

/// The first key that differs and must not.
pub(super) fn fixed(desired: &Desired, current: &Desired) -> Option<Fixed> {
    let fixed = [
        (Fixed::Ever("maglev.seed"), desired.seed != current.seed),
        (Fixed::Running("limits"), desired.limits != current.limits),
        (Fixed::Running("flow_table.entries"), desired.flow_table.entries != current.flow_table.entries),
        (Fixed::Running("decap (being there or not)"), desired.decap.is_some() != current.decap.is_some()),
    ];
    fixed.into_iter().find_map(|(key, differs)| differs.then_some(key))
}

/// Says what in a configuration is seldom meant.
pub(super) fn warn_of(warnings: &[ConfigWarning]) {
    for ConfigWarning { file, line, path, message, .. } in warnings {
        warn!(file, line, %path, "{message}");
    }
}

/// What follows the configuration.
pub(super) struct Reach<'a> {
    pub(super) options: &'a RunOptions,
    pub(super) agent: &'a mut Agent,
    pub(super) loaded: &'a mut Loaded,
    pub(super) announcer: &'a mut Option<Announcer>,
    pub(super) endpoint: &'a mut Endpoint,
    pub(super) resolver: &'a Resolver,
    pub(super) vips: &'a mut Option<LoopbackVips>,
    pub(super) peers: &'a mut Sync,
    pub(super) admin: &'a mut Option<Server>,
    pub(super) cluster: &'a mut Cluster,
    pub(super) resources: &'a mut Resources,
}

impl Reach<'_> {
    /// Reads the configuration again and takes it, if it can be used and is another.
    ///
    /// # Errors
    /// When the speaker of BGP has died.
    pub(super) async fn reload(&mut self, because: Because, source: &mut impl Source) -> Result<()> {
        let offer = match read(because, source) {
            None => return Ok(()),
            Some(Ok(offer)) => offer,
            Some(Err(why)) => {
                self.refuse(because, why);
                return Ok(());
            }
        };
        match self.take_files(&offer, None).await? {
            // Last of all: who waits for the word finds everything done.
            Ok(()) => self.done(because),
            Err(why) => {
                self.resources.wait(Some(offer));
                self.refuse(because, why);
            }
        }
        Ok(())
    }

    fn done(&self, because: Because) {
        if !self.agent.is_behind() {
            let (generation, services) = (self.agent.generation(), self.agent.desired.services.len());
            info!(generation, services, "{}", because.done());
        }
    }

    /// Takes files, if they can be used: with the cluster's latest resources, else with those that are in force. The inner
    /// error is why not.
    ///
    /// # Errors
    /// When the speaker of BGP has died.
    pub(super) async fn take_files(
        &mut self,
        offer: &Offer,
        back_to: Option<u32>,
    ) -> Result<Result<(), String>> {
        let mut refusal: Option<String> = None;
        for documents in self.resources.choices() {
            match self.try_with(offer, &documents, Number::Next).await? {
                Ok(()) => {
                    self.agent.note(offer.texts.clone(), back_to);
                    self.resources.wait(None);
                    self.hold(documents);
                    self.agent.reporter.resources(refusal.map_or(Ok(()), Err));
                    return Ok(Ok(()));
                }
                Err(why) => _ = refusal.get_or_insert(why),
            }
        }
        Ok(Err(refusal.unwrap_or_default()))
    }

    /// Takes the cluster's latest resources, if they can be used. True when that was a change, and everything follows it.
    ///
    /// # Errors
    /// When the speaker of BGP has died.
    async fn take_resources(&mut self) -> Result<bool> {
        let Some(documents) = self.resources.news() else { return Ok(false) };
        if let Some(offer) = self.resources.pending()
            && self.try_with(&offer, &documents, Number::Next).await?.is_ok()
        {
            self.agent.note(offer.texts, None);
            self.resources.wait(None);
            self.hold(documents);
            self.agent.reporter.resources(Ok(()));
            self.done(Because::Files);
            return Ok(true);
        }
        let Some(texts) = self.agent.past.as_ref().map(|past| past.current().clone()) else {
            return Ok(false);
        };
        let before = self.agent.file.clone();
        let taken = match texts.check() {
            Ok(checked) => self.try_with(&Offer { texts, checked }, &documents, Number::Same).await?,
            Err(e) => Err(e.to_string()),
        };
        if let Err(why) = &taken {
            error!("the cluster's resources: {why}; those of before stay in force");
        } else {
            self.hold(documents);
        }
        self.agent.reporter.resources(taken);
        Ok(self.agent.file != before)
    }

    /// These resources are in force now, if the file has a cluster.
    fn hold(&mut self, documents: Documents) {
        let documents = if self.agent.file.kubernetes.is_some() { documents } else { Documents::default() };
        self.resources.hold(documents, self.agent.keep.as_ref());
        self.agent.reporter.has(self.resources.names());
    }

    /// Takes files with resources, if they can be used together. The inner error is why not.
    async fn try_with(
        &mut self,
        offer: &Offer,
        documents: &[Document],
        number: Number,
    ) -> Result<Result<(), String>> {
        let checked = match joined(&offer.texts, &offer.checked, documents) {
            Ok(checked) => checked,
            Err(e) => return Ok(Err(e.to_string())),
        };
        if let Some(key) = fixed(&checked.desired, &self.agent.file) {
            return Ok(Err(key.cure()));
        }
        if number == Number::Same && checked.desired == self.agent.file {
            return Ok(Ok(()));
        }
        warn_of(&checked.warnings);
        self.adopt(checked.desired, number).await
    }

    fn refuse(&self, because: Because, why: String) {
        error!("{}: {why}; the configuration of before stays in force", because.failed());
        self.agent.reporter.offered(Err(why));
    }

    /// Takes what the cluster asks for now, and what it says of this node's own settings.
    ///
    /// # Errors
    /// When the speaker of BGP has died.
    pub(super) async fn follow_cluster(&mut self) -> Result<()> {
        // Half of what it says would look like the loss of the other half.
        if self.agent.is_held && !(self.cluster.is_known() && self.resources.is_known()) {
            return Ok(());
        }
        let was_held = std::mem::take(&mut self.agent.is_held);
        if self.take_resources().await? {
            self.cluster.carried_out(true);
            return Ok(());
        }
        let desired = self.cluster.beside(&self.agent.file);
        if desired == self.agent.desired && !was_held && !self.cluster.is_behind() {
            return Ok(());
        }
        if let Some(announcer) = self.announcer.as_mut() {
            announcer.configure(&desired).await?;
        }
        // Who is new gets a moment to be found; nobody waits for who has been looked for before.
        let (before, after) = (self.agent.followed(), self.agent.followed_by(&desired));
        let fresh: BTreeSet<IpAddr> = after.difference(&before).copied().collect();
        self.resolver.follow(after);
        let (snapshot, _) = settle(self.resolver, &fresh, FRESH).await;
        self.agent.prepare_health(&desired).await;
        let lets_in_others = desired.decap != self.agent.desired.decap;
        let outcome = self.answers(&desired).and_then(|()| self.agent.follow(desired, &snapshot));
        self.cluster.carried_out(outcome.is_ok());
        if let Err(why) = outcome {
            error!("the cluster's services: {why}; those of before stay in force, and it is tried again");
            if let Some(announcer) = self.announcer.as_mut() {
                announcer.configure(&self.agent.desired).await?;
            }
            return Ok(());
        }
        let (role, desired) = (self.options.role, &self.agent.desired);
        let mut outcomes = vec![self.endpoint.configure(desired).await];
        if lets_in_others || was_held {
            outcomes.push(translate(self.loaded, role, desired));
            outcomes.push(offer_mss(self.loaded, self.agent, role, &snapshot));
            outcomes.push(hold_vips(desired).await.map(|held| *self.vips = held));
        }
        for e in outcomes.into_iter().filter_map(Result::err) {
            error!("the cluster's services: {e:#}");
        }
        let (generation, services) = (self.agent.generation(), self.agent.desired.services.len());
        info!(generation, services, "the cluster's services in force");
        Ok(())
    }

    /// Makes a file the current one, with the cluster's services beside its own. The inner error is why it cannot be
    /// carried out.
    ///
    /// # Errors
    /// When the speaker of BGP has died.
    async fn adopt(&mut self, file: Desired, number: Number) -> Result<Result<(), String>> {
        self.agent.is_held &= file.kubernetes.is_some();
        if self.agent.is_held {
            info!("another configuration waits for the cluster");
        } else {
            let desired = self.cluster.beside(&file);
            if let Err(why) = self.adopt_all(desired, number).await? {
                return Ok(Err(why));
            }
        }
        self.agent.file = file;
        if let Err(e) = self.cluster.configure(&self.agent.file).await {
            error!("{e:#}; the cluster is followed as before");
        }
        if let Err(e) = self.resources.configure(&self.agent.file).await {
            error!("{e:#}; the cluster's resources are followed as before");
        }
        Ok(Ok(()))
    }

    /// Before the first packet is translated for a pod, its answer must have a way out.
    fn answers(&mut self, desired: &Desired) -> Result<(), String> {
        if desired.decap.as_ref().is_none_or(|decap| decap.translate.is_empty()) {
            return Ok(());
        }
        translate(self.loaded, self.options.role, desired).map_err(|e| format!("{e:#}"))
    }

    async fn adopt_all(&mut self, desired: Desired, number: Number) -> Result<Result<(), String>> {
        if let Some(announcer) = self.announcer.as_mut() {
            announcer.configure(&desired).await?;
        }
        let followed = self.agent.followed_by(&desired);
        self.resolver.follow(followed.clone());
        let (snapshot, _) = settle(self.resolver, &followed, SETTLE).await;
        self.agent.prepare_health(&desired).await;
        let adopt = |agent: &mut Agent| match number {
            Number::Next => agent.adopt(desired.clone(), &snapshot),
            Number::Same => agent.follow(desired.clone(), &snapshot),
        };
        if let Err(why) = self.answers(&desired).and_then(|()| adopt(self.agent)) {
            if let Some(announcer) = self.announcer.as_mut() {
                announcer.configure(&self.agent.desired).await?;
            }
            return Ok(Err(why));
        }
        let (options, desired) = (self.options, &self.agent.desired);
        let wanted = interfaces(desired, options.role);
        let wanted = carrying(wanted.iter().map(|i| &i.name), &snapshot.links);
        self.agent.reporter.runs_on(wanted.into_iter().collect());
        let attached = attach_all(self.loaded, options, desired, &snapshot).map(drop);
        let listens = self.endpoint.configure(desired).await;
        let answers = translate(self.loaded, options.role, desired);
        let offers = offer_mss(self.loaded, self.agent, options.role, &snapshot);
        let holds = hold_vips(desired).await.map(|held| *self.vips = held);
        if let Some(admin) = self.admin {
            admin.configure(&self.agent.desired.admin).await;
        }
        let syncs = self.peers.configure(desired);
        for e in [attached, answers, listens, offers, holds, syncs].into_iter().filter_map(Result::err) {
            error!("reload: {e:#}");
        }
        Ok(Ok(()))
    }
}
