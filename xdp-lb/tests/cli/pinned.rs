//! The commands that read the kernel, on maps that the lab's configuration filled, with no agent in sight.

use std::{collections::BTreeMap, fs, path::Path, process::Command, thread};

use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use xdp_lb::{
    config,
    dataplane::{
        BpffsRoot, Loaded, Program, Setup, Shape, attach,
        ethtool::{self, Offload},
        load, sys,
    },
    model::AttachMode,
    nexthop::{NextHop, Resolution},
    plan::{self, Census, Inputs, Memo},
    state::Maps as _,
};

use super::{code, example, json, stderr, stdout, xdp_lb_on};

/// A pin directory that goes with the value, whatever the test left in it.
struct TempRoot(BpffsRoot);

impl Drop for TempRoot {
    fn drop(&mut self) {
        if let Err(e) = load::remove(&self.0) {
            eprintln!("left behind: {e}");
        }
    }
}

/// Runs `test` with a root on a thread in a network namespace of its own, where the machine can do that. Says why not
/// otherwise; `REQUIRE_ALL=1` makes that a failure.
fn in_namespace(test: impl FnOnce(&BpffsRoot) + Send + 'static) {
    let bpffs = Path::new("/sys/fs/bpf");
    let missing = match unshared() {
        Err(e) => Some(format!("no network namespace: {e}")),
        Ok(()) if !sys::is_bpffs(bpffs).unwrap_or(false) => {
            Some("no BPF file system at /sys/fs/bpf".to_owned())
        }
        Ok(()) => None,
    };
    if let Some(reason) = missing {
        assert!(std::env::var("REQUIRE_ALL").as_deref() != Ok("1"), "REQUIRE_ALL=1: {reason}");
        eprintln!("skipped: {reason}");
        return;
    }
    let root = TempRoot(BpffsRoot::new(bpffs.join(format!("xlb-cli-{}", std::process::id()))));
    let done = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link add v0 type veth peer name p0");
        ip("link set lo up");
        test(&root.0);
    });
    if let Err(panic) = done.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Tries it on a thread that ends at once.
fn unshared() -> Result<(), nix::Error> {
    thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join().unwrap()
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Loads, fills and attaches as the agent does, and leaves.
fn fill(root: &BpffsRoot) {
    let text = fs::read_to_string(example("lab")).unwrap();
    let desired = config::parse(&text).unwrap().desired;
    let shape = Shape::balancer(&desired.limits, &desired.flow_table, load::machine().unwrap());
    let setup = Setup {
        shape,
        seed: desired.seed,
        program: Program::Balancer { decap: false },
        trace: false,
        frags: false,
    };
    let mut loaded = Loaded::open_or_create(root, &setup).unwrap();
    let mut maps = loaded.maps().unwrap();
    let out = NextHop {
        ifindex: sys::ifindex("v0").unwrap(),
        interface: "v0".into(),
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: [2, 0, 0, 0, 0, 0xfe],
        mtu: 65_535,
        below: None,
        path_mtu: None,
    };
    let plan = plan::plan(&Inputs {
        desired: &desired,
        observed: &maps.observe(),
        resolve: &|_| Resolution::Resolved(out.clone()),
        census: &Census::default(),
        windows: &BTreeMap::new(),
        memo: &Memo::default(),
        now: 1_700_000_000,
        allow_moves: false,
        generation: 4,
        only: None,
    });
    plan.unwrap().ops.iter().for_each(|op| maps.apply(op).unwrap());
    attach::attach(root, loaded.program().unwrap(), "v0", AttachMode::Generic, false).unwrap();
}

#[test]
fn status_explain_and_detach_without_an_agent() {
    in_namespace(|root| {
        fill(root);
        status(root);
        explain(root);
        detach(root);
    });
}

fn status(root: &BpffsRoot) {
    let bpffs = root.path().to_str().unwrap();
    let run = |arguments: &[&str]| {
        let output = xdp_lb_on(bpffs, arguments, "");
        assert_eq!((code(&output), stderr(&output)), (0, ""), "{arguments:?}: {output:?}");
        output
    };
    let all = json(&run(&["status", "-o", "json"]));
    assert_eq!(all["generation"], 4);
    assert_eq!(
        (&all["interfaces"][0]["name"], &all["interfaces"][0]["mode"]),
        (&"v0".into(), &"generic".into())
    );
    assert_eq!(all["flow_table"]["live"], 0);
    let names: Vec<&str> =
        all["services"].as_array().unwrap().iter().filter_map(|s| s["name"].as_str()).collect();
    assert_eq!(names, ["echo", "echo-udp", "web"]);
    assert_eq!(all["services"][2]["listeners"][0]["ports"][0], "80");

    let backends = json(&run(&["status", "backends", "-o", "json"]));
    let backends = backends.as_array().unwrap();
    assert_eq!(backends.len(), 9);
    let path = &backends[0]["path"];
    assert_eq!((&path["interface"], &path["next_hop"]), (&"v0".into(), &"02:00:00:00:00:fe".into()));
    assert_eq!(backends.iter().filter_map(|b| b["slots"].as_u64()).sum::<u64>(), 3 * 65_537);
    assert_eq!(json(&run(&["status", "services", "-o", "json"])), all["services"]);

    for (part, header, row) in [
        ("services", "SERVICE", "203.0.113.10:80 [2001:db8::10]:80"),
        ("backends", "SERVICE", "02:00:00:00:00:fe on v0"),
        ("interfaces", "INTERFACE", "v0         generic"),
    ] {
        let text = run(&["status", part]);
        assert!(stdout(&text).starts_with(header), "{}", stdout(&text));
        assert!(
            stdout(&text).lines().any(|line| line.contains(row)),
            "{part}: no {row} in {}",
            stdout(&text)
        );
    }
    for (gro, wanted) in [(false, None), (true, Some("ethtool -K v0 gro off"))] {
        ethtool::switch("v0", Offload::Gro, gro).unwrap();
        let said = json(&run(&["status", "interfaces", "-o", "json"]))[0]["findings"].clone();
        let said: Vec<String> = serde_json::from_value(said).unwrap();
        assert_eq!(said.len(), wanted.iter().count(), "{said:?}");
        assert!(said.iter().zip(wanted).all(|(finding, cure)| finding.contains(cure)), "{said:?}");
        let table = run(&["status", "interfaces"]);
        assert!(said.iter().all(|said| stdout(&table).contains(&format!("\n! {said}\n"))), "{table:?}");
    }
    let text = run(&["status"]);
    let mut lines = stdout(&text).lines();
    assert!(
        lines.next().is_some_and(|line| line.starts_with("agent:      no agent answers at ")),
        "{text:?}"
    );
    assert_eq!(lines.next(), Some("generation: 4"));
    assert!(!stdout(&text).contains("DROPPED"), "nothing was dropped: {}", stdout(&text));
}

/// The pins and the file give the same answer, and the pins know the next hop.
fn explain(root: &BpffsRoot) {
    let file = example("lab");
    for (proto, src, dst) in [
        ("tcp", "198.51.100.7:40000", "203.0.113.10:80"),
        ("udp", "198.51.100.7:40001", "203.0.113.10:5060"),
        ("tcp", "[2001:db8:c::7]:40002", "[2001:db8::10]:7000"),
        ("tcp", "[2001:db8:c::7]:40003", "[2001:db8::10]:7001"),
    ] {
        let query = ["explain", "--proto", proto, "--src", src, "--dst", dst, "-o", "json"];
        let pins = json(&xdp_lb_on(root.path().to_str().unwrap(), &query, ""));
        let rehearsed = json(&xdp_lb_on("/nonexistent", &[&query[..], &["--config", &file]].concat(), ""));
        for field in ["outcome", "backend", "hash", "slot", "tunnel", "vip", "service"] {
            assert_eq!(pins[field], rehearsed[field], "{field} of {proto} {src} {dst}");
        }
        if pins["backend"] != Value::Null {
            assert_eq!(pins["path"]["interface"], "v0", "{pins}");
            assert_eq!(rehearsed["path"]["kind"], "not_looked_up", "{rehearsed}");
        }
    }
}

fn detach(root: &BpffsRoot) {
    let run = || xdp_lb_on(root.path().to_str().unwrap(), &["detach"], "");
    let output = run();
    assert_eq!((code(&output), stderr(&output)), (0, ""), "{output:?}");
    assert!(stdout(&output).contains("detached from v0"), "{}", stdout(&output));
    assert!(!root.path().exists(), "pins remain");
    assert!(attach::attached(root).unwrap().is_empty());
    let again = run();
    assert_eq!((code(&again), stderr(&again)), (0, ""), "{again:?}");
    assert!(stdout(&again).starts_with("nothing to do"), "{}", stdout(&again));
}
