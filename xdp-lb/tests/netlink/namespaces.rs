//! Two network namespaces that live as long as two threads, joined by two veth pairs:
//!
//! ```text
//!   edge e0 02:00:00:00:00:01 ---- p0 02:00:00:00:01:01 peer
//!   edge e1 02:00:00:00:00:02 ---- p1 02:00:00:00:01:02 peer
//! ```
//!
//! Nothing has a name outside of them, so nothing can be left behind.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

type Job = Box<dyn FnOnce() + Send>;

/// The namespace at the other end: runs closures and commands there.
pub struct Peer {
    jobs: mpsc::Sender<Job>,
}

impl Peer {
    /// Runs `job` in the peer's namespace and returns what it returns.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        self.jobs.send(Box::new(move || drop(tell.send(job())))).unwrap();
        told.recv_timeout(Duration::from_secs(30)).expect("the peer's job failed, see above")
    }

    /// `ip ARGUMENTS` in the peer's namespace.
    pub fn ip(&self, arguments: &str) {
        let arguments = arguments.to_owned();
        self.run(move || ip(&arguments));
    }
}

/// `ip ARGUMENTS` in this thread's namespace.
pub fn ip(arguments: &str) {
    run("ip", arguments);
}

/// Runs a command and panics with its words when it fails.
pub fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Writes a sysctl of this thread's namespace.
pub fn sysctl(path: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{path}"), value).unwrap();
}

/// Why namespaces cannot be made here; fails instead when `REQUIRE_ALL=1`.
fn missing() -> Option<String> {
    let made = thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join().unwrap();
    let reason = match made {
        Err(errno) => format!("no network namespaces ({errno}): run as root"),
        Ok(()) if Command::new("ip").arg("-V").output().is_err() => "iproute2 is not installed".into(),
        Ok(()) => return None,
    };
    assert!(std::env::var("REQUIRE_ALL").as_deref() != Ok("1"), "REQUIRE_ALL=1: {reason}");
    Some(reason)
}

/// Runs `test` in the edge's namespace, on a runtime of one thread.
pub fn in_namespaces<F: Future<Output = ()>>(test: impl FnOnce(Peer) -> F + Send + 'static) {
    if let Some(reason) = missing() {
        eprintln!("skipped: {reason}");
        return;
    }
    let edge = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let (peer, joined) = join_peer();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(60), test(peer))
                .await
                .expect("a test takes a minute at most");
        });
        drop(runtime);
        joined.join().unwrap();
        own_namespace()
    });
    let namespace = edge.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    assert!(!namespaces_of_threads().contains(&namespace), "a thread is still in the test's namespace");
}

/// Makes the other namespace and the wires.
fn join_peer() -> (Peer, thread::JoinHandle<()>) {
    let (jobs, work) = mpsc::channel::<Job>();
    let (tell, told) = mpsc::channel();
    let joined = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        tell.send(nix::unistd::gettid().as_raw()).unwrap();
        work.into_iter().for_each(|job| job());
    });
    let peer_thread = told.recv_timeout(Duration::from_secs(5)).unwrap();
    let peer = Peer { jobs };
    // Duplicate address detection would be news of its own, a second later.
    let settle = || sysctl("ipv6/conf/default/accept_dad", "0");
    settle();
    peer.run(settle);
    ip("link set lo up");
    peer.ip("link set lo up");
    for i in 0..2 {
        ip(&format!("link add e{i} address 02:00:00:00:00:0{} type veth peer name p{i}", i + 1));
        ip(&format!("link set p{i} address 02:00:00:00:01:0{} netns {peer_thread}", i + 1));
        ip(&format!("link set e{i} up"));
        peer.ip(&format!("link set p{i} up"));
    }
    (peer, joined)
}

fn own_namespace() -> PathBuf {
    std::fs::read_link("/proc/thread-self/ns/net").unwrap()
}

fn namespaces_of_threads() -> BTreeSet<PathBuf> {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    threads.filter_map(|thread| std::fs::read_link(thread.ok()?.path().join("ns/net")).ok()).collect()
}
