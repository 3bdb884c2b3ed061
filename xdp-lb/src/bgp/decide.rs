//! Whether a VIP should be announced, and why, from the health of its services and the state of this node.
//!
//! Pure. The agent states the [`Facts`]; [`verdicts`] judges them against what services and VIPs wish.
//!
//! ```text
//!   node faults? --yes--> withdraw at once (packets would be lost)
//!        no
//!   services: healthy and reachable >= what `advertise.when` needs?   all | any of them
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use super::settings::{Join, Vip, When};

/// What is known of this node and its services at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// What keeps this node from forwarding; empty on a sound one.
    pub faults: BTreeSet<Fault>,
    /// Backends of each service that is in the maps, by its name. One that is not there yet has no say.
    pub services: BTreeMap<String, Health>,
}

/// Backends of one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// In the configuration.
    pub configured: u32,
    /// Of those, up and taking flows.
    pub healthy: u32,
    /// Of those, with a next hop.
    pub reachable: u32,
}

/// A condition of the node itself that is not met.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Packets that come in there pass the balancer by.
    NotAttached {
        /// The interface.
        interface: String,
    },
    /// No interface of the balancer is up and has carrier.
    NoLink,
    /// The maps do not hold what the configuration asks for.
    NotApplied {
        /// What failed.
        why: String,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAttached { interface } => write!(f, "the program is not attached to {interface}"),
            Self::NoLink => f.write_str("no interface is up and has carrier"),
            Self::NotApplied { why } => write!(f, "the configuration is not applied: {why}"),
        }
    }
}

/// What should become of a VIP's route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether to announce it.
    pub wish: Wish,
    /// Why, in words.
    pub reason: String,
}

/// The decision itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Announce.
    Announce,
    /// Withdraw; packets that still come are forwarded, so there is time to become unattractive first.
    Retire,
    /// Withdraw now: packets that still come are lost.
    Withdraw,
    /// Leave it as it is: none of its services is in the maps yet.
    Wait,
}

/// Judges every VIP.
#[must_use]
pub fn verdicts(vips: &[Vip], facts: &Facts) -> BTreeMap<IpAddr, Verdict> {
    vips.iter().map(|vip| (vip.address, verdict(vip, facts))).collect()
}

fn verdict(vip: &Vip, facts: &Facts) -> Verdict {
    if let Some(fault) = facts.faults.first() {
        return Verdict { wish: Wish::Withdraw, reason: fault.to_string() };
    }
    let known = vip.services.iter().filter_map(|(name, when)| Some((name, *when, facts.services.get(name)?)));
    let judged: Vec<(bool, bool, String)> =
        known.map(|(name, when, health)| service(name, when, *health)).collect();
    if judged.is_empty() && !vip.services.is_empty() {
        return Verdict { wish: Wish::Wait, reason: "no service of it is in the maps yet".to_owned() };
    }
    let wanted = match vip.join {
        Join::All => judged.iter().all(|(wants, ..)| *wants),
        Join::Any => judged.iter().any(|(wants, ..)| *wants),
    };
    // What decided it: those who agree with the outcome.
    let reasons: Vec<&str> =
        judged.iter().filter(|(wants, ..)| *wants == wanted).map(|(.., why)| why.as_str()).collect();
    let alive = judged.iter().any(|(_, alive, _)| *alive);
    let wish = match (wanted, alive) {
        (true, _) => Wish::Announce,
        (false, true) => Wish::Retire,
        (false, false) => Wish::Withdraw,
    };
    Verdict { wish, reason: reasons.join("; ") }
}

/// Whether the service wants its address announced, whether anybody serves it, and why.
fn service(name: &str, when: When, health: Health) -> (bool, bool, String) {
    let Health { configured, healthy, reachable } = health;
    let alive = reachable > 0;
    // Health does not count for `always`; a tunnel that cannot be sent does.
    let stuck = configured > 0 && healthy > 0 && reachable == 0;
    let wants = reachable >= when.needs() && !stuck;
    let state = match healthy {
        _ if stuck => format!("{name} has no next hop to any of its {healthy} healthy backends"),
        _ if reachable < healthy => {
            format!("{name} has {healthy} of {configured} backends healthy, {reachable} with a next hop")
        }
        _ => format!("{name} has {healthy} of {configured} backends healthy"),
    };
    let need = match when {
        When::Always => "is announced always".to_owned(),
        When::AnyHealthy => "needs 1".to_owned(),
        When::MinHealthy(n) => format!("needs {n}"),
    };
    (wants, alive, format!("{state}, {need}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip(join: Join, services: &[(&str, When)]) -> Vip {
        Vip {
            address: "203.0.113.10".parse().unwrap(),
            join,
            services: services.iter().map(|(name, when)| ((*name).to_owned(), *when)).collect(),
            attributes: Default::default(),
        }
    }

    fn facts(services: &[(&str, u32, u32, u32)]) -> Facts {
        let health = |&(name, configured, healthy, reachable): &(&str, u32, u32, u32)| {
            (name.to_owned(), Health { configured, healthy, reachable })
        };
        Facts { faults: BTreeSet::new(), services: services.iter().map(health).collect() }
    }

    #[track_caller]
    fn is(vip: &Vip, facts: &Facts, wish: Wish, words: &str) {
        let verdict = verdict(vip, facts);
        assert_eq!((verdict.wish, verdict.reason.as_str()), (wish, words));
    }

    #[test]
    fn one_service() {
        use When::{Always, AnyHealthy, MinHealthy};
        let one = |when| vip(Join::All, &[("sip", when)]);
        let up = |healthy| facts(&[("sip", 4, healthy, healthy)]);
        is(&one(AnyHealthy), &up(1), Wish::Announce, "sip has 1 of 4 backends healthy, needs 1");
        is(&one(AnyHealthy), &up(0), Wish::Withdraw, "sip has 0 of 4 backends healthy, needs 1");
        is(&one(MinHealthy(2)), &up(2), Wish::Announce, "sip has 2 of 4 backends healthy, needs 2");
        // Somebody still serves: it may go gently.
        is(&one(MinHealthy(2)), &up(1), Wish::Retire, "sip has 1 of 4 backends healthy, needs 2");
        is(&one(Always), &up(0), Wish::Announce, "sip has 0 of 4 backends healthy, is announced always");
        // Its packets would be lost, whatever it wants, until the maps have it.
        for when in [AnyHealthy, Always] {
            is(&one(when), &facts(&[("web", 1, 1, 1)]), Wish::Wait, "no service of it is in the maps yet");
        }
    }

    #[test]
    fn a_backend_without_next_hop_does_not_count() {
        let some = facts(&[("sip", 4, 3, 1)]);
        let none = facts(&[("sip", 4, 3, 0)]);
        is(
            &vip(Join::All, &[("sip", When::MinHealthy(2))]),
            &some,
            Wish::Retire,
            "sip has 3 of 4 backends healthy, 1 with a next hop, needs 2",
        );
        for when in [When::AnyHealthy, When::Always] {
            let verdict = verdict(&vip(Join::All, &[("sip", when)]), &none);
            assert_eq!(verdict.wish, Wish::Withdraw, "{verdict:?}");
            assert!(verdict.reason.contains("no next hop to any of its 3"), "{verdict:?}");
        }
    }

    #[test]
    fn several_services_of_one_vip() {
        let wishes = [("sip", When::AnyHealthy), ("rtp", When::MinHealthy(2))];
        let (all, any) = (vip(Join::All, &wishes), vip(Join::Any, &wishes));
        let half = facts(&[("sip", 2, 2, 2), ("rtp", 2, 0, 0)]);
        is(&all, &half, Wish::Retire, "rtp has 0 of 2 backends healthy, needs 2");
        is(&any, &half, Wish::Announce, "sip has 2 of 2 backends healthy, needs 1");
        let both = facts(&[("sip", 2, 1, 1), ("rtp", 2, 2, 2)]);
        for vip in [&all, &any] {
            let words = "sip has 1 of 2 backends healthy, needs 1; rtp has 2 of 2 backends healthy, needs 2";
            is(vip, &both, Wish::Announce, words);
        }
        // One that is not in the maps yet changes nothing.
        for vip in [&all, &any] {
            assert_eq!(verdict(vip, &facts(&[])).wish, Wish::Wait);
            is(vip, &facts(&[("rtp", 2, 2, 2)]), Wish::Announce, "rtp has 2 of 2 backends healthy, needs 2");
        }
    }

    #[test]
    fn faults_of_the_node_come_first() {
        let vip = vip(Join::All, &[("sip", When::Always)]);
        for (fault, words) in [
            (Fault::NoLink, "no interface is up and has carrier"),
            (Fault::NotAttached { interface: "eth0".into() }, "the program is not attached to eth0"),
            (
                Fault::NotApplied { why: "write rings[7]: no space".into() },
                "the configuration is not applied: write rings[7]: no space",
            ),
        ] {
            let faulty = Facts { faults: [fault].into(), ..facts(&[("sip", 2, 2, 2)]) };
            is(&vip, &faulty, Wish::Withdraw, words);
        }
    }
}
