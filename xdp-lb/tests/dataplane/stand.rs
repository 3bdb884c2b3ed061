//! Where the tests run: pin directories, namespaces, and whether this machine can do it at all.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use xdp_lb::dataplane::{BpffsRoot, Loaded, Program, Setup, Shape, load};
use xdp_lb::model::{FlowTable, Limits};

pub const SEED: u64 = 0x1234_5678_9abc_def0;

pub fn limits() -> Limits {
    Limits {
        services: 15,
        vips: 2,
        backends: 64,
        ring_slots: 1000,
        port_pages: 15,
        backend_stats: 16,
        server_ids: 16,
        source_ranges: 16,
        fragments: 1024,
        pod_ports: 16,
        pod_flows: 1024,
    }
}

pub fn flow_table() -> FlowTable {
    FlowTable { entries: 1024, track_window: std::time::Duration::ZERO }
}

pub fn setup() -> Setup {
    let shape = Shape::balancer(&limits(), &flow_table(), load::machine().unwrap());
    Setup { shape, seed: SEED, program: Program::Balancer { decap: false }, trace: false, frags: false }
}

#[track_caller]
pub fn open(root: &BpffsRoot) -> Loaded {
    Loaded::open_or_create(root, &setup()).unwrap_or_else(|e| panic!("{e}"))
}

/// A pin directory that goes with the value.
pub struct TempRoot(BpffsRoot);

impl TempRoot {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(BpffsRoot::new(format!("/sys/fs/bpf/xlb-{}-{n}", std::process::id())))
    }
}

impl std::ops::Deref for TempRoot {
    type Target = BpffsRoot;
    fn deref(&self) -> &BpffsRoot {
        &self.0
    }
}

impl Drop for TempRoot {
    fn drop(&mut self) {
        if let Err(e) = load::remove(&self.0) {
            eprintln!("left behind: {e}");
        }
    }
}

/// A root of its own, where the machine can do this at all.
pub fn root() -> Option<TempRoot> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        skip("BPF needs root");
        return None;
    }
    if !xdp_lb::dataplane::sys::is_bpffs(Path::new("/sys/fs/bpf")).unwrap_or(false) {
        command("mount", "-t bpf bpf /sys/fs/bpf");
    }
    Some(TempRoot::new())
}

/// Says why a test did not run; `REQUIRE_ALL=1` makes it a failure.
pub fn skip(reason: &str) {
    assert!(std::env::var("REQUIRE_ALL").as_deref() != Ok("1"), "REQUIRE_ALL=1: {reason}");
    eprintln!("skipped: {reason}");
}

/// Runs `test` on a thread in a namespace of its own with the wires v0 - p0 and v1.100 - p1.
pub fn in_namespace(test: impl FnOnce(&BpffsRoot) + Send + 'static) {
    let Some(root) = root() else { return };
    let done = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        make_pair();
        command("ip", "link add v1.100 type veth peer name p1");
        test(&root);
    });
    if let Err(panic) = done.join() {
        std::panic::resume_unwind(panic);
    }
}

pub fn make_pair() {
    command("ip", "link add v0 type veth peer name p0");
}

pub fn command(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
