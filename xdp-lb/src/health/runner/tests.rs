//! The scheduler over backends in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::{CONCURRENT, Health};
use crate::health::probe::{Behaviour, MemoryProber};
use crate::health::*;

const BOUND: Duration = Duration::from_secs(30);

struct Stand {
    prober: MemoryProber,
    health: Health,
    shutdown: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Stand {
    fn start() -> Self {
        let prober = MemoryProber::default();
        let (shutdown, stopped) = watch::channel(false);
        let (health, task) = Health::start(Arc::new(prober.clone()), 7, stopped).unwrap();
        Self { prober, health, shutdown, task }
    }

    fn ask(&self, backends: u32, check: &Check, way: &Way) -> HealthSnapshot {
        let target = Target {
            check: check.clone(),
            vips: vec![IpAddr::from([203, 0, 113, 10])],
            over_tcp: true,
            way: way.clone(),
        };
        let targets = (0..backends).map(|n| (key(n), target.clone())).collect();
        self.health.set(targets, &BTreeMap::new())
    }

    /// Waits until the backends in this state are exactly these.
    async fn wait(&self, state: State, backends: &BTreeSet<IpAddr>) -> Arc<HealthSnapshot> {
        let mut changes = self.health.changes();
        let is_so = |snapshot: &Arc<HealthSnapshot>| {
            let there = snapshot.targets.iter().filter(|(_, health)| health.state == state);
            there.map(|(key, _)| key.backend).eq(backends.iter().copied())
        };
        let snapshot = timeout(BOUND, changes.wait_for(is_so)).await;
        let snapshot =
            snapshot.unwrap_or_else(|_| panic!("{} not {state:?} in time", backends.len())).unwrap();
        Arc::clone(&snapshot)
    }

    async fn stop(self) {
        self.shutdown.send_replace(true);
        timeout(BOUND, self.task).await.expect("the scheduler ends").unwrap();
        assert_eq!(self.prober.counts().under_way, 0, "no question outlives it");
    }
}

fn backend(n: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + n).into()
}

fn backends(n: std::ops::Range<u32>) -> BTreeSet<IpAddr> {
    n.map(backend).collect()
}

fn key(n: u32) -> Key {
    Key { service: "web".into(), backend: backend(n) }
}

fn check(interval: Duration, timeout: Duration) -> Check {
    Check { kind: Kind::Tcp, port: 80, interval, timeout, rise: 2, fall: 2, via: Via::Tunnel }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

#[test]
fn thousands_are_asked_and_the_dead_among_them_found() {
    run(async {
        let stand = Stand::start();
        let (all, dead) = (5000, 1000..2000);
        let check = check(Duration::from_secs(1), Duration::from_millis(300));
        let begun = Instant::now();
        let first = stand.ask(all, &check, &Way::Direct);
        assert!(first.targets.values().all(|health| health.state == State::Starting));
        stand.wait(State::Up, &backends(0..all)).await;
        let refused = Failure::Refused { address: backend(0), port: 80 };
        for n in dead.clone() {
            stand.prober.set(backend(n), Behaviour::Bad(refused.clone()));
        }
        let snapshot = stand.wait(State::Down, &backends(dead)).await;
        let asked = stand.prober.counts().asked;
        // Once an interval each: no storm, whatever the scheduler is woken for.
        let rounds = begun.elapsed().as_secs_f64() + 2.0;
        assert!(asked as f64 <= f64::from(all) * rounds, "{asked} in {rounds} rounds");
        assert_eq!(snapshot.targets[&key(1500)].reason.as_ref(), Some(&refused));
        assert_eq!(stand.health.snapshot().targets.len(), 5000);
        // Those that are gone are forgotten.
        assert_eq!(stand.ask(10, &check, &Way::Direct).targets.len(), 10);
        stand.stop().await;
    });
}

#[test]
fn no_more_questions_at_once_than_there_is_room_for_and_the_end_is_prompt() {
    run(async {
        let stand = Stand::start();
        let all = CONCURRENT as u32 + 500;
        for n in 0..all {
            stand.prober.set(backend(n), Behaviour::Silent(Suspect::Unknown));
        }
        stand.ask(all, &check(Duration::from_millis(100), Duration::from_secs(3600)), &Way::Direct);
        let full = async {
            while stand.prober.counts().under_way < CONCURRENT as u64 {
                tokio::task::yield_now().await;
            }
        };
        timeout(BOUND, full).await.expect("all are asked");
        let begun = Instant::now();
        assert_eq!(stand.prober.counts().peak, CONCURRENT as u64);
        stand.stop().await;
        assert!(begun.elapsed() < BOUND / 2);
    });
}

#[test]
fn a_silence_through_the_tunnel_is_looked_into() {
    run(async {
        let stand = Stand::start();
        stand.prober.set(backend(0), Behaviour::Silent(Suspect::Node));
        stand.prober.set(backend(1), Behaviour::Silent(Suspect::TunnelOrVip));
        let check = check(Duration::from_millis(100), Duration::from_millis(50));
        stand.ask(2, &check, &Way::Tunnel { mark: 1, trouble: None });
        let mut changes = stand.health.changes();
        let explained = |snapshot: &Arc<HealthSnapshot>| {
            let words = |n| snapshot.targets.get(&key(n)).map(TargetHealth::words).unwrap_or_default();
            words(0).starts_with("down: 203.0.113.10 does not answer, nor does the backend's node")
                && words(1).starts_with("down: 203.0.113.10 does not answer through the tunnel, though")
        };
        drop(timeout(BOUND, changes.wait_for(explained)).await.expect("the reasons are told"));
        // One that answers again is forgiven.
        stand.prober.set(backend(0), Behaviour::Good);
        stand.wait(State::Up, &backends(0..1)).await;
        stand.stop().await;
    });
}

#[test]
fn an_equal_set_of_targets_disturbs_nobody() {
    run(async {
        let stand = Stand::start();
        let check = check(Duration::from_millis(100), Duration::from_millis(50));
        stand.ask(3, &check, &Way::Direct);
        let snapshot = stand.wait(State::Up, &backends(0..3)).await;
        let again = stand.ask(3, &check, &Way::Direct);
        assert_eq!(again.changes, snapshot.changes);
        assert!(again.targets.values().all(|health| health.state == State::Up));
        stand.stop().await;
    });
}
