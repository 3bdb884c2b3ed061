//! A stand-in for an API server inside a namespace: watch lists of a few kinds over plain HTTP, Secrets by name, EdgeNodes
//! that are written to it, and faults on command.
//! Nothing of it is the product's.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use socket2::SockRef;

use super::Namespace;

/// How long a watcher waits at most before it looks whether the server is still there.
const LOOK: Duration = Duration::from_millis(100);

/// An API server that knows what it is told.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    listeners: Vec<Arc<TcpListener>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// By plural and name.
    objects: BTreeMap<(String, String), Value>,
    /// Plural and event; a resource version is the number of events before.
    events: Vec<(String, Value)>,
    is_away: bool,
    has_ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ApiServer {
    /// Listens on loopback of the namespace.
    ///
    /// # Errors
    /// When nobody can.
    pub fn start(ns: &Namespace) -> Result<Self> {
        let listener = ns.enter(|| TcpListener::bind("127.0.0.1:0"))?.context("listen in the namespace")?;
        let mut server =
            Self { address: listener.local_addr()?, shared: Arc::default(), listeners: Vec::new() };
        server.listen(listener);
        Ok(server)
    }

    /// Listens at the same address of another namespace, too: the same kubeconfig is good there.
    ///
    /// # Errors
    /// When nobody can.
    pub fn also_in(&mut self, ns: &Namespace) -> Result<()> {
        let listener = ns.enter(|| TcpListener::bind(self.address))?.context("listen in the namespace")?;
        self.listen(listener);
        Ok(())
    }

    fn listen(&mut self, listener: TcpListener) {
        let (listener, server) = (Arc::new(listener), Arc::clone(&self.shared));
        self.listeners.push(Arc::clone(&listener));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if server.lock().has_ended {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let shared = Arc::clone(&server);
                // A client that goes away ends the thread, and that is all there is to know.
                thread::spawn(move || drop(serve(&shared, stream)));
            }
        });
    }

    /// A kubeconfig for it.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Config\nclusters: [{{ name: c, cluster: {{ server: \"http://{}\" }} }}]\nusers: [{{ name: u, user: {{}} }}]\n\
             contexts: [{{ name: x, context: {{ cluster: c, user: u }} }}]\ncurrent-context: x\n",
            self.address
        )
    }

    /// An object is there, or is another.
    pub fn put(&self, plural: &str, mut object: Value) {
        let mut state = self.shared.lock();
        let version = state.events.len() + 1;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let old = state.objects.insert((plural.to_owned(), name), object.clone());
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        state.events.push((plural.to_owned(), json!({ "type": kind, "object": object })));
        self.shared.changed.notify_all();
    }

    /// An object is gone.
    pub fn remove(&self, plural: &str, name: &str) {
        let mut state = self.shared.lock();
        let Some(mut object) = state.objects.remove(&(plural.to_owned(), name.to_owned())) else { return };
        let version = state.events.len() + 1;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        state.events.push((plural.to_owned(), json!({ "type": "DELETED", "object": object })));
        self.shared.changed.notify_all();
    }

    /// An object as it is.
    #[must_use]
    pub fn get(&self, plural: &str, name: &str) -> Option<Value> {
        self.shared.lock().objects.get(&(plural.to_owned(), name.to_owned())).cloned()
    }

    /// Cuts all connections and answers none, or answers again; what happened meanwhile is not told to who asks for it (410).
    pub fn away(&self, is_away: bool) {
        self.shared.lock().is_away = is_away;
        self.shared.changed.notify_all();
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.shared.lock().has_ended = true;
        self.shared.changed.notify_all();
        // A listener that somebody waits on holds its namespace. Who has gone already needs no end.
        self.listeners.iter().for_each(|listener| _ = SockRef::from(&**listener).shutdown(Shutdown::Both));
    }
}

/// One request on one connection.
fn serve(shared: &Shared, mut stream: TcpStream) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut length = 0;
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        head.push(line.to_owned());
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let request = head.first().context("a request")?;
    let (method, path) = request.split_once(' ').unwrap_or_default();
    let path = path.split(' ').next().unwrap_or_default();
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let plural = path.rsplit('/').next().unwrap_or_default();
    let asked = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    if shared.lock().is_away {
        return Ok(());
    }
    if method == "PATCH" {
        return whole(&mut stream, &write_edge_node(shared, serde_json::from_slice(&body)?));
    }
    if path.contains("/secrets/") {
        let secret = shared.lock().objects.get(&("secrets".to_owned(), plural.to_owned())).cloned();
        return match secret {
            Some(secret) => whole(&mut stream, &secret),
            None => answer(&mut stream, "404 Not Found", &failure(404, "NotFound")),
        };
    }
    if asked("watch").is_none() {
        // Nobody lists but who looks for its own Node.
        return whole(
            &mut stream,
            &json!({ "kind": "List", "apiVersion": "v1", "metadata": {}, "items": [] }),
        );
    }
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )?;
    let selector = asked("labelSelector").and_then(Label::read);
    let name = asked("fieldSelector").and_then(|field| field.strip_prefix("metadata.name%3D"));
    let is_selected = |object: &Value| {
        selector.as_ref().is_none_or(|label| label.is_of(object))
            && name.is_none_or(|name| object["metadata"]["name"] == name)
    };
    let mut at = if asked("sendInitialEvents") == Some("true") {
        let (objects, version) = {
            let state = shared.lock();
            let of = |((of, _), object): (&(String, String), &Value)| {
                (of == plural && is_selected(object)).then(|| object.clone())
            };
            (state.objects.iter().filter_map(of).collect::<Vec<_>>(), state.events.len())
        };
        for object in objects {
            chunk(&mut stream, &json!({ "type": "ADDED", "object": object }))?;
        }
        let (kind, api) = match plural {
            "services" => ("Service", "v1"),
            "nodes" => ("Node", "v1"),
            "edgeconfigs" => ("EdgeConfig", "xdp-lb.io/v1alpha1"),
            "bgppeers" => ("BgpPeer", "xdp-lb.io/v1alpha1"),
            _ => ("EndpointSlice", "discovery.k8s.io/v1"),
        };
        chunk(
            &mut stream,
            &json!({ "type": "BOOKMARK", "object": { "kind": kind, "apiVersion": api, "metadata": {
                "resourceVersion": version.to_string(), "annotations": { "k8s.io/initial-events-end": "true" } } } }),
        )?;
        version
    } else {
        chunk(&mut stream, &json!({ "type": "ERROR", "object": failure(410, "Expired") }))?;
        write!(stream, "0\r\n\r\n")?;
        return Ok(());
    };
    loop {
        let events: Vec<Value> = {
            let state = shared.lock();
            let (state, _) = shared
                .changed
                .wait_timeout_while(state, LOOK, |state| {
                    state.events.len() <= at && !state.is_away && !state.has_ended
                })
                .unwrap_or_else(PoisonError::into_inner);
            if state.is_away || state.has_ended {
                return Ok(());
            }
            let new = &state.events[at..];
            at = state.events.len();
            new.iter().filter(|(of, _)| of == plural).map(|(_, event)| event.clone()).collect()
        };
        for mut event in events {
            // Nobody is told of who never was what he asked for by name.
            if name.is_some_and(|name| event["object"]["metadata"]["name"] != name) {
                continue;
            }
            // Who leaves a selection is gone, for who watches it.
            if !is_selected(&event["object"]) {
                event["type"] = "DELETED".into();
            }
            chunk(&mut stream, &event)?;
        }
    }
}

/// Lays what is applied over what is there.
fn write_edge_node(shared: &Shared, mut object: Value) -> Value {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let mut state = shared.lock();
    let there = state.objects.entry(("edgenodes".to_owned(), name)).or_insert(Value::Null);
    if object["status"].is_null() {
        object["status"] = there["status"].take();
    }
    object["spec"] = json!({});
    *there = object.clone();
    object
}

fn failure(code: u16, reason: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason })
}

fn whole(stream: &mut TcpStream, body: &Value) -> Result<()> {
    answer(stream, "200 OK", body)
}

fn answer(stream: &mut TcpStream, code: &str, body: &Value) -> Result<()> {
    let body = body.to_string();
    let head = format!("HTTP/1.1 {code}\r\nContent-Type: application/json\r\nConnection: close");
    write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).context("write")
}

/// A selector of one label and its value; what others ask for is sent whole.
struct Label(String, String);

impl Label {
    fn read(text: &str) -> Option<Self> {
        let text = text.replace("%2F", "/").replace("%3D", "=");
        let (key, value) = text.split_once('=')?;
        Some(Self(key.to_owned(), value.to_owned()))
    }

    fn is_of(&self, object: &Value) -> bool {
        object["metadata"]["labels"][&self.0] == *self.1
    }
}

fn chunk(stream: &mut TcpStream, line: &Value) -> Result<()> {
    let line = format!("{line}\n");
    write!(stream, "{:x}\r\n{line}\r\n", line.len()).context("write")
}
