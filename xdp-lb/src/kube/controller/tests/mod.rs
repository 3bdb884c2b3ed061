//! Plans against a store that takes them: what is written, what is said, and that it ends.

mod configured;
mod edges;
#[cfg(feature = "agent")]
mod live;
#[cfg(feature = "agent")]
mod live_settings;
#[cfg(feature = "agent")]
mod schemas;
mod stand;

use serde_json::json;

use self::stand::{Stand, pool};
use crate::kube::tests::objects::service;

/// A Service of ours without an address.
fn waiting(name: &str, more: serde_json::Value) -> serde_json::Value {
    let mut object =
        service(json!({ "metadata": { "name": name, "uid": format!("uid-{name}") }, "status": null }));
    crate::kube::tests::objects::lay(&mut object, more);
    object
}

#[test]
fn a_service_gets_an_address_and_all_is_told() {
    let mut stand =
        Stand::new(&[pool("public", json!({ "addresses": ["203.0.113.8/30"] })), waiting("web", json!({}))]);
    assert_eq!(stand.settle(1000), ["AddressAssigned: 203.0.113.8 assigned from pool public"]);
    assert_eq!(stand.addresses("web"), "203.0.113.8");
    assert_eq!(
        stand.conditions("web"),
        [
            "xdp-lb.io/Addresses True Assigned: 203.0.113.8 from pool public @1000",
            "xdp-lb.io/Policy True Accepted:  @1000",
        ]
    );
    assert_eq!(stand.pool("public"), "1 assigned, 3 free, Ready True Usable");
    assert_eq!(stand.pending(1001), 0, "all is said");
    stand.restart();
    assert_eq!(stand.pending(2000), 0, "who starts anew has nothing to do");
}

#[test]
fn what_is_released_rests_also_for_who_leads_next() {
    let mut stand = Stand::new(&[
        pool("public", json!({ "addresses": ["203.0.113.8"], "releaseDelay": "60s" })),
        waiting("web", json!({})),
    ]);
    stand.settle(1000);
    stand.remove("web");
    stand.settle(1010);
    assert_eq!(
        stand.pool("public"),
        "0 assigned, 0 free, Ready True Usable, resting 203.0.113.8 default/web 1010"
    );
    stand.restart();
    stand.put(waiting("late", json!({})));
    let said = stand.settle(1069);
    assert!(
        said[0].starts_with("NoAddress: pool public has no free IPv4 address until a released one"),
        "{said:?}"
    );
    assert_eq!(stand.wake(1069), Some(1070));
    assert_eq!(stand.settle(1070), ["AddressAssigned: 203.0.113.8 assigned from pool public"]);
    assert_eq!(stand.pool("public"), "1 assigned, 0 free, Ready True Usable");
    let now = stand.conditions("late");
    assert!(now[0].ends_with("@1070"), "the time of a condition is when its status changed: {now:?}");
}

/// It is known from what was written, and no plan has seen it since.
#[test]
fn what_is_released_at_once_rests_too() {
    let rows: [fn(&mut Stand); 2] = [
        |stand| stand.remove("web"),
        |stand| _ = stand.controller.services_are(&std::collections::BTreeSet::new()),
    ];
    for goes in rows {
        let pool = pool("public", json!({ "addresses": ["203.0.113.8/30"] }));
        let mut stand = Stand::new(&[pool, waiting("web", json!({}))]);
        assert_eq!(stand.step(1000).unwrap(), ["AddressAssigned: 203.0.113.8 assigned from pool public"]);
        goes(&mut stand);
        stand.put(waiting("other", json!({})));
        stand.settle(1001);
        assert_eq!(stand.addresses("other"), "203.0.113.9");
        assert!(
            stand.pool("public").ends_with("resting 203.0.113.8 default/web 1001"),
            "{}",
            stand.pool("public")
        );
    }
}

#[test]
fn who_comes_back_has_it_again() {
    let mut stand =
        Stand::new(&[pool("public", json!({ "addresses": ["203.0.113.8/30"] })), waiting("web", json!({}))]);
    stand.settle(1000);
    stand.remove("web");
    stand.settle(1010);
    stand.put(waiting("other", json!({})));
    stand.put(waiting("web", json!({ "metadata": { "uid": "another" } })));
    stand.settle(1011);
    assert_eq!(
        (stand.addresses("web"), stand.addresses("other")),
        ("203.0.113.8".to_owned(), "203.0.113.9".to_owned())
    );
}

/// An operator who edits or deletes a pool hears of it, and no client does.
#[test]
fn a_pool_that_goes_takes_nothing_away() {
    let mut stand =
        Stand::new(&[pool("public", json!({ "addresses": ["203.0.113.8/30"] })), waiting("web", json!({}))]);
    stand.settle(1000);
    stand.remove("public");
    assert_eq!(stand.settle(1001), ["Kept: 203.0.113.8 is in no pool; the Service keeps what it has"]);
    assert_eq!(stand.addresses("web"), "203.0.113.8");
    stand.put(pool("other", json!({ "addresses": ["198.51.100.0/30"] })));
    stand.settle(1002);
    assert_eq!(stand.addresses("web"), "203.0.113.8");
    stand.put(waiting("web", json!({ "metadata": { "annotations": { "xdp-lb.io/pool": "other" } }, "status": stand.get("web")["status"] })));
    let said = stand.settle(1003);
    assert_eq!(
        said,
        ["AddressAssigned: 198.51.100.0 assigned from pool other", "AddressReleased: 203.0.113.8 released"]
    );
}

#[test]
fn who_is_not_ours_any_more_is_left_clean() {
    let mut stand =
        Stand::new(&[pool("public", json!({ "addresses": ["203.0.113.8/30"] })), waiting("web", json!({}))]);
    stand.settle(1000);
    let mut other = stand.get("web");
    other["spec"]["type"] = "ClusterIP".into();
    other["spec"].as_object_mut().unwrap().remove("loadBalancerClass");
    stand.put(other);
    assert_eq!(
        stand.settle(1001),
        ["AddressReleased: 203.0.113.8 released: the Service is not ours any more"]
    );
    assert_eq!((stand.addresses("web").as_str(), stand.conditions("web").len()), ("", 0));
    assert!(stand.pool("public").contains("resting 203.0.113.8 default/web"));
    // Services of somebody else's class are nobody's business.
    let theirs = json!({ "spec": { "loadBalancerClass": "example.com/lb" } });
    let mut stand =
        Stand::new(&[pool("public", json!({ "addresses": ["203.0.113.8/30"] })), service(theirs)]);
    assert_eq!(
        (stand.settle(1000).len(), stand.pool("public").as_str()),
        (0, "0 assigned, 4 free, Ready True Usable")
    );
}

/// What an edge node would say of annotations is said on the Service, once, and taken back when it is mended.
#[test]
fn mistakes_are_told_on_the_service() {
    let annotated = |value: &str| json!({ "metadata": { "annotations": { "xdp-lb.io/affinity": value } } });
    let mut stand = Stand::new(&[
        pool("public", json!({ "addresses": ["203.0.113.8/30"] })),
        waiting("web", annotated("sticky")),
    ]);
    let said = stand.settle(1000);
    assert!(said[1].starts_with("InvalidPolicy: xdp-lb.io/affinity: must be") && said.len() == 2, "{said:?}");
    assert!(!said[1].contains("not balanced"), "that is the edge node's to say: {said:?}");
    assert_eq!(stand.addresses("web"), "203.0.113.8");
    let status = stand.get("web")["status"].clone();
    stand.put(waiting("web", annotated("client-ip")));
    stand.patch("web", json!({ "status": status }));
    assert_eq!(stand.settle(1005), [""; 0]);
    assert_eq!(stand.conditions("web")[1], "xdp-lb.io/Policy True Accepted:  @1005");
    // What hides the clients' addresses is worth a word.
    stand.patch("web", json!({ "spec": { "externalTrafficPolicy": "Cluster" } }));
    let said = stand.settle(1006);
    assert!(said[0].starts_with("ClientAddressHidden: ") && said.len() == 1, "{said:?}");
}

/// Whoever asks for an address that cannot be read does not get another one, and loses none.
#[test]
fn a_wish_that_cannot_be_read_changes_nothing() {
    let asks = |text: &str| json!({ "metadata": { "annotations": { "xdp-lb.io/addresses": text } } });
    let mut stand = Stand::new(&[
        pool("public", json!({ "addresses": ["203.0.113.8/30"] })),
        waiting("new", asks("203.0.113")),
    ]);
    let said = stand.settle(1000);
    assert_eq!(
        said,
        ["NoAddress: xdp-lb.io/addresses: must be addresses with commas between, has \"203.0.113\""]
    );
    assert_eq!(stand.addresses("new"), "");
    stand.patch("new", asks("203.0.113.10"));
    assert_eq!(stand.settle(1001), ["AddressAssigned: 203.0.113.10 assigned from pool public"]);
    stand.patch("new", asks("203.0.113.x"));
    stand.settle(1002);
    assert_eq!(stand.addresses("new"), "203.0.113.10");
    // The old field of the API means the same.
    stand.put(waiting("old", json!({ "spec": { "loadBalancerIP": "203.0.113.11" } })));
    stand.settle(1003);
    assert_eq!(stand.addresses("old"), "203.0.113.11");
}

/// Signalling and media on one address: ports of annotations count.
#[test]
fn an_address_is_shared_if_no_port_is() {
    let media = |name: &str, ports: &str| {
        waiting(
            name,
            json!({ "metadata": { "annotations": { "xdp-lb.io/sharing-key": "voice", "xdp-lb.io/delivery": "host", "xdp-lb.io/ports": ports } },
            "spec": { "ports": [{ "name": "rtp", "protocol": "UDP", "port": 20000 }] } }),
        )
    };
    let sip = waiting(
        "sip",
        json!({ "metadata": { "annotations": { "xdp-lb.io/sharing-key": "voice" } },
        "spec": { "ports": [{ "name": "sip", "protocol": "UDP", "port": 5060 }] } }),
    );
    let mut stand = Stand::new(&[
        pool("public", json!({ "addresses": ["203.0.113.8/30"] })),
        sip,
        media("media", "rtp=20000-24999"),
        media("more", "rtp=24000-25999"),
    ]);
    stand.settle(1000);
    let all = ["media", "more", "sip"].map(|name| stand.addresses(name));
    assert_eq!(all, ["203.0.113.8", "203.0.113.9", "203.0.113.8"]);
    assert_eq!(stand.pool("public"), "2 assigned, 2 free, Ready True Usable");
}

#[test]
fn families() {
    let rows = [
        (
            json!({ "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack" }),
            "203.0.113.8,2001:db8::",
        ),
        (json!({ "ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack" }), "2001:db8::"),
        (json!({ "ipFamilies": null, "ipFamilyPolicy": null }), "203.0.113.8"),
    ];
    for (spec, wanted) in rows {
        let both = pool("public", json!({ "addresses": ["203.0.113.8/30", "2001:db8::/64"] }));
        let mut stand = Stand::new(&[both, waiting("web", json!({ "spec": spec }))]);
        stand.settle(1000);
        assert_eq!(stand.addresses("web"), wanted);
        assert_eq!(stand.pending(1001), 0);
    }
    // Who prefers both takes one.
    let prefers = json!({ "spec": { "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "PreferDualStack" } });
    let mut stand =
        Stand::new(&[pool("public", json!({ "addresses": ["203.0.113.8/30"] })), waiting("web", prefers)]);
    assert_eq!(stand.settle(1000).len(), 1);
    assert_eq!(stand.addresses("web"), "203.0.113.8");
}

#[test]
fn pools_are_for_who_they_select_and_say_what_is_wrong() {
    let voice = json!({ "addresses": ["203.0.113.8/30"], "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "voice" } } });
    let mut stand = Stand::new(&[
        pool("voice", voice),
        waiting("web", json!({})),
        waiting("sip", json!({ "metadata": { "namespace": "voice" } })),
    ]);
    stand.settle(1000);
    assert_eq!((stand.addresses("web").as_str(), stand.addresses("sip").as_str()), ("", "203.0.113.8"));
    stand.put(pool("bad", json!({ "addresses": ["203.0.113.1-203.0.113.0"] })));
    stand.put(pool("wide", json!({ "addresses": ["203.0.113.0/24"], "priority": -1, "autoAssign": false })));
    stand.settle(1001);
    assert!(stand.pool("bad").contains("Ready False InvalidAddresses"), "{}", stand.pool("bad"));
    assert!(stand.pool("wide").contains("Ready True Overlaps"), "{}", stand.pool("wide"));
    assert!(stand.pool("voice").contains("Ready True Usable"), "{}", stand.pool("voice"));
}
