//! Pods on the backends of a lab, as a cluster's network plugin makes them, and nftables in the place of its service proxy.
//!
//! ```text
//!   backend N ("node")                              pod K on it
//!   eth0 --- fabric                                 eth0  10.244.N.(100+K)  fd00:0:244:N::(100+K)
//!   to-podK  10.244.N.1  fd00:0:244:N::1  ========  everything through the node
//! ```
//!
//! A pod knows nothing of VIPs and may do nothing: its namespace has an address, a way out and a server. Its link keeps
//! the offloads that veth pairs have everywhere, so that what it sends comes to the node as it does in a cluster: in
//! segments of up to 64 KB, without checksums.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::files::State;
use super::namespace::{Lifetime, Namespace};
use super::netlink::{Prefix, VethEnd, Via};
use super::plan::{self, Dual};
use super::product::run_to_end;
use super::topology::{HOST_INTERFACE, Host, Lab};

/// How long `nft` may take.
const NFT_BOUND: Duration = Duration::from_secs(10);
/// MTU of a pod's link, as of the clients'.
const MTU: u32 = 1500;

/// A pod.
#[derive(Debug)]
pub struct Pod {
    /// `pod1-2` is the second one on backend 1.
    pub name: String,
    /// Its namespace.
    pub ns: Namespace,
    /// Its own addresses.
    pub address: Dual,
}

impl Pod {
    /// Makes pod `k` (from 1) on backend `n`, which forwards from now on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn start(lab: &Lab, n: u8, k: u8) -> Result<Self> {
        Self::start_on(lab, lab.backend(n), n, k)
    }

    /// Makes pod `k` of the network `n` on any host, which forwards from now on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn start_on(lab: &Lab, node: &Host, n: u8, k: u8) -> Result<Self> {
        let name = format!("pod{n}-{k}");
        let ns = Namespace::create(lab.id(), &name, Lifetime::Dropped)?;
        let pod = Self { name, ns, address: address(n, 100 + k) };
        pod.connect(node, n, k).with_context(|| format!("connect {}", pod.name))?;
        Ok(pod)
    }

    fn connect(&self, node: &Host, n: u8, k: u8) -> Result<()> {
        forward(node)?;
        let end =
            |name: String, end: u8| VethEnd { name, mac: [0x02, 0x70, 0x6f, n, k, end], mtu: MTU, queues: 1 };
        let here = format!("to-pod{k}");
        let links = node.ns.netlink();
        links.add_veth(&end(here.clone(), 1), &end(HOST_INTERFACE.into(), 2), self.ns.fd())?;
        let gateway = address(n, 1);
        for (ns, interface, addresses) in
            [(&node.ns, here.as_str(), gateway), (&self.ns, HOST_INTERFACE, self.address)]
        {
            for ip in addresses.both() {
                ns.netlink().add_address(interface, alone(ip))?;
            }
            ns.netlink().set_up(interface, true)?;
        }
        for ip in self.address.both() {
            links.set_route(alone(ip), &[Via::link(&here)])?;
            let everywhere =
                (if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }, 0);
            let way = Via::gateway(HOST_INTERFACE, gateway.like(ip)).onlink();
            self.ns.netlink().set_route(everywhere, &[way])?;
        }
        Ok(())
    }

    /// Its address of `like`'s family with a port.
    #[must_use]
    pub fn at(&self, like: IpAddr, port: u16) -> SocketAddr {
        SocketAddr::new(self.address.like(like), port)
    }
}

/// Has the router send the pods of backend `n` to it, as a routed pod network does.
///
/// # Errors
/// When the kernel refuses.
pub fn route_pods(lab: &Lab, n: u8) -> Result<()> {
    route_network(lab, lab.backend(n), n)
}

/// The same of the network `n` on any host.
///
/// # Errors
/// When the kernel refuses.
pub fn route_network(lab: &Lab, host: &Host, n: u8) -> Result<()> {
    let networks: [Prefix; 2] = [
        (Ipv4Addr::new(10, 244, n, 0).into(), 24),
        (Ipv6Addr::new(0xfd00, 0, 0x244, n.into(), 0, 0, 0, 0).into(), 64),
    ];
    networks.into_iter().try_for_each(|network| {
        let gateway = host.role.address().like(network.0);
        lab.router().netlink().set_route(network, &[Via::gateway(&host.router_interface(), gateway)])
    })
}

/// Has a node forward, as every node of a cluster does.
///
/// # Errors
/// When the kernel refuses.
pub fn forward(node: &Host) -> Result<()> {
    node.ns.sysctl("net/ipv4/ip_forward", "1")?;
    node.ns.sysctl("net/ipv6/conf/all/forwarding", "1")
}

fn address(n: u8, host: u8) -> Dual {
    Dual {
        v4: Ipv4Addr::new(10, 244, n, host),
        v6: Ipv6Addr::new(0xfd00, 0, 0x244, n.into(), 0, 0, 0, host.into()),
    }
}

fn alone(ip: IpAddr) -> Prefix {
    (ip, if ip.is_ipv4() { 32 } else { 128 })
}

/// A service of the edge nodes whose backends are pods: tunnels go to them, not to their nodes.
#[derive(Clone, Debug)]
pub struct ToPods {
    /// Name in the file.
    pub name: String,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// VIP and port.
    pub vip: SocketAddr,
    /// What the pods listen on.
    pub target: u16,
    /// Pods and their states.
    pub pods: Vec<(IpAddr, State)>,
}

/// The file of edge node `n`.
#[must_use]
pub fn edge_file(n: u8, services: &[ToPods]) -> String {
    let [v4, v6] = plan::tunnel_sources(n).map(|(ip, length)| format!("\"{ip}/{length}\""));
    let mut text = format!(
        "version: 1
node: {{ name: edge{n} }}
interfaces: [{{ name: eth0, mode: native }}]
encap: {{ source_v4: {v4}, source_v6: {v6} }}
maglev: {{ table_size: 4093, seed: 0x78646c62 }}
flow_table: {{ entries: 65536 }}
log: {{ format: text, level: info }}
services:
"
    );
    for ToPods { name, protocol, vip, pods, .. } in services {
        let backend = |(ip, state): &(IpAddr, State)| format!("{{ address: \"{ip}\", state: {state} }}");
        let backends = pods.iter().map(backend).collect::<Vec<_>>().join(", ");
        text += &format!(
            "  - {{ name: {name}, vip: \"{}\", protocol: {protocol}, ports: {}, backends: [{backends}] }}\n",
            vip.ip(),
            vip.port()
        );
    }
    text
}

/// The file of a node with these pods.
#[must_use]
pub fn decap_file(services: &[ToPods], here: &[&Pod]) -> String {
    let prefixes = plan::all_tunnel_sources().map(|(ip, length)| format!("\"{ip}/{length}\"")).join(", ");
    let mut text = format!(
        "version: 1
decap:
  interfaces: [{{ name: eth0, mode: native }}]
  allow_sources: [{prefixes}]
  translate:"
    );
    let mut entries = String::new();
    for ToPods { protocol, vip, target, pods, .. } in services {
        let own = |ip: &IpAddr| here.iter().any(|pod| pod.address.both().contains(ip));
        let own: Vec<String> =
            pods.iter().map(|(ip, _)| ip).filter(|ip| own(ip)).map(|ip| format!("\"{ip}\"")).collect();
        if !own.is_empty() {
            entries += &format!(
                "\n    - {{ vip: \"{}\", protocol: {protocol}, port: {}, target_port: {target}, pods: [{}] }}",
                vip.ip(),
                vip.port(),
                own.join(", ")
            );
        }
    }
    text += if entries.is_empty() { " []" } else { &entries };
    text + "\n"
}

/// One port of a VIP, and where the service proxy sends it.
#[derive(Clone, Debug)]
pub struct Forward {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// VIP and port.
    pub vip: SocketAddr,
    /// Pods on this node, with the target port.
    pub endpoints: Vec<SocketAddr>,
}

/// Has nftables do on `node` what kube-proxy's nftables mode does for Services with `externalTrafficPolicy: Local`: a
/// connection to a VIP goes to one of the node's own pods, untouched but for its destination; what belongs to no
/// connection is dropped and counted. Strict reverse-path filtering of IPv6, which no sysctl has, is here as well.
///
/// # Errors
/// When `nft` refuses.
pub fn service_proxy(lab: &Lab, node: &Host, forwards: &[Forward]) -> Result<()> {
    let family = |ip: IpAddr| if ip.is_ipv4() { "ip" } else { "ip6" };
    let (mut endpoints, mut services) = (String::new(), String::new());
    for (number, Forward { protocol, vip, endpoints: pods }) in forwards.iter().enumerate() {
        let ip = family(vip.ip());
        let choices: Vec<String> =
            (0..pods.len()).map(|k| format!("{k} : goto endpoint-{number}-{k}")).collect();
        for (k, pod) in pods.iter().enumerate() {
            endpoints += &format!(
                "  chain endpoint-{number}-{k} {{\n    meta l4proto {protocol} dnat {ip} to {pod};\n  }}\n"
            );
        }
        services += &format!(
            "    {ip} daddr {} {protocol} dport {} numgen random mod {} vmap {{ {} }}\n",
            vip.ip(),
            vip.port(),
            pods.len(),
            choices.join(", ")
        );
    }
    let rules = format!(
        "table inet kube-proxy {{
{endpoints}  chain services {{
{services}  }}
  chain nat-prerouting {{ type nat hook prerouting priority -100; jump services; }}
  chain nat-postrouting {{
    type nat hook postrouting priority 100;
    meta mark & 0x4000 == 0x4000 counter masquerade;
  }}
{FILTERS}}}
"
    );
    load(lab, node, &rules)
}

/// The part of a service proxy that is there without services: what conntrack finds invalid is counted and dropped.
///
/// # Errors
/// When `nft` refuses.
pub fn filters(lab: &Lab, node: &Host) -> Result<()> {
    load(lab, node, &format!("table inet kube-proxy {{\n{FILTERS}}}\n"))
}

const FILTERS: &str = "  chain forward {
    type filter hook forward priority 0;
    ct state invalid counter drop;
  }
  chain input {
    type filter hook input priority 0;
    ct state invalid counter drop;
  }
  chain reverse-path {
    type filter hook prerouting priority -300;
    meta nfproto ipv6 fib saddr . iif oif missing counter drop;
  }
";

fn load(lab: &Lab, node: &Host, rules: &str) -> Result<()> {
    let name = format!("{}.nft", node.role.name());
    let path = lab.scratch().write(&name, rules)?;
    nft(&node.ns, &["-f".into(), path.display().to_string()]).map(drop)
}

fn nft(ns: &Namespace, args: &[String]) -> Result<String> {
    let mut command = Command::new("nft");
    command.args(args);
    let done = run_to_end(ns, "nft", command, NFT_BOUND)?;
    ensure!(done.status.success(), "nft {args:?}: {}", done.stderr);
    Ok(done.stdout)
}

/// The rules of a namespace, without counters: what nobody but its owner may change.
///
/// # Errors
/// When `nft` fails.
pub fn rule_set(ns: &Namespace) -> Result<String> {
    nft(ns, &["--stateless".into(), "list".into(), "ruleset".into()])
}

/// Packets that the counting rules of a node have met, by chain: all are of packets that should not be.
///
/// # Errors
/// When `nft` fails or says something unexpected.
pub fn met(node: &Host) -> Result<Vec<(String, u64)>> {
    let text = nft(&node.ns, &["-j".into(), "list".into(), "ruleset".into()])?;
    let all: Value = serde_json::from_str(&text).context("read nft's rules")?;
    let rules =
        all["nftables"].as_array().context("a list of rules")?.iter().filter_map(|entry| entry.get("rule"));
    let counted = rules.filter_map(|rule| {
        let counter = rule["expr"].as_array()?.iter().find_map(|part| part.get("counter"))?;
        Some((rule["chain"].as_str()?.to_owned(), counter["packets"].as_u64()?))
    });
    Ok(counted.collect())
}
