//! Whose gates are open though everybody is up: backends of other zones, and backups.
//!
//! ```text
//!   file -> drains by command -> health -> pools -> plan
//! ```
//!
//! **Backups** (`backup: true`) take nothing while any other backend takes new flows, and everything when none does.
//!
//! **Zones** (`zone_policy`): the service's backends of the node's own zone first. How much of them is healthy decides how far
//! the gates of all others are open: `max(0, 1 - healthy local share / spill_below)`, 0 while the local ones suffice, 1
//! when none is left. Shares are parts of the configured weight.
//!
//! Both are gates, so no slot moves between two backends whose gates stay as they are. Pure. Nodes of different zones
//! build different rings, which `check` says.

use crate::model::{AdminState, Backend, Desired, Service, Share, ZonePolicy, share_lists};

/// `desired`, after drains and health, as the planner is to see it.
#[must_use]
pub fn apply(mut desired: Desired) -> Desired {
    let zone = desired.node.zone.clone();
    let mut changed = false;
    for service in &mut desired.services {
        let gates = gates(service, zone.as_deref());
        for (n, gate) in gates.into_iter().enumerate() {
            // Services share lists that nobody changes.
            if gate != service.backends[n].share {
                service.backends[n].share = gate;
                changed = true;
            }
        }
    }
    if changed {
        share_lists(&mut desired.services);
    }
    desired
}

/// The gate of every backend, in order.
fn gates(service: &Service, zone: Option<&str>) -> Vec<Share> {
    let backends = &service.backends;
    let backups_work = !backends.iter().any(|b| !b.backup && takes(b));
    let works = |b: &Backend| b.backup == backups_work;
    let remote = service.zone_policy.map_or(1.0, |policy| {
        remote_share(policy, backends.iter().filter(|b| works(b) && b.zone.as_deref() == zone))
    });
    let gate = |b: &Backend| match (works(b), service.zone_policy) {
        (false, _) => Share::NONE,
        (true, Some(_)) if b.zone.as_deref() != zone => b.share.part(remote),
        (true, _) => b.share,
    };
    backends.iter().map(gate).collect()
}

/// The part of their own gates that backends of other zones open.
fn remote_share<'a>(policy: ZonePolicy, local: impl Iterator<Item = &'a Backend>) -> f64 {
    let (mut healthy, mut all) = (0.0, 0.0);
    for backend in local {
        let weight = f64::from(backend.weight);
        all += weight;
        if takes(backend) {
            healthy += weight * backend.share.fraction();
        }
    }
    let healthy = if all > 0.0 { healthy / all } else { 0.0 };
    (1.0 - healthy / policy.spill_below.fraction()).max(0.0)
}

/// Whether new flows go there, as far as its own state says.
fn takes(backend: &Backend) -> bool {
    backend.state == AdminState::Active && backend.weight > 0 && backend.share > Share::NONE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    /// A service with backends written as `zone weight state share backup`.
    fn desired(zone: &str, policy: &str, backends: &[&str]) -> Desired {
        let list: Vec<String> =
            (1..).zip(backends).map(|(n, text)| format!("{{ address: 10.0.0.{n}, {text} }}")).collect();
        let text = format!(
            "version: 1\nnode: {{ name: a{zone} }}\ninterfaces: [{{ name: eth0 }}]\nencap: {{ source_v4: 172.16.0.0/16 }}\n\
             services:\n  - {{ name: s, vip: 203.0.113.1, protocol: udp, ports: 53{policy}, backends: [{}] }}\n",
            list.join(", ")
        );
        config::parse(&text).unwrap_or_else(|e| panic!("{e:?}\n{text}")).desired
    }

    /// Gates in per cent.
    fn gates(desired: Desired) -> Vec<u32> {
        let applied = apply(desired);
        let percent = |b: &Backend| (b.share.fraction() * 100.0).round() as u32;
        applied.services[0].backends.iter().map(percent).collect()
    }

    const LOCAL: &str = ", zone: a";
    const POLICY: &str = ", zone_policy: { prefer: local, spill_below: 50% }";

    #[test]
    fn without_backups_and_policy_nothing_changes() {
        let plain = desired("", "", &["zone: a", "zone: b, share: 10%", "state: drain"]);
        assert_eq!(apply(plain.clone()), plain);
    }

    #[test]
    fn backups_work_when_nobody_else_takes_new_flows() {
        let with = |first: &str| gates(desired("", "", &[first, "backup: true, share: 50%", "weight: 0"]));
        assert_eq!(with("weight: 1"), [100, 0, 100]);
        for first in ["state: down", "state: drain", "weight: 0"] {
            assert_eq!(with(first), [0, 50, 0], "{first}");
        }
        assert_eq!(with("share: 0%"), [0, 50, 0]);
        assert_eq!(gates(desired("", "", &["backup: true"])), [100], "backups alone are a pool as any");
    }

    #[test]
    fn others_take_what_the_own_zone_lacks() {
        let with = |states: [&str; 4]| {
            let mut backends: Vec<String> = states.iter().map(|s| format!("zone: a, {s}")).collect();
            backends.push("zone: b".into());
            backends.push("share: 50%".into());
            let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
            gates(desired(LOCAL, POLICY, &backends))[4..].to_vec()
        };
        let (up, down) = ("state: active", "state: down");
        assert_eq!(with([up, up, up, up]), [0, 0]);
        assert_eq!(with([up, up, down, "state: drain"]), [0, 0], "half of it is what suffices");
        assert_eq!(with([up, down, down, down]), [50, 25], "a quarter is half of what suffices");
        assert_eq!(with([down; 4]), [100, 50]);
        assert_eq!(with(["share: 50%", down, down, down]), [75, 38], "a gate counts by its opening");
        assert_eq!(with(["weight: 300", down, down, down]), [0, 0], "weight counts, not number");
    }

    #[test]
    fn a_zone_without_backends_uses_all_others() {
        assert_eq!(gates(desired(LOCAL, POLICY, &["zone: b", "zone: c"])), [100, 100]);
    }

    #[test]
    fn the_backups_of_the_own_zone_come_first_among_backups() {
        let backends = [
            "zone: a, state: down",
            "zone: b, state: down",
            "zone: a, backup: true",
            "zone: b, backup: true",
        ];
        assert_eq!(gates(desired(LOCAL, POLICY, &backends)), [0, 0, 100, 0]);
    }
}
