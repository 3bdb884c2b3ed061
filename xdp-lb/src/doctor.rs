//! Why a packet that reaches this host may not be answered: what the host around the balancer does to it.
//!
//! ```text
//!   Host: kernel, sysctls, interfaces, addresses, routes to clients, Status of the maps --examine--> Findings
//! ```
//!
//! Pure; [`look`] fills a [`Host`]. A finding says what is, what becomes of packets by it, and what to do. docs/doctor.md lists
//! what is looked for.

#[cfg(feature = "agent")]
pub mod look;
mod network;
mod running;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Serialize;

use crate::nexthop::Links;
use crate::status::Status;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Packets are lost, or will be.
    Wrong,
    /// Worth knowing; wrong in some networks.
    Note,
    /// Looked at, and as it should be.
    Fine,
}

impl Verdict {
    /// As people read it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Wrong => "WRONG",
            Self::Note => "note",
            Self::Fine => "ok",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub verdict: Verdict,
    /// What was looked at, in one word.
    pub subject: &'static str,
    /// What is, and what it does to packets.
    pub says: String,
    /// What to do; empty where there is nothing.
    pub cure: String,
}

impl Finding {
    fn wrong(subject: &'static str, says: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { verdict: Verdict::Wrong, subject, says: says.into(), cure: cure.into() }
    }

    fn note(subject: &'static str, says: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { verdict: Verdict::Note, subject, says: says.into(), cure: cure.into() }
    }

    fn fine(subject: &'static str, says: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fine, subject, says: says.into(), cure: String::new() }
    }
}

/// An XDP program on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// It is ours, by our pinned link.
    pub is_ours: bool,
}

/// The agent of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Agent {
    /// It answers on its socket.
    Answers,
    /// It does not, and why.
    Silent(String),
    /// It has none: it takes tunnels off and no commands.
    #[default]
    Unasked,
}

/// The way to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// By these interfaces.
    By(BTreeSet<String>),
    /// There is none, and why.
    None(String),
}

/// This host, as it was found.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// `uname -r`.
    pub release: String,
    /// The pins' directory is on a BPF file system.
    pub has_bpffs: bool,
    /// What is under `/proc/sys`, by its name with dots; only what was asked for.
    pub sysctls: BTreeMap<String, String>,
    /// Interfaces.
    pub links: Links,
    /// XDP programs, by interface.
    pub programs: BTreeMap<String, Program>,
    /// Addresses, by interface.
    pub addresses: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Ways to clients.
    pub ways: BTreeMap<IpAddr, Way>,
    /// Connections that conntrack has, and the most that it may have; `None` without conntrack.
    pub conntrack: Option<(u64, u64)>,
    /// What the maps say; `None` where nothing of ours is pinned.
    pub status: Option<Status>,
    /// The agent.
    pub agent: Agent,
    /// Interfaces that the configuration names, where one was given.
    pub wanted: Option<Vec<String>>,
}

impl Host {
    fn sysctl(&self, name: &str) -> Option<&str> {
        self.sysctls.get(name).map(String::as_str)
    }

    /// The greater of what an interface and `all` say, as the kernel takes it for most of them.
    fn conf(&self, interface: &str, key: &str) -> u32 {
        let of = |name: &str| self.sysctl(&format!("net.ipv4.conf.{name}.{key}"))?.parse().ok();
        of(interface).max(of("all")).unwrap_or(0)
    }

    /// Interfaces that run our program.
    fn attached(&self) -> impl Iterator<Item = &str> {
        let interfaces = self.status.iter().flat_map(|status| &status.interfaces);
        interfaces.filter(|interface| interface.program != 0).map(|interface| interface.name.as_str())
    }

    /// VIPs of which tunnels are taken off here.
    fn unwrapped(&self) -> impl Iterator<Item = IpAddr> {
        let vips = self.status.iter().flat_map(|status| &status.vips);
        vips.filter(|vip| vip.decapsulated).map(|vip| vip.address)
    }

    /// Whether it balances.
    fn balances(&self) -> bool {
        self.status.as_ref().is_some_and(|status| !status.services.is_empty())
    }

    /// Whether it takes tunnels off.
    fn unwraps(&self) -> bool {
        self.unwrapped().next().is_some()
            || self.status.as_ref().is_some_and(|status| !status.pods.is_empty())
    }
}

/// Everything that is to be said of it, the worst first.
#[must_use]
pub fn examine(host: &Host) -> Vec<Finding> {
    let checks: [fn(&Host) -> Vec<Finding>; 12] = [
        running::kernel,
        running::pins,
        running::interfaces,
        running::next_hops,
        running::drops,
        network::reverse_path,
        network::forwarding,
        network::claims,
        network::tunnel_devices,
        network::mtu,
        network::conntrack,
        network::plugins,
    ];
    let mut findings: Vec<Finding> = checks.iter().flat_map(|check| check(host)).collect();
    // Stable: within a verdict they stay in the order in which a packet meets them.
    findings.sort_by_key(|finding| finding.verdict);
    findings
}
