//! What edge nodes say, said where the Service is.

use serde_json::{Value, json};

use super::stand::{Stand, pool};
use super::waiting;

const VIP: &str = "203.0.113.8";

/// An edge node that announces `addresses`; `without` with why not.
fn edge(name: &str, at: i64, addresses: &[&str], without: &[(&str, &str)]) -> Value {
    let without: Vec<Value> =
        without.iter().map(|(address, reason)| json!({ "address": address, "reason": reason })).collect();
    json!({ "apiVersion": "xdp-lb.io/v1alpha1", "kind": "EdgeNode", "metadata": { "name": name }, "spec": {},
        "status": { "renewed": format!("t{at}"), "version": "1", "remarked": 0,
            "bgp": { "sessions": "1/1", "announced": 0, "withdrawn": 0, "addresses": addresses, "without": without } } })
}

/// A Service with an address and two edge nodes that announce it, all said, at 1000.
fn stand() -> Stand {
    let mut stand =
        Stand::new(&[pool("public", json!({ "addresses": ["203.0.113.8/30"] })), waiting("web", json!({}))]);
    stand.settle(1000);
    stand.put(edge("edge-1", 1000, &[VIP], &[]));
    stand.put(edge("edge-2", 1000, &[VIP], &[]));
    stand.edges_are_listed();
    assert_eq!(stand.settle(1000), ["Announced: announced by 2 of 2 edge nodes"]);
    stand
}

/// The condition, by the end of its type.
fn condition(stand: &Stand, type_: &str) -> String {
    let all = stand.conditions("web");
    all.iter().find(|c| c.starts_with(&format!("xdp-lb.io/{type_} "))).cloned().unwrap_or_default()
}

#[test]
fn a_service_hears_who_announces_it() {
    let mut stand = stand();
    let wanted = "xdp-lb.io/Announced True Announced: announced by 2 of 2 edge nodes @1000";
    assert_eq!(condition(&stand, "Announced"), wanted);
    assert_eq!(condition(&stand, "Balanced"), "xdp-lb.io/Balanced True AsAsked:  @1000");
    assert_eq!(stand.pending(1001), 0, "all is said");
    stand.restart();
    assert_eq!(stand.pending(1002), 0, "nothing is known of edge nodes yet, and nothing is taken back");
    stand.edges_are_listed();
    assert_eq!(stand.pending(1003), 0);
}

#[test]
fn before_they_have_heard_of_it_nobody_is_alarmed() {
    let mut stand = stand();
    stand.put(waiting("late", json!({})));
    assert_eq!(stand.settle(1001), ["AddressAssigned: 203.0.113.9 assigned from pool public"]);
    let said = "announced by 0 of 2 edge nodes; edge-1, edge-2: has not heard of it yet";
    let late = stand.conditions("late");
    assert!(
        late.iter().any(|c| c == &format!("xdp-lb.io/Announced False Pending: {said} @1001")),
        "{late:?}"
    );
    stand.put(edge("edge-1", 1002, &[VIP, "203.0.113.9"], &[]));
    assert_eq!(
        stand.settle(1002),
        ["PartlyAnnounced: announced by 1 of 2 edge nodes; edge-2: has not heard of it yet"]
    );
}

#[test]
fn an_agent_that_is_replaced_changes_nothing_and_a_loss_is_told() {
    let mut stand = stand();
    let why = [(VIP, "web has 0 of 2 backends healthy")];
    stand.put(edge("edge-2", 1010, &[], &why));
    assert_eq!((stand.pending(1010), stand.wake(1010)), (0, Some(1030)));
    stand.put(edge("edge-2", 1012, &[VIP], &[]));
    assert_eq!(stand.pending(1030), 0, "it came back in time");

    stand.put(edge("edge-2", 1040, &[], &why));
    assert_eq!(stand.pending(1040), 0);
    stand.put(edge("edge-1", 1050, &[VIP], &[]));
    let one = "announced by 1 of 2 edge nodes; edge-2: web has 0 of 2 backends healthy";
    assert_eq!(stand.settle(1060), [format!("PartlyAnnounced: {one}")]);
    assert_eq!(
        condition(&stand, "Announced"),
        format!("xdp-lb.io/Announced True PartlyAnnounced: {one} @1000")
    );
    // Another reason is in the condition, and no Event.
    stand.put(edge("edge-2", 1061, &[], &[(VIP, "no interface is up")]));
    assert_eq!(stand.settle(1061), [] as [&str; 0]);
    assert!(condition(&stand, "Announced").contains("no interface is up"));

    stand.put(edge("edge-1", 1062, &[], &why));
    stand.put(edge("edge-2", 1062, &[], &why));
    let none = "announced by 0 of 2 edge nodes; edge-1, edge-2: web has 0 of 2 backends healthy";
    let mut said = stand.settle(1062);
    said.extend(stand.settle(1082));
    assert_eq!(said, [format!("NotAnnounced: {none}")]);
    assert!(condition(&stand, "Announced").ends_with("@1082"));
}

#[test]
fn who_says_nothing_does_not_count_and_who_goes_is_not_counted() {
    let mut stand = stand();
    assert_eq!(stand.wake(1001), Some(1060));
    stand.put(edge("edge-1", 1020, &[VIP], &[]));
    assert_eq!(stand.pending(1020), 0, "that it still holds is no news");
    assert_eq!(stand.pending(1059), 0);
    assert_eq!(stand.settle(1060), ["PartlyAnnounced: announced by 1 of 2 edge nodes; edge-2: says nothing"]);
    stand.remove("edge-2");
    assert_eq!(stand.settle(1061), ["Announced: announced by 1 of 1 edge node"]);
    stand.remove("edge-1");
    assert_eq!(stand.settle(1062), [] as [&str; 0]);
    assert_eq!(stand.conditions("web").len(), 2, "nobody is there who would: {:?}", stand.conditions("web"));
}

#[test]
fn addresses_that_differ_are_told_one_by_one() {
    let mut stand = stand();
    stand.put(pool("six", json!({ "addresses": ["2001:db8::8"] })));
    stand.patch(
        "web",
        json!({ "spec": { "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack" } }),
    );
    let said = stand.settle(1005);
    let words = "203.0.113.8 announced by 2 of 2 edge nodes, 2001:db8::8 announced by 0 of 2 edge nodes; edge-1, edge-2: has not \
         heard of it yet";
    assert_eq!(said[0], "AddressAssigned: 2001:db8::8 assigned from pool six");
    assert_eq!(said[1], format!("PartlyAnnounced: {words}"));
    assert!(condition(&stand, "Announced").starts_with("xdp-lb.io/Announced False PartlyAnnounced"));
}

#[test]
fn what_they_remark_is_told_once() {
    let mut stand = stand();
    let remark = json!({ "kind": "Service", "name": "default/web", "reason": "NoNodeAddress", "message": "node n3 has none" });
    let other = json!({ "kind": "Node", "name": "default/web", "reason": "NoAddress", "message": "not about a Service" });
    let twin = json!({ "kind": "Service", "name": "default/webb", "reason": "NoNode", "message": "another" });
    for name in ["edge-1", "edge-2"] {
        stand.patch(name, json!({ "status": { "renewed": "t1001", "remarks": [other, remark, twin] } }));
    }
    assert_eq!(stand.settle(1001), ["Remarks: edge-1, edge-2: NoNodeAddress: node n3 has none"]);
    assert_eq!(
        condition(&stand, "Balanced"),
        "xdp-lb.io/Balanced False Remarks: edge-1, edge-2: NoNodeAddress: node n3 has none @1001"
    );
    // What the controller says itself is not said again.
    let same = json!({ "kind": "Service", "name": "default/web", "reason": "InvalidPolicy", "message": "as we know" });
    stand.patch("web", json!({ "metadata": { "annotations": { "xdp-lb.io/affinity": "sticky" } } }));
    for name in ["edge-1", "edge-2"] {
        stand.patch(name, json!({ "status": { "renewed": "t1002", "remarks": [same] } }));
    }
    let said = stand.settle(1002);
    assert!(said.len() == 1 && said[0].starts_with("InvalidPolicy: xdp-lb.io/affinity"), "{said:?}");
    assert!(condition(&stand, "Balanced").contains("True AsAsked"));
}
