//! Who takes the fragments of a VIP and protocol, as far as the configuration alone can say.
//!
//! Where every port of the address sends a client to the same backend, a fragment needs no ports and the packet path
//! no memory. The planner writes the answer into the VIP table, `check` shows it.

use std::net::IpAddr;

use crate::model::{Affinity, Desired, Fragments, Protocol, Service, Unmatched, Vip};

/// What becomes of the fragments of one protocol for one VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Nobody is there.
    Nobody,
    /// The client's address decides, by this service (its place in the file), whose equal all others are.
    ByClient(usize),
    /// The first fragment's ports decide, and a table keeps the others with it.
    ByFirst,
    /// All services refuse them.
    Refused,
}

/// Who takes the fragments of one protocol for `vip`; `listeners` are the places of that protocol's services in the file.
/// Whole packets for no service go elsewhere with `unmatched: pass`, so there only ports can tell.
#[must_use]
pub fn takes(services: &[Service], vip: &Vip, listeners: &[usize]) -> Takes {
    let mut all = listeners.iter().filter_map(|&place| services.get(place));
    let (Some(&first), Some(like)) = (listeners.first(), all.clone().next()) else { return Takes::Nobody };
    let passes = vip.unmatched == Unmatched::Pass;
    if all.clone().all(|s| s.fragments == Fragments::Drop) && !passes {
        return Takes::Refused;
    }
    let by_client = |s: &Service| s.affinity == Affinity::ClientIp && s.fragments == Fragments::Forward;
    if !passes && all.clone().all(by_client) && all.all(|other| alike(like, other)) {
        return Takes::ByClient(first);
    }
    Takes::ByFirst
}

/// Addresses and protocols whose fragments need no memory, in order.
pub fn stateless(desired: &Desired) -> impl Iterator<Item = (IpAddr, Protocol)> {
    let listeners = desired.listeners();
    desired.vips.iter().flat_map(move |vip| {
        let [tcp, udp] = listeners.get(&vip.address).cloned().unwrap_or_default();
        [(Protocol::Tcp, tcp), (Protocol::Udp, udp)]
            .into_iter()
            .filter(|(_, listeners)| matches!(takes(&desired.services, vip, listeners), Takes::ByClient(_)))
            .map(|(protocol, _)| (vip.address, protocol))
    })
}

/// Two services by client address that choose alike, and send alike. Does not compile when a service has a new key,
/// which may matter here.
pub(crate) fn alike(a: &Service, b: &Service) -> bool {
    let Service {
        name: _,
        vips: _,
        protocol: _,
        ports: _,
        affinity,
        // Of another affinity.
        cid: _,
        source_ranges,
        fragments: _,
        tracking: _,
        flow_timeout: _,
        new_flow_limit: _,
        table_size,
        drain,
        removal,
        slow_start,
        encap,
        health,
        on_all_down,
        zone_policy,
        backends,
    } = a;
    (affinity, table_size, drain, encap) == (&b.affinity, &b.table_size, &b.drain, &b.encap)
        && (removal, slow_start) == (&b.removal, &b.slow_start)
        && (health, on_all_down, zone_policy) == (&b.health, &b.on_all_down, &b.zone_policy)
        && backends == &b.backends
        && source_ranges == &b.source_ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(vips: &str, services: &[(&str, &str, &str, &str)]) -> Desired {
        let services = services.iter().zip(0..).map(|((protocol, port, more, backends), n)| {
            format!("  - {{ name: s{n}, vip: 203.0.113.10, protocol: {protocol}, ports: {port}, {more}backends: [{backends}] }}\n")
        });
        let text = format!(
            "version: 1\ninterfaces: [{{ name: eth0 }}]\nencap: {{ source_v4: 172.16.0.0/16 }}\nvips: [{vips}]\nservices:\n{}",
            services.collect::<String>()
        );
        crate::config::parse(&text).unwrap_or_else(|e| panic!("{e:?}\n{text}")).desired
    }

    fn of(desired: &Desired, protocol: usize) -> Takes {
        let vip = &desired.vips[0];
        takes(&desired.services, vip, &desired.listeners()[&vip.address][protocol])
    }

    fn udp(desired: &Desired) -> Takes {
        of(desired, 1)
    }

    const CLIENT: &str = "affinity: client-ip, ";
    const ONE: &str = "{ address: 10.0.0.1 }";

    #[test]
    fn one_service_by_client_needs_no_ports() {
        let desired = file("", &[("udp", "5060", CLIENT, ONE), ("tcp", "5060", "", ONE)]);
        assert_eq!(udp(&desired), Takes::ByClient(0));
        assert_eq!(of(&desired, 0), Takes::ByFirst);
        let listed: Vec<_> = stateless(&desired).collect();
        assert_eq!(listed, [([203, 0, 113, 10].into(), Protocol::Udp)]);
    }

    #[test]
    fn equal_services_count_as_one_and_others_do_not() {
        let with = |more: &str, backends: &str| {
            let desired = file("", &[("udp", "5060", CLIENT, ONE), ("udp", "20000-24999", more, backends)]);
            matches!(udp(&desired), Takes::ByClient(_))
        };
        assert!(with(CLIENT, ONE));
        assert!(with("affinity: client-ip, tracking: off, flow_timeout: 9s, ", ONE));
        assert!(!with("", ONE), "another affinity");
        assert!(!with("affinity: client-ip, fragments: drop, ", ONE));
        assert!(!with("affinity: client-ip, table_size: 251, ", ONE));
        assert!(!with("affinity: client-ip, drain: { mode: shed }, ", ONE));
        assert!(!with("affinity: client-ip, source_ranges: { deny: [198.51.100.0/24] }, ", ONE));
        assert!(!with("affinity: client-ip, encap: { kind: gue }, ", ONE));
        assert!(!with(CLIENT, "{ address: 10.0.0.2 }"));
        assert!(!with(CLIENT, "{ address: 10.0.0.1 }, { address: 10.0.0.2 }"));
        assert!(!with(CLIENT, "{ address: 10.0.0.1, weight: 99 }"));
        assert!(!with(CLIENT, "{ address: 10.0.0.1, share: 50% }"));
        assert!(!with(CLIENT, "{ address: 10.0.0.1, state: drain }"));
    }

    #[test]
    fn what_passes_elsewhere_needs_its_ports() {
        let pass = "{ address: 203.0.113.10, unmatched: pass }";
        assert_eq!(udp(&file(pass, &[("udp", "5060", CLIENT, ONE)])), Takes::ByFirst);
        assert_eq!(udp(&file(pass, &[("udp", "5060", "fragments: drop, ", ONE)])), Takes::ByFirst);
    }

    #[test]
    fn all_may_refuse_or_nobody_be_there() {
        let drop = ("udp", "5060", "fragments: drop, ", ONE);
        assert_eq!(udp(&file("", &[drop])), Takes::Refused);
        assert_eq!(udp(&file("", &[drop, ("udp", "1", "", ONE)])), Takes::ByFirst);
        assert_eq!(udp(&file("", &[("tcp", "5060", CLIENT, ONE)])), Takes::Nobody);
    }
}
