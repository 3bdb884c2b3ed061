//! The same objects mean the same, whatever order they came in and whatever was there before.

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use super::objects::{file, give, node, ready, service, slice};
use crate::kube::{Change, Cluster, Key, Mapped, Settings};

/// A version of one of a few objects, or that it is gone.
#[derive(Clone, Debug)]
enum Step {
    There(Value),
    Gone(&'static str, String),
}

fn step() -> impl Strategy<Value = Step> {
    let name = || select(vec!["web", "sip", "dns"]);
    let services = (name(), 1..4u8, any::<bool>(), any::<bool>()).prop_map(|(name, vip, is_bad, to_pods)| {
        Step::There(service(json!({
            "metadata": { "name": name, "creationTimestamp": null, "annotations": {
                "xdp-lb.io/tracking": if is_bad { "x" } else { "off" }, "xdp-lb.io/delivery": if to_pods { "pod" } else { "node" } } },
            "status": { "loadBalancer": { "ingress": [{ "ip": format!("203.0.113.{vip}") }] } },
        })))
    });
    let slices = (name(), 0..4u8, prop::collection::vec((1..4u8, 0..3usize, 0..2u8), 0..4)).prop_map(
        |(of, number, nodes)| {
            let pods = |(node, count, net): (u8, usize, u8)| {
                let mut pods = ready(&format!("n{node}"), count);
                for (pod, last) in pods.iter_mut().zip(1..) {
                    pod["addresses"][0] = format!("10.244.{net}.{}", 10 * node + last).into();
                }
                pods
            };
            let endpoints = nodes.into_iter().flat_map(pods).collect();
            let mut slice = slice(&format!("s{number}"), endpoints);
            slice["metadata"]["labels"]["kubernetes.io/service-name"] = of.into();
            Step::There(slice)
        },
    );
    let nodes = (1..4u8, any::<bool>()).prop_map(|(number, drains)| {
        Step::There(node(
            number,
            json!({ "metadata": { "annotations": { "xdp-lb.io/drain": drains.to_string() } } }),
        ))
    });
    let gone = prop_oneof![
        name().prop_map(|name| Step::Gone("Service", name.to_owned())),
        (0..4u8).prop_map(|number| Step::Gone("EndpointSlice", format!("s{number}"))),
        (1..4u8).prop_map(|number| Step::Gone("Node", format!("n{number}"))),
    ];
    prop_oneof![2 => services, 4 => slices, 2 => nodes, 2 => gone]
}

fn carry_out(cluster: &mut Cluster, step: &Step) -> Change {
    match step {
        Step::There(object) => give(cluster, object),
        Step::Gone("Service", name) => cluster.service_gone(&Key::new("default", name)),
        Step::Gone("Node", name) => cluster.node_gone(name),
        Step::Gone(_, name) => cluster.slice_gone(&Key::new("default", name)),
    }
}

fn fresh(settings: &Settings, objects: &[Value]) -> Mapped {
    let mut cluster = Cluster::new(settings.clone());
    for object in objects {
        let _ = give(&mut cluster, object);
    }
    cluster.map(&file().inherited)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Nobody looks in between, so nothing is remembered as good: the end alone counts.
    #[test]
    fn only_the_end_counts(steps in prop::collection::vec(step(), 1..40), turn in any::<Index>()) {
        let settings = Settings::default();
        let mut cluster = Cluster::new(settings.clone());
        let mut last: Vec<((String, String), Value)> = Vec::new();
        for step in &steps {
            let _ = carry_out(&mut cluster, step);
            let id = match step {
                Step::There(object) => (object["kind"].as_str().unwrap().to_owned(), object["metadata"]["name"].as_str().unwrap().to_owned()),
                Step::Gone(kind, name) => ((*kind).to_owned(), name.clone()),
            };
            last.retain(|(other, _)| *other != id);
            if let Step::There(object) = step {
                last.push((id, object.clone()));
            }
        }
        let mut objects: Vec<Value> = last.into_iter().map(|(_, object)| object).collect();
        let mapped = cluster.map(&file().inherited);
        if !objects.is_empty() {
            let turn = turn.index(objects.len());
            objects.rotate_left(turn);
        }
        prop_assert_eq!(&mapped, &fresh(&settings, &objects));
        objects.reverse();
        prop_assert_eq!(&mapped, &fresh(&settings, &objects));
    }

    /// An event that is said to change nothing changes nothing.
    #[test]
    fn no_change_is_none(steps in prop::collection::vec(step(), 1..40)) {
        let mut cluster = Cluster::new(Settings::default());
        let mut before = cluster.map(&file().inherited);
        for step in &steps {
            let change = carry_out(&mut cluster, step);
            let after = cluster.map(&file().inherited);
            if change == Change::No {
                prop_assert_eq!(&after, &before);
            }
            before = after;
        }
    }
}
