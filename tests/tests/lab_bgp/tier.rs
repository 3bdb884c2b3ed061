//! The whole product: two edge nodes that announce to FRR on the lab's router, traffic meanwhile, and what is lost when
//! things die.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use xdp_lb_tests::lab::files::{self, MEDIA, VIP};
use xdp_lb_tests::lab::product::run_to_end;
use xdp_lb_tests::lab::routers::FRR;
use xdp_lb_tests::lab::sys;
use xdp_lb_tests::lab::topology::XDP_PASS;
use xdp_lb_tests::lab::traffic::{DatagramOptions, Datagrams};
use xdp_lb_tests::lab::wait::wait_until;
use xdp_lb_tests::lab::{EdgeFile, Frr, Lab, Leaks, Mode, Options, Role, State, Tier, bgp, plan, skip};

const BOUND: Duration = Duration::from_secs(30);
/// `XDP_DROP` of linux/bpf.h.
const XDP_DROP: u32 = 1;

fn can_run() -> bool {
    skip::can_run(&[skip::LAB, &[FRR]].concat())
}

/// A lab with servers, FRR on the router and the product on all nodes, announcing.
struct Scene<'lab> {
    frr: Frr<'lab>,
    tier: Tier<'lab>,
    bgp: bgp::Section,
    file: EdgeFile,
}

impl<'lab> Scene<'lab> {
    fn start(lab: &'lab Lab, section: bgp::Section) -> Result<Self> {
        Self::start_with(lab, section, EdgeFile::new(3))
    }

    fn start_with(lab: &'lab Lab, section: bgp::Section, file: EdgeFile) -> Result<Self> {
        lab.leave_vips_to_bgp()?;
        let frr = Frr::start(lab.router(), lab.scratch().path(), &bgp::frr(lab, &section), &bgp::bfdd())?;
        let tier = Tier::start(lab, Mode::Native, |n| section.add_to(lab, &file.text(n), n))?;
        let scene = Self { frr, tier, bgp: section, file };
        scene.wait_next_hops(lab, &[1, 2])?;
        Ok(scene)
    }

    fn reload(&mut self, lab: &Lab, file: &EdgeFile) -> Result<()> {
        let section = &self.bgp;
        self.tier.reload(|n| section.add_to(lab, &file.text(n), n))
    }

    /// Waits until the router's kernel sends the VIPs exactly to these edge nodes.
    fn wait_next_hops(&self, lab: &Lab, edges: &[u8]) -> Result<()> {
        let wanted: BTreeSet<String> = edges.iter().map(|n| format!("to-edge{n}")).collect();
        let mut seen = String::new();
        let outcome = wait_until(&format!("routes to edges {edges:?}"), BOUND, || {
            plan::vip(VIP).both().into_iter().all(|vip| {
                seen = kernel_route(lab, vip).unwrap_or_default();
                let found: BTreeSet<String> = seen
                    .split_whitespace()
                    .filter(|word| word.starts_with("to-edge"))
                    .map(ToOwned::to_owned)
                    .collect();
                found == wanted
            })
        });
        outcome.with_context(|| {
            let status = |n| std::fs::read_to_string(bgp::status_file(lab, n)).unwrap_or_default();
            let router =
                ["show bgp ipv4 unicast", "show ip route", "show interface brief", "show bgp nexthop"];
            let said: String = router.iter().map(|q| self.frr.ask(&[q]).unwrap_or_default()).collect();
            format!("{seen}\n{said}\nedge1: {}\nedge2: {}", status(1), status(2))
        })
    }
}

/// The router's route to exactly this address.
fn kernel_route(lab: &Lab, vip: IpAddr) -> Result<String> {
    let mut ip = std::process::Command::new("ip");
    let (family, length) = if vip.is_ipv4() { ("-4", 32) } else { ("-6", 128) };
    ip.args([family, "route", "show", &format!("{vip}/{length}")]);
    Ok(run_to_end(lab.router(), "ip", ip, BOUND)?.stdout)
}

fn calls(flows: usize) -> DatagramOptions {
    DatagramOptions {
        flows,
        interval: Duration::from_millis(5),
        timeout: Duration::from_secs(2),
        ..Default::default()
    }
}

#[test]
fn two_next_hops_and_health_by_the_file() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options::default())?;
    let id = lab.id();
    {
        let _servers = files::serve(lab.backends())?;
        let mut scene = Scene::start(&lab, bgp::Section::default())?;
        let client = lab.client(1);
        for target in files::at(MEDIA) {
            let flows = Datagrams::start(&client.ns, target, DatagramOptions { datagrams: 20, ..calls(40) })?
                .finish(BOUND)?;
            ensure!(flows.iter().all(|flow| flow.is_unharmed()), "{target}: {flows:?}");
        }
        // What the product says of itself.
        let output = scene.tier.edges[0]
            .command("status", &["bgp", "-o", "json", "--bgp-file", &bgp::status_file(&lab, 1)])?;
        ensure!(output.status.success(), "{output:?}");
        let status: serde_json::Value = serde_json::from_str(&output.stdout)?;
        assert_eq!(status["peers"][0]["state"], json!("Established"), "{status:#}");
        assert_eq!(status["vips"][0]["state"], json!("announced"));
        let text =
            scene.tier.edges[0].command("status", &["bgp", "--bgp-file", &bgp::status_file(&lab, 1)])?.stdout;
        ensure!(text.contains("Established") && text.contains("backends healthy, needs 1"), "{text}");
        // A dead pool withdraws it, on both nodes; one healthy backend announces it.
        let dead = (1..=3).fold(scene.file.clone(), |file, n| file.with(n, State::Down));
        scene.reload(&lab, &dead)?;
        scene.wait_next_hops(&lab, &[])?;
        let one = dead.with(2, State::Active);
        scene.reload(&lab, &one)?;
        scene.wait_next_hops(&lab, &[1, 2])?;
        let back = scene.file.clone();
        scene.reload(&lab, &back)?;
        // Another service on the address: it has no say before the maps have it, so nothing is withdrawn.
        let marks: Vec<usize> =
            scene.tier.edges.iter_mut().map(|edge| edge.product.process().mark()).collect();
        let [v4, v6] = plan::vip(VIP).both();
        let more = format!(
            "  - {{ name: more, vip: [\"{v4}\", \"{v6}\"], protocol: tcp, ports: 7999, backends: [{{ address: {} }}] }}\n",
            Role::Backend(1).address().v4
        );
        let section = scene.bgp;
        scene.tier.reload(|n| section.add_to(&lab, &(back.text(n) + &more), n))?;
        for ((n, edge), mark) in (1..).zip(&mut scene.tier.edges).zip(marks) {
            let announced = "more has 1 of 1 backends healthy";
            let bgp = || edge.command("status", &["bgp", "--bgp-file", &bgp::status_file(&lab, n)]);
            wait_until("the service to have a say", BOUND, || {
                bgp().is_ok_and(|said| said.stdout.contains(announced))
            })?;
            let said = edge.product.process().log().split_off(mark).join("\n");
            ensure!(!said.contains("VIP withdrawn") && !said.contains("VIP made unattractive"), "{said}");
        }
        scene.reload(&lab, &back)?;
        // A link that goes and comes: no route to it meanwhile, and back without anybody's help.
        lab.cut(lab.edge(2))?;
        scene.wait_next_hops(&lab, &[1])?;
        lab.mend(lab.edge(2))?;
        scene.wait_next_hops(&lab, &[1, 2])?;
        // In order: not one datagram is lost when a node leaves.
        let target = files::at(MEDIA)[0];
        let stream = Datagrams::start(&client.ns, target, calls(40))?;
        stream.wait_answers(20, BOUND)?;
        scene.tier.edges[0].product.terminate()?;
        scene.wait_next_hops(&lab, &[2])?;
        stream.wait_answers(20, BOUND)?;
        let flows = stream.stop()?;
        let lost: u64 = flows.iter().map(|f| f.lost + f.errors).sum();
        assert_eq!(lost, 0, "{flows:?}");
    }
    drop(lab);
    before.check(id)
}

/// From the end of the last server to both nodes' withdrawal: what the checks take (fall x interval, timeout, jitter),
/// and 200 ms. `on_all_down: keep`, the default, goes on sending; it is nothing to announce.
#[test]
fn a_dead_pool_is_withdrawn_though_packets_still_go_there() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let lab = Lab::start(&Options::default())?;
    let servers = files::serve(lab.backends())?;
    let times = "interval: 300ms, timeout: 200ms, rise: 2, fall: 2";
    let file = EdgeFile {
        more: [
            vec![format!("health_check: {{ kind: tcp, {times} }}")],
            vec![format!("health_check: {{ kind: udp, payload: \"12345678\", {times} }}")],
        ],
        ..EdgeFile::new(3)
    };
    let scene = Scene::start_with(&lab, bgp::Section::default(), file)?;
    let begun = Instant::now();
    drop(servers);
    let dropped = begun.elapsed();
    scene.wait_next_hops(&lab, &[])?;
    let took = begun.elapsed();
    println!("a dead pool: withdrawn {took:?} after its servers began to end, which took {dropped:?}");
    // A build without optimization takes a second for the plans of four services.
    let slack = if cfg!(debug_assertions) { Duration::from_secs(1) } else { Duration::ZERO };
    let detection = Duration::from_millis(2 * 300 + 200 + 30 + 100);
    ensure!(took < dropped + detection + slack + Duration::from_millis(200), "{took:?}");
    // The routers are told first, the file is written after.
    let file = bgp::status_file(&lab, 1);
    let said =
        || std::fs::read_to_string(&file).is_ok_and(|s| s.contains("has 0 of 3 backends healthy, needs 1"));
    wait_until("the status to say why", BOUND, said)?;
    let _servers = files::serve(lab.backends())?;
    scene.wait_next_hops(&lab, &[1, 2])
}

/// What one of the four cases came to.
#[derive(Debug)]
struct Measured {
    /// From the event to the router's kernel having no route to the node; `None`: it stayed.
    route_gone: Option<Duration>,
    /// Datagrams lost, of all flows.
    lost: u64,
    /// Longest time for which a flow that goes through the node had no answer.
    gap: Duration,
}

/// How edge 1 dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// The agent is killed; XDP goes on.
    Agent,
    /// Nothing comes from the node any more, and its link stays up.
    Silence,
}

/// Kills edge 1 under a stream of calls and watches the router for `watch`.
fn measure(lab: &Lab, bfd: bool, death: Death, watch: Duration) -> Result<Measured> {
    let _servers = files::serve(lab.backends())?;
    let mut scene = Scene::start(lab, bgp::Section { bfd, restart_time: Some(60) })?;
    if bfd {
        scene.wait_bfd(lab)?;
    }
    let stream = Datagrams::start(&lab.client(1).ns, files::at(MEDIA)[0], calls(60))?;
    stream.wait_answers(20, BOUND)?;
    let begun = Instant::now();
    match death {
        Death::Agent => scene.tier.edges[0].product.kill(),
        Death::Silence => {
            let drop = sys::load_xdp_return(XDP_DROP)?;
            lab.router().netlink().attach_xdp("to-edge1", std::os::fd::AsFd::as_fd(&drop))?;
        }
    }
    let mut route_gone = None;
    let (mut answered, mut since): (Vec<u64>, Vec<Instant>) = (vec![0; 60], vec![Instant::now(); 60]);
    let mut gap = Duration::ZERO;
    let vip = plan::vip(VIP).v4.into();
    while begun.elapsed() < watch {
        if route_gone.is_none() && !kernel_route(lab, vip)?.contains("to-edge1") {
            route_gone = Some(begun.elapsed());
        }
        for (n, flow) in stream.report().iter().enumerate() {
            gap = gap.max(since[n].elapsed());
            if flow.answered > answered[n] {
                (answered[n], since[n]) = (flow.answered, Instant::now());
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let flows = stream.stop()?;
    if death == Death::Silence {
        let pass = sys::load_xdp_return(XDP_PASS)?;
        lab.router().netlink().attach_xdp("to-edge1", std::os::fd::AsFd::as_fd(&pass))?;
    }
    Ok(Measured { route_gone, lost: flows.iter().map(|f| f.lost + f.errors).sum(), gap })
}

impl Scene<'_> {
    /// Waits until BFD of both edge nodes is past its slow start.
    fn wait_bfd(&self, lab: &Lab) -> Result<()> {
        wait_until("fast BFD", BOUND, || {
            (1..=2).all(|n| {
                let text = std::fs::read_to_string(bgp::status_file(lab, n)).unwrap_or_default();
                let status: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
                status["peers"].as_array().is_some_and(|peers| {
                    peers.iter().all(|p| {
                        p["bfd"]["state"] == json!("Up") && p["bfd"]["detection_time_ms"] == json!(300)
                    })
                })
            })
        })
    }
}

/// The four cases of docs/bgp.md. One test each, so that one that fails does not hide the others.
fn case(bfd: bool, death: Death, watch: Duration, check: impl Fn(&Measured) -> Result<()>) -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let lab = Lab::start(&Options::default())?;
    let measured = measure(&lab, bfd, death, watch)?;
    println!("CASE {death:?}, {}: {measured:?}", if bfd { "with BFD" } else { "without BFD" });
    check(&measured)
}

#[test]
fn agent_killed_without_bfd_loses_nothing() -> Result<()> {
    case(false, Death::Agent, Duration::from_secs(6), |m| {
        ensure!(m.route_gone.is_none() && m.lost == 0, "{m:?}");
        Ok(())
    })
}

#[test]
fn agent_killed_with_bfd_loses_nothing() -> Result<()> {
    case(true, Death::Agent, Duration::from_secs(6), |m| {
        ensure!(m.lost == 0, "{m:?}");
        Ok(())
    })
}

#[test]
fn node_silent_without_bfd_is_gone_at_the_hold_timer() -> Result<()> {
    case(false, Death::Silence, Duration::from_secs(14), |m| {
        let gone = m.route_gone.context("the route stayed")?;
        ensure!((Duration::from_secs(5)..Duration::from_secs(11)).contains(&gone), "{m:?}");
        Ok(())
    })
}

#[test]
fn node_silent_with_bfd_is_gone_within_600_ms() -> Result<()> {
    case(true, Death::Silence, Duration::from_secs(4), |m| {
        let gone = m.route_gone.context("the route stayed")?;
        ensure!(gone < Duration::from_millis(600), "{m:?}");
        ensure!(m.gap < Duration::from_millis(700), "{m:?}");
        Ok(())
    })
}

#[test]
fn an_agent_that_comes_back_takes_its_routes_over_under_traffic() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let lab = Lab::start(&Options::default())?;
    let _servers = files::serve(lab.backends())?;
    let mut scene = Scene::start(&lab, bgp::Section { restart_time: Some(60), ..Default::default() })?;
    let stream = Datagrams::start(&lab.client(1).ns, files::at(MEDIA)[0], calls(60))?;
    stream.wait_answers(20, BOUND)?;
    scene.tier.edges[0].product.kill();
    stream.wait_answers(20, BOUND)?;
    let neighbour = Role::Edge(1).address().v4.to_string();
    wait_until("the router to notice", BOUND, || {
        scene.frr.neighbour(&neighbour).is_ok_and(|n| n["bgpState"] != json!("Established"))
    })?;
    scene.wait_next_hops(&lab, &[1, 2])?;
    scene.tier.edges[0].restart()?;
    wait_until("the session again", BOUND, || {
        scene.frr.neighbour(&neighbour).is_ok_and(|n| n["bgpState"] == json!("Established"))
    })?;
    wait_until("fresh routes", BOUND, || {
        let paths = scene.frr.paths(&format!("{}/32", plan::vip(VIP).v4)).unwrap_or_default();
        assert_eq!(paths.len(), 2, "{paths:#?}");
        paths.iter().all(|p| p.get("stale").is_none())
    })?;
    scene.wait_next_hops(&lab, &[1, 2])?;
    stream.wait_answers(20, BOUND)?;
    let flows = stream.stop()?;
    let lost: u64 = flows.iter().map(|f| f.lost + f.errors).sum();
    assert_eq!(lost, 0, "{flows:?}");
    ensure!(flows.iter().all(|f| f.moved() == 0), "{flows:?}");
    Ok(())
}
