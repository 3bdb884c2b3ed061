//! A Service comes, scales, is rolled and drained, and goes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use xdp_lb::dataplane::{BpffsRoot, KernelMaps};
use xdp_lb::observe::Elements as _;
use xdp_lb::state::Maps as _;
use xdp_lb_common::backend::Backend;
use xdp_lb_common::reason::DropCounts;
use xdp_lb_common::stats::Counters;
use xdp_lb_tests::lab::cluster::{self, Life, Running, TARGET, knows, node};
use xdp_lb_tests::lab::files::{VIP, WEB};
use xdp_lb_tests::lab::routers::FRR;
use xdp_lb_tests::lab::traffic::Load;
use xdp_lb_tests::lab::{Lab, Leaks, Node, Options, Role, plan, pods, skip, wait_until};

use super::scene::State::{self, Drains, Takes};
use super::scene::{BOUND, SERVICES, SLICES, Scene, vips, with};
use super::servers::Servers;

/// Changes of an endpoint that are timed.
const CHANGES: usize = 20;
/// Entries of `backends` that a few pods can be in.
const MEMBERS: u32 = 128;

/// The Service of both families.
pub fn service(name: &str) -> Value {
    let mut service = cluster::service(name, "pod");
    service["spec"]["ipFamilyPolicy"] = "RequireDualStack".into();
    service["spec"]["ipFamilies"] = json!(["IPv4", "IPv6"]);
    service
}

fn counters(node: &Node<'_>) -> Result<Counters> {
    Ok(KernelMaps::open_read_only(&BpffsRoot::new(&node.bpffs))?.counters()?)
}

#[test]
fn a_service_comes_scales_rolls_drains_and_goes() -> Result<()> {
    let Some(tools) = Servers::tools() else { return Ok(()) };
    if !skip::can_run(&[skip::LAB, &[skip::NFT, skip::CURL, FRR]].concat()) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options { edges: 1, backends: 2, ..Options::default() })?;
    let id = lab.id();
    {
        let mut scene = Scene::start(&lab, tools)?;
        let mut all = comes(&scene)?;
        told(&scene)?;
        scales(&scene, &mut all)?;
        rolls(&scene, &mut all)?;
        drains_by_annotation(&scene, &all)?;
        changes_ports(&mut scene, &all)?;
        times(&scene, &all)?;
        for node in &scene.nodes {
            let Counters { drops, passes, .. } = counters(node)?;
            ensure!(passes.decap_pod > 0 && passes.from_pod > 0 && passes.decapsulated == 0, "{passes:?}");
            ensure!(drops == DropCounts::default(), "{drops:?}");
        }
        for host in lab.backends() {
            let met = pods::met(host)?;
            ensure!(!met.is_empty() && met.iter().all(|(_, packets)| *packets == 0), "{met:?}");
        }
        goes(&scene)?;
        // Our roles are enough, and nobody tries what they do not allow.
        ensure!(scene.servers.refused().is_empty(), "{:#?}", scene.servers.refused());
        scene.controller.terminate(BOUND)?;
    }
    drop(lab);
    before.check(id)
}

/// From nothing to answers.
fn comes(scene: &Scene<'_>) -> Result<Vec<Running>> {
    let lab = scene.lab;
    let at_first = counters(&scene.edge)?;
    ensure!(scene.answers()? == 0 && scene.held()?.is_empty() && !scene.is_announced());
    let now = counters(&scene.edge)?;
    ensure!(now.passes.not_a_vip > at_first.passes.not_a_vip, "{:?}", now.passes);

    let all = vec![
        Running::start(lab, lab.backend(1), 1, 1, Life::Serves)?,
        Running::start(lab, lab.backend(2), 2, 1, Life::Serves)?,
    ];
    scene.publish("web", &all)?;
    let wanted = with("web", all.iter().map(|pod| (pod, Takes)));
    let begun = scene.api.put(&service("web"))?;
    wait_until("the maps to have it", BOUND, || scene.holds(&wanted))
        .with_context(|| format!("{:#?}", scene.held()))?;
    println!("a Service made: in the maps with both its addresses after {:?}", begun.elapsed());
    let [v4, v6] = plan::vip(VIP).both();
    assert_eq!(scene.ingress("web")?, json!([{ "ip": v4, "ipMode": "VIP" }, { "ip": v6, "ipMode": "VIP" }]));
    assert_eq!(vips(&scene.maps()?.observe()), 2);
    // Nodes may know their pods a moment later.
    wait_until("nodes to know their pods", BOUND, || {
        scene.nodes.iter().zip(&all).all(|(node, pod)| knows(node, &pod.pod))
    })?;
    assert_eq!(scene.answered()?, ["pod1-1", "pod2-1"]);
    Ok(all)
}

/// What `kubectl describe` shows.
fn told(scene: &Scene<'_>) -> Result<()> {
    let [v4, v6] = plan::vip(VIP).both();
    scene.wait_conditions(
        "web",
        &[
            &format!("xdp-lb.io/Addresses True Assigned: {v4} from pool public, {v6} from pool public"),
            "xdp-lb.io/Policy True Accepted:",
            "xdp-lb.io/Announced True Announced: announced by 1 of 1 edge node",
            "xdp-lb.io/Balanced True AsAsked:",
        ],
    )?;
    ensure!(scene.is_announced(), "the router knows nothing of it");
    let said = [
        format!("Normal AddressAssigned: {v4} assigned from pool public"),
        format!("Normal AddressAssigned: {v6} assigned from pool public"),
        "Normal Announced: announced by 1 of 1 edge node".to_owned(),
    ];
    wait_until("the Events", BOUND, || scene.events("web").is_ok_and(|events| events == said))
        .with_context(|| format!("{:#?}", scene.events("web")))?;
    let edge = scene.ours("edgenodes/edge1")?;
    let is_true = |kind: &str| {
        let all = edge["status"]["conditions"].as_array();
        all.is_some_and(|all| all.iter().any(|one| one["type"] == kind && one["status"] == "True"))
    };
    ensure!(is_true("Ready") && is_true("Configured"), "{edge:#}");
    let bgp = &edge["status"]["bgp"];
    assert_eq!((&bgp["sessions"], &bgp["announced"]), (&"2/2".into(), &2.into()), "{edge:#}");
    let pool = scene.ours("vippools/public")?;
    let status = &pool["status"];
    assert_eq!((&status["assigned"], &status["free"]), (&2.into(), &18.into()), "{pool:#}");
    Ok(())
}

fn answers_of(load: &Load, name: &str) -> Result<()> {
    wait_until(&format!("answers of {name}"), BOUND, || load.report().answered.contains_key(name))
}

/// A pod comes as a Deployment makes it: it starts, then it is ready.
fn add<'a>(scene: &Scene<'_>, all: &'a mut Vec<Running>, n: u8, k: u8) -> Result<&'a Running> {
    all.push(Running::start(scene.lab, scene.lab.backend(n), n, k, Life::Starts)?);
    scene.publish("web", &*all)?;
    let new = all.len() - 1;
    wait_until("the node to know a pod that is not ready", BOUND, || {
        knows(&scene.nodes[usize::from(n) - 1], &all[new].pod)
    })?;
    all[new].life = Life::Serves;
    scene.publish("web", &*all)?;
    Ok(&all[new])
}

/// A pod goes as a Deployment takes it away: it ends and serves, and is gone when requests in flight are over.
fn take(scene: &Scene<'_>, all: &mut Vec<Running>, at: usize, load: &Load) -> Result<()> {
    all[at].life = Life::Ends;
    scene.publish("web", &*all)?;
    let state = |pod: &Running| if pod.life == Life::Serves { Takes } else { Drains };
    let wanted = with("web", all.iter().map(|pod| (pod, state(pod))));
    wait_until("a pod to drain", BOUND, || scene.holds(&wanted))
        .with_context(|| format!("{:#?}, not {wanted:#?}", scene.held()))?;
    let at_first = load.report();
    wait_until("requests in flight to be over", BOUND, || load.report().since(&at_first).answers() > 100)?;
    let gone = all.remove(at);
    scene.publish("web", &*all)?;
    let wanted = with("web", all.iter().map(|pod| (pod, Takes)));
    wait_until("a pod to be gone", BOUND, || scene.holds(&wanted))
        .with_context(|| format!("{:#?}, not {wanted:#?}", scene.held()))?;
    drop(gone);
    load.wait_answers(50, BOUND)
}

fn scales(scene: &Scene<'_>, all: &mut Vec<Running>) -> Result<()> {
    let load = scene.load()?;
    load.wait_answers(50, BOUND)?;
    for n in [1, 2] {
        let name = add(scene, all, n, 2)?.pod.name.clone();
        answers_of(&load, &name)?;
    }
    // Who answers over one family may not be there for the other yet.
    let wanted = with("web", all.iter().map(|pod| (pod, Takes)));
    wait_until("four pods to be there", BOUND, || scene.holds(&wanted))
        .with_context(|| format!("{:#?}, not {wanted:#?}", scene.held()))?;
    assert_eq!(scene.answered()?.len(), 4);
    take(scene, all, 3, &load)?;
    assert_eq!(scene.answered()?, ["pod1-1", "pod1-2", "pod2-1"]);
    let report = load.stop()?;
    ensure!(report.failures() == 0, "{report:#?}");
    println!("scaled from 2 to 4 to 3: {} requests, none failed", report.answers());
    Ok(())
}

/// Every pod is replaced by another.
fn rolls(scene: &Scene<'_>, all: &mut Vec<Running>) -> Result<()> {
    let load = scene.load()?;
    load.wait_answers(50, BOUND)?;
    for (n, k) in [(1, 3), (2, 3), (1, 4)] {
        let name = add(scene, all, n, k)?.pod.name.clone();
        answers_of(&load, &name)?;
        take(scene, all, 0, &load)?;
    }
    let report = load.stop()?;
    ensure!(report.failures() == 0, "{report:#?}");
    assert_eq!(scene.answered()?, ["pod1-3", "pod1-4", "pod2-3"]);
    println!("three pods replaced: {} requests, none failed", report.answers());
    Ok(())
}

/// A Node's annotation drains it; a cordon does not.
fn drains_by_annotation(scene: &Scene<'_>, all: &[Running]) -> Result<()> {
    let load = scene.load()?;
    let mut cordoned = node(Role::Backend(1));
    cordoned["spec"]["unschedulable"] = true.into();
    scene.api.put(&cordoned)?;
    let mut drained = node(Role::Backend(2));
    drained["metadata"]["annotations"]["xdp-lb.io/drain"] = "true".into();
    // Told after the cordon, by the same watch.
    scene.api.put(&drained)?;
    let state = |pod: &Running| if pod.node == "backend2" { Drains } else { Takes };
    let wanted = with("web", all.iter().map(|pod| (pod, state(pod))));
    wait_until("a node to drain", BOUND, || scene.holds(&wanted))
        .with_context(|| format!("{:#?}", scene.held()))?;
    assert_eq!(
        scene.answered()?,
        ["pod1-3", "pod1-4"],
        "who is cordoned takes requests, who drains does not"
    );
    for n in [1, 2] {
        scene.api.put(&node(Role::Backend(n)))?;
    }
    let wanted = with("web", all.iter().map(|pod| (pod, Takes)));
    wait_until("a node to take requests again", BOUND, || scene.holds(&wanted))?;
    assert_eq!(scene.answered()?.len(), 3);
    let report = load.stop()?;
    ensure!(report.failures() == 0, "{report:#?}");
    Ok(())
}

/// Ports come, are renamed and go, and each is a service of its own; the address is announced all the while.
fn changes_ports(scene: &mut Scene<'_>, all: &[Running]) -> Result<()> {
    let mark = scene.edge.product.process().mark();
    let put = |ports: &[(&str, u16)], wanted: &[&str]| -> Result<()> {
        // Endpoints know every name, so that no service is ever without.
        for mut slice in cluster::slices("web", all) {
            let port = |name| json!({ "name": name, "protocol": "TCP", "port": TARGET });
            slice["ports"] = ["http", "more", "www"].map(port).into();
            scene.api.put(&slice)?;
        }
        let mut changed = service("web");
        let port = |(name, port): &(&str, u16)| json!({ "name": name, "protocol": "TCP", "port": port, "targetPort": TARGET });
        changed["spec"]["ports"] = ports.iter().map(port).collect();
        scene.api.put(&changed)?;
        let names = || Ok::<_, anyhow::Error>(scene.held()?.into_keys().collect::<Vec<_>>());
        wait_until("other ports", BOUND, || names().is_ok_and(|names| names == wanted))
            .with_context(|| format!("{:?}, not {wanted:?}", names()))
    };
    let [http, more, www] =
        ["http", "more", "www"].map(|port| [format!("default/web/{port}"), format!("default/web/{port}/v6")]);
    let both = [&http[0], &http[1], &more[0], &more[1]].map(String::as_str);
    put(&[("http", WEB), ("more", 81)], &both)?;
    put(&[("www", WEB)], &www.each_ref().map(String::as_str))?;
    put(&[("http", WEB)], &http.each_ref().map(String::as_str))?;
    scene.publish("web", all)?;
    assert_eq!(scene.answered()?.len(), 3);
    let said = scene.edge.product.process().log().split_off(mark).join("\n");
    ensure!(!said.contains("VIP withdrawn") && !said.contains("VIP made unattractive"), "{said}");
    Ok(())
}

/// How long it takes from the API server's answer to the first change in the maps.
fn timed(scene: &Scene<'_>, change: impl FnOnce() -> Result<Instant>) -> Result<Duration> {
    let maps = scene.maps()?;
    let watched = Watched::of(&maps);
    let old = watched.look(&maps);
    let gives_up = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            while !gives_up.load(Ordering::Relaxed) {
                if watched.look(&maps) != old {
                    return Some(Instant::now());
                }
                // Who looks all the time takes what the agent needs.
                std::thread::sleep(Duration::from_micros(200));
            }
            None
        });
        let answered = change();
        let came = wait_until("a change in the maps", BOUND, || first.is_finished());
        gives_up.store(true, Ordering::Relaxed);
        let changed = first.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        came?;
        Ok(changed.context("no change")?.saturating_duration_since(answered?))
    })
}

/// What a change of endpoints writes to, small enough to be looked at all the time.
struct Watched {
    slots: Vec<Range<u32>>,
}

impl Watched {
    /// The rings that are there.
    fn of(maps: &KernelMaps) -> Self {
        let observed = maps.observe();
        let slots = observed.rings.keys().map(|place| place.slot_base..place.slot_base + place.table_size);
        Self { slots: slots.collect() }
    }

    fn look(&self, maps: &KernelMaps) -> (Vec<Option<Backend>>, Vec<Vec<u16>>) {
        let members = (0..MEMBERS).map(|index| maps.backend(index)).collect();
        (members, self.slots.iter().map(|slots| maps.slots(slots.clone())).collect())
    }
}

/// Told, and not judged: the machine may be busy with anything. One family alone changes.
fn times(scene: &Scene<'_>, all: &[Running]) -> Result<()> {
    let [slice, _] = cluster::slices("web", all);
    let tell = |what: &str, change: &dyn Fn(usize, &mut Vec<Value>)| -> Result<()> {
        let mut took = Vec::new();
        for n in 1..=CHANGES {
            let mut slice = slice.clone();
            change(n, slice["endpoints"].as_array_mut().context("endpoints")?);
            let wanted = members(&slice);
            took.push(timed(scene, || scene.api.put(&slice))?);
            wait_until("the whole change", BOUND, || {
                scene.held().is_ok_and(|held| held["default/web/http"] == wanted)
            })
            .with_context(|| format!("{:#?}, not {wanted:#?}", scene.held()))?;
        }
        took.sort_unstable();
        let (median, most) = (took[took.len() / 2], took[took.len() - 1]);
        println!(
            "{what}: first write to the maps after the API server's answer: median {median:?}, at most {most:?} of {CHANGES}"
        );
        Ok(())
    };
    tell("an endpoint ends, or is ready again", &|n, endpoints| {
        let stays = n % 2 == 0;
        endpoints[0]["conditions"] = json!({ "ready": stays, "serving": true, "terminating": !stays });
    })?;
    tell("an endpoint goes, or comes back", &|n, endpoints| {
        if n % 2 != 0 {
            endpoints.pop();
        }
    })?;
    tell("an endpoint that never was there comes", &|n, endpoints| {
        endpoints.extend((0..n).map(|k| {
            json!({ "addresses": [format!("10.244.1.{}", 200 + k)], "nodeName": "backend1", "conditions": { "ready": true } })
        }));
    })?;
    scene.publish("web", all)?;
    let wanted = with("web", all.iter().map(|pod| (pod, Takes)));
    wait_until("the pods alone", BOUND, || scene.holds(&wanted))
        .with_context(|| format!("{:#?}", scene.held()))
}

/// What the maps are to hold of a slice.
fn members(slice: &Value) -> BTreeMap<IpAddr, State> {
    let endpoint = |endpoint: &Value| {
        let state = if endpoint["conditions"]["ready"] == true { Takes } else { Drains };
        Some((endpoint["addresses"][0].as_str()?.parse().ok()?, state))
    };
    slice["endpoints"].as_array().into_iter().flatten().filter_map(endpoint).collect()
}

/// Nothing is left of it.
fn goes(scene: &Scene<'_>) -> Result<()> {
    scene.api.remove(&format!("{SERVICES}/web"))?;
    wait_until("the maps to hold nothing", BOUND, || scene.held().is_ok_and(|held| held.is_empty()))?;
    let left = scene.maps()?.observe();
    ensure!(vips(&left) == 0 && left.rings.is_empty() && left.pages.is_empty(), "{:?}", left.rings);
    wait_until("the route to go", BOUND, || !scene.is_announced())?;
    let at_first = counters(&scene.edge)?;
    assert_eq!(scene.answers()?, 0);
    let now = counters(&scene.edge)?;
    ensure!(now.passes.not_a_vip > at_first.passes.not_a_vip, "{:?}", now.passes);
    assert_eq!(now.drops, at_first.drops);
    for family in ["ipv4", "ipv6"] {
        scene.api.remove(&format!("{SLICES}/web-{family}"))?;
    }
    wait_until("the addresses to rest", BOUND, || {
        let status = scene.ours("vippools/public").unwrap_or_default()["status"].take();
        status["assigned"] == 0 && status["resting"].as_array().is_some_and(|all| all.len() == 2)
    })?;
    wait_until("the edge node to say so", BOUND, || {
        scene.ours("edgenodes/edge1").is_ok_and(|edge| edge["status"]["bgp"]["announced"] == 0)
    })
    .with_context(|| format!("{:#?}", scene.ours("edgenodes/edge1")))
}
