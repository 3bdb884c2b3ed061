//! Commands from the admin API, carried out in the daemon's loop: one after the other, between two plans.

use std::path::PathBuf;

use anyhow::Result;
use tracing::{info, warn};

use super::{reload::Reach, state::Agent};
use crate::{
    admin::{Asked, Command, Desk, Done, NotDone, Queue, Server},
    dataplane::BpffsRoot,
    drains::{Drains, Target, Terms},
    keep::{DIRECTORY, Keep},
    netlink::NextHops as _,
};

/// Listens for commands, where the file or the command line says.
pub(super) async fn listen(
    root: &BpffsRoot,
    agent: &Agent,
    socket: Option<PathBuf>,
) -> Result<(Option<Server>, Option<Queue>)> {
    let reporter = agent.reporter.clone();
    let keep = agent.keep.clone().unwrap_or_else(|| Keep::at(DIRECTORY.as_ref()));
    let (desk, queue) =
        Desk::open(root, agent.view.subscribe(), move || reporter.condition(), keep.history())?;
    let mut server = Server::new(desk, socket);
    server.configure(&agent.desired.admin).await;
    Ok((Some(server), Some(queue)))
}

/// The next command; never where none is taken.
pub(super) async fn next(queue: &mut Option<Queue>) -> Asked {
    if let Some(queue) = queue
        && let Some(asked) = queue.recv().await
    {
        return asked;
    }
    std::future::pending().await
}

impl Reach<'_> {
    /// Carries a command out and answers.
    ///
    /// # Errors
    /// When the speaker of BGP has died.
    pub(super) async fn command(&mut self, asked: Asked) -> Result<()> {
        let done = match asked.command {
            Command::Drain(target, terms) => self.drain(target, terms),
            Command::Undrain(target) => self.undrain(&target),
            Command::Forget(filter) => self.agent.forget(&filter),
            Command::Rollback(generation) => self.rollback(generation).await?,
        };
        // That nobody waits any more changes nothing.
        let _ = asked.answer.send(done);
        Ok(())
    }

    fn drain(&mut self, target: Target, terms: Terms) -> Result<Done, NotDone> {
        let mut drains = self.agent.drains.clone();
        drains.drain(target.clone(), terms, &self.agent.desired)?;
        let Target { backend, service } = target;
        info!(%backend, service, mode = ?terms.mode, max = ?terms.max, "drains by command");
        Ok(self.take(drains))
    }

    fn undrain(&mut self, target: &Target) -> Result<Done, NotDone> {
        let mut drains = self.agent.drains.clone();
        drains.undrain(target, &self.agent.desired)?;
        info!(backend = %target.backend, service = target.service, "drains no longer by command");
        Ok(self.take(drains))
    }

    /// Other drains count from now on.
    fn take(&mut self, drains: Drains) -> Done {
        let mut done = Done::default();
        if let Some(Err(e)) = self.agent.keep.as_ref().map(|keep| keep.set_drains(&drains)) {
            warn!("the next start of the agent will not know of this drain: {e}");
            done.warnings.push(format!("the next start of the agent will not know of it: {e}"));
        }
        self.agent.set_drains(drains);
        let snapshot = self.resolver.changes().borrow().clone();
        self.agent.try_reconcile(&snapshot);
        self.behind(&mut done);
        done
    }

    /// Says when writes have failed and wait for the next try.
    fn behind(&self, done: &mut Done) {
        if let Some(why) = self.agent.reporter.condition().failure.filter(|_| self.agent.is_behind()) {
            done.warnings.push(format!("not carried out yet, and tried again: {why}"));
        }
    }

    async fn rollback(&mut self, generation: Option<u32>) -> Result<Result<Done, NotDone>> {
        let Some(past) = &self.agent.past else { return Ok(Err(NotDone::NoEarlier)) };
        let (generation, offer) = match past.earlier(generation, self.agent.generation()) {
            Ok(earlier) => earlier,
            Err(why) => return Ok(Err(why)),
        };
        let refused = |why: String| Ok(Err(NotDone::Refused { generation, why }));
        if let Err(why) = self.take_files(&offer, Some(generation)).await? {
            return refused(why);
        }
        warn!(generation = self.agent.generation(), back_to = generation, "rolled back");
        let mut done = Done::default();
        self.behind(&mut done);
        Ok(Ok(done))
    }
}
