//! The API server goes, the cluster changes meanwhile, and etcd forgets what was: a watch cannot be resumed then.
//!
//! `XDP_LB_KUBE_API` names a folder with `start DIR` and `stop DIR`; this test starts a server of its own there, because it
//! ends it. `DIR/kube-api.pid` and `DIR/etcd.pid` say what runs.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyper::Request;
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client, Config};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::live::{BOUND, put};
use super::shown;
use crate::kube::io::{Feed, Pace, client};
use crate::kube::tests::objects::{file, lay, node, ready, service, slice};
use crate::kube::{Mapped, Settings};

/// An API server that this test may end.
struct Server {
    tools: PathBuf,
    dir: PathBuf,
    etcd: u16,
    /// How it was started.
    command: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// `None`, said, where there is none to be had.
    fn start() -> Option<Self> {
        let tools = PathBuf::from(std::env::var_os("XDP_LB_KUBE_API").unwrap_or_default());
        if !tools.join("start").is_file() {
            println!("skipped: XDP_LB_KUBE_API names no folder with a start script for an API server");
            return None;
        }
        let tools = tools.canonicalize().unwrap();
        let dir = std::env::temp_dir().join(format!("xdp-lb-outage-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (api, etcd) = (free(&[0]), free(&[0, 1]));
        let started = Command::new(tools.join("start"))
            .arg(&dir)
            .current_dir(&dir)
            .env("API_PORT", api.to_string())
            .env("ETCD_PORT", etcd.to_string())
            .stdin(Stdio::null())
            .status();
        let mut server = Self { tools, dir, etcd, command: Vec::new(), child: None };
        assert!(started.unwrap().success(), "{}", server.log());
        let line = std::fs::read(format!("/proc/{}/cmdline", server.pid())).unwrap();
        let words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        server.command = words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        Some(server)
    }

    fn pid(&self) -> i32 {
        std::fs::read_to_string(self.dir.join("kube-api.pid")).unwrap().trim().parse().unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("kube-api.log")).unwrap_or_default()
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// The API server ends; etcd stays.
    fn kill(&mut self) {
        match self.child.take() {
            Some(mut child) => {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            None => {
                kill(Pid::from_raw(self.pid()), Signal::SIGKILL).unwrap();
                // `stop` must not meet whoever gets this number next.
                std::fs::remove_file(self.dir.join("kube-api.pid")).unwrap();
            }
        }
    }

    /// Another one on the same etcd; at another port, which a kubeconfig of its own names, or where the first one was.
    async fn again(&mut self, port: Option<u16>) -> Client {
        let mut command = self.command.clone();
        let mut kubeconfig = self.kubeconfig();
        if let Some(port) = port {
            let at = command.iter().position(|word| word == "--port").unwrap() + 1;
            let old = std::mem::replace(&mut command[at], port.to_string());
            let text = std::fs::read_to_string(&kubeconfig).unwrap();
            kubeconfig = self.dir.join("kubeconfig-other");
            std::fs::write(&kubeconfig, text.replace(&format!(":{old}"), &format!(":{port}"))).unwrap();
        }
        let log = std::fs::File::create(self.dir.join("kube-api-again.log")).unwrap();
        let child = Command::new(&command[0])
            .args(&command[1..])
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
        let client = client(Some(&kubeconfig)).await.unwrap();
        let services = Api::<core::Service>::all(client.clone());
        let begun = Instant::now();
        while services.list(&ListParams::default().limit(1)).await.is_err() {
            assert!(begun.elapsed() < BOUND, "{}", read(&self.dir.join("kube-api-again.log")));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        client
    }

    /// Has etcd forget everything but what is; says up to where.
    async fn compact(&self) -> u64 {
        let config = Config::new(format!("http://127.0.0.1:{}", self.etcd).parse().unwrap());
        let etcd = Client::try_from(config).unwrap();
        let ask = async |path: &str, body: Value| -> Value {
            let request = Request::post(path).body(body.to_string().into_bytes()).unwrap();
            serde_json::from_str(&etcd.request_text(request).await.unwrap()).unwrap()
        };
        let now = ask("/v3/kv/range", json!({ "key": "AA==", "limit": "1" })).await;
        let revision = now["header"]["revision"].as_str().unwrap().to_owned();
        ask("/v3/kv/compaction", json!({ "revision": revision, "physical": true })).await;
        revision.parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = Command::new(self.tools.join("stop")).arg(&self.dir).stdin(Stdio::null()).status();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// A port that is free, and so are those at these distances.
fn free(distances: &[u16]) -> u16 {
    let mut tries = (0..100).map(|_| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port());
    let all = |port: &u16| distances.iter().all(|more| TcpListener::bind(("127.0.0.1", port + more)).is_ok());
    tries.find(all).expect("no port is free")
}

/// Older Services come first, and which is older is a matter of seconds.
fn sorted(mapped: &Mapped) -> Vec<String> {
    let mut services = shown(mapped);
    services.sort_unstable();
    services
}

#[tokio::test]
async fn the_api_server_goes_and_etcd_forgets() {
    let Some(mut server) = Server::start() else { return };
    let admin = client(Some(&server.kubeconfig())).await.unwrap();
    let write = async |client: &Client, slices: &[Value]| {
        for object in slices {
            put(&Api::<discovery::EndpointSlice>::namespaced(client.clone(), "default"), object).await;
        }
    };
    let nodes = Api::<core::Node>::all(admin.clone());
    for n in 1..=3 {
        put(&nodes, &node(n, json!({}))).await;
    }
    let services = Api::<core::Service>::namespaced(admin.clone(), "default");
    let named = |name: &str| {
        let mut object = service(
            json!({ "metadata": { "name": name }, "spec": { "clusterIP": null, "clusterIPs": null } }),
        );
        let last = name.len();
        lay(
            &mut object,
            json!({ "status": { "loadBalancer": { "ingress": [{ "ip": format!("203.0.113.{last}") }] } } }),
        );
        object
    };
    let of = |name: &str, node: &str| {
        let mut object = slice(&format!("{name}-1"), ready(node, 1));
        lay(&mut object, json!({ "metadata": { "labels": { "kubernetes.io/service-name": name } } }));
        object
    };
    for name in ["web", "sip-b"] {
        put(&services, &named(name)).await;
        write(&admin, &[of(name, "n1")]).await;
    }

    let mut feed = Feed::start(&admin, Settings::default(), file().inherited, Pace::default());
    let mut until = async |wanted: &[&str]| {
        let wait = async {
            while feed.latest().map(|mapped| sorted(&mapped)).is_none_or(|has| has != wanted) {
                feed.changed().await.unwrap();
            }
        };
        let came = tokio::time::timeout(BOUND, wait).await;
        let latest = feed.latest().unwrap();
        assert!(came.is_ok(), "{wanted:?} never came: {:?}", sorted(&latest));
        latest
    };
    let before = ["default/sip-b/https 10.0.0.1", "default/web/https 10.0.0.1"];
    let known = until(&before).await;
    let old = services.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();

    server.kill();
    // Somebody else still reaches the cluster.
    let other = server.again(Some(free(&[0]))).await;
    for n in 0..20 {
        write(&other, &[of("web", ["n3", "n2"][n % 2])]).await;
    }
    let theirs = Api::<core::Service>::namespaced(other.clone(), "default");
    theirs.delete("sip-b", &DeleteParams::default()).await.unwrap();
    put(&theirs, &named("more")).await;
    write(&other, &[of("more", "n3")]).await;
    let forgotten = server.compact().await;
    assert!(forgotten > old.parse().unwrap(), "{forgotten}, {old}");
    server.kill();
    assert!(std::sync::Arc::ptr_eq(&known, &until(&before).await), "what is known stays in force");

    let back = server.again(None).await;
    let gone = Request::get(format!("/api/v1/services?watch=1&timeoutSeconds=1&resourceVersion={old}"));
    let said = back.request_text(gone.body(Vec::new()).unwrap()).await;
    assert!(format!("{said:?}").contains("410"), "a watch could be resumed: {said:?}");
    until(&["default/more/https 10.0.0.3", "default/web/https 10.0.0.2"]).await;
    feed.end().await.unwrap();
}
