//! From the cluster to services. A Service becomes one service for each of its ports and each family of its addresses;
//! who its backends are is [`super::members`]' business.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::cluster::Cluster;
use super::members::Asked;
use super::names::{self, Key, OURS};
use super::note::{Note, Subject};
use super::policy::Policy;
use super::slice::Family;
use super::wanted::{Port, Wanted};
use crate::config::import::{Complaint, Import, Imported, Said, Word, import};
use crate::model::{Delivery, Inherited, Protocol};

/// What a cluster asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapped {
    /// The services; those of older Services first.
    pub services: Vec<Imported>,
    /// Whose each of them is.
    pub owners: Vec<Key>,
    /// Pods of this node among the backends.
    pub own: BTreeSet<IpAddr>,
    /// What is to be said.
    pub notes: BTreeSet<(Subject, Note)>,
}

impl Cluster {
    /// Everything that the cluster asks for, under the file's `inherited`.
    pub fn map(&mut self, inherited: &Inherited) -> Mapped {
        let mut mapped = Mapped::default();
        let mut order: Vec<(i64, Key)> =
            self.services.iter().map(|(key, w)| (w.created, key.clone())).collect();
        order.sort_unstable();
        for (_, key) in order {
            self.map_service(&key, inherited, &mut mapped);
        }
        for (name, node) in &self.nodes {
            let notes = node.notes.iter().cloned();
            mapped.notes.extend(notes.map(|note| (Subject::Node(name.clone()), note)));
        }
        mapped
    }

    fn map_service(&mut self, key: &Key, inherited: &Inherited, mapped: &mut Mapped) {
        let Some(wanted) = self.services.get(key) else { return };
        let mut notes = wanted.notes.clone();
        if wanted.vips.is_empty() {
            notes.clear();
            notes.push(Note::normal("NoAddress", "waits for an address in status.loadBalancer.ingress"));
        }
        let judged = wanted.policy.clone().and_then(|policy| {
            self.judge(key, wanted, &policy, inherited, &mut notes).map(|services| (policy, services))
        });
        let (policy, services) = match judged {
            Ok((policy, services)) => (Some(policy), services),
            Err(complaints) => {
                let before = self.good.get(key).and_then(|policy| {
                    // What is said of it has been said when it was new.
                    Some((policy.clone(), self.judge(key, wanted, policy, inherited, &mut Vec::new()).ok()?))
                });
                let outcome =
                    if before.is_some() { "what was said before stays in force" } else { "not balanced" };
                let all: BTreeSet<Complaint> = complaints.into_iter().collect();
                notes.extend(all.into_iter().map(|Complaint { origin, message }| {
                    Note::warning("InvalidPolicy", format!("{origin}: {message}; {outcome}"))
                }));
                before.map_or((None, Vec::new()), |(policy, services)| (Some(policy), services))
            }
        };
        for imported in services {
            notes.extend(imported.warnings.iter().map(|Complaint { origin, message }| {
                Note::normal("SeldomMeant", format!("{origin}: {message}"))
            }));
            mapped.services.push(imported);
            mapped.owners.push(key.clone());
        }
        mapped.notes.extend(notes.into_iter().map(|note| (Subject::Service(key.clone()), note)));
        if let Some(policy) = policy {
            if policy.delivery(&self.settings) == Delivery::Pod {
                mapped.own.extend(self.own_pods(key));
            }
            self.good.insert(key.clone(), policy);
        }
    }

    /// All services of a Service, or everything that is wrong with them.
    fn judge(
        &self,
        key: &Key,
        wanted: &Wanted,
        policy: &Arc<Policy>,
        inherited: &Inherited,
        notes: &mut Vec<Note>,
    ) -> Result<Vec<Imported>, Vec<Complaint>> {
        let mut errors = unknown_ports(wanted, policy);
        errors.extend(of_nodes(policy, policy.delivery(&self.settings)));
        let mut services = Vec::new();
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = wanted.vips.iter().partition(|vip| vip.is_ipv4());
        for port in &wanted.ports {
            for (vips, family) in [(&v4, Family::V4), (&v6, Family::V6)] {
                let Some(&vip) = vips.first() else { continue };
                let words =
                    self.words(&names::service(key, &port.name, vip), vips, port, policy, &mut errors);
                let asked = Asked { key, wanted, port, family, policy, inherited };
                let backends = self.members(&asked, notes);
                match import(&Import { words, backends }, inherited) {
                    Ok(imported) => services.push(imported),
                    Err(more) => errors.extend(more),
                }
            }
        }
        if errors.is_empty() { Ok(services) } else { Err(errors) }
    }

    fn words(
        &self,
        name: &str,
        vips: &[IpAddr],
        port: &Port,
        policy: &Policy,
        errors: &mut Vec<Complaint>,
    ) -> Vec<Word> {
        let word = |key, origin: &str, value| Word { key, origin: origin.to_owned(), value };
        let protocol = match port.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let own = policy.ports.get(&port.name);
        let who = match policy.delivery(&self.settings) {
            Delivery::Node => Some("the service proxy knows"),
            Delivery::Pod => Some("pods' nodes translate"),
            Delivery::Host => None,
        };
        if let (Some(who), Some(_)) = (who, own) {
            errors.push(Complaint {
                origin: format!("{OURS}ports"),
                message: format!("{who} port {} alone; other ports need {OURS}delivery: host", port.port),
            });
        }
        let (origin, ports) = match own {
            Some(ranges) => (format!("{OURS}ports"), ranges.clone()),
            None => ("spec.ports".to_owned(), vec![port.port.to_string()]),
        };
        let mut words = vec![
            word(&["name"], "metadata.name", Said::Text(name.to_owned())),
            word(
                &["vip"],
                "status.loadBalancer.ingress",
                Said::List(vips.iter().map(IpAddr::to_string).collect()),
            ),
            word(&["protocol"], "spec.ports", Said::Text(protocol.to_owned())),
            word(&["ports"], &origin, Said::List(ports)),
        ];
        words.extend(policy.words.iter().cloned());
        words
    }
}

/// What an annotation says of nodes' backends, where a node has as many as it has pods.
fn of_nodes(policy: &Policy, delivery: Delivery) -> Vec<Complaint> {
    let said = [("server-ids", policy.server_ids.is_empty()), ("slices", policy.slices.is_empty())];
    let said = said.into_iter().filter(|(_, is_empty)| delivery == Delivery::Pod && !is_empty);
    let complaint = |(name, _)| Complaint {
        origin: format!("{OURS}{name}"),
        message: format!(
            "names nodes, and with delivery pod each pod is a backend of its own; it needs {OURS}delivery: node or host"
        ),
    };
    said.map(complaint).collect()
}

/// Ports that an annotation names and the Service does not have.
fn unknown_ports(wanted: &Wanted, policy: &Policy) -> Vec<Complaint> {
    let is_unknown = |name: &&String| !wanted.ports.iter().any(|port| port.name == **name);
    let complaint = |name: &String| Complaint {
        origin: format!("{OURS}ports"),
        message: if name.is_empty() {
            "must name ports, as in rtp=20000-24999".to_owned()
        } else {
            format!("the Service has no port named {name}")
        },
    };
    policy.ports.keys().filter(is_unknown).map(complaint).collect()
}
