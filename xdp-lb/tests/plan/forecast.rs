//! What `plan` foretells is what then happens: the same slots, the same flows.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use xdp_lb::drains::{Drains, Target, Terms};
use xdp_lb::forecast::moves::{Change, Moved, Reason, Watch};
use xdp_lb::forecast::{Forecast, Question, forecast};
use xdp_lb::memory::{Packet, Sent};
use xdp_lb::model::{
    AdminState, Affinity, Desired, DrainMode, Ports, Protocol, ServerIdBytes, Service, TableSize, Tracking,
};
use xdp_lb::ramp;
use xdp_lb::state::{Capacity, Maps, Observed};
use xdp_lb_common::affinity::Named;
use xdp_lb_common::flow::FlowEntry;
use xdp_lb_common::hash::mix;
use xdp_lb_common::parse::{Segment, TCP, UDP};

use crate::common::agent::Agent;
use crate::common::wanted::{address, backend, desired, service, vip};
use crate::crash::CAPACITY;

const FLOWS: u16 = 150;
/// Every flow finds a place.
const ROOMY: Capacity = Capacity { flow_sets: 2048, ..CAPACITY };

/// Two services of equal backends, which share a ring, and one of others.
fn file() -> Desired {
    let mut udp = service("media", Protocol::Udp, 1..=5);
    udp.ports = Ports::Ranges(vec![444..=444]);
    let mut other = service("other", Protocol::Udp, 3..=4);
    other.ports = Ports::Ranges(vec![445..=445]);
    desired(vec![service("web", Protocol::Tcp, 1..=5), udp, other])
}

fn packet(protocol: u8, port: u16, client: u16) -> Packet {
    let segment = if protocol == TCP { Segment::Data } else { Segment::Datagram };
    let (source, destination) = (([198, 51, 100, 7].into(), client), (vip(0), port));
    Packet { source, destination, protocol, segment, named: Default::default() }
}

/// Where each of the flows goes now; asking is a packet.
fn places(agent: &Agent) -> BTreeMap<(u16, u16), Option<IpAddr>> {
    let observed = agent.maps.observe();
    let place = |packet: &Packet| place(agent, &observed, packet);
    let all = [(TCP, 443), (UDP, 444), (UDP, 445)];
    let flows = all.iter().flat_map(|&(protocol, port)| (1..=FLOWS).map(move |c| (protocol, port, c)));
    flows.map(|(protocol, port, c)| ((port, c), place(&packet(protocol, port, c)))).collect()
}

fn place(agent: &Agent, observed: &Observed, packet: &Packet) -> Option<IpAddr> {
    let Sent::To { service, choice, .. } = agent.cpu().send(packet) else { return None };
    Some(xdp_lb::template::from_map(observed.ring(service)?.members.get(&choice.backend)?.address))
}

fn ask(agent: &Agent, file: &Desired, drains: &Drains) -> Forecast {
    let observed = agent.maps.observe();
    let (tick, now) = (agent.tick(), agent.now.as_secs());
    let question = Question { desired: file, without_cluster: false, drains, observed: &observed, tick, now };
    forecast(&question, agent.maps.flow_sets().map(|(_, set)| set)).unwrap()
}

/// Carries a plan out as the reconciler does, and counts what moves.
fn run_counting(agent: &mut Agent, judged: &Desired) -> Vec<Moved> {
    let (mut watch, before) = (Watch::default(), agent.maps.observe());
    let plan = agent.plan(judged).unwrap();
    if watch.extend(&plan.ops, &before) {
        watch.read(agent.maps.flow_sets().map(|(_, set)| set), agent.tick());
    }
    agent.carry_out(&plan).unwrap();
    let after = agent.maps.observe();
    Change::between(&before, &after, judged).map_or_else(Vec::new, |change| change.count(&watch))
}

fn remembered(agent: &Agent) -> usize {
    let entries = agent.maps.flow_sets().flat_map(|(_, set)| set.entries);
    entries.map(FlowEntry).filter(|entry| !entry.is_free(agent.tick())).count()
}

/// Random changes one after the other, so that slots are dirty and rings apart.
#[test]
fn what_is_foretold_happens() {
    for round in 0..60u64 {
        let mut agent = Agent::new(ROOMY);
        agent.allow_moves = true;
        let (mut file, mut drains) = (file(), Drains::default());
        agent.run(&file);
        for step in 0..4u64 {
            let dice = mix(round * 31 + step + 1);
            let before = places(&agent);
            let slots = slots(&agent);
            change(&mut file, &mut drains, dice, agent.now.as_secs());
            let told = ask(&agent, &file, &drains);
            let at = format!("round {round} step {step}: {told:#?}");
            assert_eq!(told.flows, remembered(&agent) as u64, "{at}");
            // Those that are not remembered are TCP's, on slots that have not changed.
            let web_remembered = told.services.iter().find(|s| s.name == "web").map(|s| s.flows);

            let judged = drains.apply(&file);
            let counted = run_counting(&mut agent, &judged);
            // What is foretold is what is counted, to the flow.
            let sum: u64 = counted.iter().map(|moved| moved.flows).sum();
            assert_eq!(sum, told.flows_moved, "{counted:?} {at}");
            let moved_slots = self::slots(&agent)
                .iter()
                .filter(|(key, now)| slots.get(*key).is_some_and(|was| was != *now))
                .count();
            let foretold: u32 =
                told.services.iter().filter(|s| s.change == "changed").map(|s| s.slots_moved).sum();
            let everything =
                told.services.iter().any(|s| s.moves_everything.is_some() || s.change != "changed");
            assert!(everything || moved_slots == foretold as usize, "{moved_slots} slots moved: {at}");

            let after = places(&agent);
            let moved = |port: u16| {
                before.iter().filter(|((p, c), was)| *p == port && after[&(port, *c)] != **was).count() as u64
            };
            for (name, port) in [("media", 444), ("other", 445)] {
                let foretold = told.services.iter().find(|s| s.name == name).map_or(0, |s| s.flows_moved);
                assert_eq!(moved(port), foretold, "flows of {name} moved: {at}");
            }
            // Of all TCP flows, remembered or not: what is counted is a part of what happens.
            if web_remembered == Some(u64::from(FLOWS)) {
                let web = told.services.iter().find(|s| s.name == "web").unwrap();
                assert_eq!(moved(443), web.flows_moved, "all of web are remembered: {at}");
            } else {
                let web = told.services.iter().find(|s| s.name == "web");
                assert!(
                    moved(443) == 0 || web.is_some_and(|s| s.flows_moved > 0 || s.others_moved_percent > 0.0),
                    "{at}"
                );
            }
        }
    }
}

/// Who takes each slot, by service name.
fn slots(agent: &Agent) -> BTreeMap<(String, usize), Option<IpAddr>> {
    let observed = agent.maps.observe();
    let mut slots = BTreeMap::new();
    for service in observed.services.values() {
        let ring = &observed.rings[&xdp_lb::state::Place::of(service.config())];
        for (slot, &now) in ring.slots.now.iter().enumerate() {
            let member = ring.members.get(&(now & 0x7fff));
            let address = member.map(|m| xdp_lb::template::from_map(m.address));
            slots.insert((xdp_lb::plan::name(service).to_owned(), slot), address);
        }
    }
    slots
}

fn change(file: &mut Desired, drains: &mut Drains, dice: u64, since: u64) {
    let n = 1 + (dice >> 8) as u8 % 5;
    let service = (dice >> 16) as usize % file.services.len();
    let mode = if dice >> 24 & 1 == 0 { DrainMode::Stick } else { DrainMode::Shed };
    match dice % 9 {
        0 => set(file, service, n, AdminState::Drain),
        1 => set(file, service, n, AdminState::Down),
        2 => set(file, service, n, AdminState::Active),
        3 => file.services[service].backends.retain(|b| b.address != address(n)),
        4 => {
            let mut list: Vec<_> = file.services[service].backends.iter().cloned().collect();
            list.extend((!list.iter().any(|b| b.address == address(n))).then(|| backend(n)));
            list.sort_by_key(|b| b.address);
            file.services[service].backends = list.into();
        }
        5 => {
            let count = file.services[service].backends.len();
            if count > 0 {
                file.services[service].backends[n as usize % count].weight = 30;
            }
        }
        6 => {
            let target = Target { backend: address(n), service: None };
            let terms = Terms { mode: Some(mode), max: None, since };
            _ = drains.drain(target, terms, file);
        }
        7 => _ = drains.undrain(&Target { backend: address(n), service: None }, file),
        _ => file.services[service].table_size = TableSize::new(37).unwrap(),
    }
}

fn set(file: &mut Desired, service: usize, n: u8, state: AdminState) {
    for s in [service, (service + 1) % file.services.len()] {
        let list = &mut file.services[s].backends;
        let position = list.iter().position(|b| b.address == address(n));
        if let Some(position) = position {
            list[position].state = state;
        }
    }
}

#[test]
fn what_moves_everything_is_called_so_and_what_is_equal_is_no_change() {
    let mut agent = Agent::new(ROOMY);
    let file = file();
    agent.run(&file);
    _ = places(&agent);
    let none = Drains::default();
    let same = ask(&agent, &file, &none);
    assert_eq!(
        (same.services.len(), same.unchanged, same.flows_moved, same.most_moved_percent),
        (0, 3, 0, 0.0)
    );

    let mut other = file.clone();
    other.services[1].affinity = Affinity::ClientIp;
    let told = ask(&agent, &other, &none);
    let media = &told.services[0];
    assert_eq!(
        (media.name.as_str(), media.moves_everything, media.slots_moved_percent),
        ("media", Some("affinity"), 100.0)
    );
    assert_eq!((media.flows, media.flows_moved), (u64::from(FLOWS), u64::from(FLOWS)));
    other.seed = 8;
    assert!(ask(&agent, &other, &none).services.iter().all(|s| s.moves_everything == Some("maglev.seed")));

    // A service that goes takes its flows with it; one that comes has none.
    let mut other = file.clone();
    other.services[1].name = "voice".into();
    let told = ask(&agent, &other, &none);
    let named: Vec<_> = told.services.iter().map(|s| (&*s.name, s.change, s.flows, s.flows_moved)).collect();
    let all = u64::from(FLOWS);
    assert_eq!(named, [("media", "removed", all, all), ("voice", "created", 0, 0)]);
    assert_eq!(told.most_moved_percent, 100.0);
}

#[test]
fn a_death_is_told_by_slots_for_those_that_nobody_remembers() {
    let mut agent = Agent::new(ROOMY);
    let mut file = file();
    agent.run(&file);
    let before = places(&agent);
    set(&mut file, 0, 1, AdminState::Down);
    let told = ask(&agent, &file, &Drains::default());
    let web = told.services.iter().find(|s| s.name == "web").unwrap();
    assert_eq!(web.flows, 0, "nobody of web is remembered");
    let with_1 = before.iter().filter(|((p, _), to)| *p == 443 && **to == Some(address(1))).count();
    let share = with_1 as f64 * 100.0 / f64::from(FLOWS);
    assert!(
        (web.others_moved_percent - share).abs() < 12.0 && with_1 > 0,
        "{} for {share}",
        web.others_moved_percent
    );
    let off = (web.others_moved_percent - web.slots_moved_percent).abs();
    assert!(off <= web.others_margin_percent && web.others_sampled == 10_000, "{web:#?}");
    assert_eq!(web.backends.len(), 1);
    assert_eq!((web.backends[0].from, web.backends[0].to), (Some("active"), Some("down")));

    // A drain moves none of them.
    let mut drains = Drains::default();
    let (target, terms) = (Target { backend: address(2), service: None }, Terms::default());
    drains.drain(target, terms, &file).unwrap();
    set(&mut file, 0, 1, AdminState::Active);
    let told = ask(&agent, &file, &drains);
    let web = told.services.iter().find(|s| s.name == "web").unwrap();
    assert!(web.slots_moved > 0 && web.others_moved_percent == 0.0, "{web:#?}");
    assert_eq!(told.flows_moved, 0);
}

/// Flows of whom nobody is remembered: what really becomes of them.
const UNKNOWN: u16 = 4000;

/// Packets to the first service's VIPs and ports, by clients that the forecast has not drawn; each is one of a flow that
/// exists, and tells the id of the server that it first met.
fn unknown(agent: &Agent, file: &Desired) -> Vec<Packet> {
    let service = &file.services[0];
    let Ports::Ranges(ranges) = &service.ports else { panic!("ports") };
    let ports: Vec<u16> = ranges.iter().cloned().flatten().collect();
    let observed = agent.maps.observe();
    let packet = |n: u16| {
        let dice = mix(u64::from(n) + 77_000);
        let vip = service.vips[dice as usize % service.vips.len()];
        let client: IpAddr = if vip.is_ipv4() {
            [100, 64, (n >> 8) as u8, n as u8].into()
        } else {
            std::net::Ipv6Addr::new(0x2001, 0xdb8, 5, 0, 0, 0, 0, n).into()
        };
        let (protocol, segment) = match service.protocol {
            Protocol::Tcp => (TCP, Segment::Data),
            Protocol::Udp => (UDP, Segment::Datagram),
        };
        let destination = (vip, ports[(dice >> 32) as usize % ports.len()]);
        let source = (client, 2000 + (dice >> 16) as u16 % 60_000);
        let mut packet = Packet { source, destination, protocol, segment, named: Named::Nobody };
        let first = place(agent, &observed, &packet);
        let id = service.backends.iter().find(|b| Some(b.address) == first).and_then(|b| b.server_id);
        packet.named = id.map_or(Named::Nothing, |id| Named::Server(id.id));
        packet
    };
    let all = (0..UNKNOWN).map(packet).collect();
    agent.maps.clear_flows();
    all
}

/// Every change of one service, each with another reason for flows to move; what the sample says comes true within its
/// own margin and that of the flows that are looked at.
#[test]
fn the_sample_is_as_far_off_as_it_says() {
    let tcp = || service("web", Protocol::Tcp, 1..=5);
    let udp = || Service { tracking: Tracking::Off, ..service("web", Protocol::Udp, 1..=5) };
    let by_ports = || {
        let mut service = Service { affinity: Affinity::DestPort, ..udp() };
        service.ports = Ports::Ranges(vec![20_000..=20_999, 30_000..=30_249]);
        for (n, backend) in (0u16..).zip(&mut service.backends) {
            backend.slice = vec![20_000 + 200 * n..=20_199 + 200 * n];
        }
        service
    };
    let by_ids = || {
        let mut service = Service { affinity: Affinity::QuicCid, ..udp() };
        for (n, backend) in (0u8..).zip(&mut service.backends) {
            backend.server_id = ServerIdBytes::new(&[b's', n]);
        }
        service
    };
    let down = |service: &mut Service| service.backends[1].state = AdminState::Down;
    let lighter = |service: &mut Service| service.backends[1].weight = 20;
    let added = |service: &mut Service| {
        let mut list: Vec<_> = service.backends.iter().cloned().chain([backend(7)]).collect();
        list.sort_by_key(|b| b.address);
        service.backends = list.into();
    };
    let no_ipv6 = |service: &mut Service| service.vips.retain(IpAddr::is_ipv4);
    let fewer_ports = |service: &mut Service| service.ports = Ports::Ranges(vec![20_000..=20_499]);
    let other_owner = |service: &mut Service| {
        service.backends[0].slice = vec![20_050..=20_199];
        service.backends[4].slice = vec![20_000..=20_049, 20_800..=20_999];
    };
    type Change = fn(&mut Service);
    // How many move, roughly, per cent: so that the sample is not compared with nothing.
    let cases: [(&str, Service, Change, std::ops::Range<f64>); 12] = [
        ("tcp, a death", tcp(), down, 10.0..35.0),
        ("tcp, a weight: connections stay", tcp(), lighter, 0.0..0.1),
        ("udp, a weight", udp(), lighter, 5.0..40.0),
        ("udp, another backend", udp(), added, 5.0..40.0),
        ("udp, a death", udp(), down, 10.0..35.0),
        ("client-ip, a death", Service { affinity: Affinity::ClientIp, ..tcp() }, down, 10.0..35.0),
        ("a VIP less", Service { vips: vec![vip(0), vip(1)], ..tcp() }, no_ipv6, 45.0..55.0),
        ("ports, a death", by_ports(), down, 15.0..25.0),
        ("ports, another owner", by_ports(), other_owner, 3.0..7.0),
        ("ports, fewer", by_ports(), fewer_ports, 45.0..55.0),
        ("ids, a weight: they name their servers", by_ids(), lighter, 0.0..0.1),
        ("ids, a death", by_ids(), down, 10.0..35.0),
    ];
    for (name, service, change, expected) in cases {
        let mut agent = Agent::new(Capacity { vip_slots: 64, ..ROOMY });
        let mut file = desired(vec![service]);
        agent.run(&file);
        let packets = unknown(&agent, &file);
        let to = |agent: &Agent| {
            let observed = agent.maps.observe();
            let places: Vec<_> = packets.iter().map(|packet| place(agent, &observed, packet)).collect();
            agent.maps.clear_flows();
            places
        };
        let before = to(&agent);
        change(&mut file.services[0]);
        file = desired(file.services);
        let told = ask(&agent, &file, &Drains::default());
        let told = told.services.first().unwrap_or_else(|| panic!("{name}: nothing is told"));
        agent.run(&file);
        // Nobody sends a packet in the window: nobody is remembered by it.
        agent.now += Duration::from_secs(6);
        agent.run(&file);
        let after = to(&agent);
        let went = before.iter().filter(|to| to.is_some()).count() as f64;
        let moved = before.iter().zip(&after).filter(|(was, is)| was.is_some() && was != is).count() as f64;
        let (part, told_part) = (moved * 100.0 / went, told.others_moved_percent);
        let own = 3.0 * (part * (100.0 - part) / went).sqrt();
        assert!(
            (part - told_part).abs() <= 1.5 * told.others_margin_percent + own && told.others_sampled > 7500,
            "{name}: {part}% moved, {told:#?}"
        );
        assert!(expected.contains(&part), "{name}: {part}%");
    }
}

#[test]
fn slow_start_is_told_as_it_then_goes() {
    const SPAN: u64 = 60;
    let mut agent = Agent::new(Capacity { ring_slots: 16_384, ..ROOMY });
    let mut file = file();
    for service in &mut file.services {
        service.slow_start = Duration::from_secs(SPAN);
        service.table_size = TableSize::new(1021).unwrap();
    }
    // What the agent does: ramps, then the plan.
    let run = |agent: &mut Agent, file: &Desired| {
        let mut ramped = file.clone();
        let ramps = ramp::apply(&mut ramped, &agent.maps.observe(), agent.now.as_secs());
        agent.run(&ramped);
        ramps
    };
    run(&mut agent, &file);
    let none = Drains::default();
    set(&mut file, 0, 1, AdminState::Down);
    agent.now += Duration::from_secs(1000);
    run(&mut agent, &file);
    agent.now += Duration::from_secs(1000);
    run(&mut agent, &file);
    _ = places(&agent);

    // It comes back: so much at once, so much in the end, and nobody is harmed.
    set(&mut file, 0, 1, AdminState::Active);
    let told = ask(&agent, &file, &none);
    let web = told.services.iter().find(|s| s.name == "web").expect("web changes");
    let [opening] = &web.slow_start[..] else { panic!("{web:#?}") };
    assert_eq!((opening.address, opening.full_in, opening.is_under_way), (address(1), SPAN, false));
    assert!(opening.share_percent > 4.0 && opening.share_percent < 6.0, "{opening:?}");
    let was = slots(&agent);
    let moved = |agent: &Agent| {
        let now = slots(agent);
        now.iter().filter(|((name, _), _)| name == "web").filter(|(key, to)| was[*key] != **to).count()
    };
    run(&mut agent, &file);
    let percent = |slots: usize| (slots as f64 * 10_000.0 / 1021.0).round() / 100.0;
    assert_eq!(percent(moved(&agent)), web.slots_moved_at_once_percent);
    assert!(web.slots_moved_at_once_percent > 0.0 && web.slots_moved_at_once_percent < 2.5, "{web:#?}");

    // Half way the same file is no change: what moves, moves without it.
    agent.now += Duration::from_secs(SPAN / 2);
    let again = ask(&agent, &file, &none);
    assert_eq!((again.services.len(), again.unchanged, again.most_moved_percent), (0, 3, 0.0), "{again:#?}");
    // But what a change does is told, with what goes on.
    let mut other = file.clone();
    other.services[0].backends[3].state = AdminState::Down;
    let more = ask(&agent, &other, &none);
    let more = more.services.iter().find(|s| s.name == "web").expect("web changes");
    assert!(more.slots_moved_percent > 10.0 && more.slow_start[0].is_under_way, "{more:#?}");

    agent.now += Duration::from_secs(SPAN / 2 - 1);
    assert!(run(&mut agent, &file).next.is_some(), "a second before the end it still opens");
    agent.now += Duration::from_secs(1);
    assert_eq!(run(&mut agent, &file), ramp::Ramps::default());
    assert_eq!(moved(&agent), web.slots_moved as usize);
}

#[test]
fn without_the_cluster_nothing_is_said_of_its_services() {
    let mut agent = Agent::new(ROOMY);
    let mut file = file();
    file.services[1].name = "default/media/rtp".into();
    file.services[2].name = "other/one".into();
    agent.run(&file);
    _ = places(&agent);
    // The file has one of the names with a slash; the other can only be the cluster's.
    let of_file = desired(vec![file.services[0].clone(), file.services[2].clone()]);
    let observed = agent.maps.observe();
    let drains = Drains::default();
    let (tick, now) = (agent.tick(), agent.now.as_secs());
    let ask = |without_cluster| {
        let question =
            Question { desired: &of_file, without_cluster, drains: &drains, observed: &observed, tick, now };
        forecast(&question, agent.maps.flow_sets().map(|(_, set)| set)).unwrap()
    };
    let told = ask(true);
    assert_eq!((told.services.len(), told.unchanged, told.left_out), (0, 2, 1), "{told:#?}");
    assert_eq!((told.flows, told.flows_moved, told.most_moved_percent), (FLOWS.into(), 0, 0.0));
    let told = ask(false);
    assert_eq!((told.services.len(), told.left_out, told.most_moved_percent), (1, 0, 100.0), "{told:#?}");
}

/// Why remembered flows had to leave: each reason, and the many changes that move none.
#[test]
fn whoever_moves_has_a_reason() {
    type Edit = fn(&mut Desired, &mut Drains, u64);
    fn drain(file: &Desired, drains: &mut Drains, mode: DrainMode, max: u64, since: u64) {
        let terms = Terms { mode: Some(mode), max: Some(Duration::from_secs(max)), since };
        drains.drain(Target { backend: address(3), service: None }, terms, file).unwrap();
    }
    fn remove(file: &mut Desired) {
        file.services.iter_mut().for_each(|s| s.backends.retain(|b| b.address != address(3)));
    }
    let cases: [(&str, Option<Reason>, Edit); 10] = [
        ("a death", Some(Reason::Down), |file, _, _| {
            for s in 0..3 {
                set(file, s, 3, AdminState::Down);
            }
        }),
        ("shed by command", Some(Reason::Shed), |f, d, now| drain(f, d, DrainMode::Shed, 60, now)),
        ("stick by command", None, |f, d, now| drain(f, d, DrainMode::Stick, 60, now)),
        ("stick that is over", Some(Reason::Max), |f, d, now| drain(f, d, DrainMode::Stick, 0, now)),
        ("removed", None, |file, _, _| remove(file)),
        ("removed, shed", Some(Reason::Shed), |file, _, _| {
            file.services.iter_mut().for_each(|s| s.drain.mode = DrainMode::Shed);
            remove(file);
        }),
        ("weights", None, |file, _, _| file.services.iter_mut().for_each(|s| s.backends[0].weight = 7)),
        ("one of a shared ring dies in one service", Some(Reason::Down), |file, _, _| {
            let list = &mut file.services[1].backends;
            let position = list.iter().position(|b| b.address == address(3)).unwrap();
            list[position].state = AdminState::Down;
        }),
        ("another table", Some(Reason::Configuration), |file, _, _| {
            file.services[1].table_size = TableSize::new(37).unwrap();
        }),
        ("a service goes", Some(Reason::Configuration), |file, _, _| _ = file.services.remove(1)),
    ];
    for (name, reason, edit) in cases {
        let mut agent = Agent::new(ROOMY);
        agent.allow_moves = true;
        let (mut file, mut drains) = (file(), Drains::default());
        agent.run(&file);
        _ = places(&agent);
        edit(&mut file, &mut drains, agent.now.as_secs());
        let told = ask(&agent, &file, &drains);
        let counted = run_counting(&mut agent, &drains.apply(&file));
        assert!(counted.iter().all(|moved| Some(moved.reason) == reason), "{name}: {counted:?}");
        let sum: u64 = counted.iter().map(|moved| moved.flows).sum();
        // `plan` tells of the time before a drain's `max`.
        assert!(reason == Some(Reason::Max) || sum == told.flows_moved, "{name}: {counted:?} {told:#?}");
        assert_eq!(sum > 0, reason.is_some(), "{name}: {counted:?}");
        let from_3 = counted.iter().all(|moved| moved.backend == Some(address(3)));
        assert!(from_3 || reason == Some(Reason::Configuration), "{name}: {counted:?}");
    }
}
