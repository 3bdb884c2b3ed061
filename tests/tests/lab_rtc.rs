//! Real-time traffic through the tier: QUIC clients that move, ICE sessions on one port, media by port slices.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use xdp_lb_tests::lab::traffic::{IceClient, IceServer, Media, QuicServer, Server, Stream, Trust, migrate};
use xdp_lb_tests::lab::{Host, Lab, Leaks, Mode, Options, Role, State, Tier, files, plan, skip};

const BOUND: Duration = Duration::from_secs(30);
/// QUIC by connection id.
const QUIC: u16 = 443;
/// The same servers by five-tuple.
const QUIC_BY_TUPLE: u16 = 444;
const ICE: u16 = 3478;
/// A thousand ports for each backend.
const SLICES: u16 = 20_000;

/// The file of edge node `n`, with backend `changed` in another state.
fn file(n: u8, changed: u8, state: State) -> String {
    let [v4, v6] = plan::tunnel_sources(n).map(|(ip, length)| format!("\"{ip}/{length}\""));
    let [vip, vip_v6] = plan::vip(files::VIP).both();
    let backends = |extra: &dyn Fn(u8) -> String| -> String {
        let one = |b: u8| {
            let [address, _] = Role::Backend(b).address().both();
            let state = if b == changed { state } else { State::Active };
            format!("      - {{ address: \"{address}\", state: {state}{} }}\n", extra(b))
        };
        (1..=3).map(one).collect()
    };
    let service = |name: &str, ports: &str, more: &str, extra: &dyn Fn(u8) -> String| {
        format!(
            "  - name: {name}\n    vip: [\"{vip}\", \"{vip_v6}\"]\n    protocol: udp\n    ports: {ports}\n    {more}\n    backends:\n{}",
            backends(extra)
        )
    };
    let slice = |b: u8| {
        let first = SLICES + 1000 * u16::from(b - 1);
        format!(", ports: \"{first}-{}\"", first + 999)
    };
    let services = [
        service("quic", "443", "affinity: quic-cid", &|b| format!(", server_id: \"0a0{b}\"")),
        service("quic-by-tuple", "444", "affinity: five-tuple", &|_| String::new()),
        service("webrtc", "3478", "affinity: ice-ufrag", &|b| format!(", server_id: sfu{b}")),
        service("media", "\"20000-22999\"", "affinity: dest-port", &slice),
    ];
    format!(
        "version: 1\nnode: {{ name: edge{n} }}\ninterfaces: [{{ name: eth0, mode: native }}]\n\
         encap: {{ source_v4: {v4}, source_v6: {v6} }}\nmaglev: {{ table_size: 4093, seed: 0x78646c62 }}\n\
         flow_table: {{ entries: 65536 }}\nlog: {{ format: text, level: info }}\nservices:\n{}",
        services.concat()
    )
}

fn all_active(n: u8) -> String {
    file(n, 0, State::Active)
}

fn number(host: &Host) -> u8 {
    (1..=3).find(|&n| host.role == Role::Backend(n)).expect("a backend")
}

#[test]
fn quic_clients_that_move_stay_with_their_servers() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options::default())?;
    let id = lab.id();
    {
        let trust = Trust::new()?;
        let addresses: Vec<SocketAddr> = [QUIC, QUIC_BY_TUPLE].into_iter().flat_map(files::at).collect();
        let _servers: Vec<QuicServer> = lab
            .backends()
            .iter()
            .map(|host| {
                QuicServer::start(&host.ns, &host.role.name(), &[0x0a, number(host)], &addresses, &trust)
            })
            .collect::<Result<_>>()?;
        let mut tier = Tier::start(&lab, Mode::Native, all_active)?;
        let mut servers = Vec::new();
        for round in 0..3 {
            for target in files::at(QUIC) {
                let seen = migrate(&lab.client(1).ns, target, &trust, 4, BOUND)?;
                assert_eq!(seen.len(), 5);
                ensure!(seen.iter().all(|s| s.server == seen[0].server), "{target}: {seen:?}");
                let ports: std::collections::BTreeSet<u16> = seen.iter().map(|s| s.client.port()).collect();
                ensure!(ports.len() == 5, "the client did not move: {seen:?}");
                servers.push(seen[0].server.clone());
            }
            // A drain under it changes nothing for those who move.
            let state = if round == 0 { State::Drain } else { State::Active };
            tier.reload(|n| file(n, 2, state))?;
        }
        servers.sort_unstable();
        servers.dedup();
        ensure!(servers.len() > 1, "all six on {servers:?}");
        // What the ids are for: by five-tuple, a move is to another server with two chances in three.
        let lost = (0..6).filter(|_| {
            let [target, _] = files::at(QUIC_BY_TUPLE);
            migrate(&lab.client(1).ns, target, &trust, 3, Duration::from_secs(2)).is_err()
        });
        ensure!(lost.count() > 0, "six clients moved three times each and found their servers without ids");
    }
    drop(lab);
    before.check(id)
}

#[test]
fn ice_sessions_stay_with_their_servers() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options::default())?;
    let id = lab.id();
    {
        let addresses = files::at(ICE);
        let ufrag = |n: u8| format!("sfu{n}QwEr");
        let _servers: Vec<IceServer> = lab
            .backends()
            .iter()
            .map(|host| IceServer::start(&host.ns, &host.role.name(), &ufrag(number(host)), &addresses))
            .collect::<Result<_>>()?;
        let mut tier = Tier::start(&lab, Mode::Native, all_active)?;
        for target in addresses {
            for n in 1..=3u8 {
                let name = Role::Backend(n).name();
                // Each new port is a move of the same session: one check, and its media follows.
                for port in 0..5 {
                    let mut client = IceClient::new(&lab.client(1).ns, target, BOUND)?;
                    ensure!(client.check(&ufrag(n))?, "{name} did not answer a check from port {port}");
                    for _ in 0..3 {
                        let seen = client.media()?;
                        ensure!(seen.server == name, "{name}'s media went to {}", seen.server);
                    }
                }
            }
        }
        // A request that names another session goes there and gets no hold of the media.
        let [target, _] = addresses;
        let mut client = IceClient::new(&lab.client(1).ns, target, BOUND)?;
        ensure!(client.check(&ufrag(1))? && client.check(&ufrag(1))?, "backend1 did not answer");
        ensure!(client.check(&ufrag(2))?, "backend2 did not answer");
        assert_eq!(client.media()?.server, "backend1");
        // Drained: the session goes on. Down: the next check finds another.
        tier.reload(|n| file(n, 1, State::Drain))?;
        ensure!(client.check(&ufrag(1))?, "backend1 drains");
        assert_eq!(client.media()?.server, "backend1");
        tier.reload(|n| file(n, 1, State::Down))?;
        ensure!(client.check(&ufrag(3))?, "backend3 did not answer");
        assert_eq!(client.media()?.server, "backend3");
    }
    drop(lab);
    before.check(id)
}

/// Every stream whole, in order, and its sound and reports with one server: the port's.
fn unharmed(streams: &[Stream], targets: &[SocketAddr], when: &str) -> Result<()> {
    for (stream, target) in streams.iter().zip(targets) {
        let owner = Role::Backend(1 + ((target.port() - SLICES) / 1000) as u8).name();
        let whole = stream.lost() == 0 && stream.reports.0 == stream.reports.1;
        let order = stream.reordered + stream.duplicates + stream.wrong_client == 0;
        let only = |servers: &std::collections::BTreeSet<String>| servers.iter().eq([&owner]);
        ensure!(
            whole && order && only(&stream.servers) && only(&stream.report_servers),
            "{when}, {target}: {stream:#?}"
        );
    }
    let worst = streams.iter().map(|s| s.jitter).fold(0.0, f64::max);
    // A stream whose path is another one afterwards shows here; the machine's own hiccups do too, so no less.
    ensure!(worst < 0.1, "{when}: jitter of {worst} s");
    Ok(())
}

#[test]
fn media_on_slices_loses_nothing_over_a_drain_and_the_loss_of_an_edge_node() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options::default())?;
    let id = lab.id();
    {
        let ports = (0..12u16).map(|n| SLICES + 250 * n + 2 * (n % 5));
        let targets: Vec<SocketAddr> = ports.flat_map(files::at).collect();
        let both: Vec<SocketAddr> =
            targets.iter().flat_map(|t| [*t, SocketAddr::new(t.ip(), t.port() + 1)]).collect();
        let _servers: Vec<Server> = lab
            .backends()
            .iter()
            .map(|host| Server::start(&host.ns, &host.role.name(), &both))
            .collect::<Result<_>>()?;
        let mut tier = Tier::start(&lab, Mode::Native, all_active)?;
        let media = Media::start(&lab.client(1).ns, &targets)?;
        media.wait(25, BOUND)?;
        tier.reload(|n| file(n, 2, State::Drain))?;
        media.wait(25, BOUND)?;
        tier.reload(all_active)?;
        media.wait(25, BOUND)?;
        // The other edge node has never seen half of these streams, and need not.
        lab.withdraw_edge(1)?;
        media.wait(25, BOUND)?;
        lab.announce_edge(1)?;
        lab.withdraw_edge(2)?;
        media.wait(25, BOUND)?;
        lab.announce_edge(2)?;
        media.wait(25, BOUND)?;
        unharmed(&media.stop()?, &targets, "at the end")?;
    }
    drop(lab);
    before.check(id)
}
