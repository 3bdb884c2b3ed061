//! What a cluster lets a backend's node take off, beside what the file says. Called by whoever feeds the reconciler.
//!
//! As with services beside the file's ([`super::beside`]), the file comes first, and what does not fit is left out and
//! told. The same content gives the same outcome on every node.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use xdp_lb_common::decap::MAX_SOURCES;

use crate::model::{AdminState, Backend, Decap, Desired, PodPort, Ports};

/// What a cluster names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Inner destinations, and whether the host itself is to have them.
    pub vips: BTreeMap<IpAddr, OnHost>,
    /// Outer sources: network address and prefix length.
    pub sources: BTreeSet<(IpAddr, u8)>,
    /// VIPs' ports at pods of this node.
    pub pods: BTreeSet<PodPort>,
    /// Those of pods that have just left. They give way.
    pub leaving: BTreeSet<PodPort>,
}

/// Whether the host itself is to have a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnHost {
    /// On `lo`.
    Yes,
    /// No: somebody translates before it would matter.
    No,
}

/// What was left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// VIPs beyond `limits.vips`.
    pub vips: Vec<IpAddr>,
    /// Sources beyond what the kernel half compares with.
    pub sources: Vec<(IpAddr, u8)>,
    /// Ports at pods beyond `limits.pod_ports`.
    pub pods: Vec<PodPort>,
    /// Ports at pods which clash with what is there: one that leads elsewhere in the file, or a VIP that has the pod's address.
    pub clashes: Vec<PodPort>,
}

/// The file's state with what the cluster names, where the file has a backend side.
#[must_use]
pub fn accept(file: &Desired, cluster: &Accepted) -> (Desired, LeftOut) {
    let (mut desired, mut left) = (file.clone(), LeftOut::default());
    let Some(decap) = &mut desired.decap else { return (desired, left) };
    let mut taken: BTreeSet<IpAddr> =
        file.vips.iter().map(|vip| vip.address).chain(decap.vips.iter().copied()).collect();
    taken.extend(decap.translate.iter().map(|port| port.vip));
    for (&vip, &on_host) in &cluster.vips {
        if !taken.contains(&vip) && taken.len() >= file.limits.vips as usize {
            left.vips.push(vip);
            continue;
        }
        taken.insert(vip);
        decap.vips.push(vip);
        if decap.vip_on_lo && on_host == OnHost::Yes {
            decap.on_lo.push(vip);
        }
    }
    add_pods(decap, &cluster.pods, file, &mut taken, &mut left);
    // Who has left and finds no room any more is nobody's trouble.
    add_pods(decap, &cluster.leaving, file, &mut taken, &mut LeftOut::default());
    for list in [&mut decap.vips, &mut decap.on_lo] {
        list.sort_unstable();
        list.dedup();
    }
    for &source in &cluster.sources {
        if decap.allow_sources.iter().any(|&wide| covers(wide, source)) {
            continue;
        }
        let of_family = decap.allow_sources.iter().filter(|(a, _)| a.is_ipv4() == source.0.is_ipv4());
        if of_family.count() < MAX_SOURCES {
            decap.allow_sources.push(source);
        } else {
            left.sources.push(source);
        }
    }
    decap.allow_sources.sort_unstable();
    (desired, left)
}

/// Pods of this node (`own`) take no flows before the node knows where the VIP's port leads at them: of the cluster's two
/// lists, either may tell first.
pub fn wait_for_own(desired: &mut Desired, own: &BTreeSet<IpAddr>) {
    let Some(decap) = desired.decap.as_ref().filter(|_| !own.is_empty()) else { return };
    for service in &mut desired.services {
        let leads = |pod: IpAddr| {
            let at = decap.translate.iter().filter(|at| at.pod == pod && at.protocol == service.protocol);
            let serves = |port: u16| match &service.ports {
                Ports::All => true,
                Ports::Ranges(ranges) => ranges.iter().any(|range| range.contains(&port)),
            };
            at.filter(|at| service.vips.contains(&at.vip)).any(|at| serves(at.port))
        };
        let waits = |backend: &Backend| own.contains(&backend.address) && !leads(backend.address);
        let waiting: Vec<usize> =
            (0..).zip(&service.backends).filter(|(_, backend)| waits(backend)).map(|(at, _)| at).collect();
        for at in waiting {
            service.backends[at].state = AdminState::Down;
        }
    }
}

/// Ports at pods beside those that are there. A VIP that would be somebody's pod, and a port that leads elsewhere, stay out.
fn add_pods(
    decap: &mut Decap,
    ports: &BTreeSet<PodPort>,
    file: &Desired,
    taken: &mut BTreeSet<IpAddr>,
    left: &mut LeftOut,
) {
    let at = |port: &PodPort| (port.vip, port.protocol, port.port, port.pod);
    let mut leads: HashMap<_, u16> = decap.translate.iter().map(|port| (at(port), port.target)).collect();
    let vips: BTreeSet<IpAddr> = ports.iter().map(|port| port.vip).collect();
    for port in ports {
        match leads.get(&at(port)) {
            Some(target) if *target == port.target => continue,
            Some(_) => left.clashes.push(*port),
            None if taken.contains(&port.pod) || vips.contains(&port.pod) => left.clashes.push(*port),
            None if decap.translate.len() >= file.limits.pod_ports as usize => left.pods.push(*port),
            None if !taken.contains(&port.vip) && taken.len() >= file.limits.vips as usize => {
                left.vips.push(port.vip);
            }
            None => {
                taken.insert(port.vip);
                leads.insert(at(port), port.target);
                decap.translate.push(*port);
            }
        }
    }
    left.vips.dedup();
    decap.translate.sort_unstable();
}

/// Whether all of `narrow` is in `wide`.
fn covers(wide: (IpAddr, u8), narrow: (IpAddr, u8)) -> bool {
    let same = |a: u128, b: u128, bits: u32| {
        let rest = bits - u32::from(wide.1);
        wide.1 <= narrow.1 && a.checked_shr(rest).unwrap_or(0) == b.checked_shr(rest).unwrap_or(0)
    };
    match (wide.0, narrow.0) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Decap;

    fn file(more: &str) -> Desired {
        let text =
            format!("version: 1\ndecap: {{ interfaces: [{{ name: eth0 }}] {more} }}\nkubernetes: {{}}\n");
        crate::config::parse(&text).unwrap_or_else(|e| panic!("{e:?}")).desired
    }

    fn cluster(vips: &[(&str, OnHost)], sources: &[&str]) -> Accepted {
        Accepted {
            vips: vips.iter().map(|(vip, on)| (vip.parse().unwrap(), *on)).collect(),
            sources: sources.iter().map(|text| crate::config::values::prefix(text).unwrap()).collect(),
            ..Accepted::default()
        }
    }

    fn decap(file: &Desired, cluster: &Accepted) -> (Decap, LeftOut) {
        let (desired, left) = accept(file, cluster);
        (desired.decap.unwrap(), left)
    }

    fn shown(decap: &Decap) -> (Vec<String>, Vec<String>, Vec<String>) {
        let all = |list: &[IpAddr]| list.iter().map(IpAddr::to_string).collect();
        let sources = decap.allow_sources.iter().map(|(a, length)| format!("{a}/{length}")).collect();
        (all(&decap.vips), all(&decap.on_lo), sources)
    }

    #[test]
    fn nothing_is_accepted_before_the_cluster_is_known() {
        let (decap, left) = decap(&file(""), &Accepted::default());
        assert_eq!((shown(&decap), left), (Default::default(), LeftOut::default()));
    }

    #[test]
    fn the_cluster_stands_beside_the_file() {
        let file = file(", vips: 203.0.113.1, allow_sources: [172.16.0.0/16]");
        let vips = [("203.0.113.10", OnHost::No), ("203.0.113.1", OnHost::No), ("203.0.113.11", OnHost::Yes)];
        let (decap, left) = decap(&file, &cluster(&vips, &["172.16.3.0/24", "10.0.0.1/32", "fd00::1/128"]));
        let text = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let wanted = (
            text(&["203.0.113.1", "203.0.113.10", "203.0.113.11"]),
            text(&["203.0.113.1", "203.0.113.11"]),
            text(&["10.0.0.1/32", "172.16.0.0/16", "fd00::1/128"]),
        );
        assert_eq!((shown(&decap), left), (wanted, LeftOut::default()));
    }

    #[test]
    fn nothing_is_put_on_lo_where_the_file_does_not_want_it() {
        let (decap, _) = decap(&file(", vip_on_lo: false"), &cluster(&[("203.0.113.10", OnHost::Yes)], &[]));
        assert!(decap.on_lo.is_empty() && decap.vips.len() == 1);
    }

    #[test]
    fn what_does_not_fit_is_told_and_the_rest_stays() {
        let mut file = file("");
        file.limits.vips = 1;
        let vips = [("203.0.113.10", OnHost::No), ("203.0.113.11", OnHost::No)];
        let sources: Vec<String> = (0..=MAX_SOURCES).map(|n| format!("10.0.1.{n}/32")).collect();
        let sources: Vec<&str> = sources.iter().map(String::as_str).chain(["fd00::1/128"]).collect();
        let (decap, left) = decap(&file, &cluster(&vips, &sources));
        assert_eq!(
            (decap.vips.len(), decap.allow_sources.len()),
            (1, MAX_SOURCES + 1),
            "each family has its own"
        );
        let wanted = LeftOut {
            vips: vec!["203.0.113.11".parse().unwrap()],
            sources: vec![("10.0.1.32".parse().unwrap(), 32)],
            ..LeftOut::default()
        };
        assert_eq!(left, wanted);
    }

    /// Ports at pods, as `VIP:port>pod:target`.
    fn pods(ports: &[&str]) -> BTreeSet<PodPort> {
        let read = |text: &&str| {
            let (at, leads) = text.split_once('>').unwrap();
            let [at, leads]: [std::net::SocketAddr; 2] = [at, leads].map(|end| end.parse().unwrap());
            let protocol = crate::model::Protocol::Tcp;
            PodPort { vip: at.ip(), protocol, port: at.port(), pod: leads.ip(), target: leads.port() }
        };
        ports.iter().map(read).collect()
    }

    const TRANSLATE: &str =
        ", translate: [{ vip: 203.0.113.1, protocol: tcp, port: 80, target_port: 8080, pods: [10.244.1.1] }]";

    /// Of two lists from the cluster either may come first.
    #[test]
    fn an_own_pod_waits_until_it_is_known_where_its_port_leads() {
        let text = "version: 1\ninterfaces: [{ name: eth0 }]\nencap: { source_v4: 172.16.0.0/16 }\nkubernetes: {}\ndecap: { mss: auto }\nservices:\n  \
                    - { name: a, vip: 203.0.113.10, protocol: tcp, ports: 80, backends: [{ address: 10.244.1.1 }, { address: 10.244.2.1 }] }\n  \
                    - { name: b, vip: 203.0.113.10, protocol: tcp, ports: 81, backends: [{ address: 10.244.1.1 }] }\n";
        let file = crate::config::parse(text).unwrap_or_else(|e| panic!("{e:?}")).desired;
        let own = ["10.244.1.1".parse().unwrap()].into();
        let states = |leads: &[&str]| {
            let accepted = Accepted { pods: pods(leads), ..Accepted::default() };
            let (mut desired, _) = accept(&file, &accepted);
            wait_for_own(&mut desired, &own);
            let states = desired.services.iter().flat_map(|service| &service.backends).map(|b| b.state);
            states.collect::<Vec<_>>()
        };
        use AdminState::{Active, Down};
        assert_eq!(states(&[]), [Down, Active, Down]);
        assert_eq!(states(&["203.0.113.10:80>10.244.1.1:8080"]), [Active, Active, Down]);
        assert_eq!(
            states(&["203.0.113.10:80>10.244.1.1:8080", "203.0.113.10:81>10.244.1.1:8080"]),
            [Active; 3]
        );
        assert_eq!(states(&["203.0.113.10:80>10.244.2.1:8080"]), [Down, Active, Down], "another's");
    }

    #[test]
    fn pods_stand_beside_the_files_and_give_way_to_it() {
        let cluster = Accepted {
            pods: pods(&[
                "203.0.113.1:80>10.244.1.1:9090",
                "203.0.113.10:443>10.244.1.2:8443",
                "203.0.113.10:80>203.0.113.1:80",
                "203.0.113.10:81>203.0.113.11:80",
                "203.0.113.11:80>203.0.113.10:80",
            ]),
            leaving: pods(&["203.0.113.10:443>10.244.1.2:1", "203.0.113.12:80>10.244.1.3:8080"]),
            ..Accepted::default()
        };
        let (decap, left) = decap(&file(TRANSLATE), &cluster);
        let there = [
            "203.0.113.1:80>10.244.1.1:8080",
            "203.0.113.10:443>10.244.1.2:8443",
            "203.0.113.12:80>10.244.1.3:8080",
        ];
        assert_eq!(decap.translate, pods(&there).into_iter().collect::<Vec<_>>());
        assert!(decap.vips.is_empty() && decap.on_lo.is_empty(), "the node itself has nothing of it");
        let clashes = [
            "203.0.113.1:80>10.244.1.1:9090",
            "203.0.113.10:80>203.0.113.1:80",
            "203.0.113.10:81>203.0.113.11:80",
            "203.0.113.11:80>203.0.113.10:80",
        ];
        let wanted = LeftOut { clashes: pods(&clashes).into_iter().collect(), ..LeftOut::default() };
        assert_eq!(left, wanted, "who has left is not told of");
    }

    #[test]
    fn pods_that_do_not_fit_are_told_and_who_has_left_gives_way() {
        let mut file = file(TRANSLATE);
        file.limits.pod_ports = 2;
        let two = ["203.0.113.10:80>10.244.1.2:8080", "203.0.113.10:80>10.244.1.3:8080"];
        let cluster =
            |there, leaving| Accepted { pods: pods(there), leaving: pods(leaving), ..Accepted::default() };
        let (shown, left) = decap(&file, &cluster(&two[1..], &two[..1]));
        assert!(shown.translate.contains(pods(&two[1..]).first().unwrap()) && shown.translate.len() == 2);
        assert_eq!(left, LeftOut::default());
        let (shown, left) = decap(&file, &cluster(&two, &[]));
        assert_eq!((shown.translate.len(), left.pods), (2, pods(&two[1..]).into_iter().collect()));
        // VIPs of pods are VIPs.
        file.limits.vips = 1;
        let (shown, left) = decap(&file, &cluster(&two, &[]));
        assert_eq!((shown.translate.len(), left.vips), (1, vec!["203.0.113.10".parse().unwrap()]));
    }

    #[test]
    fn a_prefix_of_length_0_covers_its_family() {
        let all = |text: &str| crate::config::values::prefix(text).unwrap();
        assert!(covers(all("0.0.0.0/0"), all("10.0.0.1/32")) && covers(all("::/0"), all("fd00::1/128")));
        assert!(
            !covers(all("0.0.0.0/0"), all("fd00::1/128")) && !covers(all("10.0.0.1/32"), all("10.0.0.0/31"))
        );
    }
}
