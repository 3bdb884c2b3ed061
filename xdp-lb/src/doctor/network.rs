//! What the host's network stack, and who else lives in it, does to packets that come out of tunnels, and to their answers.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Finding, Host, Way};

/// Where kube-proxy in IPVS mode has VIPs.
const IPVS: &str = "kube-ipvs0";
/// A full packet of a client, bytes.
const FULL: u32 = 1500;
/// What an IPv4 tunnel adds, bytes; what an IPv6 one does.
const OUTER: [u32; 2] = [20, 40];

/// Strict reverse path filtering drops what comes in by another interface than the answer would leave by. IPv4 alone: for
/// IPv6 the kernel has no such sysctl.
pub(super) fn reverse_path(host: &Host) -> Vec<Finding> {
    const SUBJECT: &str = "rp_filter";
    if !host.unwraps() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for interface in host.attached().filter(|interface| host.conf(interface, "rp_filter") == 1) {
        for (client, way) in host.ways.iter().filter(|(client, _)| client.is_ipv4()) {
            let says = match way {
                Way::By(names) if names.contains(interface) => continue,
                Way::By(names) => {
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    format!(
                        "what comes out of tunnels on {interface} is dropped by strict rp_filter: the way back to {client} is by {}",
                        names.join(", ")
                    )
                }
                Way::None(why) => {
                    format!(
                        "what comes out of tunnels on {interface} is dropped by strict rp_filter: {why} ({client})"
                    )
                }
            };
            let cure = format!(
                "route to clients by {interface}, or sysctl -w net.ipv4.conf.{interface}.rp_filter=2; --client says which client"
            );
            found.push(Finding::wrong(SUBJECT, says, cure));
        }
    }
    if found.is_empty() {
        found.push(Finding::fine(SUBJECT, "what comes out of tunnels is let in"));
    }
    // An answer has to leave at all, filter or not.
    for (client, way) in &host.ways {
        let is_of_family = host.unwrapped().any(|vip| vip.is_ipv4() == client.is_ipv4());
        if let Way::None(why) = way
            && is_of_family
        {
            let says = format!("answers to clients as {client} cannot leave: {why}");
            found.push(Finding::wrong("routes", says, "a default route, or one to where clients are"));
        }
    }
    found
}

/// A packet whose destination is not this host's own is routed on to a pod, if the host routes.
pub(super) fn forwarding(host: &Host) -> Vec<Finding> {
    const SUBJECT: &str = "forwarding";
    let own: BTreeSet<IpAddr> = host.addresses.values().flatten().copied().collect();
    let pods = host.status.iter().flat_map(|status| &status.pods).map(|port| port.pod);
    let routed: BTreeSet<bool> = host
        .unwrapped()
        .filter(|vip| !own.contains(vip))
        .chain(pods)
        .map(|address| address.is_ipv4())
        .collect();
    let mut found = Vec::new();
    for is_v4 in routed {
        let name = if is_v4 { "net.ipv4.ip_forward" } else { "net.ipv6.conf.all.forwarding" };
        match host.sysctl(name) {
            Some("0") => {
                let family = if is_v4 { "IPv4" } else { "IPv6" };
                let says =
                    format!("{family} packets out of tunnels are for pods, and this host does not forward");
                found.push(Finding::wrong(SUBJECT, says, format!("sysctl -w {name}=1")));
            }
            Some(_) => found.push(Finding::fine(SUBJECT, format!("{name} is on"))),
            // A host without the family.
            None => {}
        }
    }
    found
}

/// A VIP on an interface of a node is answered for by ARP, unless the node is told not to: then routers send its packets there
/// and not to the edge nodes.
pub(super) fn claims(host: &Host) -> Vec<Finding> {
    const SUBJECT: &str = "ARP";
    let vips: BTreeSet<IpAddr> = host.unwrapped().filter(IpAddr::is_ipv4).collect();
    let holders: Vec<&String> = host
        .addresses
        .iter()
        .filter(|(_, addresses)| addresses.iter().any(|address| vips.contains(address)))
        .map(|(name, _)| name)
        .collect();
    if holders.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    let physical = host.links.iter().filter(|link| link.mac.is_some() && link.usable());
    for link in physical.filter(|link| host.attached().any(|name| name == link.name)) {
        let name = &link.name;
        let (ignore, announce) = (host.conf(name, "arp_ignore"), host.conf(name, "arp_announce"));
        let on = holders.iter().map(|holder| holder.as_str()).collect::<Vec<_>>().join(", ");
        // Ours bear scope host, which 3 hides; kube-proxy's do not.
        if ignore == 0 || ignore == 3 && holders.iter().any(|holder| *holder != "lo") {
            found.push(Finding::wrong(
                SUBJECT,
                format!("{name} answers ARP for VIPs that are on {on}: routers of this segment may send their packets here"),
                format!("sysctl -w net.ipv4.conf.{name}.arp_ignore=1 (kube-proxy in IPVS mode: strictARP)"),
            ));
        }
        if announce == 0 {
            found.push(Finding::wrong(
                SUBJECT,
                format!("{name} puts VIPs that are on {on} into its own ARP requests: neighbours learn them"),
                format!("sysctl -w net.ipv4.conf.{name}.arp_announce=2 (kube-proxy in IPVS mode: strictARP)"),
            ));
        }
    }
    if found.is_empty() {
        found.push(Finding::fine(SUBJECT, "nobody is told that VIPs are here"));
    }
    found
}

/// Tunnels that XDP does not take off are taken off by the kernel's own devices, where strict `rp_filter` drops the rest.
pub(super) fn tunnel_devices(host: &Host) -> Vec<Finding> {
    const DEVICES: [&str; 3] = ["tunl0", "ip6tnl0", "sit0"];
    if !host.unwraps() {
        return Vec::new();
    }
    let is_there = |name: &&str| host.links.by_name(name).is_some_and(|link| link.up);
    let there: Vec<&str> = DEVICES.into_iter().filter(is_there).collect();
    if there.is_empty() {
        return Vec::new();
    }
    vec![Finding::note(
        "tunnels",
        format!(
            "{} would take off tunnels that come in by interfaces without the program, and the packet then seems to come from there",
            there.join(", ")
        ),
        "name every interface that tunnels come in by in `decap.interfaces`",
    )]
}

/// A tunnel is longer than what is in it.
pub(super) fn mtu(host: &Host) -> Vec<Finding> {
    const SUBJECT: &str = "MTU";
    let mut found = Vec::new();
    for name in host.attached() {
        let Some(link) = host.links.by_name(name) else { continue };
        let [v4, v6] = OUTER.map(|outer| FULL + outer);
        if link.mtu < v4 {
            found.push(Finding::note(
                SUBJECT,
                format!(
                    "{name} carries {} bytes, and a full packet in a tunnel is {v4} (IPv6: {v6}): senders are told to send less, and \
                     what may not be refused is cut",
                    link.mtu
                ),
                format!("ip link set {name} mtu {v6}, if the fabric carries that; `mss: auto` spares TCP the detour"),
            ));
        } else {
            found.push(Finding::fine(SUBJECT, format!("{name} carries {} bytes", link.mtu)));
        }
    }
    found
}

/// What leaves the tunnel meets netfilter.
pub(super) fn conntrack(host: &Host) -> Vec<Finding> {
    const SUBJECT: &str = "conntrack";
    let Some((count, most)) = host.conntrack.filter(|(_, most)| *most > 0 && host.unwraps()) else {
        return Vec::new();
    };
    let says = format!("{count} of {most} connections");
    let cure = "sysctl -w net.netfilter.nf_conntrack_max=..., and nf_conntrack_buckets with it";
    vec![match count.saturating_mul(100) / most {
        90.. => Finding::wrong(SUBJECT, format!("{says}: new ones are dropped when it is full"), cure),
        70.. => Finding::note(SUBJECT, says, cure),
        _ => Finding::fine(SUBJECT, says),
    }]
}

/// Network plugins, by the interfaces that they make, and what they need.
pub(super) fn plugins(host: &Host) -> Vec<Finding> {
    let is_there = |prefix: &str| host.links.iter().any(|link| link.name.starts_with(prefix));
    let mut found = Vec::new();
    if !host.unwraps() {
        return found;
    }
    if is_there("cali") || is_there("vxlan.calico") {
        found.push(Finding::note(
            "Calico",
            "Felix drops IP-in-IP of hosts that are no Calico nodes, where XDP has not taken it off before; and a pod may send from its own \
             addresses alone",
            "tunnels on interfaces without the program: the edge nodes' sources in `externalNodesList`; a pod with the VIP on its own lo: \
             use delivery host or pod",
        ));
    }
    if is_there("cilium_host") {
        found.push(Finding::note(
            "Cilium",
            "Cilium drops protocols 4 and 41, where XDP has not taken tunnels off before; one interface runs one XDP program",
            "`loadBalancer.acceleration` off on our interfaces; tunnels on other interfaces: enable-extended-ip-protocols=true",
        ));
    }
    if let Some(vips) = host.addresses.get(IPVS)
        && host.unwrapped().any(|vip| vips.contains(&vip))
    {
        found.push(Finding::fine("kube-proxy", "kube-proxy (IPVS) takes VIPs from kube-ipvs0"));
    }
    found
}
