//! Services that name one list of backends by an alias: one list in memory, and mistakes under each that makes them.

use super::{edge, errors, good};

/// Services with the first one's backends, `more` in each of them.
fn three(backends: &str, more: [&str; 3]) -> String {
    let [a, b, c] = more;
    edge(&format!(
        "  - {{ name: a, vip: 203.0.113.1, protocol: tcp, ports: 80{a}, backends: &list [{backends}] }}\n  \
         - {{ name: b, vip: 203.0.113.2, protocol: tcp, ports: 80{b}, backends: *list }}\n  \
         - {{ name: c, vip: 203.0.113.3, protocol: udp, ports: 80{c}, backends: *list }}\n"
    ))
}

const TWO: &str = "{ address: 10.0.0.2 }, { address: 10.0.0.1, weight: 50 }";

#[test]
fn a_list_is_one() {
    let checked = good(&three(TWO, ["", ", affinity: client-ip", ""]));
    let [a, b, c] = &checked.desired.services[..] else { panic!("{:?}", checked.desired.services) };
    assert!(a.backends.is_same(&b.backends) && a.backends.is_same(&c.backends));
    assert_eq!(a.backends.iter().map(|backend| backend.weight).collect::<Vec<_>>(), [50, 100]);
}

/// Paths of the mistakes in the order of the text: an alias's are where its anchor is.
fn paths(text: &str, what: &str) -> Vec<String> {
    let mut paths: Vec<String> = errors(text)
        .into_iter()
        .map(|error| {
            assert!(error.message.contains(what), "{error}");
            error.path
        })
        .collect();
    paths.sort();
    paths
}

#[test]
fn a_mistake_in_it_is_each_service_s() {
    let everywhere = |rest: &str| -> Vec<String> {
        (0..3).map(|service| format!("services[{service}].backends{rest}")).collect()
    };
    assert_eq!(
        paths(&three("{ address: 10.0.0.1, weight: 1001 }", [""; 3]), "1000"),
        everywhere("[0].weight")
    );
    // Found when all have been read.
    assert_eq!(paths(&three("{ address: 203.0.113.2 }", [""; 3]), "also a VIP"), everywhere("[0].address"));
    let far = "{ address: \"2001:db8::1\" }";
    let no_source = three(far, [""; 3]).replace(", source_v6: \"fd00::/64\"", "");
    assert_eq!(paths(&no_source, "needs an IPv6 outer source"), everywhere("[0].address"));
}

/// Only the services that let backends claim something ask what they claim.
#[test]
fn claims_are_each_service_s_own() {
    let missing = paths(&three(TWO, ["", "", ", affinity: dest-port"]), "needs `ports");
    assert_eq!(missing, ["services[2].backends[0].address", "services[2].backends[1].address"]);
    let misplaced = "{ address: 10.0.0.1, ports: 80 }";
    let misplaced = paths(&three(misplaced, ["", "", ", affinity: dest-port"]), "has no meaning without");
    assert_eq!(misplaced, ["services[0].backends[0].ports", "services[1].backends[0].ports"]);
}
