//! What edge nodes say, gathered: who announces a Service's addresses, and what they have to say of it.
//!
//! An address that an edge node stops to announce counts as announced for a moment more, and so does one of a node that says
//! nothing: an agent that is replaced must not have every Service's status written twice. Pure; time is a parameter.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::kube::crd::{EdgeNode, EdgeNodeStatus, Remark};
use crate::kube::names::Key;

/// An edge node that has not said anything for so long does not count, seconds: three times that it was silent.
const SILENT: i64 = 60;
/// What is not announced any more counts for so long, seconds.
const GRACE: i64 = 20;

/// All edge nodes.
#[derive(Debug, Default)]
pub(super) struct Edges {
    edges: BTreeMap<String, Edge>,
    /// They have been listed.
    are_known: bool,
}

#[derive(Debug, Default)]
struct Edge {
    status: EdgeNodeStatus,
    /// It has said something since the last look.
    is_heard: bool,
    heard: i64,
    /// What it announces, and when that ceased.
    announced: BTreeMap<IpAddr, Option<i64>>,
    /// Why the rest is not.
    without: BTreeMap<IpAddr, String>,
}

/// What is to be said of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Saying {
    pub is_fine: bool,
    pub reason: &'static str,
    pub message: String,
}

impl Edges {
    /// One is there, or says something. Whether it is something else.
    pub fn put(&mut self, node: &EdgeNode) -> bool {
        let name = node.metadata.name.clone().unwrap_or_default();
        let status = node.status.clone().unwrap_or_default();
        let edge = self.edges.entry(name).or_default();
        edge.is_heard |= edge.status.renewed != status.renewed || edge.status.renewed.is_empty();
        let differs = !crate::kube::edge_node::same(&edge.status, &status);
        edge.status = status;
        differs
    }

    /// One is gone.
    pub fn remove(&mut self, name: &str) -> bool {
        self.edges.remove(name).is_some()
    }

    /// All have been listed: who is not among them is gone.
    pub fn are(&mut self, there: &BTreeSet<Key>) -> bool {
        let is_first = !std::mem::replace(&mut self.are_known, true);
        let before = self.edges.len();
        self.edges.retain(|name, _| there.contains(&Key::new("", name)));
        is_first || self.edges.len() != before
    }

    /// Whether they have been listed.
    pub fn are_known(&self) -> bool {
        self.are_known
    }

    /// Looks at what they have said. Returns when time alone will change something.
    pub fn look(&mut self, now: i64) -> Option<i64> {
        let mut wake: Option<i64> = None;
        for edge in self.edges.values_mut() {
            if std::mem::take(&mut edge.is_heard) {
                edge.heard = now;
            }
            edge.compare(now);
            let ends = edge.announced.values().flatten().map(|lost| lost + GRACE);
            wake = ends.chain([edge.heard + SILENT]).filter(|at| *at > now).chain(wake).min();
        }
        wake
    }

    /// Who announces these addresses; `None` where nobody is known who would.
    pub fn announced(&self, addresses: &[IpAddr], now: i64) -> Option<Saying> {
        let edges: Vec<(&String, &Edge)> =
            self.edges.iter().filter(|(_, edge)| edge.status.bgp.is_some()).collect();
        if edges.is_empty() || addresses.is_empty() {
            return None;
        }
        let all = edges.len();
        let count = |address: &IpAddr| edges.iter().filter(|(_, edge)| edge.announces(*address, now)).count();
        let counts: Vec<usize> = addresses.iter().map(count).collect();
        let by = |n: &usize| format!("by {n} of {all} edge node{}", if all == 1 { "" } else { "s" });
        let mut message = if counts.iter().all(|n| *n == counts[0]) {
            format!("announced {}", by(&counts[0]))
        } else {
            let each =
                addresses.iter().zip(&counts).map(|(address, n)| format!("{address} announced {}", by(n)));
            each.collect::<Vec<_>>().join(", ")
        };
        let mut reasons: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let mut is_told = false;
        for (name, edge) in &edges {
            for address in addresses.iter().filter(|address| !edge.announces(**address, now)) {
                let why = edge.why_not(*address, now);
                is_told |= why.is_some();
                reasons.entry(why.unwrap_or("has not heard of it yet")).or_default().insert(name);
            }
        }
        for (why, names) in reasons {
            let names: Vec<&str> = names.into_iter().collect();
            message = format!("{message}; {}: {why}", names.join(", "));
        }
        let (least, most) = (counts.iter().min()?, counts.iter().max()?);
        let reason = match (*least, *most) {
            (least, _) if least == all => "Announced",
            (_, 0) if !is_told => "Pending",
            (_, 0) => "NotAnnounced",
            _ => "PartlyAnnounced",
        };
        Some(Saying { is_fine: *least > 0, reason, message })
    }

    /// What they have to say of a Service, but for what is said of it here already.
    pub fn remarks(&self, key: &Key, said: &BTreeSet<&str>) -> Option<Saying> {
        if self.edges.is_empty() {
            return None;
        }
        let name = key.to_string();
        let mut all: BTreeMap<&Remark, Vec<&str>> = BTreeMap::new();
        for (edge, Edge { status, .. }) in &self.edges {
            let of = status.remarks.iter().filter(|r| r.kind == "Service" && r.name == name);
            for remark in of.filter(|r| !said.contains(r.reason.as_str())) {
                all.entry(remark).or_default().push(edge);
            }
        }
        let text = |(remark, by): (&&Remark, &Vec<&str>)| {
            format!("{}: {}: {}", by.join(", "), remark.reason, remark.message)
        };
        let message = all.iter().map(text).collect::<Vec<_>>().join("; ");
        let (is_fine, reason) = if all.is_empty() { (true, "AsAsked") } else { (false, "Remarks") };
        Some(Saying { is_fine, reason, message })
    }
}

impl Edge {
    /// Notes what it says now, and what it says no more.
    fn compare(&mut self, now: i64) {
        let bgp = self.status.bgp.as_ref();
        let said: BTreeSet<IpAddr> =
            bgp.iter().flat_map(|bgp| &bgp.addresses).filter_map(|text| text.parse().ok()).collect();
        for (address, lost) in &mut self.announced {
            if said.contains(address) {
                *lost = None;
            } else {
                lost.get_or_insert(now);
            }
        }
        for address in said {
            self.announced.entry(address).or_insert(None);
        }
        self.announced.retain(|_, lost| lost.is_none_or(|lost| now < lost + GRACE));
        let why = bgp.iter().flat_map(|bgp| &bgp.without);
        self.without = why.filter_map(|w| Some((w.address.parse().ok()?, w.reason.clone()))).collect();
    }

    fn is_silent(&self, now: i64) -> bool {
        now >= self.heard + SILENT
    }

    fn announces(&self, address: IpAddr, now: i64) -> bool {
        !self.is_silent(now) && self.announced.contains_key(&address)
    }

    fn why_not(&self, address: IpAddr, now: i64) -> Option<&str> {
        if self.is_silent(now) {
            Some("says nothing")
        } else {
            self.without.get(&address).map(String::as_str)
        }
    }
}
