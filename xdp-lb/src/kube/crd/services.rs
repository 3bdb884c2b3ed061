//! Schema of `services` in an EdgeConfig: the file's section, key by key.
//!
//! What may be one or a list of several has no type in a schema, and rules in CEL do not see it: its pattern and its
//! bounds are all that the API server knows.

use serde_json::{Value, json};

use super::schema::{
    Family, Key, Own, address, boolean, choice, duration, either, integer, key, list, number_or, object,
    rule, text,
};
use super::sections::encap;

/// Lists with a rule for each item: more would cost the API server too much by its own estimate.
const SERVICES: u32 = 256;
const BACKENDS: u32 = 512;
const PREFIXES: u32 = 4096;

/// `services`.
pub(super) fn services() -> Value {
    let mut services = list(service(), SERVICES);
    services["x-kubernetes-list-type"] = "map".into();
    services["x-kubernetes-list-map-keys"] = json!(["name"]);
    services
}

fn service() -> Value {
    let by_id = "has(self.affinity) && self.affinity in ['quic-cid', 'ice-ufrag']";
    let service = object(keys());
    let service = rule(
        service,
        &format!("!({by_id}) || self.protocol == 'udp'"),
        "affinity quic-cid and ice-ufrag are for protocol udp",
    );
    let service = rule(
        service,
        "!has(self.quic_cid) || has(self.affinity) && self.affinity == 'quic-cid'",
        "quic_cid has no meaning without affinity quic-cid",
    );
    rule(
        service,
        &format!("self.backends.all(backend, has(backend.server_id) == ({by_id}))"),
        "server_id is for affinity quic-cid and ice-ufrag, where each backend needs one",
    )
}

fn keys() -> [Key; 20] {
    let label = || text(r"^\S+$", 63);
    let drain = object([
        key("mode", choice(&["stick", "shed"]), "Known flows stay, or move at once. Default: stick."),
        key("max", duration("1s", "720h"), "How long flows may stay. Default: 5h."),
    ]);
    let prefixes = || list(text("^[0-9a-fA-F.:]+/[0-9]{1,3}$", 64), PREFIXES);
    let source_ranges = object([
        key("allow", prefixes(), "Prefixes that are let in. Default: all."),
        key("deny", prefixes(), "Prefixes that are kept out."),
    ]);
    let zone_policy = object([
        key("prefer", choice(&["local"]), "Backends of the node's zone come first.").required(),
        key("spill_below", share(), "Others come in below this part of the zone's weight. Default: 50%."),
    ]);
    let when = object([key("min_healthy", integer(1, 4095), "While so many are.").required()]);
    let advertise = object([key(
        "when",
        either(when, "^(always|any-healthy)$"),
        "always, any-healthy, or a mapping with min_healthy. Default: any-healthy.",
    )]);
    [
        key("name", label(), "The service's identity. Unique.").required(),
        key("vip", one_or_more(text("^[0-9a-fA-F.:]+$", 64)), "Its address, or a list of them.").required(),
        key("protocol", choice(&["tcp", "udp"]), "Its protocol.").required(),
        key("ports", ports(true), "A port, a range as in 5060-5070, a list of these, or all.").required(),
        key(
            "affinity",
            choice(&["five-tuple", "client-ip", "dest-port", "quic-cid", "ice-ufrag"]),
            "What decides which packets belong together. Default: five-tuple.",
        ),
        key("quic_cid", quic_cid(), "How the backends make their connection ids."),
        key("fragments", choice(&["forward", "drop"]), "Fragments. Default: forward."),
        key(
            "tracking",
            choice(&["exact", "sampled", "off"]),
            "What is remembered on slots that no change has touched. Default: off for TCP, exact for UDP.",
        ),
        key(
            "flow_timeout",
            duration("1s", "2h10m"),
            "How long a silent flow is remembered. Default: 2h5m for TCP, 5m for UDP.",
        ),
        key(
            "new_flow_limit",
            integer(0, 100_000_000),
            "Flows a second that a node remembers. Default: 100000.",
        ),
        key("table_size", integer(3, 131_071), "Slots, a prime number. Default: that of maglev."),
        key("drain", drain, "What happens to the flows of a backend that is drained or removed."),
        key("encap", encap(), "Overrides single keys of encap."),
        key("health_check", health_check(), "How backends are asked whether they live. Default: not at all."),
        key("on_all_down", choice(&["keep", "drop"]), "While no backend answers. Default: keep."),
        key("backends", backends(), "Who serves it.").required(),
        key("advertise", advertise, "When it wants its addresses announced."),
        key("source_ranges", source_ranges, "Clients that are let in. Default: all."),
        key("slow_start", duration("1s", "24h"), "Over what time a backend that comes back takes its part."),
        key("zone_policy", zone_policy, "Backends of the node's zone come first."),
    ]
}

fn backends() -> Value {
    let backend = object([
        key("address", address(Family::Any, Own::No), "Where the tunnel ends.").required(),
        key("weight", integer(0, 1000), "Part of the slots, relative to the others. Default: 100."),
        key("zone", text(r"^\S+$", 63), "The zone it is in."),
        key("state", choice(&["active", "drain", "down"]), "Default: active."),
        key("share", share(), "Part of its own slots that it takes, as in 10%. Default: 100%."),
        key("ports", ports(false), "Its slice of the ports, of affinity dest-port."),
        key(
            "server_id",
            text("^[0-9a-zA-Z+/]+$", 16),
            "Its mark, of affinity quic-cid (hexadecimal) and ice-ufrag.",
        ),
        key("backup", boolean(), "Takes flows only while no other does. Default: false."),
    ]);
    let mut backends = list(backend, BACKENDS);
    backends["x-kubernetes-list-type"] = "map".into();
    backends["x-kubernetes-list-map-keys"] = json!(["address"]);
    backends
}

fn quic_cid() -> Value {
    let mut ids = one_or_more(integer(0, 6));
    ids["pattern"] = "^(any|[0-6])$".into();
    object([
        key("config_ids", ids, "First three bits of the ids: any, or one or more of 0 to 6. Default: any."),
        key("nonce", integer(4, 18), "Fewest bytes behind the server id. Default: 4."),
        key("length_encoded", boolean(), "The first byte holds the length of the rest. Default: false."),
    ])
}

fn health_check() -> Value {
    let check = object([
        key(
            "kind",
            choice(&["tcp", "http", "https", "udp", "stun", "sip-options", "none"]),
            "What is asked.",
        )
        .required(),
        key("interval", duration("100ms", "1h"), "From one question to the next. Default: 2s."),
        key("timeout", duration("10ms", "1m"), "How long an answer may take. Default: 1s, or the interval."),
        key("rise", integer(1, 100), "Good answers in a row that make a backend up. Default: 2."),
        key("fall", integer(1, 100), "Bad answers in a row that make it down. Default: 3."),
        key("via", choice(&["tunnel", "direct"]), "As clients' packets go, or not. Default: tunnel."),
        key("port", integer(1, 65_535), "Port that is asked. Default: the service's first."),
        key("path", text("^/[!-~]*$", 1024), "Of http and https. Default: /."),
        key("host", text(r"^\S+$", 63), "Of http, https and sip-options. Default: the address."),
        key("payload", text("^.", 2402), "Text of a datagram, or bytes as 0x...."),
        key(
            "expect",
            number_or("^.+$", 100),
            "Status or range, as in 200-399; of udp, what the answer must hold.",
        ),
    ]);
    let rules = [
        (
            "!has(self.timeout) || duration(self.timeout) <= duration(has(self.interval) ? self.interval : '2s')",
            "timeout must not be longer than interval",
        ),
        ("has(self.payload) == (self.kind == 'udp')", "payload is for kind udp, which needs it"),
        ("!has(self.path) || self.kind in ['http', 'https']", "path is for kind http and https"),
        (
            "!has(self.host) || self.kind in ['http', 'https', 'sip-options']",
            "host is for kind http, https and sip-options",
        ),
        (
            "!has(self.expect) || self.kind in ['http', 'https', 'sip-options', 'udp']",
            "expect is for kind http, https, sip-options and udp",
        ),
        (
            "!has(self.expect) || self.kind != 'udp' || type(self.expect) == string",
            "expect of kind udp is text",
        ),
    ];
    rules.into_iter().fold(check, |check, (test, message)| rule(check, test, message))
}

/// `10%`, or a part of one.
fn share() -> Value {
    json!({ "x-kubernetes-preserve-unknown-fields": true, "minimum": 0, "maximum": 1, "maxItems": 0, "maxProperties": 0,
        "pattern": r"^[0-9]+(\.[0-9]*)? ?%?$" })
}

/// Ports and ranges of them.
fn ports(all: bool) -> Value {
    let port = number_or("^[0-9]{1,5}(-[0-9]{1,5})?$", 1);
    let mut ports = one_or_more(port);
    ports["minimum"] = 1.into();
    ports["maximum"] = 65_535.into();
    ports["items"]["maximum"] = 65_535.into();
    if all {
        ports["pattern"] = "^(all|[0-9]{1,5}(-[0-9]{1,5})?)$".into();
    }
    ports
}

/// One, or a list of several, each of the same kind.
fn one_or_more(item: Value) -> Value {
    let mut schema = json!({ "x-kubernetes-preserve-unknown-fields": true, "minItems": 1, "maxItems": 256, "maxProperties": 0 });
    for bound in ["pattern", "minLength", "maxLength", "minimum", "maximum"] {
        if let Some(value) = item.get(bound) {
            schema[bound] = value.clone();
        }
    }
    schema["items"] = item;
    schema
}
