//! The lab of the show with the product in it, and the hand that does to it what the scenario says.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::file;
use super::scenario::Event;
use crate::lab::bgp::{self, Section};
use crate::lab::files::{self, ECHO, MEDIA, Mode, State, VIP, WEB};
use crate::lab::plan;
use crate::lab::product::run_to_end;
use crate::lab::routers::Frr;
use crate::lab::skip;
use crate::lab::tier::Tier;
use crate::lab::topology::{Host, Lab};
use crate::lab::traffic::{Nginx, Server};
use crate::lab::wait::wait_until;

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
    /// The router, where the edge nodes announce to it.
    router: Option<Frr<'lab>>,
}

/// How long the router may take to learn something.
const LEARN: Duration = Duration::from_secs(30);
/// Backends of the pool that dies before the show.
const POOL: std::ops::RangeInclusive<u8> = 1..=3;

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
    pub fn start(lab: &'lab Lab, with_bgp: bool) -> Result<Self> {
        let with_nginx = has_nginx();
        let ports: &[u16] = if with_nginx { &[ECHO, MEDIA] } else { &[WEB, ECHO, MEDIA] };
        let addresses: Vec<_> = ports.iter().copied().flat_map(files::at).collect();
        let serve = |host: &Host| Server::start(&host.ns, &host.role.name(), &addresses);
        let servers = lab.backends().iter().map(serve).collect::<Result<_>>()?;
        let start = |host: &Host| Nginx::start(&host.ns, &host.role.name(), &files::at(WEB), lab.scratch());
        let web =
            if with_nginx { lab.backends().iter().map(start).collect::<Result<_>>()? } else { Vec::new() };
        let states = BTreeMap::new();
        let router = if with_bgp {
            lab.leave_vips_to_bgp()?;
            let (directory, section) = (lab.scratch().path(), Section::default());
            Some(Frr::start(lab.router(), directory, &bgp::frr(lab, &section), &bgp::bfdd())?)
        } else {
            None
        };
        let tier = Tier::start(lab, Mode::Native, |n| text(lab, with_bgp, n, &states))?;
        Ok(Self { lab, tier, servers, web, states, dead: None, away: None, router })
    }

    /// What BGP does before there is traffic: both nodes announce, a dead pool withdraws, and comes back. Says what the
    /// router's kernel has at each point.
    ///
    /// # Errors
    /// When the router does not learn it.
    pub fn announce(&mut self) -> Result<Vec<String>> {
        let mut said = vec!["== BGP: FRR on the router, before there is traffic".to_owned()];
        for (what, state, hops) in [
            ("both edge nodes announce the VIPs", None, 2),
            ("every backend is marked down: nobody announces them", Some(State::Down), 0),
            ("the backends are back", Some(State::Active), 2),
        ] {
            if let Some(state) = state {
                self.states.extend(POOL.map(|n| (n, state)));
                self.reload()?;
            }
            self.wait_next_hops(hops)?;
            said.push(format!("   {what}; the router has:"));
            let route = self.route(false)?;
            let lines: Vec<&str> = route.lines().filter(|line| !line.trim().is_empty()).collect();
            said.extend(lines.iter().map(|line| format!("      {}", line.trim_end())));
            if lines.is_empty() {
                said.push("      no route".to_owned());
            }
        }
        self.states.clear();
        Ok(said)
    }

    /// The router's route to exactly the VIP of a family.
    fn route(&self, v6: bool) -> Result<String> {
        let mut ip = Command::new("ip");
        let (family, length) = if v6 { ("-6", 128) } else { ("-4", 32) };
        let vip = plan::vip(VIP).both()[usize::from(v6)];
        ip.args([family, "route", "show", &format!("{vip}/{length}")]);
        Ok(run_to_end(self.lab.router(), "ip", ip, LEARN)?.stdout)
    }

    fn wait_next_hops(&self, count: usize) -> Result<()> {
        wait_until(&format!("the router to have {count} next hops"), LEARN, || {
            [false, true].into_iter().all(|v6| {
                let hops = |route: String| route.matches("dev to-edge").count() == count;
                self.route(v6).is_ok_and(hops)
            })
        })
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
                if self.router.is_none() {
                    return self.lab.withdraw_edge(n);
                }
                // In order: withdrawn, a second of grace, then the agent ends; the program stays.
                self.tier.edges[usize::from(n) - 1].product.terminate()?;
                self.wait_next_hops(self.tier.edges.len() - 1)
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
        self.states.clear();
        match (self.away.take(), &self.router) {
            (Some(n), None) => self.lab.announce_edge(n)?,
            (Some(n), Some(_)) => {
                self.tier.edges[usize::from(n) - 1].restart()?;
                self.reload()?;
                return self.wait_next_hops(self.tier.edges.len());
            }
            (None, _) => {}
        }
        self.reload()
    }

    /// Checks that every process that should run does.
    ///
    /// # Errors
    /// Says who has ended, with its last words.
    pub fn is_alive(&mut self) -> Result<()> {
        let gone = self.away.filter(|_| self.router.is_some());
        let edges = (1..).zip(&mut self.tier.edges).filter(|(n, _)| Some(*n) != gone).map(|(_, node)| node);
        let agents = edges.chain(&mut self.tier.decaps).map(|n| n.product.process());
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
        let (lab, with_bgp, states) = (self.lab, self.router.is_some(), &self.states);
        let gone = self.away.filter(|_| with_bgp);
        for (n, node) in (1..).zip(&mut self.tier.edges).filter(|(n, _)| Some(*n) != gone) {
            node.reload(&text(lab, with_bgp, n, states)).context("reload the agents")?;
        }
        Ok(())
    }
}

/// The file of edge node `n`.
fn text(lab: &Lab, with_bgp: bool, n: u8, states: &BTreeMap<u8, State>) -> String {
    let text = file::of_edge(n, states);
    if with_bgp { Section::default().add_to(lab, &text, n) } else { text }
}
