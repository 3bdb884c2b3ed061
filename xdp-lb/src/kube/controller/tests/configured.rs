//! What an EdgeConfig and a BgpPeer say of themselves.

use serde_json::{Value, json};

use super::stand::Stand;

fn resource(kind: &str, name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "xdp-lb.io/v1alpha1", "kind": kind, "metadata": { "name": name, "generation": 3 }, "spec": spec })
}

#[test]
fn a_mistake_is_in_the_condition_until_it_is_mended() {
    let peer = json!({ "address": "10.0.0.1", "remote_as": 65001, "hold_time": "9m", "interface": "eth0/1" });
    let mut stand = Stand::new(&[
        resource("EdgeConfig", "edge", json!({ "maglev": { "table_size": 4093 } })),
        resource("BgpPeer", "leaf", peer),
    ]);
    assert_eq!(stand.settle(1000), [""; 0], "no Events");
    assert_eq!(stand.conditions("edge"), ["Ready True Valid:  @1000"]);
    let said = stand.conditions("leaf");
    assert!(
        said.len() == 1
            && said[0].starts_with("Ready False Invalid: spec.interface: must be an interface name"),
        "{said:?}"
    );
    assert!(said[0].ends_with("@1000"), "{said:?}");
    stand.restart();
    assert_eq!(stand.pending(2000), 0, "all is said");

    stand.put(resource("BgpPeer", "leaf", json!({ "address": "10.0.0.1", "remote_as": 65001 })));
    stand.put(resource("EdgeConfig", "edge", json!({ "maglev": { "table_size": 4091 } })));
    stand.settle(3000);
    assert_eq!(stand.conditions("leaf"), ["Ready True Valid:  @3000"]);
    stand.remove("leaf");
    assert_eq!(stand.pending(4000), 0);
}
