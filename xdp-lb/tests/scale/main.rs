//! The control plane of a large zone: ten thousand services over a hundred sets of a hundred backends, from nothing,
//! with one backend changed, with nothing to do.
//!
//! Asserted is what is written, not how long it took; the times are printed for whoever runs it in release:
//! `cargo test --release -p xdp-lb --test scale -- --nocapture`. Debug builds take a tenth of everything.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use xdp_lb::agent::{FlowTable, Reconciler, Run};
use xdp_lb::health::OnAllDown;
use xdp_lb::memory::MemoryMaps;
use xdp_lb::model::{
    AdminState, Affinity, Backend, Backends, CidFormat, Desired, DrainMode, DrainPolicy, Dscp, Encap,
    EncapKind, Fragments, Inherited, Limits, Log, Metrics, Mtu, Node, Ports, Protocol, Removal, Service,
    Share, SourceRanges, TableSize, Tracking, Unmatched, Vip,
};
use xdp_lb::nexthop::{NextHop, Resolution};
use xdp_lb::peers::exceptions::Placement;
use xdp_lb::peers::{Apart, Refusal};
use xdp_lb::state::{Capacity, MapOp, Maps, Observed, WriteError};
use xdp_lb_common::control::Control;
use xdp_lb_common::flow::FlowSet;

/// A tenth in debug builds, unless `XDP_LB_SCALE=full` says otherwise.
static PART: LazyLock<u32> = LazyLock::new(|| {
    let full = std::env::var("XDP_LB_SCALE").is_ok_and(|scale| scale == "full");
    if cfg!(debug_assertions) && !full { 10 } else { 1 }
});
static SERVICES: LazyLock<u32> = LazyLock::new(|| 10_000 / *PART);
static SETS: LazyLock<u32> = LazyLock::new(|| 100 / *PART);
const BACKENDS: u32 = 100;

/// Maps in memory with a clock that stands.
struct Twin(MemoryMaps);

impl Maps for Twin {
    fn observe(&self) -> Observed {
        self.0.observe()
    }
    fn observe_again(&self, last: &Observed, written: Option<&[MapOp]>) -> Observed {
        self.0.observe_again(last, written)
    }
    fn apply(&mut self, op: &MapOp) -> Result<(), WriteError> {
        let applied = self.0.apply(op);
        // The twin's record of operations is not the agent's memory; what the next step asks about stays.
        if self.0.ops().len() > 1000 {
            self.0.take_ops();
        }
        applied
    }
}

impl FlowTable for Twin {
    fn tick(&self) -> io::Result<u16> {
        Ok(100)
    }
    fn sets(&self) -> impl Iterator<Item = (u32, FlowSet)> {
        self.0.flow_sets()
    }
    fn sweep(&self, set: u32, way: usize, old: u64) -> io::Result<bool> {
        Ok(self.0.sweep(set, way, old))
    }
    fn clean_slot(&self, slot: u32, expected: u16) -> io::Result<()> {
        self.0.clean(slot, expected);
        Ok(())
    }
    /// No peer tells this table of any flow.
    fn remember(&self, _: Placement, _: u16) -> io::Result<Result<(), Refusal>> {
        unreachable!("nobody tells of flows here")
    }
    fn grace(&self) {}
}

fn capacity() -> Capacity {
    Capacity {
        services: 16_384 / *PART,
        vip_slots: 131_072,
        port_pages: 65_535,
        backends: 32_768,
        ring_slots: (*SETS + 20) * 65_540,
        flow_sets: 131_072,
        backend_stats: 10_000,
        tx_ports: 64,
        server_ids: 8,
        source_ranges: 1,
    }
}

fn backends(set: u32) -> Backends {
    let backend = |n| Backend {
        address: Ipv4Addr::from(0x0a00_0000 + set * 256 + n).into(),
        weight: 100,
        zone: None,
        state: AdminState::Active,
        share: Share::FULL,
        slice: Vec::new(),
        server_id: None,
        backup: false,
    };
    (1..=BACKENDS).map(backend).collect::<Vec<Backend>>().into()
}

fn vip(n: u32) -> IpAddr {
    Ipv4Addr::from(0xcb00_0000 + n).into()
}

/// A VIP and a port for every service.
fn zone() -> Desired {
    let sets: Vec<Backends> = (0..*SETS).map(backends).collect();
    let encap = Encap {
        kind: EncapKind::Ipip,
        source_v4: Some(([172, 16, 0, 0], 16)),
        source_v6: Some((Ipv6Addr::new(0xfd00, 0x7864, 0x7000, 0, 0, 0, 0, 0).octets(), 64)),
        dscp: Dscp::Copy,
        mtu: Mtu::Auto,
    };
    let service = |n: u32| Service {
        name: format!("service-{n}"),
        vips: vec![vip(n)],
        protocol: if n.is_multiple_of(2) { Protocol::Tcp } else { Protocol::Udp },
        ports: Ports::Ranges(vec![443..=443]),
        affinity: Affinity::FiveTuple,
        cid: CidFormat::default(),
        source_ranges: SourceRanges::default(),
        fragments: Fragments::Forward,
        tracking: if n.is_multiple_of(2) { Tracking::Off } else { Tracking::Exact },
        flow_timeout: Duration::from_secs(300),
        new_flow_limit: 100_000,
        table_size: TableSize::DEFAULT,
        drain: DrainPolicy { mode: DrainMode::Stick, max: Duration::from_secs(3600) },
        encap,
        health: None,
        removal: Removal::Drain,
        slow_start: Duration::ZERO,
        on_all_down: OnAllDown::default(),
        zone_policy: None,
        backends: sets[(n % *SETS) as usize].clone(),
    };
    Desired {
        node: Node::default(),
        interfaces: Vec::new(),
        seed: 7,
        flow_table: xdp_lb::model::FlowTable { entries: 1 << 20, track_window: Duration::from_secs(5) },
        limits: Limits::default(),
        metrics: Metrics::default(),
        peers: None,
        admin: xdp_lb::model::Admin::default(),
        log: Log::default(),
        vips: (0..*SERVICES).map(|n| Vip { address: vip(n), unmatched: Unmatched::Drop }).collect(),
        services: (0..*SERVICES).map(service).collect(),
        decap: None,
        bgp: None,
        kubernetes: None,
        inherited: Inherited { encap, table_size: TableSize::DEFAULT, zone: None, policies: BTreeMap::new() },
    }
}

fn way(_: IpAddr) -> Resolution {
    Resolution::Resolved(NextHop {
        ifindex: 2,
        interface: "eth0".into(),
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: [2, 0, 0, 0, 0, 2],
        mtu: 9000,
        below: None,
        path_mtu: None,
    })
}

fn at(desired: &Desired, now: u64) -> Run<'_> {
    let uptime = Duration::from_secs(now);
    Run { desired, resolve: &way, now, uptime, allow_moves: false, generation: 1, only: None }
}

/// Memory of this process in kB: now, and at the most.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// What this thread has worked: on a machine that others use, too, the clock on the wall says little.
fn worked() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

fn timed<T>(what: &str, step: impl FnOnce() -> T) -> T {
    let (begun, idle) = (Instant::now(), worked());
    let result = step();
    let (work, took) = (worked() - idle, begun.elapsed());
    let (now, most) = memory();
    let (now, most) = (now / 1024, most / 1024);
    eprintln!("{what:<46} {work:>9.1?} of work in {took:>9.1?}; memory {now:>4} MB, at most {most:>4} MB");
    result
}

#[test]
fn ten_thousand_services_over_a_hundred_sets() {
    let mut desired = timed("the configuration", zone);
    let control = Control { seed: 7, tick_shift: 10, second_shift: 8, hz: 250, ..Control::default() };
    let maps = timed("maps in memory, not the agent's", || MemoryMaps::new(capacity(), control));
    let mut agent = Reconciler::new(Twin(maps));
    let filled =
        timed("filled from nothing, looked at again", || agent.reconcile(&at(&desired, 100)).unwrap());
    let observed = timed("a look at everything", || agent.maps().observe());
    assert_eq!((observed.services.len(), observed.rings.len()), (*SERVICES as usize, *SETS as usize));
    assert!(filled.writes > *SERVICES as usize);
    for _ in 0..2 {
        let again = timed("a look at what is as it was", || agent.observe());
        timed("a plan with nothing to do", || agent.plan(&again, &at(&desired, 101)).unwrap());
        let nothing = timed("nothing to do", || agent.reconcile(&at(&desired, 101)).unwrap());
        assert_eq!(nothing.writes, 0);
    }

    // One backend of one set, for all services of the set; then for one service alone; then as before.
    for (what, state, services, rings) in [
        ("one backend drained, all services of the set", AdminState::Drain, *SERVICES, *SETS),
        ("one backend down, all services of the set", AdminState::Down, *SERVICES, *SETS),
        ("one backend active, one service alone", AdminState::Active, 1, *SETS + 1),
    ] {
        let mut set = desired.services[0].backends.clone();
        set[0].state = state;
        for service in desired.services.iter_mut().step_by(*SETS as usize).take(services as usize) {
            service.backends = set.clone();
        }
        let writes = timed(what, || agent.reconcile(&at(&desired, 102)).unwrap().writes);
        assert!((1..=300).contains(&writes), "{writes} writes");
        assert_eq!(agent.maps().observe().rings.len(), rings as usize);
    }
    desired.services[0].backends = desired.services[*SETS as usize].backends.clone();
    timed("as the others again", || agent.reconcile(&at(&desired, 103)).unwrap());
    for _ in 0..3 {
        timed("survey of the flow table", || {
            agent.survey(&desired, &Apart::default(), Duration::from_secs(500)).unwrap()
        });
        timed("nothing to do after it", || agent.reconcile(&at(&desired, 500)).unwrap());
    }
    timed("a new service", || {
        let new = Service {
            name: "new".into(),
            vips: vec![vip(0)],
            ports: Ports::All,
            ..desired.services[1].clone()
        };
        desired.services.push(new);
        agent.reconcile(&at(&desired, 501)).unwrap()
    });
    timed("everything removed", || {
        desired.services.clear();
        desired.vips.clear();
        agent.reconcile(&at(&desired, 502)).unwrap()
    });
    let observed = agent.maps().observe();
    assert_eq!((observed.services.len(), observed.rings.len()), (0, 0));
}
