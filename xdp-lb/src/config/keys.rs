//! Every key a file may hold, section by section: the one list behind "unknown key", "not supported yet", the
//! suggestions and the check that docs/configuration.md is complete. Read by [`super::reader`].

/// The keys of one kind of mapping.
#[derive(Debug)]
pub(super) struct Section {
    /// Where it stands, `services[].backends[]`; empty for the top level.
    pub path: &'static str,
    /// Its keys in the order of the documentation.
    pub keys: &'static [Key],
}

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    pub name: &'static str,
    pub support: Support,
}

/// Whether this release acts on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Support {
    Now,
    /// Promised, so known, and refused rather than ignored.
    Later,
}

const fn now(name: &'static str) -> Key {
    Key { name, support: Support::Now }
}

#[expect(dead_code, reason = "nothing is promised and not yet done")]
const fn later(name: &'static str) -> Key {
    Key { name, support: Support::Later }
}

macro_rules! sections {
    ($($id:ident $path:literal [$($key:expr),* $(,)?])*) => {
        $(pub(super) static $id: Section = Section { path: $path, keys: &[$($key),*] };)*
        /// All of them.
        pub(super) static ALL: &[&Section] = &[$(&$id),*];
    };
}

sections! {
    ROOT "" [
        now("version"), now("node"), now("interfaces"), now("encap"), now("maglev"), now("flow_table"),
        now("limits"), now("metrics"), now("log"), now("vips"), now("services"), now("decap"),
        now("bgp"), now("peers"), now("admin"), now("kubernetes"),
    ]
    NODE "node" [now("name"), now("zone")]
    INTERFACE "interfaces[]" [now("name"), now("mode"), now("next_hop")]
    NEXT_HOP "interfaces[].next_hop" [now("mac")]
    ENCAP "encap" [
        now("kind"), now("gue"), now("source_v4"), now("source_v6"), now("dscp"), now("mtu"),
    ]
    ENCAP_GUE "encap.gue" [now("port"), now("variant")]
    MAGLEV "maglev" [now("table_size"), now("seed")]
    FLOW_TABLE "flow_table" [now("entries"), now("track_window")]
    LIMITS "limits" [
        now("services"), now("vips"), now("backends"), now("ring_slots"), now("port_pages"),
        now("server_ids"), now("source_ranges"), now("fragments"), now("backend_stats"),
        now("pod_ports"), now("pod_flows"),
    ]
    METRICS "metrics" [now("listen"), now("per_backend")]
    KUBERNETES "kubernetes" [
        now("enabled"), now("kubeconfig"), now("load_balancer_class"), now("classless"), now("delivery"), now("hints"),
        now("edge_nodes"), now("namespace"),
    ]
    PEERS "peers" [now("listen"), now("key_file"), now("nodes")]
    LOG "log" [now("format"), now("level")]
    ADMIN "admin" [now("socket"), now("group")]
    VIP "vips[]" [now("address"), now("unmatched"), now("advertise"), now("bgp")]
    VIP_BGP "vips[].bgp" [
        now("communities"), now("large_communities"), now("med"), now("local_pref"), now("prepend"),
    ]
    SERVICE "services[]" [
        now("name"), now("vip"), now("protocol"), now("ports"), now("affinity"), now("quic_cid"), now("fragments"),
        now("tracking"), now("flow_timeout"), now("new_flow_limit"), now("table_size"), now("drain"), now("encap"),
        now("health_check"), now("on_all_down"), now("backends"), now("advertise"), now("source_ranges"),
        now("zone_policy"), now("slow_start"),
    ]
    ADVERTISE "services[].advertise" [now("when")]
    ADVERTISE_WHEN "services[].advertise.when" [now("min_healthy")]
    SERVICE_ENCAP "services[].encap" [
        now("kind"), now("gue"), now("source_v4"), now("source_v6"), now("dscp"), now("mtu"),
    ]
    SERVICE_ENCAP_GUE "services[].encap.gue" [now("port"), now("variant")]
    QUIC_CID "services[].quic_cid" [now("config_ids"), now("nonce"), now("length_encoded")]
    SOURCE_RANGES "services[].source_ranges" [now("allow"), now("deny")]
    DRAIN "services[].drain" [now("mode"), now("max")]
    ZONE_POLICY "services[].zone_policy" [now("prefer"), now("spill_below")]
    HEALTH_CHECK "services[].health_check" [
        now("kind"), now("interval"), now("timeout"), now("rise"), now("fall"), now("via"), now("port"), now("path"),
        now("host"), now("payload"), now("expect"),
    ]
    BACKEND "services[].backends[]" [
        now("address"), now("weight"), now("zone"), now("state"), now("share"),
        now("ports"), now("server_id"), now("backup"),
    ]
    BGP "bgp" [
        now("local_as"), now("router_id"), now("peers"), now("graceful_restart"), now("restart_time"),
        now("withdraw_grace"), now("drain_time"), now("drain"), now("on_stop"), now("communities"),
        now("large_communities"), now("med"), now("local_pref"), now("prepend"), now("aggregates"), now("status_file"),
    ]
    BGP_DRAIN "bgp.drain" [now("prepend"), now("med"), now("graceful_shutdown")]
    BGP_AGGREGATE "bgp.aggregates[]" [now("prefix"), now("advertise"), now("host_routes")]
    BGP_PEER "bgp.peers[]" [
        now("address"), now("remote_as"), now("port"), now("password_file"), now("password_secret"), now("hold_time"),
        now("send_hold_time"), now("multihop"), now("gtsm"), now("source"), now("interface"), now("families"), now("next_hop_v4"),
        now("next_hop_v6"), now("communities"), now("large_communities"), now("med"), now("local_pref"),
        now("prepend"), now("max_received"), now("bfd"),
    ]
    BGP_PASSWORD_SECRET "bgp.peers[].password_secret" [now("name"), now("key")]
    BGP_BFD "bgp.peers[].bfd" [now("interval"), now("multiplier")]
    DECAP "decap" [
        now("interfaces"), now("accept"), now("gue_port"), now("mss"), now("allow_sources"), now("vips"),
        now("vip_on_lo"), now("translate"),
    ]
    DECAP_TRANSLATE "decap.translate[]" [
        now("vip"), now("protocol"), now("port"), now("target_port"), now("pods"),
    ]
    DECAP_INTERFACE "decap.interfaces[]" [now("name"), now("mode")]
}

impl Section {
    /// The key of that name.
    pub fn find(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// What the writer of an unknown key may have meant, as the end of a sentence.
    pub fn suggest(&self, unknown: &str) -> String {
        let nearest = self.keys.iter().map(|key| (distance(key.name, unknown), key.name)).min();
        if let Some((_, name)) = nearest.filter(|(d, name)| *d <= name.len() / 3 + 1 && *d < name.len()) {
            return format!("did you mean `{name}`?");
        }
        let elsewhere = |s: &&&Section| s.find(unknown).is_some();
        if let Some(section) = ALL.iter().find(elsewhere) {
            let place = if section.path.is_empty() { "the top level" } else { section.path };
            return format!("`{unknown}` belongs to {place}");
        }
        let names: Vec<_> =
            self.keys.iter().filter(|key| key.support == Support::Now).map(|key| key.name).collect();
        format!("known here: {}", names.join(", "))
    }
}

/// Edit distance (Levenshtein) between a known key and whatever was written, cheap for absurdly long input.
fn distance(known: &str, written: &str) -> usize {
    let written: Vec<char> = written.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=written.len()).collect();
    for (i, a) in known.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in written.iter().enumerate() {
            let change = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[written.len()]
}
