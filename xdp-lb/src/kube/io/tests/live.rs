//! Against a real API server: `XDP_LB_TEST_KUBECONFIG` names an administrator's kubeconfig, and the file with `-agent`
//! behind that name, if it is there, the kubeconfig of a user that has our ClusterRole alone. `XDP_LB_TEST_KUBECONFIG_DECAP`
//! is the same with the ClusterRole of nodes that take tunnels off; the first one does instead of it.
//!
//! `cargo xtask test kube` runs it. Objects bear names of their own and are removed at the end.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde_json::{Value, json};

use super::shown;
use crate::config::accept::Accepted;
use crate::kube::io::{Feed, Pace, client};
use crate::kube::tests::objects::{file, lay, node, ready, service, slice};
use crate::kube::{Key, Settings};

pub(super) const BOUND: Duration = Duration::from_secs(30);

const AGENT: &str = "XDP_LB_TEST_KUBECONFIG";
const DECAP: &str = "XDP_LB_TEST_KUBECONFIG_DECAP";

/// Administrator and the user that has the role; `None`, said, without an API server.
async fn clients_of(variable: &str) -> Option<(Client, Client)> {
    let Some(admin) = [variable, AGENT].into_iter().find_map(std::env::var_os).map(PathBuf::from) else {
        println!("skipped: {variable} names no API server");
        return None;
    };
    let user = user(&admin);
    let user = if user.exists() { &user } else { &admin };
    Some((client(Some(&admin)).await.unwrap(), client(Some(user)).await.unwrap()))
}

fn user(admin: &Path) -> PathBuf {
    let mut user = admin.as_os_str().to_owned();
    user.push("-agent");
    user.into()
}

/// Administrator and agent, likewise.
pub(super) async fn clients() -> Option<(Client, Client)> {
    clients_of(AGENT).await
}

/// Creates or changes an object, status and all.
pub(super) async fn put<K>(api: &Api<K>, object: &Value)
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    let name = object["metadata"]["name"].as_str().unwrap();
    let params = PatchParams {
        field_validation: Some(kube::api::ValidationDirective::Strict),
        ..PatchParams::apply("test").force()
    };
    let mut object = object.clone();
    for key in ["uid", "resourceVersion", "creationTimestamp", "managedFields", "generateName"] {
        object["metadata"].as_object_mut().unwrap().remove(key);
    }
    api.patch(name, &params, &Patch::Apply(&object)).await.unwrap();
    if !object["status"].is_null() {
        let status = json!({ "apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": { "name": name }, "status": object["status"] });
        api.patch_status(name, &params, &Patch::Apply(&status)).await.unwrap();
    }
}

/// Waits for the picture of our Service; the time that took.
async fn until(feed: &mut Feed, namespace: &str, wanted: &[&str]) -> Duration {
    let begun = Instant::now();
    let wait = async {
        loop {
            let ours: Vec<String> = feed
                .latest()
                .iter()
                .flat_map(|mapped| shown(mapped))
                .filter(|s| s.starts_with(namespace))
                .collect();
            if ours == wanted {
                return;
            }
            feed.changed().await.unwrap();
        }
    };
    tokio::time::timeout(BOUND, wait)
        .await
        .unwrap_or_else(|_| panic!("{wanted:?} never came: {:?}", feed.latest()));
    begun.elapsed()
}

#[tokio::test]
async fn a_service_comes_scales_and_goes() {
    let Some((admin, agent)) = clients().await else { return };
    let namespace = format!("xdp-lb-{}", std::process::id());
    let namespaces = Api::<core::Namespace>::all(admin.clone());
    let made = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
    put(&namespaces, &made).await;
    let of = |mut object: Value| {
        lay(&mut object, json!({ "metadata": { "namespace": namespace } }));
        object
    };
    let names: Vec<String> = (1..=2).map(|n| format!("{namespace}-n{n}")).collect();
    let nodes = Api::<core::Node>::all(admin.clone());
    for (number, name) in (1u8..).zip(&names) {
        put(&nodes, &node(number, json!({ "metadata": { "name": name } }))).await;
    }
    let services = Api::<core::Service>::namespaced(admin.clone(), &namespace);
    let slices = Api::<discovery::EndpointSlice>::namespaced(admin.clone(), &namespace);
    put(&services, &of(service(json!({ "spec": { "clusterIP": null, "clusterIPs": null } })))).await;
    put(&slices, &of(slice("web-1", ready(&names[0], 1)))).await;

    let mut feed = Feed::start(&agent, Settings::default(), file().inherited, Pace::default());
    let web = |backends: &str| format!("{namespace}/web/https {backends}");
    let took = until(&mut feed, &namespace, &[&web("10.0.0.1")]).await;
    println!("first list: {took:?}");
    let owners = feed.latest().unwrap().owners.clone();
    assert!(owners.contains(&Key::new(&namespace, "web")));

    let both = [ready(&names[0], 1), ready(&names[1], 2)].concat();
    put(&slices, &of(slice("web-1", both))).await;
    println!(
        "a slice changed: told {:?} after the answer",
        until(&mut feed, &namespace, &[&web("10.0.0.1,10.0.0.2")]).await
    );
    nodes.delete(&names[0], &DeleteParams::default()).await.unwrap();
    until(&mut feed, &namespace, &[&web("10.0.0.2")]).await;
    services.delete("web", &DeleteParams::default()).await.unwrap();
    until(&mut feed, &namespace, &[]).await;

    slices.delete("web-1", &DeleteParams::default()).await.unwrap();
    nodes.delete(&names[1], &DeleteParams::default()).await.unwrap();
    let _ = namespaces.delete(&namespace, &DeleteParams::default()).await;
}

/// A node that takes tunnels off: the API server selects the edge nodes.
#[tokio::test]
async fn an_edge_node_comes_and_goes() {
    let Some((admin, agent)) = clients().await else { return };
    let name = format!("xdp-lb-edge-{}", std::process::id());
    let label = |value: &str| json!({ "metadata": { "name": name, "labels": { "xdp-lb-test": value } } });
    let nodes = Api::<core::Node>::all(admin.clone());
    put(&nodes, &node(7, label("other"))).await;
    let selector = format!("xdp-lb-test={name}");
    let mut feed =
        Feed::ends(&agent, Settings::default(), "n1", &selector, file().inherited, Pace::default());
    let mut until = async |wanted: &[&str]| {
        let wait = async {
            loop {
                feed.changed().await.unwrap();
                let told = feed.latest().unwrap();
                let sources: Vec<String> = told.accepted.sources.iter().map(|(a, _)| a.to_string()).collect();
                if sources == wanted {
                    return;
                }
            }
        };
        tokio::time::timeout(BOUND, wait).await.unwrap_or_else(|_| panic!("{wanted:?} never came"));
    };
    until(&[]).await;
    put(&nodes, &node(7, label(&name))).await;
    until(&["10.0.0.7"]).await;
    put(&nodes, &node(7, label("other"))).await;
    until(&[]).await;
    nodes.delete(&name, &DeleteParams::default()).await.unwrap();
}

/// A node that takes tunnels off, with its own role: pods of a Service that delivers to them come, move and go.
#[tokio::test]
async fn pods_of_a_node_come_and_go() {
    let Some((admin, agent)) = clients_of(DECAP).await else { return };
    let namespace = format!("xdp-lb-pods-{}", std::process::id());
    let namespaces = Api::<core::Namespace>::all(admin.clone());
    put(&namespaces, &json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } }))
        .await;
    let of = |mut object: Value| {
        lay(&mut object, json!({ "metadata": { "namespace": namespace } }));
        object
    };
    let services = Api::<core::Service>::namespaced(admin.clone(), &namespace);
    let slices = Api::<discovery::EndpointSlice>::namespaced(admin.clone(), &namespace);
    let web = |delivery: &str| {
        of(service(json!({
            "metadata": { "annotations": { "xdp-lb.io/delivery": delivery } }, "spec": { "clusterIP": null, "clusterIPs": null } })))
    };
    put(&services, &web("node")).await;
    put(&slices, &of(slice("web-1", ready("n1", 2)))).await;
    let pace = Pace { linger: Duration::from_millis(50), ..Pace::default() };
    let mut feed = Feed::ends(&agent, Settings::default(), "n1", "none=of-them", file().inherited, pace);
    let mut until = async |vips: usize, pods: &[&str], left: usize| {
        let wait = async {
            loop {
                feed.changed().await.unwrap();
                let Accepted { vips: on_node, pods: there, leaving, .. } = &feed.latest().unwrap().accepted;
                let there: Vec<String> =
                    there.iter().map(|port| format!("{}>{}:{}", port.port, port.pod, port.target)).collect();
                if (on_node.len(), leaving.len()) == (vips, left) && there == pods {
                    return;
                }
            }
        };
        tokio::time::timeout(BOUND, wait).await.unwrap_or_else(|_| panic!("{pods:?} never came"));
    };
    until(1, &[], 0).await;
    put(&services, &web("pod")).await;
    until(0, &["443>10.244.0.0:8443", "443>10.244.0.1:8443"], 0).await;
    put(&slices, &of(slice("web-1", [ready("n2", 1), ready("n1", 1)].concat()))).await;
    until(0, &["443>10.244.0.0:8443"], 0).await;
    slices.delete("web-1", &DeleteParams::default()).await.unwrap();
    until(0, &[], 1).await;
    until(0, &[], 0).await;
    services.delete("web", &DeleteParams::default()).await.unwrap();
    let _ = namespaces.delete(&namespace, &DeleteParams::default()).await;
}

/// Ten thousand EndpointSlices of ten endpoints: what the agent spends on them, told and not judged.
#[tokio::test]
async fn ten_thousand_slices_cost() {
    const SLICES: usize = 10_000;
    let Some((admin, agent)) = clients().await else { return };
    let namespace = format!("xdp-lb-many-{}", std::process::id());
    let namespaces = Api::<core::Namespace>::all(admin.clone());
    put(&namespaces, &json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } }))
        .await;
    let slices = Api::<discovery::EndpointSlice>::namespaced(admin.clone(), &namespace);
    let begun = Instant::now();
    let made = futures::stream::iter(0..SLICES).map(|n| {
        let slices = slices.clone();
        let mut object = slice(&format!("web-{n}"), ready(&format!("n{}", n % 100), 10));
        lay(
            &mut object,
            json!({ "metadata": { "namespace": namespace, "generateName": null, "labels": { "kubernetes.io/service-name": format!("web-{n}") } } }),
        );
        async move {
            let object = serde_json::from_value(object).unwrap();
            slices.create(&PostParams::default(), &object).await.map(drop)
        }
    });
    made.buffer_unordered(32).for_each(async |done| done.unwrap()).await;
    println!("{SLICES} slices made in {:?}", begun.elapsed());
    let (before, begun) = (resident(), Instant::now());
    let mut feed = Feed::start(&agent, Settings::default(), file().inherited, Pace::default());
    tokio::time::timeout(BOUND * 4, feed.changed()).await.expect("a first list").unwrap();
    let after = resident();
    println!(
        "first list of {SLICES} slices: {:?}; resident memory {} MB more, {} MB in all (a reflector's store: 133 MB)",
        begun.elapsed(),
        after.saturating_sub(before) >> 20,
        after >> 20
    );
    feed.end().await.unwrap();
    let all = ListParams::default();
    let _ = slices.delete_collection(&DeleteParams::default(), &all).await;
    let _ = namespaces.delete(&namespace, &DeleteParams::default()).await;
}

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// The ClusterRole is enforced, and it is enough for the tests above.
#[tokio::test]
async fn the_agent_may_do_nothing_else() {
    for variable in [AGENT, DECAP] {
        let Some((_, agent)) = clients_of(variable).await else { continue };
        let forbidden = |outcome: Result<(), kube::Error>| match outcome {
            Err(kube::Error::Api(status)) => assert_eq!(status.code, 403, "{status:?}"),
            other => panic!("{other:?}"),
        };
        if !std::env::var_os(variable).is_some_and(|admin| user(Path::new(&admin)).exists()) {
            println!("skipped: {variable} names no API server with a user of ours");
            continue;
        }
        forbidden(Api::<core::Secret>::all(agent.clone()).list(&ListParams::default()).await.map(drop));
        let config = core::ConfigMap::default();
        forbidden(
            Api::<core::ConfigMap>::namespaced(agent.clone(), "default")
                .create(&PostParams::default(), &config)
                .await
                .map(drop),
        );
        let merge = Patch::Merge(json!({ "metadata": { "labels": { "a": "b" } } }));
        forbidden(
            Api::<core::Node>::all(agent).patch("any", &PatchParams::default(), &merge).await.map(drop),
        );
    }
}
