//! The lab of the show with the product in it, and the hand that does to it what the scenario says.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use super::file;
use super::scenario::Event;
use crate::lab::files::{self, ECHO, MEDIA, Mode, State, WEB};
use crate::lab::skip;
use crate::lab::tier::Tier;
use crate::lab::topology::{Host, Lab};
use crate::lab::traffic::{Nginx, Server};

/// Everything that runs in the lab.
#[derive(Debug)]
pub struct Stage<'lab> {
    lab: &'lab Lab,
    tier: Tier<'lab>,
    servers: Vec<Server>,
    web: Vec<Nginx>,
    states: BTreeMap<u8, State>,
    dead: Option<u8>,
    away: Option<u8>,
}

/// Whether short requests are served by nginx: where it is installed. Else a small server of the lab does it.
#[must_use]
pub fn has_nginx() -> bool {
    skip::find_program("nginx").is_some()
}

impl<'lab> Stage<'lab> {
    /// Starts servers, decaps and balancers, and waits until all are ready.
    ///
    /// # Errors
    /// Names who is not.
    pub fn start(lab: &'lab Lab) -> Result<Self> {
        let with_nginx = has_nginx();
        let ports: &[u16] = if with_nginx { &[ECHO, MEDIA] } else { &[WEB, ECHO, MEDIA] };
        let addresses: Vec<_> = ports.iter().copied().flat_map(files::at).collect();
        let serve = |host: &Host| Server::start(&host.ns, &host.role.name(), &addresses);
        let servers = lab.backends().iter().map(serve).collect::<Result<_>>()?;
        let start = |host: &Host| Nginx::start(&host.ns, &host.role.name(), &files::at(WEB), lab.scratch());
        let web =
            if with_nginx { lab.backends().iter().map(start).collect::<Result<_>>()? } else { Vec::new() };
        let states = BTreeMap::new();
        let tier = Tier::start(lab, Mode::Native, |n| file::of_edge(n, &states))?;
        Ok(Self { lab, tier, servers, web, states, dead: None, away: None })
    }

    /// What serves the short requests.
    #[must_use]
    pub fn web_server(&self) -> &'static str {
        if self.web.is_empty() { "a small server of the lab" } else { "nginx" }
    }

    /// Makes it happen; returns once it has.
    ///
    /// # Errors
    /// When an agent refuses, or the kernel does.
    pub fn perform(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Quiet => Ok(()),
            Event::Drain(n) => self.set(n, State::Drain),
            Event::Return(n) => self.set(n, State::Active),
            Event::MarkDown(n) => self.set(n, State::Down),
            Event::Die(n) => {
                self.dead = Some(n);
                self.lab.cut(self.lab.backend(n))
            }
            Event::Withdraw(n) => {
                self.away = Some(n);
                self.lab.withdraw_edge(n)
            }
        }
    }

    /// Undoes all that was done, for people who want to look around.
    ///
    /// # Errors
    /// When an agent refuses, or the kernel does.
    pub fn restore(&mut self) -> Result<()> {
        if let Some(n) = self.dead.take() {
            self.lab.mend(self.lab.backend(n))?;
        }
        if let Some(n) = self.away.take() {
            self.lab.announce_edge(n)?;
        }
        self.states.clear();
        self.reload()
    }

    /// Checks that every process that should run does.
    ///
    /// # Errors
    /// Says who has ended, with its last words.
    pub fn is_alive(&mut self) -> Result<()> {
        let agents = self.tier.edges.iter_mut().chain(&mut self.tier.decaps).map(|n| n.product.process());
        for process in agents.chain(self.web.iter_mut().map(Nginx::process)) {
            if let Some(status) = process.poll() {
                let log = process.log();
                let last = log[log.len().saturating_sub(10)..].join("\n    ");
                bail!("{} has ended ({status}); its last words:\n    {last}", process.title());
            }
        }
        Ok(())
    }

    /// Ends the servers that are threads of ours, which a kept lab cannot keep.
    ///
    /// # Errors
    /// When one does not end.
    pub fn stop_servers(&mut self) -> Result<()> {
        self.servers.drain(..).try_for_each(Server::stop)
    }

    fn set(&mut self, backend: u8, state: State) -> Result<()> {
        self.states.insert(backend, state);
        self.reload()
    }

    fn reload(&mut self) -> Result<()> {
        let states = &self.states;
        self.tier.reload(|n| file::of_edge(n, states)).context("reload the agents")
    }
}
