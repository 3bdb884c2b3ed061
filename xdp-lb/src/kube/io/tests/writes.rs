//! The controller's writes, through a service in an API server's place that refuses them: whatever it does, the status is
//! written in the end, and its Event once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt as _, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Bytes, Frame};
use hyper::{Method, Request, Response};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::service_fn;

use crate::kube::controller::{Controller, Judge, Settings};
use crate::kube::io::{Candidate, Pace, steer};
use crate::kube::tests::objects::{lay, service};

/// What becomes of a write of a Service's status.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// A status.
    Fail(u16),
    /// It is written, and half of the answer comes.
    Half,
}

#[derive(Debug, Default)]
struct State {
    /// By name; then they are written.
    acts: VecDeque<(&'static str, Act)>,
    /// Refused for ever.
    never: Option<&'static str>,
    /// Statuses of Services that were written, by name.
    written: Vec<(String, Value)>,
    events: Vec<Value>,
    /// Tries to write a Service's status.
    tries: usize,
    /// How often the Lease was read, and after how many times it is somebody else's.
    reads: usize,
    ours: Option<usize>,
    pools: usize,
}

type Shared = Arc<Mutex<State>>;
type Answer = Response<BoxBody<Bytes, std::io::Error>>;

fn services() -> Vec<Value> {
    ["web", "also"]
        .map(|name| {
            let mut object = service(json!({ "metadata": { "name": name, "uid": format!("uid-{name}") } }));
            object.as_object_mut().unwrap().remove("status");
            object
        })
        .to_vec()
}

fn pool() -> Value {
    json!({ "apiVersion": "xdp-lb.io/v1alpha1", "kind": "VipPool", "metadata": { "name": "public", "resourceVersion": "3" },
        "spec": { "addresses": ["203.0.113.8/30"] } })
}

fn whole(code: u16, value: &Value) -> Answer {
    text(code, value.to_string())
}

fn text(code: u16, text: String) -> Answer {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed();
    Response::builder().status(code).body(body).unwrap()
}

fn failure(code: u16) -> Answer {
    whole(
        code,
        &json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "x", "message": format!("says {code}") }),
    )
}

/// A watch list that stays open.
fn list(api: &str, kind: &str, objects: &[Value]) -> Answer {
    let mut lines: Vec<Value> =
        objects.iter().map(|object| json!({ "type": "ADDED", "object": object })).collect();
    lines.push(json!({ "type": "BOOKMARK", "object": { "kind": kind, "apiVersion": api,
        "metadata": { "resourceVersion": "9", "annotations": { "k8s.io/initial-events-end": "true" } } } }));
    let frames = lines.into_iter().map(|line| Ok(Frame::data(Bytes::from(line.to_string() + "\n"))));
    Response::new(BodyExt::boxed(StreamBody::new(stream::iter(frames).chain(stream::pending()))))
}

fn lease(holder: &str) -> Value {
    json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": "l", "namespace": "default" },
        "spec": { "holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": Timestamp::now().to_string() } })
}

async fn answer(shared: Shared, request: Request<Body>) -> Answer {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let name = path.trim_end_matches("/status").rsplit('/').next().unwrap_or_default().to_owned();
    let mut state = shared.lock().unwrap();
    if path.contains("/leases") {
        if method == Method::GET {
            state.reads += 1;
        }
        let is_ours = state.ours.is_none_or(|ours| state.reads <= ours);
        return whole(200, &lease(if is_ours { "one" } else { "two" }));
    }
    match (method, path.as_str()) {
        (Method::GET, "/api/v1/services") => list("v1", "Service", &services()),
        (Method::GET, "/api/v1/namespaces") => list("v1", "Namespace", &[]),
        // Addresses do not wait for kinds that this cluster does not have.
        (Method::GET, path)
            if ["edgenodes", "edgeconfigs", "bgppeers"].iter().any(|kind| path.ends_with(kind)) =>
        {
            failure(404)
        }
        (Method::GET, _) => list("xdp-lb.io/v1alpha1", "VipPool", &[pool()]),
        (Method::POST, _) => {
            state.events.push(body.clone());
            whole(201, &body)
        }
        (_, path) if path.contains("vippools") => {
            state.pools += 1;
            let mut object = pool();
            lay(&mut object, json!({ "status": body["status"] }));
            whole(200, &object)
        }
        _ => {
            state.tries += 1;
            let mut object =
                services().into_iter().find(|object| object["metadata"]["name"] == *name).unwrap();
            lay(&mut object, json!({ "metadata": { "resourceVersion": "12" }, "status": body["status"] }));
            if state.never == Some(&*name) {
                return failure(422);
            }
            let act = state.acts.front().filter(|(of, _)| *of == name).map(|(_, act)| *act);
            if act.is_some() {
                state.acts.pop_front();
            }
            match act {
                Some(Act::Fail(code)) => failure(code),
                Some(Act::Half) => text(200, object.to_string()[..60].to_owned()),
                None => {
                    state.written.push((name, body));
                    whole(200, &object)
                }
            }
        }
    }
}

/// Runs a controller until `done`.
async fn until(state: State, done: impl Fn(&State) -> bool) -> State {
    let shared: Shared = Arc::new(Mutex::new(state));
    let served = Arc::clone(&shared);
    let serve = move |request| {
        let served = Arc::clone(&served);
        async move { Ok::<_, std::convert::Infallible>(answer(served, request).await) }
    };
    let client = Client::new(service_fn(serve), "default");
    let ms = Duration::from_millis;
    let pace = Pace { quiet: ms(2), longest: ms(20), retry: ms(1), retry_limit: ms(4), ..Pace::default() };
    let candidate = Candidate {
        namespace: "default".to_owned(),
        lease: "l".to_owned(),
        identity: "one".to_owned(),
        duration: Duration::from_secs(15),
    };
    let (end, ended) = watch::channel(false);
    let controller = Controller::new(Settings::default(), Judge::new().unwrap());
    let running = tokio::spawn(async move {
        steer(&client, controller, candidate, pace, watch::Sender::default(), ended).await
    });
    let begun = std::time::Instant::now();
    while !done(&shared.lock().unwrap()) {
        assert!(begun.elapsed() < Duration::from_secs(20), "never: {:#?}", shared.lock().unwrap());
        tokio::time::sleep(ms(1)).await;
    }
    end.send_replace(true);
    running.await.unwrap().unwrap();
    std::mem::take(&mut *shared.lock().unwrap())
}

fn names(state: &State) -> Vec<&str> {
    let mut names: Vec<&str> = state.written.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn a_refused_write_is_tried_again_and_told_once() {
    let rows: [&[Act]; 7] = [
        &[],
        &[Act::Fail(409)],
        &[Act::Fail(429), Act::Fail(429)],
        &[Act::Fail(403)],
        &[Act::Fail(500), Act::Fail(503)],
        &[Act::Fail(404)],
        &[Act::Half],
    ];
    for acts in rows {
        println!("{acts:?}");
        let acts = acts.iter().map(|act| ("web", *act));
        let state = State { acts: acts.collect(), ..State::default() };
        let state =
            until(state, |state| state.written.len() >= 2 && state.events.len() >= 2 && state.pools > 0)
                .await;
        assert_eq!(names(&state), ["also", "web"], "each once: {state:#?}");
        let said: Vec<&str> = state.events.iter().map(|event| event["reason"].as_str().unwrap()).collect();
        assert_eq!(said, ["AddressAssigned"; 2], "{state:#?}");
    }
}

/// What is applied, to the byte: fields that are missing are taken away, and the version is this one's.
#[tokio::test]
async fn a_status_is_applied_for_this_version_alone() {
    let state = until(State::default(), |state| state.written.len() >= 2 && state.events.len() >= 2).await;
    let (_, body) = state.written.iter().find(|(name, _)| name == "also").unwrap();
    let mut body = body.clone();
    for condition in body["status"]["conditions"].as_array_mut().unwrap() {
        assert!(condition.as_object_mut().unwrap().remove("lastTransitionTime").is_some());
    }
    assert_eq!(
        body,
        json!({ "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "also", "namespace": "default", "uid": "uid-also", "resourceVersion": "4711" },
            "status": {
                "loadBalancer": { "ingress": [{ "ip": "203.0.113.8", "ipMode": "VIP" }] },
                "conditions": [
                    { "type": "xdp-lb.io/Addresses", "status": "True", "reason": "Assigned", "message": "203.0.113.8 from pool public" },
                    { "type": "xdp-lb.io/Policy", "status": "True", "reason": "Accepted", "message": "" },
                ],
            } })
    );
    let event = state.events.iter().find(|event| event["involvedObject"]["name"] == "also").unwrap();
    assert_eq!(event["message"], "203.0.113.8 assigned from pool public");
    assert_eq!(event["involvedObject"]["uid"], "uid-also");
}

#[tokio::test]
async fn what_is_refused_for_ever_holds_nobody_up() {
    let state = State { never: Some("also"), ..State::default() };
    let state = until(state, |state| !state.written.is_empty() && state.tries > 6).await;
    assert_eq!(names(&state), ["web"]);
}

/// The election may be wrong for a moment: whoever does not read its own name in the Lease writes nothing.
#[tokio::test]
async fn who_does_not_hold_the_lease_writes_nothing() {
    let state = State { ours: Some(2), ..State::default() };
    let state = until(state, |state| state.reads > 8).await;
    assert_eq!((state.tries, state.pools, state.events.len()), (0, 0, 0));
}
