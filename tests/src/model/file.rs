//! A configuration as the model understands it, and the YAML that says the same to the product.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Write as _};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// One file.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// `maglev.seed`.
    pub seed: u64,
    /// `flow_table.entries`.
    pub flow_entries: u32,
    /// `limits.fragments`.
    pub fragment_entries: u32,
    /// `encap` of the file.
    pub encap: Encap,
    /// Addresses that say `unmatched: pass`.
    pub passing: BTreeSet<IpAddr>,
    /// `services`.
    pub services: Vec<Service>,
    /// `decap`.
    pub decap: Option<Decap>,
    /// Ways to backends that are not out of the first interface. No part of the file.
    pub ways: BTreeMap<IpAddr, Way>,
}

/// VLAN tags of what goes to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tags {
    /// Those that a packet came with.
    Kept,
    /// None.
    Gone,
    /// One alone.
    One([u8; 4]),
}

/// The way to a backend, as the kernel's routes would say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Out of an interface, to its one neighbour.
    Out {
        /// Its index.
        ifindex: u32,
        /// Its MTU.
        mtu: u16,
        /// The VLAN that its route is in.
        tags: Tags,
    },
    /// The backend is this node.
    Here,
    /// Nowhere.
    Unknown,
}

/// Where static next hops lead: out of `lo`, which has no address of its own.
pub const LO: Way = Way::Out { ifindex: 1, mtu: u16::MAX, tags: Tags::Kept };
/// Who is there.
pub const ROUTER: [u8; 6] = [0x00, 0x00, 0x5e, 0x00, 0x01, 0x01];

/// `encap`: a key that is not written counts as the file's, or its default.
#[derive(Clone, Debug, Default)]
pub struct Encap {
    /// `kind: gue` with port and variant, or `kind: ipip`.
    pub kind: Option<Kind>,
    /// `source_v4`.
    pub source_v4: Option<Prefix>,
    /// `source_v6`.
    pub source_v6: Option<Prefix>,
    /// `dscp`; `Some(None)` is `copy`.
    pub dscp: Option<Option<u8>>,
    /// `mtu`; `Some(None)` is `auto`.
    pub mtu: Option<Option<u16>>,
}

/// Kind of tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IP in IP.
    Ipip,
    /// GUE.
    Gue {
        /// UDP port.
        port: u16,
        /// 0 or 1.
        variant: u8,
    },
}

/// An address prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    /// Its first address.
    pub address: IpAddr,
    /// Its length.
    pub length: u8,
}

impl Prefix {
    /// The prefix of `address` with this length: host bits are taken off.
    #[must_use]
    pub fn of(address: IpAddr, length: u8) -> Self {
        let keep = |bits: u32| u128::MAX.checked_shl(bits - u32::from(length)).unwrap_or(0);
        let address = match address {
            IpAddr::V4(a) => IpAddr::V4((u32::from(a) & keep(32) as u32).into()),
            IpAddr::V6(a) => IpAddr::V6((u128::from(a) & keep(128)).into()),
        };
        Self { address, length }
    }

    /// Whether it holds `address`.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && Self::of(address, self.length) == *self
    }
}

impl Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}/{}\"", self.address, self.length)
    }
}

/// A service.
#[derive(Clone, Debug)]
pub struct Service {
    /// `name`.
    pub name: String,
    /// `vip`.
    pub vips: Vec<IpAddr>,
    /// `protocol: tcp`.
    pub tcp: bool,
    /// `ports`; `None` is `all`.
    pub ports: Option<Vec<RangeInclusive<u16>>>,
    /// `affinity`.
    pub affinity: Affinity,
    /// `fragments: drop`.
    pub drops_fragments: bool,
    /// `tracking`, if written.
    pub tracking: Option<Tracking>,
    /// `flow_timeout`.
    pub flow_timeout: Duration,
    /// `new_flow_limit`.
    pub new_flow_limit: u32,
    /// `table_size`.
    pub table_size: u32,
    /// `encap`.
    pub encap: Encap,
    /// `source_ranges`: prefixes, and whether they let in.
    pub sources: BTreeMap<Prefix, bool>,
    /// `backends`.
    pub backends: Vec<Backend>,
}

/// What decides which packets belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// `five-tuple`.
    FiveTuple,
    /// `client-ip`.
    ClientIp,
    /// `dest-port`.
    DestPort,
    /// `quic-cid`.
    QuicCid {
        /// `config_ids`; empty is `any`.
        config_ids: Vec<u8>,
        /// `nonce`.
        nonce: u8,
        /// `length_encoded`.
        length_encoded: bool,
    },
    /// `ice-ufrag`.
    IceUfrag,
}

/// What is remembered on clean slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// `exact`.
    Exact,
    /// `sampled`.
    Sampled,
    /// `off`.
    Off,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// `address`.
    pub address: IpAddr,
    /// `weight`.
    pub weight: u16,
    /// `state`.
    pub state: &'static str,
    /// `share` in per cent.
    pub share: u8,
    /// `ports` of `dest-port`.
    pub ports: Vec<RangeInclusive<u16>>,
    /// `server_id`: its bytes.
    pub server_id: Vec<u8>,
}

/// `decap`.
#[derive(Clone, Debug)]
pub struct Decap {
    /// `accept` has `ipip`.
    pub ipip: bool,
    /// `accept` has `gue`.
    pub gue: bool,
    /// `gue_port`.
    pub gue_port: u16,
    /// `allow_sources`.
    pub allow: Vec<Prefix>,
    /// `vips`.
    pub vips: BTreeSet<IpAddr>,
}

impl File {
    /// Whether services are balanced at this address.
    pub(super) fn is_balanced(&self, address: IpAddr) -> bool {
        self.services.iter().any(|service| service.vips.contains(&address))
    }

    /// Whether tunnels may carry packets for this address to us.
    pub(super) fn is_decapped(&self, address: IpAddr) -> bool {
        self.decap.as_ref().is_some_and(|decap| decap.vips.contains(&address))
    }

    /// The service that takes a port of an address: an exact port beats a range, a range beats `all`.
    pub(super) fn service(&self, address: IpAddr, tcp: bool, port: u16) -> Option<&Service> {
        let wanted = self.services.iter().filter(|s| s.tcp == tcp && s.vips.contains(&address));
        wanted
            .filter_map(|service| Some((service.width(port)?, service)))
            .min_by_key(|(width, _)| *width)
            .map(|(_, s)| s)
    }

    /// The way to a backend.
    pub(super) fn way(&self, backend: IpAddr) -> Way {
        self.ways.get(&backend).copied().unwrap_or(LO)
    }

    /// The file's text.
    #[must_use]
    pub fn yaml(&self) -> String {
        let mut text = String::from("version: 1\nnode: { name: differential }\n");
        let mac = ROUTER.map(|byte| format!("{byte:02x}")).join(":");
        if self.is_balancer() {
            let _ =
                writeln!(text, "interfaces: [{{ name: lo, mode: generic, next_hop: {{ mac: \"{mac}\" }} }}]");
            let _ = writeln!(text, "encap: {}", self.encap);
            let _ = writeln!(text, "maglev: {{ table_size: 251, seed: {} }}", self.seed);
            let _ = writeln!(text, "flow_table: {{ entries: {} }}", self.flow_entries);
        }
        let _ = writeln!(
            text,
            "limits: {{ services: 31, vips: 64, backends: 1024, ring_slots: 65536, port_pages: 2048, \
             backend_stats: 64, server_ids: 256, source_ranges: 512, fragments: {} }}",
            self.fragment_entries
        );
        if self.is_balancer() {
            let passing = self.passing.iter().map(|a| format!("{{ address: \"{a}\", unmatched: pass }}"));
            let _ = writeln!(text, "vips: [{}]", list(passing));
            text.push_str(if self.services.is_empty() { "services: []\n" } else { "services:\n" });
            for service in &self.services {
                let _ = writeln!(text, "  - {service}");
            }
        }
        if let Some(decap) = &self.decap {
            let _ = writeln!(text, "decap: {decap}");
        }
        text
    }

    /// Whether it has services; without, it takes tunnels off or does nothing.
    pub(super) fn is_balancer(&self) -> bool {
        !self.services.is_empty() || self.decap.is_none()
    }
}

impl Service {
    /// How particular the claim to `port` is; less is more.
    fn width(&self, port: u16) -> Option<u8> {
        let Some(ports) = &self.ports else { return Some(2) };
        let exact = ports.contains(&(port..=port));
        let range = ports.iter().any(|range| range.contains(&port));
        if exact { Some(0) } else { range.then_some(1) }
    }

    /// Whether a client is let in: the longest prefix that holds it decides, else an empty `allow`.
    pub(super) fn lets_in(&self, client: IpAddr) -> bool {
        if self.sources.is_empty() {
            return true;
        }
        let holding = self.sources.iter().filter(|(prefix, _)| prefix.holds(client));
        match holding.max_by_key(|(prefix, _)| prefix.length) {
            // No IPv6 client has an IPv4 address (RFC 4942, section 2.2).
            _ if is_mapped(client) => false,
            Some((_, lets_in)) => *lets_in,
            None => !self.sources.values().any(|lets_in| *lets_in),
        }
    }

    pub(super) fn tracking(&self) -> Tracking {
        self.tracking.unwrap_or(if self.tcp { Tracking::Off } else { Tracking::Exact })
    }
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

impl Encap {
    /// What counts for a service that wrote `self` below a file's `below`.
    pub(super) fn or(&self, below: &Self) -> Self {
        Self {
            kind: self.kind.or(below.kind),
            source_v4: self.source_v4.or(below.source_v4),
            source_v6: self.source_v6.or(below.source_v6),
            dscp: self.dscp.or(below.dscp),
            mtu: self.mtu.or(below.mtu),
        }
    }
}

impl Display for Encap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut keys = Vec::new();
        match self.kind {
            None => {}
            Some(Kind::Ipip) => keys.push("kind: ipip".to_owned()),
            Some(Kind::Gue { port, variant }) => {
                keys.push(format!("kind: gue, gue: {{ port: {port}, variant: {variant} }}"));
            }
        }
        keys.extend(self.source_v4.map(|prefix| format!("source_v4: {prefix}")));
        keys.extend(self.source_v6.map(|prefix| format!("source_v6: {prefix}")));
        keys.extend(self.dscp.map(|dscp| format!("dscp: {}", dscp.map_or("copy".into(), |d| d.to_string()))));
        keys.extend(self.mtu.map(|mtu| format!("mtu: {}", mtu.map_or("auto".into(), |m| m.to_string()))));
        write!(f, "{{ {} }}", keys.join(", "))
    }
}

impl Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vips = list(self.vips.iter().map(|vip| format!("\"{vip}\"")));
        let protocol = if self.tcp { "tcp" } else { "udp" };
        let ports = self.ports.as_ref().map_or("all".to_owned(), |ports| ranges(ports));
        write!(f, "{{ name: {}, vip: [{vips}], protocol: {protocol}, ports: {ports}", self.name)?;
        match &self.affinity {
            Affinity::FiveTuple => {}
            Affinity::ClientIp => f.write_str(", affinity: client-ip")?,
            Affinity::DestPort => f.write_str(", affinity: dest-port")?,
            Affinity::IceUfrag => f.write_str(", affinity: ice-ufrag")?,
            Affinity::QuicCid { config_ids, nonce, length_encoded } => {
                let ids = match &config_ids[..] {
                    [] => "any".to_owned(),
                    ids => format!("[{}]", list(ids.iter())),
                };
                write!(
                    f,
                    ", affinity: quic-cid, quic_cid: {{ config_ids: {ids}, nonce: {nonce}, length_encoded: {length_encoded} }}"
                )?;
            }
        }
        if self.drops_fragments {
            f.write_str(", fragments: drop")?;
        }
        match self.tracking {
            None => {}
            Some(Tracking::Exact) => f.write_str(", tracking: exact")?,
            Some(Tracking::Sampled) => f.write_str(", tracking: sampled")?,
            Some(Tracking::Off) => f.write_str(", tracking: off")?,
        }
        write!(
            f,
            ", flow_timeout: {}ms, new_flow_limit: {}",
            self.flow_timeout.as_millis(),
            self.new_flow_limit
        )?;
        write!(f, ", table_size: {}, encap: {}", self.table_size, self.encap)?;
        if !self.sources.is_empty() {
            let of = |side| {
                list(self.sources.iter().filter(move |(_, lets_in)| **lets_in == side).map(|(p, _)| p))
            };
            write!(f, ", source_ranges: {{ allow: [{}], deny: [{}] }}", of(true), of(false))?;
        }
        let server_id = |id: &[u8]| match self.affinity {
            Affinity::IceUfrag => String::from_utf8_lossy(id).into_owned(),
            _ => id.iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        let backends = self.backends.iter().map(|b| {
            let mut text = format!(
                "{{ address: \"{}\", weight: {}, state: {}, share: {}%",
                b.address, b.weight, b.state, b.share
            );
            if !b.ports.is_empty() {
                let _ = write!(text, ", ports: {}", ranges(&b.ports));
            }
            if !b.server_id.is_empty() {
                let _ = write!(text, ", server_id: \"{}\"", server_id(&b.server_id));
            }
            text + " }"
        });
        write!(f, ", backends: [{}] }}", list(backends))
    }
}

impl Display for Decap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let accept =
            [(self.ipip, "ipip"), (self.gue, "gue")].into_iter().filter_map(|(on, kind)| on.then_some(kind));
        write!(f, "{{ interfaces: [{{ name: lo, mode: generic }}], accept: [{}]", list(accept))?;
        write!(f, ", gue_port: {}, allow_sources: [{}]", self.gue_port, list(self.allow.iter()))?;
        let vips = list(self.vips.iter().map(|vip| format!("\"{vip}\"")));
        write!(f, ", vips: [{vips}], vip_on_lo: false }}")
    }
}

fn list(items: impl Iterator<Item = impl Display>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

fn ranges(ports: &[RangeInclusive<u16>]) -> String {
    let port = |range: &RangeInclusive<u16>| match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("\"{first}-{last}\""),
    };
    format!("[{}]", list(ports.iter().map(port)))
}
