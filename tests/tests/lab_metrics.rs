//! The endpoint of a running agent: what it counts is what the generators sent, what it says is what is the case.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xdp_lb_tests::lab::files::{self, MEDIA, MEDIA6, VIP};
use xdp_lb_tests::lab::http;
use xdp_lb_tests::lab::plan::vip;
use xdp_lb_tests::lab::skip::{self, Need};
use xdp_lb_tests::lab::topology::HOST_INTERFACE;
use xdp_lb_tests::lab::traffic::{DatagramOptions, Datagrams};
use xdp_lb_tests::lab::{EdgeFile, Lab, Leaks, Mode, Node, Options, Role, State, Tier, wait_for, wait_until};

const BOUND: Duration = Duration::from_secs(20);
const LISTEN: &str = "127.0.0.1:9410";
const PROMTOOL: Need = Need::Program("promtool", "prometheus");

/// Sends `request` from the node itself; the status and the body.
fn ask(node: &Node<'_>, address: SocketAddr, request: &str) -> Result<(u16, String)> {
    http::ask(&node.host().ns, address, request)
}

fn get(node: &Node<'_>, path: &str) -> Result<(u16, String)> {
    http::get(&node.host().ns, LISTEN.parse()?, path)
}

/// Every series of a scrape.
fn scrape(node: &Node<'_>) -> Result<BTreeMap<String, f64>> {
    let (status, body) = get(node, "/metrics")?;
    ensure!(status == 200, "{status}: {body}");
    let samples = body.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').context("a sample without value")?;
            Ok((series.to_owned(), value.parse().with_context(|| line.to_owned())?))
        })
        .collect()
}

/// The sum of one series over all edge nodes; that it is there on each is part of it.
fn total(tier: &Tier<'_>, series: &str) -> Result<u64> {
    let name = format!("xdp_lb_{series}");
    tier.edges.iter().try_fold(0, |sum, edge| {
        let value = scrape(edge)?.get(&name).copied().with_context(|| format!("{name} is not there"))?;
        Ok(sum + value as u64)
    })
}

fn text(file: &EdgeFile, n: u8) -> String {
    format!("{}metrics: {{ listen: \"{LISTEN}\" }}\n", file.text(n))
}

#[test]
fn figures_are_those_of_the_generators() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options::default())?;
    let id = lab.id();
    {
        let _servers = files::serve(lab.backends())?;
        let file = EdgeFile::new(3);
        let mut tier = Tier::start(&lab, Mode::Native, |n| text(&file, n))?;
        let options = DatagramOptions {
            flows: 40,
            datagrams: 25,
            size: 100,
            interval: Duration::from_millis(5),
            ..DatagramOptions::default()
        };
        for (service, port, over_v6) in [("media", MEDIA, false), ("media6", MEDIA6, true)] {
            // IPv6 inside and IPv4 inside, over tunnels of either.
            let target = files::at(port)[usize::from(!over_v6)];
            let flows = Datagrams::start(&lab.client(1).ns, target, options.clone())?.finish(BOUND)?;
            ensure!(flows.iter().all(|flow| flow.is_unharmed()), "{target}: {flows:?}");
            let sent: u64 = flows.iter().map(|flow| flow.sent).sum();
            assert_eq!(sent, 1000);
            let head = if target.is_ipv4() { 20 + 8 } else { 40 + 8 };
            assert_eq!(total(&tier, &format!("packets_total{{service=\"{service}\"}}"))?, sent);
            assert_eq!(total(&tier, &format!("bytes_total{{service=\"{service}\"}}"))?, sent * (head + 100));
            for n in 1..=3 {
                let backend = Role::Backend(n);
                let its = flows.iter().filter(|flow| flow.servers == [backend.name()]);
                let its: u64 = its.map(|flow| flow.sent).sum();
                let address = backend.address().both()[usize::from(over_v6)];
                let labels = format!("{{service=\"{service}\",backend=\"{address}\"}}");
                assert_eq!(total(&tier, &format!("backend_packets_total{labels}"))?, its, "{labels}");
                assert_eq!(total(&tier, &format!("backend_bytes_total{labels}"))?, its * (head + 100));
                assert_eq!(total(&tier, &format!("backend_up{labels}"))?, 2, "up on both edge nodes");
            }
        }
        // 80 flows were remembered once each; all other packets found theirs.
        assert_eq!(total(&tier, "flow_table_remembered_total")?, 80);
        assert_eq!(total(&tier, "flow_table_misses_total")?, 80);
        assert_eq!(total(&tier, "flow_table_hits_total")?, 2000 - 80);
        assert_eq!(total(&tier, "flow_table_capacity")?, 2 * 65536);
        let surveyed = || total(&tier, "flow_table_entries").is_ok_and(|live| live == 80);
        wait_until("the agents to read the flow table", BOUND, surveyed)?;

        // Nobody listens there.
        let none = "drops_total{reason=\"no_service\"}";
        let was = total(&tier, none)?;
        let dead = SocketAddr::new(vip(VIP).both()[0], 9);
        lab.client(1).ns.enter(move || -> std::io::Result<()> {
            for _ in 0..50 {
                std::net::UdpSocket::bind("0.0.0.0:0")?.send_to(b"to nobody", dead)?;
            }
            Ok(())
        })??;
        let all = wait_until("50 drops", BOUND, || total(&tier, none).is_ok_and(|now| now >= was + 50));
        all.with_context(|| format!("{:?}", total(&tier, none)))?;
        assert_eq!(total(&tier, none)?, was + 50);
        assert_eq!(total(&tier, "drops_total{reason=\"next_hop_unresolved\"}")?, 0);

        // A backend drains: its slots are dirty while its flows are remembered there.
        let drained = file.with(1, State::Drain);
        tier.reload(|n| text(&drained, n))?;
        for edge in &tier.edges {
            // A pass over the flow table may clean some between the two looks.
            let same = || -> Option<u64> {
                let rows: Vec<Value> =
                    serde_json::from_str(&edge.command("status", &["services", "-o", "json"]).ok()?.stdout)
                        .ok()?;
                let told = rows.iter().find(|row| row["name"] == "media")?["dirty_slots"].as_u64()?;
                let served = *scrape(edge).ok()?.get("xdp_lb_dirty_slots{service=\"media\"}")? as u64;
                (served == told).then_some(served)
            };
            let dirty = wait_for("status and metrics to say the same", BOUND, same)?;
            ensure!(dirty > 0, "no slot is dirty");
        }
    }
    drop(lab);
    before.check(id)
}

#[test]
fn the_endpoint_says_how_the_agent_is() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options { edges: 1, backends: 1, ..Options::default() })?;
    let id = lab.id();
    {
        let _servers = files::serve(lab.backends())?;
        let mut file = EdgeFile::new(1);
        file.more[0] = vec!["health_check: { kind: tcp, interval: 300ms, timeout: 200ms }".into()];
        let mut tier = Tier::start(&lab, Mode::Native, |n| text(&file, n))?;
        let [edge] = &mut tier.edges[..] else { panic!("one edge node") };
        let series = |edge: &Node<'_>, name: &str| scrape(edge).ok()?.get(&format!("xdp_lb_{name}")).copied();

        assert_eq!(get(edge, "/healthz")?, (200, "ok\n".into()));
        assert_eq!(get(edge, "/readyz")?, (200, "ready\n".into()));
        assert_eq!(get(edge, "/")?.0, 404);
        assert_eq!(
            ask(edge, LISTEN.parse()?, "POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")?.0,
            405
        );
        let endless = format!("GET /metrics HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(9000));
        assert_eq!(ask(edge, LISTEN.parse()?, &endless)?.0, 431);
        let outside = SocketAddr::new(edge.host().role.address().both()[0], 9410);
        ensure!(ask(edge, outside, "").is_err(), "it listens at {outside} as well");
        assert_eq!(series(edge, "xdp_mode{interface=\"eth0\",mode=\"native\"}"), Some(1.0));
        assert_eq!(series(edge, "config_last_apply_success"), Some(1.0));
        let checked = || series(edge, "health_checks_total{kind=\"tcp\",result=\"good\"}") >= Some(4.0);
        wait_until("health checks to be counted", BOUND, checked)?;
        ensure!(series(edge, "health_check_duration_seconds_count{kind=\"tcp\"}") >= Some(4.0));

        // A bad file is told, and nothing else changes.
        let generation = series(edge, "config_generation");
        ensure!(!edge.try_reload("services: [")?.done);
        assert_eq!(series(edge, "config_last_apply_success"), Some(0.0));
        assert_eq!(get(edge, "/readyz")?.0, 200);
        edge.reload(&text(&file, 1))?;
        assert_eq!(series(edge, "config_last_apply_success"), Some(1.0));
        ensure!(series(edge, "config_generation") > generation);

        // Somebody takes the program away.
        std::fs::remove_file(edge.bpffs.join("links").join(HOST_INTERFACE))
            .context("remove the link's pin")?;
        assert_eq!(get(edge, "/readyz")?, (503, "the program is not attached to eth0\n".into()));
        assert_eq!(get(edge, "/healthz")?.0, 200);
        edge.reload(&text(&file, 1))?;
        assert_eq!(get(edge, "/readyz")?, (200, "ready\n".into()));

        // The file takes the endpoint away, and the agent ends in order.
        edge.reload(&file.text(1))?;
        ensure!(get(edge, "/metrics").is_err(), "nothing should listen any more");
        edge.reload(&text(&file, 1))?;
        assert_eq!(get(edge, "/readyz")?.0, 200);
        ensure!(edge.product.terminate()?.success());
    }
    drop(lab);
    before.check(id)
}

#[test]
fn promtool_finds_nothing_to_say_and_series_are_bounded() -> Result<()> {
    if !skip::can_run(&[skip::LAB, &[PROMTOOL]].concat()) {
        return Ok(());
    }
    let lab = Lab::start(&Options { edges: 1, backends: 1, ..Options::default() })?;
    let file = EdgeFile {
        more: [vec!["health_check: { kind: tcp, interval: 300ms, timeout: 200ms }".into()], Vec::new()],
        ..EdgeFile::new(1)
    };
    // Four services with a backend each, and places for two: a service takes eight at least.
    let bounded = |n| text(&file, n).replace("metrics: {", "metrics: { per_backend: 16,");
    let tier = Tier::start(&lab, Mode::Native, bounded)?;
    let (status, body) = get(&tier.edges[0], "/metrics")?;
    ensure!(status == 200, "{status}: {body}");
    assert_eq!(body.matches("\nxdp_lb_backend_up{").count(), 2, "{body}");
    ensure!(body.contains("\nxdp_lb_backends_without_series 2\n"), "{body}");
    let program = skip::find_program("promtool").context("promtool")?;
    let mut promtool = Command::new(program)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    promtool.stdin.take().context("its stdin")?.write_all(body.as_bytes())?;
    let output = promtool.wait_with_output()?;
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    ensure!(output.status.success() && said.is_empty(), "{}\n{said}\n{body}", output.status);
    Ok(())
}
