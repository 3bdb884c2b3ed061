//! Faults of an API server, through a service in its place: whatever it does, no service is lost, and the state
//! converges.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Bytes, Frame};
use hyper::{Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tower::service_fn;

use super::shown;
use crate::config::accept::Accepted;
use crate::kube::io::{Feed, Pace};
use crate::kube::tests::objects::{file, node, ready, service, slice};
use crate::kube::{Ended, Settings};

/// Longest pause after an error: none of the others gets so far.
const LIMIT: Duration = Duration::from_secs(2);

/// What the API server does with a request of a watch or a list.
#[derive(Clone, Debug)]
enum Act {
    /// These lines; then nothing, the connection stays.
    Lines(Vec<String>),
    /// The same once it is told to.
    When(Arc<Notify>, Vec<String>),
    /// These lines, and the end of the connection.
    Cut(Vec<String>),
    /// A status and a message.
    Fail(u16),
    /// A whole body.
    Body(Value),
}

/// Scripts by kind of object: `services`, `endpointslices`, `nodes`. Whose script is over stays silent.
type Scripts = Arc<Mutex<BTreeMap<&'static str, VecDeque<Act>>>>;

fn status(code: u16) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "x", "message": format!("says {code}") })
}

fn event(kind: &str, object: &Value) -> String {
    let mut object = object.clone();
    if object["metadata"]["resourceVersion"].is_null() {
        object["metadata"]["resourceVersion"] = "7".into();
    }
    json!({ "type": kind, "object": object }).to_string() + "\n"
}

fn error(code: u16) -> String {
    json!({ "type": "ERROR", "object": status(code) }).to_string() + "\n"
}

/// The end of a watch list.
fn end(kind: &str) -> String {
    let api = if kind == "EndpointSlice" { "discovery.k8s.io/v1" } else { "v1" };
    json!({ "type": "BOOKMARK", "object": { "kind": kind, "apiVersion": api, "metadata": {
        "resourceVersion": "9", "annotations": { "k8s.io/initial-events-end": "true" } } } })
    .to_string()
        + "\n"
}

/// A watch list of these objects.
fn list(kind: &str, objects: &[Value]) -> Vec<String> {
    objects.iter().map(|object| event("ADDED", object)).chain([end(kind)]).collect()
}

fn client(scripts: &Scripts, asked: &Arc<Mutex<Vec<String>>>) -> Client {
    let (scripts, asked) = (Arc::clone(scripts), Arc::clone(asked));
    let answer = move |request: Request<Body>| {
        let uri = request.uri().to_string();
        let kind =
            ["endpointslices", "services", "nodes"].into_iter().find(|kind| uri.contains(kind)).unwrap();
        asked.lock().unwrap().push(uri);
        let act = scripts
            .lock()
            .unwrap()
            .get_mut(kind)
            .and_then(VecDeque::pop_front)
            .unwrap_or(Act::Lines(Vec::new()));
        async move { Ok::<_, std::convert::Infallible>(answer(act)) }
    };
    Client::new(service_fn(answer), "default")
}

fn answer(act: Act) -> Response<BoxBody<Bytes, std::io::Error>> {
    let whole =
        |value: Value| Full::new(Bytes::from(value.to_string())).map_err(|never| match never {}).boxed();
    let frames = |lines: Vec<String>| lines.into_iter().map(|line| Ok(Frame::data(Bytes::from(line))));
    let (code, body) = match act {
        Act::Lines(lines) => {
            use futures::StreamExt as _;
            (200, BodyExt::boxed(StreamBody::new(stream::iter(frames(lines)).chain(stream::pending()))))
        }
        Act::When(told, lines) => {
            use futures::StreamExt as _;
            let wait = stream::once(async move { told.notified().await });
            let lines = wait.flat_map(move |()| stream::iter(frames(lines.clone())).chain(stream::pending()));
            (200, BodyExt::boxed(StreamBody::new(lines)))
        }
        Act::Cut(lines) => (200, BodyExt::boxed(StreamBody::new(stream::iter(frames(lines))))),
        Act::Fail(code) => (code, whole(status(code))),
        Act::Body(value) => (200, whole(value)),
    };
    Response::builder().status(code).body(body).unwrap()
}

/// A feed whose API server does so with Services and slices; the three nodes are always there.
struct Stand {
    feed: Feed,
    scripts: Scripts,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Stand {
    fn new(services: Vec<Act>, slices: Vec<Act>) -> Self {
        let nodes: Vec<Value> = (1..=3).map(|n| node(n, json!({}))).collect();
        Self::of(services, slices, vec![Act::Lines(list("Node", &nodes))])
    }

    fn of(services: Vec<Act>, slices: Vec<Act>, nodes: Vec<Act>) -> Self {
        let scripts: Scripts = Arc::new(Mutex::new(BTreeMap::from([
            ("services", services.into()),
            ("endpointslices", slices.into()),
            ("nodes", nodes.into()),
        ])));
        let asked = Arc::default();
        let ms = Duration::from_millis;
        let pace = Pace { quiet: ms(5), longest: ms(50), retry: ms(1), retry_limit: LIMIT, linger: ms(100) };
        let feed = Feed::start(&client(&scripts, &asked), Settings::default(), file().inherited, pace);
        Self { feed, scripts, asked }
    }

    /// The next picture that is as wanted; every picture on the way must be one of `allowed`.
    async fn until(&mut self, allowed: &[&[&str]], wanted: &[&str]) {
        let wait = async {
            loop {
                self.feed.changed().await.unwrap();
                let shown = shown(&self.feed.latest().unwrap());
                if shown == wanted {
                    return;
                }
                assert!(allowed.iter().any(|allowed| shown == *allowed), "{shown:?}");
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the picture never came");
    }
}

fn web() -> Act {
    Act::Lines(list("Service", &[service(json!({}))]))
}

const ONE: &[&str] = &["default/web/https 10.0.0.1"];
const TWO: &[&str] = &["default/web/https 10.0.0.2"];

fn on(node: &str) -> Value {
    slice("web-1", ready(node, 1))
}

#[tokio::test]
async fn changes_are_told() {
    let mut lines = list("EndpointSlice", &[on("n1")]);
    lines.push(event("MODIFIED", &on("n2")));
    let mut stand = Stand::new(vec![web()], vec![Act::Lines(lines)]);
    stand.until(&[ONE], TWO).await;
    assert!(stand.asked.lock().unwrap().iter().all(|uri| uri.contains("sendInitialEvents=true")));
}

/// A part of a list looks like a cluster that lost services.
#[tokio::test]
async fn nothing_is_told_before_all_lists_are_complete() {
    let mut half = list("EndpointSlice", &[on("n1")]);
    half.pop();
    half.extend([event("ADDED", &slice("web-2", ready("n2", 1)))]);
    let mut stand = Stand::new(vec![web()], vec![Act::Lines(half)]);
    let told = tokio::time::timeout(Duration::from_millis(300), stand.feed.changed()).await;
    assert!(told.is_err(), "{:?}", stand.feed.latest());
}

#[tokio::test]
async fn a_burst_is_told_once() {
    let mut lines = list("EndpointSlice", &[]);
    lines.extend((0..50).map(|n| event("ADDED", &slice(&format!("web-{n}"), ready("n1", 1)))));
    lines.push(event("ADDED", &slice("web-x", ready("n2", 1))));
    let mut stand = Stand::new(vec![web()], vec![Act::Lines(lines)]);
    let both = &["default/web/https 10.0.0.1,10.0.0.2"];
    stand.until(&[&["default/web/https "]], both).await;
}

/// Each fault comes after the first list, and the slice has changed meanwhile.
#[tokio::test]
async fn faults_of_a_watch() {
    let first = |mut more: Vec<String>| {
        let mut lines = list("EndpointSlice", &[on("n1")]);
        lines.append(&mut more);
        lines
    };
    let relisted = Act::Lines(list("EndpointSlice", &[on("n2")]));
    let changed = Act::Lines(vec![event("MODIFIED", &on("n2"))]);
    let half = event("MODIFIED", &on("n2"))[..40].to_owned();
    let rows: Vec<(&str, Vec<Act>)> = vec![
        ("cut", vec![Act::Cut(first(vec![])), changed.clone()]),
        ("gone", vec![Act::Cut(first(vec![error(410)])), relisted.clone()]),
        (
            "gone at the next watch",
            vec![Act::Cut(first(vec![])), Act::Cut(vec![error(410)]), relisted.clone()],
        ),
        ("too many requests", vec![Act::Cut(first(vec![])), Act::Fail(429), Act::Fail(429), changed.clone()]),
        (
            "forbidden for a while",
            vec![Act::Cut(first(vec![])), Act::Fail(403), Act::Fail(403), changed.clone()],
        ),
        ("server error", vec![Act::Cut(first(vec![])), Act::Fail(500), Act::Fail(503), changed.clone()]),
        ("half an object", vec![Act::Cut(first(vec![half])), changed.clone()]),
        ("no JSON", vec![Act::Cut(first(vec!["<html>\n".to_owned()])), changed]),
    ];
    for (name, slices) in rows {
        println!("{name}");
        let mut stand = Stand::new(vec![web()], slices);
        stand.until(&[ONE], TWO).await;
    }
}

/// Whoever finds nobody for long asks seldom; whoever is told that a watch is too old lists again at once.
#[tokio::test]
async fn what_is_gone_is_listed_again_without_the_pause_of_an_outage() {
    // Long enough for pauses to be as long as they become.
    let nobody = vec![Act::Fail(503); 12];
    let relisted = Act::Lines(list("EndpointSlice", &[on("n2")]));
    for gone in [Act::Cut(vec![error(410)]), Act::Fail(410)] {
        let mut slices = vec![Act::Cut(list("EndpointSlice", &[on("n1")]))];
        slices.extend(nobody.iter().cloned().chain([gone, relisted.clone()]));
        let mut stand = Stand::new(vec![web()], slices);
        stand.until(&[], ONE).await;
        let asked = |stand: &Stand| {
            let asked = stand.asked.lock().unwrap();
            asked.iter().filter(|uri| uri.contains("endpointslices")).cloned().collect::<Vec<_>>()
        };
        while asked(&stand).len() < nobody.len() + 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let begun = Instant::now();
        stand.until(&[ONE], TWO).await;
        let (took, asked) = (begun.elapsed(), asked(&stand));
        assert!(took < LIMIT / 4, "{took:?}: the pause is at least twice as long");
        assert!(asked.last().unwrap().contains("sendInitialEvents=true"), "{asked:?}");
    }
}

/// What is not in a new list is gone, and nothing else is in between.
#[tokio::test]
async fn a_new_list_replaces_the_old_one() {
    let mut two = list("EndpointSlice", &[on("n1"), slice("web-2", ready("n2", 1))]);
    two.push(error(410));
    let slices = vec![
        Act::Cut(two),
        Act::Cut(vec![event("ADDED", &on("n1"))]),
        Act::Lines(list("EndpointSlice", &[slice("web-2", ready("n2", 1))])),
    ];
    let mut stand = Stand::new(vec![web()], slices);
    stand.until(&[&["default/web/https 10.0.0.1,10.0.0.2"]], TWO).await;
}

#[tokio::test]
async fn lists_where_watch_lists_are_unknown() {
    let slices = json!({ "kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "metadata": { "resourceVersion": "5" }, "items": [on("n1")] });
    let slices = vec![Act::Fail(422), Act::Body(slices), Act::Lines(vec![event("MODIFIED", &on("n2"))])];
    let mut stand = Stand::new(vec![web()], slices);
    stand.until(&[ONE], TWO).await;
}

#[tokio::test]
async fn who_is_not_allowed_learns_nothing_until_it_is() {
    let slices = vec![Act::Fail(403), Act::Fail(401), Act::Lines(list("EndpointSlice", &[on("n1")]))];
    let mut stand = Stand::new(vec![Act::Fail(403), web()], slices);
    stand.until(&[], ONE).await;
    assert!(stand.scripts.lock().unwrap()["endpointslices"].is_empty());
}

#[tokio::test]
async fn another_file_is_another_picture() {
    let mut stand = Stand::new(vec![web()], vec![Act::Lines(list("EndpointSlice", &[on("n1")]))]);
    stand.until(&[], ONE).await;
    let mut inherited = file().inherited;
    inherited.encap.source_v4 = None;
    stand.feed.inherit(&inherited);
    // Without a source for tunnels to IPv4 there is no way to the node.
    stand.until(&[], &["default/web/https "]).await;
    stand.feed.end().await.unwrap();
}

/// A node that takes tunnels off asks for less, and shuts nobody out while it does not know.
#[tokio::test]
async fn a_backends_side_asks_for_services_and_edge_nodes_alone() {
    let mut edges = list("Node", &[node(1, json!({}))]);
    edges.push(event("DELETED", &node(1, json!({}))));
    edges.push(error(410));
    let scripts: Scripts = Arc::new(Mutex::new(BTreeMap::from([
        ("services", vec![Act::Fail(403), web()].into()),
        (
            "nodes",
            vec![Act::Cut(edges), Act::Fail(500), Act::Lines(list("Node", &[node(2, json!({}))]))].into(),
        ),
    ])));
    let asked = Arc::default();
    let mut feed = ends(&scripts, &asked);
    let wait = async {
        loop {
            feed.changed().await.unwrap();
            let accepted = feed.latest().unwrap().accepted.clone();
            let sources: Vec<String> = accepted.sources.iter().map(|(a, _)| a.to_string()).collect();
            assert_eq!(accepted.vips.len(), 1, "told before the Services were known");
            if sources == ["10.0.0.2"] {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the picture never came");
    let asked = asked.lock().unwrap();
    assert!(
        asked.iter().all(|uri| !uri.contains("nodes") || uri.contains("labelSelector=role%3Dedge")),
        "{asked:?}"
    );
    assert!(asked.iter().all(|uri| !uri.contains("endpointslices")), "{asked:?}");
}

/// The feed of the node n1 that takes tunnels off, whose API server says so of Services and slices.
fn ends(scripts: &Scripts, asked: &Arc<Mutex<Vec<String>>>) -> Feed<Ended> {
    let ms = Duration::from_millis;
    let pace = Pace { quiet: ms(5), longest: ms(50), retry: ms(1), retry_limit: ms(4), linger: ms(100) };
    Feed::ends(&client(scripts, asked), Settings::default(), "n1", "role=edge", file().inherited, pace)
}

fn to_pods() -> Value {
    service(json!({ "metadata": { "annotations": { "xdp-lb.io/delivery": "pod" } } }))
}

/// VIPs, pods that are there, pods that have left.
async fn told(feed: &mut Feed<Ended>) -> (usize, usize, usize) {
    tokio::time::timeout(Duration::from_secs(60), feed.changed()).await.expect("it tells something").unwrap();
    let Accepted { vips, pods, leaving, .. } = &feed.latest().unwrap().accepted;
    (vips.len(), pods.len(), leaving.len())
}

/// Slices are asked for when a Service delivers to pods, and nothing is told before they are known, whatever else comes.
#[tokio::test]
async fn a_backends_side_asks_for_slices_once_a_service_delivers_to_pods() {
    let mut lines = list("Service", &[service(json!({}))]);
    lines.push(event("MODIFIED", &to_pods()));
    let refused = vec![Act::Fail(403), Act::Fail(403), Act::Lines(list("EndpointSlice", &[on("n1")]))];
    let (first, rest) = (lines[..2].to_vec(), lines[2].clone());
    for changes_at_once in [false, true] {
        let services = if changes_at_once {
            vec![Act::Lines(lines.clone())]
        } else {
            vec![Act::Cut(first.clone()), Act::Fail(500), Act::Lines(vec![rest.clone()])]
        };
        let scripts: Scripts = Arc::new(Mutex::new(BTreeMap::from([
            ("services", services.into()),
            ("nodes", vec![Act::Lines(list("Node", &[]))].into()),
            ("endpointslices", refused.clone().into()),
        ])));
        let asked = Arc::default();
        let mut feed = ends(&scripts, &asked);
        let mut all = vec![told(&mut feed).await];
        while all.last() != Some(&(0, 1, 0)) {
            all.push(told(&mut feed).await);
        }
        assert!(all == [(0, 1, 0)] || all == [(1, 0, 0), (0, 1, 0)], "{all:?}");
        let asked = asked.lock().unwrap();
        let slices: Vec<&String> = asked.iter().filter(|uri| uri.contains("endpointslices")).collect();
        assert!(slices.iter().all(|uri| uri.contains("service-name")), "{slices:?}");
    }
}

/// An empty list of slices is an answer.
#[tokio::test]
async fn a_node_without_pods_is_told_so() {
    let scripts: Scripts = Arc::new(Mutex::new(BTreeMap::from([
        ("services", vec![Act::Lines(list("Service", &[to_pods()]))].into()),
        ("nodes", vec![Act::Lines(list("Node", &[]))].into()),
        ("endpointslices", vec![Act::Lines(list("EndpointSlice", &[]))].into()),
    ])));
    let mut feed = ends(&scripts, &Arc::default());
    assert_eq!(told(&mut feed).await, (0, 0, 0));
}

/// Nothing comes from the API server, and the pod that has left is forgotten all the same.
#[tokio::test]
async fn who_has_left_is_forgotten_in_time() {
    let (leaves, gone) = (Arc::new(Notify::new()), vec![event("DELETED", &on("n1"))]);
    let slices = vec![Act::Cut(list("EndpointSlice", &[on("n1")])), Act::When(Arc::clone(&leaves), gone)];
    let scripts: Scripts = Arc::new(Mutex::new(BTreeMap::from([
        ("services", vec![Act::Lines(list("Service", &[to_pods()]))].into()),
        ("nodes", vec![Act::Lines(list("Node", &[]))].into()),
        ("endpointslices", slices.into()),
    ])));
    let mut feed = ends(&scripts, &Arc::default());
    assert_eq!(told(&mut feed).await, (0, 1, 0));
    leaves.notify_one();
    assert_eq!(told(&mut feed).await, (0, 0, 1));
    assert_eq!(told(&mut feed).await, (0, 0, 0));
}
