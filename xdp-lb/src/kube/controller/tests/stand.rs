//! A store of objects that carries plans out, as an API server would.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};

use crate::kube::controller::{Controller, Judge, Setting, Settings, Write};
use crate::kube::crd::{BgpPeer, EdgeConfig, EdgeNode, VipPool};
use crate::kube::tests::objects::lay;

/// A pool.
pub fn pool(name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "xdp-lb.io/v1alpha1", "kind": "VipPool", "metadata": { "name": name }, "spec": spec })
}

/// A controller and what it looks at; names are unique.
pub struct Stand {
    pub controller: Controller,
    objects: BTreeMap<String, Value>,
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

fn read<T: serde::de::DeserializeOwned>(object: &Value) -> T {
    serde_json::from_value(object.clone()).unwrap()
}

impl Stand {
    pub fn new(objects: &[Value]) -> Self {
        let controller = Controller::new(Settings::default(), Judge::new().unwrap());
        let mut stand = Self { controller, objects: BTreeMap::new() };
        objects.iter().for_each(|object| stand.put(object.clone()));
        stand
    }

    /// All edge nodes have been listed.
    pub fn edges_are_listed(&mut self) {
        let edges = self.objects.values().filter(|object| object["kind"] == "EdgeNode");
        let there = edges.map(|edge| crate::kube::Key::new("", &name(edge))).collect();
        let _ = self.controller.edges_are(&there);
    }

    /// Another controller sees the same.
    pub fn restart(&mut self) {
        *self = Self::new(&self.objects.values().cloned().collect::<Vec<_>>());
    }

    pub fn put(&mut self, object: Value) {
        let _ = match object["kind"].as_str().unwrap() {
            "VipPool" => self.controller.pool(&read::<VipPool>(&object)),
            "EdgeConfig" => self.controller.edge_config(&read::<EdgeConfig>(&object)),
            "BgpPeer" => self.controller.bgp_peer(&read::<BgpPeer>(&object)),
            "EdgeNode" => self.controller.edge(&read::<EdgeNode>(&object)),
            _ => self.controller.service(&read::<core::Service>(&object)),
        };
        self.objects.insert(name(&object), object);
    }

    pub fn patch(&mut self, name: &str, over: Value) {
        let mut object = self.get(name);
        lay(&mut object, over);
        self.put(object);
    }

    pub fn get(&self, name: &str) -> Value {
        self.objects[name].clone()
    }

    pub fn remove(&mut self, name: &str) {
        let object = self.objects.remove(name).unwrap();
        let _ = match object["kind"].as_str().unwrap() {
            "VipPool" => self.controller.pool_gone(name),
            "EdgeConfig" => self.controller.setting_gone(Setting::EdgeConfig, name),
            "BgpPeer" => self.controller.setting_gone(Setting::BgpPeer, name),
            "EdgeNode" => self.controller.edge_gone(name),
            _ => {
                let service: core::Service = read(&object);
                self.controller.service_gone(&crate::kube::Key::of(&service.metadata))
            }
        };
    }

    /// How much a plan writes; nothing is carried out.
    pub fn pending(&mut self, now: i64) -> usize {
        self.controller.plan(now).writes.len()
    }

    pub fn wake(&mut self, now: i64) -> Option<i64> {
        self.controller.plan(now).wake
    }

    /// Plans and carries out until nothing is left; what is said, in order. More than a few rounds never end.
    pub fn settle(&mut self, now: i64) -> Vec<String> {
        let mut said = Vec::new();
        for _ in 0..3 {
            match self.step(now) {
                None => return said,
                Some(more) => said.extend(more),
            }
        }
        panic!("it does not end: {:#?}", self.controller.plan(now));
    }

    /// Plans and carries out once; what is said, or `None` where nothing was to be done.
    pub fn step(&mut self, now: i64) -> Option<Vec<String>> {
        let writes = self.controller.plan(now).writes;
        if writes.is_empty() {
            return None;
        }
        let mut said = Vec::new();
        for write in writes {
            match write {
                Write::Service { object, addresses, conditions, events, .. } => {
                    said.extend(events.iter().map(|note| format!("{}: {}", note.reason, note.message)));
                    let ingress: Vec<Value> =
                        addresses.iter().map(|ip| json!({ "ip": ip, "ipMode": "VIP" })).collect();
                    let mut service = self.get(&object.key.name);
                    assert_eq!(service["metadata"]["uid"], object.uid.as_str());
                    service["status"] =
                        json!({ "loadBalancer": { "ingress": ingress }, "conditions": conditions });
                    self.put(service);
                }
                Write::Setting { name, condition, .. } => {
                    let mut object = self.get(&name);
                    object["status"] = json!({ "conditions": [condition] });
                    self.put(object);
                }
                Write::Pool { name, status } => {
                    let mut pool = self.get(&name);
                    pool["status"] = serde_json::to_value(status).unwrap();
                    self.put(pool);
                }
            }
        }
        Some(said)
    }

    pub fn addresses(&self, name: &str) -> String {
        let ingress =
            self.objects[name]["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
        ingress.iter().map(|ingress| ingress["ip"].as_str().unwrap()).collect::<Vec<_>>().join(",")
    }

    /// As `Type True Reason: message @since`.
    pub fn conditions(&self, name: &str) -> Vec<String> {
        let conditions: Option<Vec<Condition>> = read(&self.objects[name]["status"]["conditions"]);
        let show = |c: &Condition| {
            format!(
                "{} {} {}: {} @{}",
                c.type_,
                c.status,
                c.reason,
                c.message,
                c.last_transition_time.0.as_second()
            )
        };
        conditions.iter().flatten().map(show).collect()
    }

    pub fn pool(&self, name: &str) -> String {
        let pool: VipPool = read(&self.objects[name]);
        let status = pool.status.unwrap();
        let ready = &status.conditions[0];
        let resting: Vec<String> = status
            .resting
            .iter()
            .map(|r| format!(", resting {} {} {}", r.address, r.service, r.since))
            .collect();
        let (free, assigned) = (status.free, status.assigned);
        format!(
            "{assigned} assigned, {free} free, {} {} {}{}",
            ready.type_,
            ready.status,
            ready.reason,
            resting.concat()
        )
    }
}
