//! Drains by command that peers have told us of, and where they make edge nodes choose differently.
//!
//! A drain by command is one node's: its slots go by other backends than the same slots of a peer. As long as that is
//! so,
//!
//! ```text
//!   this node drains B                          a peer does not
//!   slot  now C, before B, dirty                slot  now B, clean
//!   tells whoever is not at B                   makes the slot dirty for a flow that it is told: B for everybody else
//!   keeps such slots dirty, so that B is        tells its datagram flows at B: the other would send them to C
//!   what an unknown segment of a peer gets
//! ```
//!
//! so that either may be lost. Once all drain alike, or nobody does, everything is as [`super::exceptions`] has it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::drains::{Drains, Target, Terms};
use crate::model::{Desired, Service};

/// How often a peer is told of drains that go on.
pub const REPEAT: Duration = Duration::from_secs(20);
/// A peer that has not spoken of its drains for so long is taken to be gone, and its drains with it.
pub const FORGET: Duration = Duration::from_secs(70);
/// Most drains that are told; more show on their own node alone.
pub const DRAINS: usize = 100;

/// What a peer has said.
#[derive(Clone, Debug)]
struct Said {
    drains: Drains,
    /// On the agent's clock.
    at: Duration,
}

/// Drains by command of all peers, by `node.name`.
#[derive(Clone, Debug, Default)]
pub struct Heard(BTreeMap<String, Said>);

impl Heard {
    /// A peer has told all its drains; true when they are others than before. `now` is on the agent's clock.
    pub fn hear(&mut self, node: &str, drains: Drains, now: Duration) -> bool {
        if drains.is_empty() {
            return self.0.remove(node).is_some();
        }
        let before = self.0.insert(node.to_owned(), Said { drains, at: now });
        before.is_none_or(|before| before.drains != self.0[node].drains)
    }

    /// Forgets peers that have fallen silent, and names them.
    pub fn expire(&mut self, now: Duration) -> Vec<String> {
        let silent = |said: &Said| now.saturating_sub(said.at) >= FORGET;
        let gone = self.0.iter().filter(|(_, said)| silent(said)).map(|(node, _)| node.clone()).collect();
        self.0.retain(|_, said| !silent(said));
        gone
    }

    /// All, by node.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Target, &Terms)> {
        self.0.iter().flat_map(|(node, said)| said.drains.iter().map(move |(t, terms)| (&**node, t, terms)))
    }

    /// True when no peer drains anybody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where we and our `peers` drain differently.
    #[must_use]
    pub fn apart(&self, own: &Drains, desired: &Desired, peers: usize) -> Apart {
        let mut apart = Apart::default();
        if peers == 0 || own.is_empty() && self.0.is_empty() {
            return apart;
        }
        let theirs = self.iter().map(|(_, target, _)| target.backend);
        let about: BTreeSet<IpAddr> = own.iter().map(|(target, _)| target.backend).chain(theirs).collect();
        for service in &desired.services {
            for backend in service.backends.iter().map(|b| b.address).filter(|b| about.contains(b)) {
                let ours = own.of(&service.name, backend).is_some();
                let others =
                    self.0.values().filter(|said| said.drains.of(&service.name, backend).is_some()).count();
                if if ours { others < peers } else { others > 0 } {
                    let theirs = apart.0.entry(service.name.clone()).or_default();
                    theirs.extend((!ours).then_some(backend));
                }
            }
        }
        apart
    }
}

/// Services in which edge nodes drain differently, each with the backends that a peer drains and we do not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Apart(BTreeMap<String, BTreeSet<IpAddr>>);

impl Apart {
    /// True when all nodes drain alike.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True when some node drains otherwise in this service.
    #[must_use]
    pub fn is_in(&self, service: &str) -> bool {
        self.0.contains_key(service)
    }

    /// Backends that a peer drains in a service, and we do not.
    #[must_use]
    pub fn theirs(&self, service: &Service) -> Option<&BTreeSet<IpAddr>> {
        self.0.get(&service.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const FILE: &str = "
version: 1
interfaces: [{ name: eth0 }]
encap: { source_v4: 172.16.0.0/16 }
maglev: { seed: 7 }
services:
  - { name: web, vip: 203.0.113.10, protocol: tcp, ports: 80, backends: [{ address: 10.0.0.1 }, { address: 10.0.0.2 }] }
  - { name: sip, vip: 203.0.113.10, protocol: udp, ports: 80, backends: [{ address: 10.0.0.1 }, { address: 10.0.0.3 }] }
";

    fn drains(all: &[(&str, Option<&str>)]) -> Drains {
        let one = |(backend, service): &(&str, Option<&str>)| crate::drains::Written {
            backend: backend.parse().expect("an address"),
            service: service.map(str::to_owned),
            mode: None,
            max: None,
            since: 7,
        };
        all.iter().map(one).collect()
    }

    fn desired() -> Desired {
        config::parse(FILE).expect("good").desired
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn nodes_are_apart_until_all_drain_alike() {
        let desired = desired();
        let own = drains(&[("10.0.0.1", None)]);
        let mut heard = Heard::default();
        assert_eq!(heard.apart(&own, &desired, 0), Apart::default(), "no peers");
        let apart = heard.apart(&own, &desired, 2);
        let [web, sip] = &desired.services[..] else { panic!("two services") };
        assert!([web, sip].iter().all(|s| apart.theirs(s).is_some_and(BTreeSet::is_empty)), "{apart:?}");

        assert!(heard.hear("b", drains(&[("10.0.0.1", Some("sip"))]), seconds(1)));
        assert!(!heard.hear("b", drains(&[("10.0.0.1", Some("sip"))]), seconds(2)), "nothing new");
        assert!(heard.apart(&own, &desired, 1).is_in("web") && !heard.apart(&own, &desired, 1).is_in("sip"));
        assert!(heard.apart(&own, &desired, 2).is_in("sip"), "the third node does not drain it");

        let apart = heard.apart(&Drains::default(), &desired, 2);
        assert_eq!(apart.theirs(web), None);
        assert_eq!(apart.theirs(sip), Some(&["10.0.0.1".parse().unwrap()].into()));
        assert_eq!(heard.apart(&drains(&[("10.0.0.9", None)]), &desired, 1).theirs(web), None, "nobody's");
    }

    #[test]
    fn who_falls_silent_is_forgotten_with_its_drains() {
        let mut heard = Heard::default();
        heard.hear("b", drains(&[("10.0.0.1", None)]), seconds(1));
        heard.hear("c", drains(&[("10.0.0.2", None)]), seconds(60));
        assert_eq!(heard.expire(seconds(70)), Vec::<String>::new());
        assert_eq!(heard.expire(seconds(71)), ["b"]);
        assert_eq!(heard.iter().map(|(node, _, _)| node).collect::<Vec<_>>(), ["c"]);
        assert!(heard.hear("c", Drains::default(), seconds(72)), "taken back");
        assert!(heard.is_empty() && !heard.hear("c", Drains::default(), seconds(73)));
    }
}
