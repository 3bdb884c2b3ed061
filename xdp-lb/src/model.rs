//! What the operator wants, after the configuration has been checked: the desired state.
//!
//! `config` builds it, everything behind it (plan, explain, status) reads it. Wrong states are hard to
//! write here: a prime is a [`TableSize`], a share is a [`Share`], ports never overlap inside a service.

mod backends;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use xdp_lb_common::{quic, server_id::ServerId};

pub use self::backends::{Backends, share_lists};
use crate::bgp::settings::{Bgp, Join, Overrides};
use crate::health::{Check, OnAllDown};

/// The whole of one configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Who this node is.
    pub node: Node,
    /// Interfaces that get the program, in the file's order.
    pub interfaces: Vec<Interface>,
    /// Seed of the flow hash and of the Maglev tables; equal on all edge nodes.
    pub seed: u64,
    /// Size of the flow table and the length of a tracking window.
    pub flow_table: FlowTable,
    /// Sizes of the kernel's tables, fixed while they live.
    pub limits: Limits,
    /// Where counters are told to a Prometheus.
    pub metrics: Metrics,
    /// The other edge nodes that are told of flows they cannot guess.
    pub peers: Option<Peers>,
    /// What the agent writes to stderr.
    pub log: Log,
    /// Where commands are taken.
    pub admin: Admin,
    /// What belongs to an address rather than a service: exactly one entry for every VIP in use.
    pub vips: Vec<Vip>,
    /// The services in the file's order.
    pub services: Vec<Service>,
    /// The backend side, when this node also takes tunnels off.
    pub decap: Option<Decap>,
    /// Whom the VIPs are announced to, and when.
    pub bgp: Option<Bgp>,
    /// The cluster whose services stand beside the file's.
    pub kubernetes: Option<Kubernetes>,
    /// What services from elsewhere than the file find in it.
    pub inherited: Inherited,
}

/// `kubernetes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// How the API server is reached; as the pod's service account without.
    pub kubeconfig: Option<PathBuf>,
    /// `loadBalancerClass` of the services that are ours.
    pub class: String,
    /// Services of type `LoadBalancer` without a class are ours, too.
    pub classless: bool,
    /// Where tunnels end, unless a Service says otherwise.
    pub delivery: Delivery,
    /// Endpoints that are hinted for other zones than the node's take no new flows.
    pub hints: bool,
    /// Label selector of the Nodes whose tunnels a backend's node takes off.
    pub edge_nodes: String,
    /// Where Secrets are; the client's own namespace without.
    pub namespace: Option<String>,
}

/// Where tunnels end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// At the node, whose service proxy hands packets to a pod of its own.
    #[default]
    Node,
    /// At the pod's own address; its node translates.
    Pod,
    /// At the node, where pods with `hostNetwork` listen on the VIP itself.
    Host,
}

/// What services that another source describes take from the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// `encap`.
    pub encap: Encap,
    /// `maglev.table_size`.
    pub table_size: TableSize,
    /// `node.zone`.
    pub zone: Option<String>,
    /// `vips`, those that no service of the file uses included, by address.
    pub policies: BTreeMap<IpAddr, Policy>,
}

/// An entry of `vips`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// What happens to a packet for no service.
    pub unmatched: Unmatched,
    /// Whether all services or any must want the announcement.
    pub join: Join,
    /// What its route says.
    pub attributes: Overrides,
}

impl Desired {
    /// Whether this is an edge node. A cluster beside `decap` without `interfaces` is there for the backend side.
    #[must_use]
    pub fn balances(&self) -> bool {
        let cluster = self.kubernetes.is_some() && (self.decap.is_none() || !self.interfaces.is_empty());
        !self.services.is_empty() || cluster
    }

    /// Pods of this node, as far as it knows where a VIP's port leads at them.
    #[must_use]
    pub fn own_pods(&self) -> BTreeSet<IpAddr> {
        self.decap.iter().flat_map(|decap| &decap.translate).map(|port| port.pod).collect()
    }

    /// Who is at an address: places in `services`, by protocol, TCP first.
    #[must_use]
    pub fn listeners(&self) -> HashMap<IpAddr, [Vec<usize>; 2]> {
        let mut listeners: HashMap<IpAddr, [Vec<usize>; 2]> = HashMap::new();
        for (place, service) in self.services.iter().enumerate() {
            for &vip in &service.vips {
                let [tcp, udp] = listeners.entry(vip).or_default();
                if service.protocol == Protocol::Tcp { tcp.push(place) } else { udp.push(place) }
            }
        }
        listeners
    }
}

/// Identity of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Name shown to people; the host name when empty.
    pub name: String,
    /// Zone of this node.
    pub zone: Option<String>,
}

/// One interface that gets an XDP program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Kernel name.
    pub name: String,
    /// How the program is attached.
    pub mode: AttachMode,
    /// Where packets to backends leave.
    pub next_hop: NextHopSource,
}

/// How XDP is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver, or not at all.
    Native,
    /// In the stack, on any driver.
    Generic,
    /// In the driver if it can, else in the stack; the log says which.
    #[default]
    Auto,
}

/// Where the Ethernet header of a tunnelled packet comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NextHopSource {
    /// The kernel's routes and neighbours.
    #[default]
    Auto,
    /// Always this MAC, out of this interface.
    Mac([u8; 6]),
}

/// `flow_table`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTable {
    /// Entries of 8 bytes; a power of two, at least 1024.
    pub entries: u32,
    /// How long a planned change waits while flows of `sampled` and `off` UDP services are tracked exactly.
    pub track_window: Duration,
}

/// `limits`: table sizes given to the kernel when the maps are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Services, at most 16383.
    pub services: u32,
    /// VIPs (balanced and decapsulated together).
    pub vips: u32,
    /// Backends summed over rings.
    pub backends: u32,
    /// Ring slots summed over rings.
    pub ring_slots: u32,
    /// Port pages of 256 ports.
    pub port_pages: u32,
    /// First fragments remembered, a power of two.
    pub fragments: u32,
    /// {service, backend} pairs with counters of their own (`metrics.per_backend`).
    pub backend_stats: u32,
    /// Server ids summed over services.
    pub server_ids: u32,
    /// Prefixes of `source_ranges` summed over services.
    pub source_ranges: u32,
    /// VIPs' ports at pods of this node.
    pub pod_ports: u32,
    /// Flows of pods of this node.
    pub pod_flows: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            services: 4095,
            vips: 4096,
            backends: 16384,
            ring_slots: 4 << 20,
            port_pages: 16384,
            fragments: 1 << 16,
            backend_stats: 10_000,
            server_ids: 4096,
            source_ranges: 65_536,
            pod_ports: 4096,
            pod_flows: 65_536,
        }
    }
}

/// `metrics`, but for `per_backend`, which is one of the [`Limits`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Address and port of the endpoint; none listens without.
    pub listen: Option<SocketAddr>,
}

/// `peers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peers {
    /// Where the others tell us.
    pub listen: SocketAddr,
    /// The key that all of them share.
    pub key_file: PathBuf,
    /// The others, sorted; our own address is not among them.
    pub nodes: Vec<SocketAddr>,
}

/// `admin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// The Unix socket.
    pub socket: PathBuf,
    /// Who may use it besides its owner: a group's name or number.
    pub group: Option<String>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { socket: "/run/xdp-lb/admin.sock".into(), group: None }
    }
}

/// `log`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// One JSON object a line, or text for people.
    pub format: LogFormat,
    /// The least severe level that is written.
    pub level: LogLevel,
}

/// `log.format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For a log collector.
    Json,
}

/// `log.level`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Failures.
    Error,
    /// What should wake someone.
    Warn,
    /// Changes of state.
    #[default]
    Info,
    /// Decisions.
    Debug,
    /// Packets.
    Trace,
}

/// Policy of one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// The address.
    pub address: IpAddr,
    /// What happens to a packet for no service.
    pub unmatched: Unmatched,
}

/// Fate of a VIP packet that no service wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unmatched {
    /// Dropped and counted as `no_service`.
    #[default]
    Drop,
    /// Handed to the kernel.
    Pass,
}

/// Layer-4 protocol of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Ports of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// The whole address.
    All,
    /// Sorted, disjoint, never empty. Port 0 is no port. A range of one port is exact and beats longer ranges of
    /// other services; neighbours are not joined, for that would change which they are.
    Ranges(Vec<RangeInclusive<u16>>),
}

/// What decides which packets belong together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Affinity {
    /// Source and destination address and port, and the protocol.
    #[default]
    FiveTuple,
    /// The source address alone.
    ClientIp,
    /// The destination port: each backend owns a slice of the service's ports.
    DestPort,
    /// The server id in a QUIC connection id, else as [`Self::FiveTuple`].
    QuicCid,
    /// The server id in the ufrag of STUN Binding requests; what follows them goes the same way.
    IceUfrag,
}

impl Affinity {
    /// True when packets carry the ids of backends.
    #[must_use]
    pub fn has_server_ids(self) -> bool {
        matches!(self, Self::QuicCid | Self::IceUfrag)
    }
}

/// `quic_cid`: how the backends of a service make their connection ids (draft-ietf-quic-load-balancers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CidFormat {
    /// A bit for each configuration id that is theirs.
    pub config_ids: u8,
    /// Fewest bytes behind the server id.
    pub nonce: u8,
    /// The first byte says how long the rest is.
    pub length_encoded: bool,
}

impl Default for CidFormat {
    /// Whatever the draft allows.
    fn default() -> Self {
        Self { config_ids: quic::Config::ANY, nonce: quic::MIN_NONCE, length_encoded: false }
    }
}

/// `source_ranges`: network addresses and prefix lengths; the longest prefix wins, and none is in both lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceRanges {
    /// Who is let in; empty is everybody.
    pub allow: Vec<(IpAddr, u8)>,
    /// Who is kept out.
    pub deny: Vec<(IpAddr, u8)>,
}

impl SourceRanges {
    /// True when everybody is let in.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }
}

/// `fragments` of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragments {
    /// To the datagram's backend.
    #[default]
    Forward,
    /// Dropped and counted.
    Drop,
}

/// What is remembered on clean slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// Every packet looks up and is remembered.
    Exact,
    /// One packet in sixteen.
    Sampled,
    /// Dirty slots alone.
    Off,
}

/// What happens to the flows of a draining backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DrainPolicy {
    /// Known flows stay, or move at once.
    pub mode: DrainMode,
    /// How long flows may stay.
    pub max: Duration,
}

/// `drain.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DrainMode {
    /// Known flows keep their backend.
    #[default]
    Stick,
    /// Every flow moves at once.
    Shed,
}

/// `zone_policy` with `prefer: local`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZonePolicy {
    /// As long as so much of the own zone's weight is healthy, others get nothing; never 0.
    pub spill_below: Share,
}

/// What becomes of a backend that is no longer listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Removal {
    /// It drains as [`DrainPolicy`] says, and is then forgotten: somebody has edited a file.
    #[default]
    Drain,
    /// It is dead, its flows move at once: who keeps the list says so long before the end.
    Down,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Unique name, at most 63 bytes; the service's identity across reloads.
    pub name: String,
    /// Addresses, sorted, unique, never empty.
    pub vips: Vec<IpAddr>,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Ports.
    pub ports: Ports,
    /// What belongs together.
    pub affinity: Affinity,
    /// Connection ids, with [`Affinity::QuicCid`].
    pub cid: CidFormat,
    /// Which clients are let in.
    pub source_ranges: SourceRanges,
    /// What becomes of fragments.
    pub fragments: Fragments,
    /// What is remembered.
    pub tracking: Tracking,
    /// How long a silent flow is remembered; at most 2 h 10 min.
    pub flow_timeout: Duration,
    /// New flows a second remembered on this node.
    pub new_flow_limit: u32,
    /// Slots of the Maglev table.
    pub table_size: TableSize,
    /// Drain policy.
    pub drain: DrainPolicy,
    /// What leaving the list means.
    pub removal: Removal,
    /// How long the gate of a backend that has come back takes to open; zero: at once.
    pub slow_start: Duration,
    /// Tunnel header.
    pub encap: Encap,
    /// How backends are asked whether they live; `None`: they are what `state` says.
    pub health: Option<Check>,
    /// What becomes of the service while no backend answers.
    pub on_all_down: OnAllDown,
    /// Whether backends of the node's own zone come first.
    pub zone_policy: Option<ZonePolicy>,
    /// Configured backends, sorted by address; an empty list is a service that drops.
    pub backends: Backends,
}

/// A prime number of Maglev slots, 3..=131071.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableSize(u32);

impl TableSize {
    /// The paper's small table, enough for a few hundred backends.
    pub const DEFAULT: Self = Self(65537);

    /// Checks that `n` is a prime in range.
    #[must_use]
    pub fn new(n: u32) -> Option<Self> {
        let prime = (3..=131_071).contains(&n)
            && n % 2 == 1
            && (3..).step_by(2).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d));
        prime.then_some(Self(n))
    }

    /// The number of slots.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

/// One backend of one service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Backend {
    /// Where the tunnel ends.
    pub address: IpAddr,
    /// Relative weight in the Maglev table, 0..=1000; 0 takes no slots.
    pub weight: u16,
    /// Zone it runs in.
    pub zone: Option<String>,
    /// The operator's word on it.
    pub state: AdminState,
    /// Its gate: the part of its home slots that it takes.
    pub share: Share,
    /// Ports that it owns, with [`Affinity::DestPort`]: sorted, disjoint, nobody else's.
    pub slice: Vec<RangeInclusive<u16>>,
    /// Its id in packets, where the affinity looks for one: unique in the service.
    pub server_id: Option<ServerIdBytes>,
    /// It takes flows only while no other does.
    pub backup: bool,
}

/// A server id of one to eight bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerIdBytes {
    /// Number of bytes, 1..=8; the same for all backends of a service.
    pub len: u8,
    /// The bytes as packets are asked for them.
    pub id: ServerId,
}

impl ServerIdBytes {
    /// `None` when there is none or more than eight bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        Some(Self { len: u8::try_from(bytes.len()).ok()?, id: ServerId::new(bytes)? })
    }
}

/// `state` of a backend in the file, or what a command makes of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AdminState {
    /// Takes flows.
    #[default]
    Active,
    /// Takes no new flows; known ones by the service's `drain`.
    Drain,
    /// The same by a policy of its own: a command said so.
    DrainBy(DrainPolicy),
    /// Takes nothing.
    Down,
}

impl AdminState {
    /// By what it drains, if it does; `service` is the service's `drain`.
    #[must_use]
    pub fn drains_by(self, service: DrainPolicy) -> Option<DrainPolicy> {
        match self {
            Self::Drain => Some(service),
            Self::DrainBy(own) => Some(own),
            Self::Active | Self::Down => None,
        }
    }
}

/// A gate's opening, in 1/65536: 0 is closed, [`Share::FULL`] open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(u32);

impl Share {
    /// Closed.
    pub const NONE: Self = Self(0);
    /// Open for every slot.
    pub const FULL: Self = Self(1 << 16);

    /// From a part of 1, clamped to 0..=1.
    #[must_use]
    pub fn from_fraction(f: f64) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=65536")]
        Self((f.clamp(0.0, 1.0) * 65536.0).round() as u32)
    }

    /// So much of it.
    #[must_use]
    pub fn part(self, of: f64) -> Self {
        Self::from_fraction(self.fraction() * of)
    }

    /// As a part of 1.
    #[must_use]
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 65536.0
    }

    /// Opening in 1/65536.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

/// Outer header of a service's tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Encap {
    /// What is between the outer IP header and the inner one.
    pub kind: EncapKind,
    /// Prefix of the outer IPv4 source: network address and prefix length; host bits come from the flow.
    pub source_v4: Option<([u8; 4], u8)>,
    /// Prefix of the outer IPv6 source; at most the low 64 bits come from the flow.
    pub source_v6: Option<([u8; 16], u8)>,
    /// DSCP of the outer header.
    pub dscp: Dscp,
    /// Longest outer packet.
    pub mtu: Mtu,
}

/// `encap.mtu`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mtu {
    /// The MTU of the route to the backend, or of the interface.
    #[default]
    Auto,
    /// So many bytes, 576..=65535.
    Fixed(u16),
}

/// `encap.kind`, with what belongs to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EncapKind {
    /// Nothing.
    #[default]
    Ipip,
    /// UDP.
    Gue {
        /// Destination port.
        port: u16,
        /// Whether a GUE header follows.
        variant: GueVariant,
    },
}

/// `encap.gue.variant`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GueVariant {
    /// Variant 0: a header of four bytes.
    #[default]
    Header,
    /// Variant 1: no header, the inner version says what follows.
    Bare,
}

/// `encap.dscp`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dscp {
    /// The inner packet's.
    #[default]
    Copy,
    /// Always this one, 0..=63.
    Set(u8),
}

/// The backend side of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decap {
    /// Interfaces that get the program; empty in a file that also balances: the balancer's.
    pub interfaces: Vec<Interface>,
    /// IP in IP is taken off.
    pub ipip: bool,
    /// GUE to this port is taken off.
    pub gue: Option<u16>,
    /// Outer sources that may speak to us: network address and prefix length. Empty, and nobody let in, only while a cluster
    /// names none.
    pub allow_sources: Vec<(IpAddr, u8)>,
    /// Inner destinations that the node's own stack gets, sorted, unique. Empty only while a cluster names none, or in a file
    /// that says what is translated.
    pub vips: Vec<IpAddr>,
    /// VIPs' ports at pods of this node, sorted, unique but for the target.
    pub translate: Vec<PodPort>,
    /// Put VIPs on `lo` and take them away on detach.
    pub vip_on_lo: bool,
    /// Which of `vips`, sorted: the file's, and of a cluster's those that end at the host. Empty without `vip_on_lo`.
    pub on_lo: Vec<IpAddr>,
    /// What our side offers clients as the largest segment.
    pub mss: Mss,
}

/// One port of a VIP at one pod of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodPort {
    /// VIP, of the pod's family.
    pub vip: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// The VIP's port.
    pub port: u16,
    /// The pod's own address: where tunnels to it end.
    pub pod: IpAddr,
    /// What the pod listens on.
    pub target: u16,
}

/// `decap.mss`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mss {
    /// No more than fits the tunnel.
    #[default]
    Auto,
    /// What the server says.
    Off,
}
