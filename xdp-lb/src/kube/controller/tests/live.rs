//! Against a real API server: addresses are given, kept over restarts and fail-overs, and the role is enough.
//!
//! `XDP_LB_TEST_KUBECONFIG_CONTROLLER`, else `XDP_LB_TEST_KUBECONFIG`, names an administrator's kubeconfig; the file with
//! `-agent` behind the former's name, if it is there, that of a user that has the controller's roles alone. Objects bear
//! names of their own and are removed at the end, but for definitions.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, ValidationDirective};
use kube::{Api, Client, Resource};
use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

use super::stand::pool;
use super::waiting;
use crate::kube::controller::{Controller, Judge, Settings};
use crate::kube::crd::{EdgeNode, VipPool, all};
use crate::kube::io::{Candidate, Pace, client, steer};
use crate::kube::tests::objects::lay;

const BOUND: Duration = Duration::from_secs(60);
/// A controller serves the whole cluster, so there is one test with controllers at a time.
pub(super) static ALONE: Mutex<()> = Mutex::const_new(());

/// Administrator and controller; `None`, said, without an API server.
pub(super) async fn clients() -> Option<(Client, Client)> {
    let own = std::env::var_os("XDP_LB_TEST_KUBECONFIG_CONTROLLER").map(PathBuf::from);
    let Some(admin) = own.clone().or_else(|| std::env::var_os("XDP_LB_TEST_KUBECONFIG").map(PathBuf::from))
    else {
        println!(
            "skipped: neither XDP_LB_TEST_KUBECONFIG_CONTROLLER nor XDP_LB_TEST_KUBECONFIG names an API server"
        );
        return None;
    };
    let held = own.map(|own| PathBuf::from(format!("{}-agent", own.display()))).filter(|path| path.exists());
    let controller = held.unwrap_or_else(|| admin.clone());
    Some((client(Some(&admin)).await.unwrap(), client(Some(&controller)).await.unwrap()))
}

/// Creates or changes an object, strictly checked.
pub(super) async fn put<K>(api: &Api<K>, object: &Value) -> Result<K, kube::Error>
where
    K: Resource + Clone + serde::de::DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    let strict = Some(ValidationDirective::Strict);
    let params = PatchParams { field_validation: strict, ..PatchParams::apply("test").force() };
    let mut object = object.clone();
    for key in ["uid", "resourceVersion", "creationTimestamp", "managedFields", "generateName"] {
        object["metadata"].as_object_mut().unwrap().remove(key);
    }
    object.as_object_mut().unwrap().remove("status");
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    api.patch(&name, &params, &Patch::Apply(&object)).await
}

/// Waits for what `look` finds.
pub(super) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < BOUND, "{what} never came");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The definitions, in force.
pub(super) async fn define(admin: &Client) {
    let crds = Api::<CustomResourceDefinition>::all(admin.clone());
    for crd in all() {
        put(&crds, &serde_json::to_value(&crd).unwrap()).await.unwrap();
    }
    let pools = Api::<VipPool>::all(admin.clone());
    until("the definition", async || pools.list(&ListParams::default()).await.ok()).await;
}

pub(super) struct Running {
    end: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    pub(super) fn start(client: &Client, candidate: Candidate) -> Self {
        let (end, ended) = watch::channel(false);
        let client = client.clone();
        let task = tokio::spawn(async move {
            let controller = Controller::new(Settings::default(), Judge::new().unwrap());
            steer(&client, controller, candidate, Pace::default(), watch::Sender::default(), ended)
                .await
                .unwrap();
        });
        Self { end, task }
    }

    pub(super) async fn end(self) {
        self.end.send_replace(true);
        tokio::time::timeout(BOUND, self.task).await.expect("it never ended").unwrap();
    }

    /// As a power cut: the Lease stays.
    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// A namespace of this test's own, and what it looks at there.
pub(super) struct Place {
    admin: Client,
    namespace: String,
    pool: String,
    services: Api<core::Service>,
}

/// An address of this run's own: pools of another run that did not end well may be there.
fn address(last: u8) -> String {
    let pid = std::process::id();
    format!("10.{}.{}.{last}", pid >> 8 & 0xff, pid & 0xff)
}

impl Place {
    pub(super) async fn new(admin: &Client, test: &str, addresses: Value) -> Self {
        define(admin).await;
        let namespace = format!("xdp-lb-{test}-{}", std::process::id());
        let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
        put(&Api::<core::Namespace>::all(admin.clone()), &object).await.unwrap();
        let services = Api::namespaced(admin.clone(), &namespace);
        let place = Self { admin: admin.clone(), pool: namespace.clone(), namespace, services };
        let mine = json!({ "addresses": addresses, "releaseDelay": "1h",
            "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": place.namespace } } });
        put(&place.pools(), &pool(&place.pool, mine)).await.unwrap();
        place
    }

    /// Of its namespace and its pool.
    pub(super) fn name(&self) -> &str {
        &self.namespace
    }

    fn pools(&self) -> Api<VipPool> {
        Api::all(self.admin.clone())
    }

    pub(super) fn candidate(&self, identity: &str) -> Candidate {
        Candidate {
            namespace: self.namespace.clone(),
            // The role names it.
            lease: "xdp-lb-controller".to_owned(),
            identity: identity.to_owned(),
            duration: Duration::from_secs(3),
        }
    }

    async fn ask(&self, name: &str, more: Value) {
        let mut service = waiting(
            name,
            json!({ "spec": { "clusterIP": null, "clusterIPs": null, "healthCheckNodePort": null } }),
        );
        lay(&mut service, json!({ "metadata": { "namespace": self.namespace } }));
        lay(&mut service, more);
        put(&self.services, &service).await.unwrap();
    }

    async fn status(&self, name: &str) -> Value {
        let service = self.services.get_opt(name).await.unwrap();
        service.map(|service| serde_json::to_value(service.status).unwrap()).unwrap_or_default()
    }

    /// Waits until a Service has this.
    async fn has(&self, name: &str, address: &str) {
        let what = format!("{address} of {name}");
        let wanted = json!([{ "ip": address, "ipMode": "VIP" }]);
        until(&what, async || (self.status(name).await["loadBalancer"]["ingress"] == wanted).then_some(()))
            .await;
    }

    async fn events(&self) -> Vec<String> {
        let events = Api::<core::Event>::namespaced(self.admin.clone(), &self.namespace);
        let show = |event: core::Event| {
            let name = event.involved_object.name.unwrap_or_default();
            format!("{name}: {} {}", event.reason.unwrap_or_default(), event.message.unwrap_or_default())
        };
        events.list(&ListParams::default()).await.unwrap().into_iter().map(show).collect()
    }

    pub(super) async fn clear(self) {
        let all = (DeleteParams::default(), ListParams::default());
        let _ = self.services.delete_collection(&all.0, &all.1).await;
        let events = Api::<core::Event>::namespaced(self.admin.clone(), &self.namespace);
        let _ = events.delete_collection(&all.0, &all.1).await;
        let _ = self.pools().delete(&self.pool, &all.0).await;
        let leases =
            Api::<k8s_openapi::api::coordination::v1::Lease>::namespaced(self.admin.clone(), &self.namespace);
        let _ = leases.delete("xdp-lb-controller", &all.0).await;
        let _ = Api::<core::Namespace>::all(self.admin.clone()).delete(&self.namespace, &all.0).await;
    }
}

#[tokio::test]
async fn a_service_is_given_an_address_under_our_roles() {
    let Some((admin, held)) = clients().await else { return };
    let _alone = ALONE.lock().await;
    let place = Place::new(&admin, "ctl", json!([format!("{}/30", address(8))])).await;
    let running = Running::start(&held, place.candidate("one"));
    let begun = Instant::now();
    place.ask("web", json!({})).await;
    place.has("web", &address(8)).await;
    println!("an address after {:?}", begun.elapsed());
    let said = format!("web: AddressAssigned {} assigned from pool {}", address(8), place.pool);
    until("the Event", async || place.events().await.contains(&said).then_some(())).await;
    let pools = place.pools();
    let counted = async || {
        let status = pools.get(&place.pool).await.unwrap().status?;
        Some((status.assigned, status.free, status.conditions[0].status.clone()))
    };
    until("the pool's status", async || (counted().await? == (1, 3, "True".to_owned())).then_some(())).await;

    // What is wrong is on the Service, with the address there all the same.
    place.ask("web", json!({ "metadata": { "annotations": { "xdp-lb.io/affinity": "sticky" } } })).await;
    until("the condition", async || {
        let status = place.status("web").await;
        let conditions = status["conditions"].as_array()?;
        conditions.iter().any(|c| c["type"] == "xdp-lb.io/Policy" && c["status"] == "False").then_some(())
    })
    .await;
    place.has("web", &address(8)).await;

    // Another one, then restarts: whoever starts anew finds everything and writes nothing.
    place.ask("more", json!({})).await;
    place.has("more", &address(9)).await;
    running.end().await;
    let before = place.services.get("web").await.unwrap().metadata.resource_version;
    let running = Running::start(&held, place.candidate("two"));
    place.ask("third", json!({})).await;
    place.has("third", &address(10)).await;
    place.services.delete("more", &DeleteParams::default()).await.unwrap();
    assert_eq!(place.services.get("web").await.unwrap().metadata.resource_version, before);
    until("the rest", async || {
        let status = pools.get(&place.pool).await.unwrap().status?;
        status.resting.iter().any(|resting| resting.address == address(9)).then_some(())
    })
    .await;
    // Who gives its type up gives its address back.
    place.ask("third", json!({ "spec": { "type": "ClusterIP", "loadBalancerClass": null } })).await;
    until("the clearing", async || {
        place.status("third").await["loadBalancer"]["ingress"].is_null().then_some(())
    })
    .await;
    running.end().await;
    place.clear().await;
}

/// What edge nodes say is where the Service is.
#[tokio::test]
async fn who_announces_a_service_is_told() {
    let Some((admin, held)) = clients().await else { return };
    let _alone = ALONE.lock().await;
    let place = Place::new(&admin, "edges", json!([format!("{}/30", address(24))])).await;
    let edges = Api::<EdgeNode>::all(admin.clone());
    // Of other runs that did not end well: a controller counts them all.
    edges.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
    let say = async |name: &str, addresses: &[String]| {
        let object = json!({ "apiVersion": "xdp-lb.io/v1alpha1", "kind": "EdgeNode", "metadata": { "name": name }, "spec": {} });
        put(&edges, &object).await.unwrap();
        let mut object = object;
        object["status"] = json!({ "renewed": "2026-01-01T00:00:00Z", "version": "1", "remarked": 0,
            "bgp": { "sessions": "1/1", "announced": addresses.len(), "withdrawn": 0, "addresses": addresses } });
        edges.patch_status(name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.unwrap();
    };
    let announced = async || {
        let status = place.status("web").await;
        let conditions = status["conditions"].as_array()?.clone();
        let found = conditions.into_iter().find(|c| c["type"] == "xdp-lb.io/Announced")?;
        Some(format!("{} {}", found["reason"].as_str()?, found["message"].as_str()?))
    };
    let told = async |wanted: &str| {
        until(wanted, async || announced().await.filter(|said| said == wanted)).await;
    };
    say("edge-1", &[]).await;
    let running = Running::start(&held, place.candidate("one"));
    place.ask("web", json!({})).await;
    told("Pending announced by 0 of 1 edge node; edge-1: has not heard of it yet").await;
    say("edge-1", &[address(24)]).await;
    told("Announced announced by 1 of 1 edge node").await;
    say("edge-2", &[address(24)]).await;
    told("Announced announced by 2 of 2 edge nodes").await;
    let said = "web: Announced announced by 2 of 2 edge nodes";
    until("the Event", async || place.events().await.iter().any(|event| event == said).then_some(())).await;
    edges.delete("edge-1", &DeleteParams::default()).await.unwrap();
    told("Announced announced by 1 of 1 edge node").await;
    running.end().await;
    edges.delete("edge-2", &DeleteParams::default()).await.unwrap();
    place.clear().await;
}

#[tokio::test]
async fn one_of_two_leads_and_the_other_takes_over() {
    let Some((admin, held)) = clients().await else { return };
    let _alone = ALONE.lock().await;
    let place = Place::new(&admin, "two", json!([format!("{}/28", address(16))])).await;
    let leases =
        Api::<k8s_openapi::api::coordination::v1::Lease>::namespaced(admin.clone(), &place.namespace);
    let holder = async || leases.get_opt("xdp-lb-controller").await.unwrap()?.spec?.holder_identity;
    let one = Running::start(&held, place.candidate("one"));
    until("a leader", async || (holder().await? == "one").then_some(())).await;
    let two = Running::start(&held, place.candidate("two"));
    for n in 0..4_u8 {
        place.ask(&format!("s{n}"), json!({})).await;
    }
    for n in 0..4_u8 {
        place.has(&format!("s{n}"), &address(16 + n)).await;
    }
    assert_eq!(holder().await.as_deref(), Some("one"));
    let assigned = place.events().await.iter().filter(|said| said.contains("AddressAssigned")).count();
    assert_eq!(assigned, 4, "one alone writes");

    let begun = Instant::now();
    one.kill().await;
    place.ask("late", json!({})).await;
    place.has("late", &address(20)).await;
    println!("the other leads {:?} after a death, with a Lease of 3 s", begun.elapsed());
    assert_eq!(holder().await.as_deref(), Some("two"));
    for n in 0..4_u8 {
        place.has(&format!("s{n}"), &address(16 + n)).await;
    }
    // A Lease that somebody deletes is made anew.
    leases.delete("xdp-lb-controller", &DeleteParams::default()).await.unwrap();
    place.ask("later", json!({})).await;
    place.has("later", &address(21)).await;
    two.end().await;
    let released = holder().await;
    assert!(released.is_none(), "who ends gives it back: {released:?}");
    place.clear().await;
}

#[tokio::test]
async fn the_schema_refuses_what_it_can_see() {
    let Some((admin, _)) = clients().await else { return };
    define(&admin).await;
    let pools = Api::<VipPool>::all(admin);
    let rows = [
        (json!({ "addresses": [] }), "at least 1"),
        (json!({ "addresses": ["203.0.113.1/24"] }), "must be addresses"),
        (json!({ "addresses": ["203.0.113.0/33"] }), "must be addresses"),
        (json!({ "addresses": ["pigeon"] }), "must be addresses"),
        (json!({ "addresses": ["203.0.113.1-203.0.113.2-203.0.113.3"] }), "must be addresses"),
        (json!({ "addresses": ["203.0.113.0/24"], "releaseDelay": "soon" }), "releaseDelay"),
        (json!({ "addresses": ["203.0.113.0/24"], "adresses": [] }), "adresses"),
        (
            json!({ "addresses": ["203.0.113.0/24"], "serviceSelector": { "matchExpressions": [{ "key": "a", "operator": "Is" }] } }),
            "Is",
        ),
    ];
    let mut unsaid = Vec::new();
    let params = PatchParams {
        dry_run: true,
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply("test").force()
    };
    for (spec, word) in rows {
        let object = pool("refused", spec);
        match pools.patch("refused", &params, &Patch::Apply(&object)).await {
            Err(kube::Error::Api(status)) if status.message.contains(word) => {}
            other => unsaid.push((object, word, other.map(drop))),
        }
    }
    assert!(unsaid.is_empty(), "{unsaid:#?}");
}

/// The roles are enforced, and they are enough for the tests above.
#[tokio::test]
async fn the_controller_may_do_nothing_else() {
    let Some((_, held)) = clients().await else { return };
    let secrets = Api::<core::Secret>::all(held.clone()).list(&ListParams::default()).await;
    if secrets.is_ok() {
        println!("skipped: no kubeconfig of a user with the controller's roles");
        return;
    }
    let forbidden = |outcome: Result<(), kube::Error>| match outcome {
        Err(kube::Error::Api(status)) => assert_eq!(status.code, 403, "{status:?}"),
        other => panic!("{other:?}"),
    };
    forbidden(secrets.map(drop));
    let merge = Patch::Merge(json!({ "metadata": { "labels": { "a": "b" } } }));
    let params = PatchParams::default();
    let services = Api::<core::Service>::namespaced(held.clone(), "default");
    forbidden(services.patch("any", &params, &merge).await.map(drop));
    forbidden(services.delete("any", &DeleteParams::default()).await.map(drop));
    forbidden(Api::<VipPool>::all(held.clone()).patch("any", &params, &merge).await.map(drop));
    let leases = Api::<k8s_openapi::api::coordination::v1::Lease>::namespaced(held.clone(), "default");
    forbidden(leases.get("kube-scheduler").await.map(drop));
    let map = core::ConfigMap::default();
    forbidden(
        Api::<core::ConfigMap>::namespaced(held, "default")
            .create(&PostParams::default(), &map)
            .await
            .map(drop),
    );
}
