//! What the BGP tests share: a speaker in a namespace with facts that the test states, and waiting for routers.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use xdp_lb::bgp::decide::{Facts, Health};
use xdp_lb::bgp::io::{Leave, Secrets, Speaker as Inner};
use xdp_lb::bgp::settings::Bgp;
use xdp_lb::bgp::status::{PeerStatus, Status};
use xdp_lb_tests::lab::wait::wait_for;
use xdp_lb_tests::lab::{Namespace, Rig};

pub const BOUND: Duration = Duration::from_secs(30);
/// AS of the speaker.
pub const OURS: u32 = 4_200_000_001;
pub const VIP4: &str = "203.0.113.10/32";
pub const VIP6: &str = "2001:db8::10/128";

/// A speaker in a namespace of a rig.
pub struct Speaker {
    inner: Option<Inner>,
    status_file: PathBuf,
    text: String,
}

/// The `bgp` section `section` for a file with the VIPs above, both of the service `sip` with four backends.
pub fn settings(section: &str) -> Bgp {
    let text = format!(
        "version: 1
interfaces: [{{ name: eth0 }}]
encap: {{ source_v4: 172.16.0.0/16 }}
services:
  - {{ name: sip, vip: [203.0.113.10, \"2001:db8::10\"], protocol: udp, ports: 5060,
      backends: [{{ address: 10.0.1.1 }}, {{ address: 10.0.1.2 }}, {{ address: 10.0.1.3 }}, {{ address: 10.0.1.4 }}] }}
{section}"
    );
    let checked = xdp_lb::config::parse(&text).unwrap_or_else(|e| panic!("{e:#?}\n{text}"));
    checked.desired.bgp.unwrap()
}

/// So many of four backends are healthy.
pub fn healthy(n: u32) -> Facts {
    let health = Health { configured: 4, healthy: n, reachable: n };
    Facts { faults: BTreeSet::new(), services: [("sip".to_owned(), health)].into() }
}

impl Speaker {
    /// Starts one on `host` and states that all is well. `more` are lines of the section, indented by two.
    pub fn start(rig: &Rig, host: &str, more: &str) -> Result<Self> {
        Self::start_as(rig, host, more, false)
    }

    /// The same of one that comes after a crash.
    pub fn start_as(rig: &Rig, host: &str, more: &str, restarted: bool) -> Result<Self> {
        let section =
            format!("bgp:\n  local_as: {OURS}\n  router_id: 10.0.0.11\n  withdraw_grace: 1s\n{more}\n");
        Self::run(rig, host, &section, restarted)
    }

    /// Starts one with a whole `bgp` section.
    pub fn start_with(rig: &Rig, host: &str, section: &str) -> Result<Self> {
        Self::run(rig, host, section, false)
    }

    fn run(rig: &Rig, host: &str, section: &str, restarted: bool) -> Result<Self> {
        let status_file = rig.path().join(format!("{host}.json"));
        let text = format!("{}\n  status_file: {}\n", section.trim_end(), status_file.display());
        let bgp = settings(&text);
        let ns: &Namespace = rig.host(host);
        let inner = ns.enter(|| Inner::start(bgp, restarted, Secrets::default(), Default::default()))??;
        inner.facts(healthy(4));
        Ok(Self { inner: Some(inner), status_file, text })
    }

    pub fn facts(&self, facts: Facts) {
        self.inner.as_ref().unwrap().facts(facts);
    }

    /// Gives it its section with something replaced.
    pub fn configure(&mut self, from: &str, to: &str) {
        assert!(self.text.contains(from), "{from} in {}", self.text);
        self.text = self.text.replace(from, to);
        self.inner.as_ref().unwrap().configure(settings(&self.text));
    }

    /// Ends it in order and returns how long that took.
    pub fn leave(&mut self, how: Leave) -> Duration {
        let begun = std::time::Instant::now();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.inner.take().unwrap().leave(how));
        begun.elapsed()
    }

    /// Drops it, as when the agent is killed: the connections are cut without a word.
    pub fn crash(mut self) {
        self.inner = None;
    }

    pub fn status(&self) -> Option<Status> {
        serde_json::from_str(&std::fs::read_to_string(&self.status_file).ok()?).ok()
    }

    /// Waits until its view of a router is as `is` wants, and returns that view.
    pub fn wait_peer(&self, what: &str, peer: &str, is: impl Fn(&PeerStatus) -> bool) -> Result<PeerStatus> {
        let mut last = None;
        let found = wait_for(&format!("{what} ({peer})"), BOUND, || {
            last = self.status();
            let peers = last.iter().flat_map(|s| &s.peers);
            peers.into_iter().find(|p| p.address.to_string() == peer && is(p)).cloned()
        });
        found.with_context(|| format!("{:#?}", self.status()))
    }

    pub fn wait_up(&self, peer: &str) -> Result<PeerStatus> {
        self.wait_peer("a session", peer, PeerStatus::is_up)
    }
}
