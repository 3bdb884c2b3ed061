//! Configuration files of the balancing tier in a lab, as text: what an operator of exactly this network would write.
//!
//! `tier` writes them down and starts the product with them. They are built as text, not through the product's own
//! types, so that the product's reader is part of what is tested.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use super::plan::{self, Role};
use super::topology::Host;
use super::traffic::Server;

/// Number of the VIP that the tier serves.
pub const VIP: u8 = 10;
/// TCP over IPv4 tunnels.
pub const WEB: u16 = 80;
/// TCP over IPv6 tunnels.
pub const ECHO: u16 = 7000;
/// UDP over IPv4 tunnels.
pub const MEDIA: u16 = 5060;
/// UDP over IPv6 tunnels.
pub const MEDIA6: u16 = 5061;
/// Ports a backend's server listens on.
pub const PORTS: [u16; 4] = [WEB, ECHO, MEDIA, MEDIA6];

/// The VIP with a port, IPv4 first.
#[must_use]
pub fn at(port: u16) -> [SocketAddr; 2] {
    plan::vip(VIP).both().map(|ip| SocketAddr::new(ip, port))
}

/// TCP services in both families: with [`WEB`] and [`ECHO`] all four pairs of inner and outer header.
#[must_use]
pub fn tcp() -> Vec<SocketAddr> {
    [WEB, ECHO].into_iter().flat_map(at).collect()
}

/// The same of UDP.
#[must_use]
pub fn udp() -> Vec<SocketAddr> {
    [MEDIA, MEDIA6].into_iter().flat_map(at).collect()
}

/// Starts an echo server on every host, on the VIP and all ports of the services; it bears the host's name. A host
/// that is no backend needs the VIP on `lo` first.
///
/// # Errors
/// When an address cannot be bound.
pub fn serve<'a>(hosts: impl IntoIterator<Item = &'a Host>) -> Result<Vec<Server>> {
    let addresses: Vec<_> = PORTS.into_iter().flat_map(at).collect();
    hosts.into_iter().map(|host| Server::start(&host.ns, &host.role.name(), &addresses)).collect()
}

/// `state` of a backend in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Takes flows.
    #[default]
    Active,
    /// Takes no new ones.
    Drain,
    /// Takes nothing.
    Down,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Drain => "drain",
            Self::Down => "down",
        })
    }
}

/// How XDP is attached, as the file says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    #[default]
    Native,
    /// In the stack.
    Generic,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// The file of an edge node: four services over the same backends.
#[derive(Clone, Debug)]
pub struct EdgeFile {
    /// Interfaces that get the program.
    pub interfaces: Vec<String>,
    /// How.
    pub mode: Mode,
    /// Backends and their states, in the file's order. Any host may be one.
    pub backends: Vec<(Role, State)>,
    /// Writes services and backends the other way round, which must not matter.
    pub reversed: bool,
    /// Takes off tunnels as well: this node may be a backend itself.
    pub decap: bool,
    /// Keys added to every TCP service and to every UDP service, as `health_check: { kind: tcp }`.
    pub more: [Vec<String>; 2],
}

impl EdgeFile {
    /// Backends 1 to `backends`, all active, on `eth0`.
    #[must_use]
    pub fn new(backends: u8) -> Self {
        Self {
            interfaces: vec!["eth0".into()],
            mode: Mode::Native,
            backends: (1..=backends).map(|n| (Role::Backend(n), State::Active)).collect(),
            reversed: false,
            decap: false,
            more: Default::default(),
        }
    }

    /// The same with another state of backend `n`.
    #[must_use]
    pub fn with(&self, n: u8, state: State) -> Self {
        let change =
            |(role, was): &(Role, State)| (*role, if *role == Role::Backend(n) { state } else { *was });
        Self { backends: self.backends.iter().map(change).collect(), ..self.clone() }
    }

    /// The same without backend `n`.
    #[must_use]
    pub fn without(&self, n: u8) -> Self {
        let stays = |(role, _): &&(Role, State)| *role != Role::Backend(n);
        Self { backends: self.backends.iter().filter(stays).copied().collect(), ..self.clone() }
    }

    /// The text for edge node `n`: outer sources are its own.
    #[must_use]
    pub fn text(&self, n: u8) -> String {
        let [v4, v6] = plan::tunnel_sources(n).map(|(ip, length)| format!("\"{ip}/{length}\""));
        let mut services = [
            self.service("web", "tcp", WEB, false),
            self.service("echo", "tcp", ECHO, true),
            self.service("media", "udp", MEDIA, false),
            self.service("media6", "udp", MEDIA6, true),
        ];
        if self.reversed {
            services.reverse();
        }
        format!(
            "version: 1
node: {{ name: edge{n} }}
interfaces:
{}encap: {{ source_v4: {v4}, source_v6: {v6} }}
maglev: {{ table_size: 4093, seed: 0x78646c62 }}
flow_table: {{ entries: 65536 }}
log: {{ format: text, level: info }}
services:
{}{}",
            interfaces(&self.interfaces, self.mode, ""),
            services.concat(),
            if self.decap { decap(&[], self.mode) } else { String::new() }
        )
    }

    fn service(&self, name: &str, protocol: &str, port: u16, over_v6: bool) -> String {
        let [v4, v6] = plan::vip(VIP).both();
        let mut backends: Vec<String> = self
            .backends
            .iter()
            .map(|(role, state)| {
                let address = role.address().both()[usize::from(over_v6)];
                format!("      - {{ address: \"{address}\", state: {state} }}\n")
            })
            .collect();
        if self.reversed {
            backends.reverse();
        }
        let more: String =
            self.more[usize::from(protocol == "udp")].iter().map(|key| format!("    {key}\n")).collect();
        format!(
            "  - name: {name}
    vip: [\"{v4}\", \"{v6}\"]
    protocol: {protocol}
    ports: {port}
{more}    backends:{}
",
            if backends.is_empty() { " []".into() } else { format!("\n{}", backends.concat().trim_end()) }
        )
    }
}

/// The file of a backend's `xdp-lb decap`.
#[must_use]
pub fn decap_file(mode: Mode) -> String {
    format!("version: 1\n{}", decap(&["eth0".into()], mode))
}

/// The section `decap`; without interfaces it takes the balancer's.
fn decap(own: &[String], mode: Mode) -> String {
    let prefixes = plan::all_tunnel_sources().map(|(ip, length)| format!("\"{ip}/{length}\"")).join(", ");
    let vips = plan::vip(VIP).both().map(|ip: IpAddr| format!("\"{ip}\"")).join(", ");
    let own = if own.is_empty() {
        String::new()
    } else {
        format!("  interfaces:\n{}", interfaces(own, mode, "  "))
    };
    format!("decap:\n{own}  allow_sources: [{prefixes}]\n  vips: [{vips}]\n")
}

fn interfaces(names: &[String], mode: Mode, indent: &str) -> String {
    names.iter().map(|name| format!("{indent}  - {{ name: {name}, mode: {mode} }}\n")).collect()
}

#[cfg(test)]
mod tests {
    use xdp_lb::config::parse;

    use super::*;

    #[test]
    fn the_product_reads_what_we_write() {
        let mut file = EdgeFile::new(3).with(2, State::Drain);
        for decap in [false, true] {
            file.decap = decap;
            for reversed in [false, true] {
                file.reversed = reversed;
                let text = file.text(1);
                parse(&text).unwrap_or_else(|e| panic!("{e:?}\n{text}"));
            }
        }
        let empty = EdgeFile::new(0).text(1);
        parse(&empty).unwrap_or_else(|e| panic!("{e:?}\n{empty}"));
        for mode in [Mode::Native, Mode::Generic] {
            let text = decap_file(mode);
            parse(&text).unwrap_or_else(|e| panic!("{e:?}\n{text}"));
        }
    }
}
