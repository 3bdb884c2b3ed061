//! Nobody of ours reaches the API server for a while; meanwhile the cluster changes, and etcd forgets how.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use xdp_lb::state::Maps as _;
use xdp_lb_tests::lab::cluster::{Life, Running, knows, node};
use xdp_lb_tests::lab::routers::FRR;
use xdp_lb_tests::lab::{Lab, Leaks, Options, Role, skip, wait_until};

use super::life::service;
use super::scene::State::{Drains, Takes};
use super::scene::{BOUND, SERVICES, Scene, held, is_same, with};
use super::servers::{Account, Servers};

/// Changes while nobody looks.
const CHANGES: usize = 20;

/// How long the outage lasts: what `XDP_LB_TEST_OUTAGE` says in seconds.
fn lasts() -> Result<Duration> {
    let asked = std::env::var("XDP_LB_TEST_OUTAGE").ok().map(|text| text.parse()).transpose()?;
    let seconds: u64 = asked.unwrap_or(15);
    ensure!(seconds <= 600, "XDP_LB_TEST_OUTAGE: at most 600 seconds");
    Ok(Duration::from_secs(seconds))
}

#[test]
fn nothing_is_written_while_the_api_server_is_away_and_then_all_converges() -> Result<()> {
    let Some(tools) = Servers::tools() else { return Ok(()) };
    if !skip::can_run(&[skip::LAB, &[skip::NFT, skip::CURL, FRR]].concat()) {
        return Ok(());
    }
    let lasts = lasts()?;
    let before = Leaks::note()?;
    let lab = Lab::start(&Options { edges: 1, backends: 2, ..Options::default() })?;
    let id = lab.id();
    {
        let mut scene = Scene::start(&lab, tools)?;
        let mut all = vec![
            Running::start(&lab, lab.backend(1), 1, 1, Life::Serves)?,
            Running::start(&lab, lab.backend(2), 2, 1, Life::Serves)?,
        ];
        scene.publish("web", &all)?;
        scene.api.put(&service("web"))?;
        // Everybody has two addresses of the pool, in the order of their age.
        wait_until("the first address", BOUND, || {
            scene.ingress("web").is_ok_and(|ingress| !ingress.is_null())
        })?;
        scene.publish("old", &all)?;
        scene.api.put(&service("old"))?;
        let takes = |service: &str, all: &[Running]| with(service, all.iter().map(|pod| (pod, Takes)));
        let known = merged([takes("web", &all), takes("old", &all)]);
        wait_until("both Services", BOUND, || scene.holds(&known) && scene.is_announced())?;
        wait_until("answers", BOUND, || scene.answered().is_ok_and(|who| who.len() == 2))?;
        let seen = scene.api.get(SERVICES)?.context("a list")?["metadata"]["resourceVersion"].clone();
        let seen = seen.as_str().context("a version")?.to_owned();

        let load = scene.load()?;
        load.wait_answers(50, BOUND)?;
        let (at_first, log) = (load.report(), scene.edge.product.process().mark());
        let maps = scene.maps()?;
        let old = maps.observe();
        let begun = Instant::now();
        scene.edges_way.cut()?;
        scene.nodes_ways.iter_mut().try_for_each(|way| way.cut())?;
        for account in [Account::Agent, Account::Decap] {
            scene.servers.kill(account)?;
        }

        let is_over = AtomicBool::new(false);
        let looks = std::thread::scope(|scope| -> Result<u64> {
            let looks = scope.spawn(|| {
                let mut looks = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let now = maps.observe_again(&old, None);
                    ensure!(is_same(&now, &old), "written after {:?}: {:#?}", begun.elapsed(), held(&now));
                    looks += 1;
                    std::thread::sleep(Duration::from_millis(20));
                }
                Ok(looks)
            });
            let changed = change(&mut scene, &mut all, &seen);
            if changed.is_ok() {
                // What nobody may notice takes its time.
                while begun.elapsed() < lasts && !looks.is_finished() {
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
            is_over.store(true, Ordering::Relaxed);
            let looks = looks.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            changed.map(|()| looks)
        })?;
        let report = load.report().since(&at_first);
        ensure!(report.failures() == 0, "{report:#?}");
        ensure!(report.answered.keys().eq(["pod1-1", "pod2-1"]), "{:?}", report.answered);
        ensure!(scene.is_announced());
        println!(
            "no API server for {:?}: {} requests, none failed; maps looked at {looks} times, never another",
            begun.elapsed(),
            report.answers()
        );
        let said = scene.edge.product.process().log().split_off(log).join("\n");
        ensure!(said.contains("stays in force") && !said.contains("services in force"), "{said}");
        ensure!(said.matches("WARN").count() + said.matches("ERROR").count() < 20, "said too often: {said}");

        // Nodes first: a pod's node knows it before anybody sends to it.
        scene.nodes_ways.iter_mut().try_for_each(|way| way.mend())?;
        let new = all.last().context("a pod")?;
        wait_until("a node to know the new pod", BOUND, || knows(&scene.nodes[0], &new.pod))?;
        let back = Instant::now();
        scene.edges_way.mend()?;
        let state = |pod: &Running| if pod.life == Life::Serves { Takes } else { Drains };
        let wanted = merged(["web", "new"].map(|name| with(name, all.iter().map(|pod| (pod, state(pod))))));
        wait_until("the state to converge", BOUND, || scene.holds(&wanted))
            .with_context(|| format!("{:#?}, not {wanted:#?}", scene.held()))?;
        println!("and {:?} after it is back the maps are as the cluster is", back.elapsed());
        let who: Vec<String> = scene.answered()?;
        assert_eq!(who, ["pod1-2", "pod2-1"]);
        load.wait_answers(100, BOUND)?;
        let report = load.stop()?;
        ensure!(report.failures() == 0, "{report:#?}");
        scene.wait_conditions(
            "new",
            &[
                "xdp-lb.io/Addresses True Assigned: 203.0.113.12 from pool public, 2001:db8::12 from pool public",
                "xdp-lb.io/Policy True Accepted:",
                "xdp-lb.io/Announced True Announced: announced by 1 of 1 edge node",
                "xdp-lb.io/Balanced True AsAsked:",
            ],
        )?;
        ensure!(scene.servers.refused().is_empty(), "{:#?}", scene.servers.refused());
    }
    drop(lab);
    before.check(id)
}

fn merged<T: IntoIterator<Item = super::scene::Held>>(all: T) -> super::scene::Held {
    all.into_iter().flatten().collect()
}

/// A Service goes and another comes, a pod comes and another ends, a node drains and does not; then etcd forgets what was
/// before, and the servers that our agents had are there again.
fn change(scene: &mut Scene<'_>, all: &mut Vec<Running>, seen: &str) -> Result<()> {
    let api = scene.api.clone();
    api.remove(&format!("{SERVICES}/old"))?;
    all.push(Running::start(scene.lab, scene.lab.backend(1), 1, 2, Life::Serves)?);
    all[0].life = Life::Ends;
    scene.publish("new", &*all)?;
    api.put(&service("new"))?;
    wait_until("an address meanwhile", BOUND, || {
        scene.ingress("new").is_ok_and(|ingress| !ingress.is_null())
    })?;
    let mut drains = node(Role::Backend(2));
    drains["metadata"]["annotations"]["xdp-lb.io/drain"] = "true".into();
    for n in 0..CHANGES {
        scene.publish("web", &all[n % 2..])?;
        api.put([&drains, &node(Role::Backend(2))][n % 2])?;
    }
    scene.publish("web", &*all)?;
    let forgotten = scene.servers.compact()?;
    ensure!(forgotten > seen.parse()?, "{forgotten}, {seen}");
    for account in [Account::Agent, Account::Decap] {
        scene.servers.again(account)?;
        let watch = format!("{SERVICES}?watch=1&timeoutSeconds=1&resourceVersion={seen}");
        let (status, said) = scene.servers.api(account)?.says(&watch)?;
        let gone: Value = serde_json::from_str(said.lines().next().unwrap_or_default()).unwrap_or_default();
        let is_gone = status == 410 || gone["object"]["code"] == 410;
        ensure!(is_gone, "a watch could be resumed: {status} {said}");
    }
    Ok(())
}
