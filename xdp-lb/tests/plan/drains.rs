//! Drains by command: their terms, what is left, and when nothing is.

use std::collections::BTreeMap;
use std::time::Duration;

use xdp_lb::drains::{Drains, Target, Terms, progress::Left, progress::left};
use xdp_lb::memory::{Packet, Sent};
use xdp_lb::model::{Desired, DrainMode, DrainPolicy, Protocol};
use xdp_lb::state::Maps;
use xdp_lb::status::{self, MemberState};
use xdp_lb_common::parse::{Segment, TCP};

use crate::common::agent::Agent;
use crate::common::wanted::{address, desired, service, vip};
use crate::crash::CAPACITY;

/// An agent with one TCP service, whose `drain` is stick and five hours, and one UDP service of the same backends.
struct Stand {
    agent: Agent,
    file: Desired,
    drains: Drains,
}

impl Stand {
    fn new() -> Self {
        let mut udp = service("media", Protocol::Udp, 1..=4);
        udp.ports = xdp_lb::model::Ports::Ranges(vec![444..=444]);
        let file = desired(vec![service("web", Protocol::Tcp, 1..=4), udp]);
        let mut stand = Self { agent: Agent::new(CAPACITY), file, drains: Drains::default() };
        stand.run();
        stand
    }

    fn run(&mut self) -> Option<u64> {
        self.agent.survey();
        let wanted = self.drains.apply(&self.file);
        self.agent.run(&wanted);
        self.agent.plan(&wanted).unwrap().wake
    }

    fn drain(&mut self, service: Option<&str>, mode: Option<DrainMode>, max: Option<Duration>) {
        let target = Target { backend: address(1), service: service.map(str::to_owned) };
        let terms = Terms { mode, max, since: self.agent.now.as_secs() };
        self.drains.drain(target, terms, &self.file).unwrap();
    }

    fn pass(&mut self, seconds: u64) {
        self.agent.now += Duration::from_secs(seconds);
    }

    /// What is left in each service, by name.
    fn left(&self) -> BTreeMap<String, Left> {
        let sets = self.agent.maps.flow_sets().map(|(_, set)| set);
        let flows = status::flows(sets, self.agent.tick());
        let all = left(&self.drains, &self.file, &self.agent.maps.observe(), &flows);
        all.into_iter().map(|one| (one.service.clone(), one)).collect()
    }

    /// Sends a segment of an old connection and says whether it went to backend 1.
    fn goes_to_1(&self, port: u16) -> bool {
        let Sent::To { service, choice, .. } = self.agent.cpu().send(&segment(port)) else { return false };
        let observed = self.agent.maps.observe();
        let member = observed.ring(service).and_then(|ring| ring.members.get(&choice.backend));
        member.is_some_and(|m| xdp_lb::template::from_map(m.address) == address(1))
    }

    fn states(&self) -> [MemberState; 2] {
        let left = self.left();
        ["web", "media"].map(|name| left[name].state)
    }
}

#[test]
fn its_own_terms_count_before_the_service_s() {
    let mut stand = Stand::new();
    let began = stand.agent.now.as_secs();
    stand.drain(None, None, Some(Duration::from_secs(8 * 3600)));
    assert_eq!(stand.run(), Some(began + 8 * 3600));
    stand.pass(6 * 3600);
    stand.run();
    assert_eq!(
        stand.states(),
        [MemberState::Draining; 2],
        "the service would have ended it after five hours"
    );
    stand.pass(2 * 3600);
    stand.run();
    assert_eq!(stand.states(), [MemberState::Drained; 2]);

    let mut stand = Stand::new();
    stand.drain(Some("media"), Some(DrainMode::Shed), None);
    stand.drain(None, None, Some(Duration::from_secs(60)));
    stand.run();
    assert_eq!(stand.states(), [MemberState::Draining, MemberState::Drained], "shed in one service alone");
    // Said again: until later.
    stand.drain(None, None, Some(Duration::from_secs(120)));
    stand.pass(90);
    stand.run();
    assert_eq!(stand.states(), [MemberState::Draining, MemberState::Drained]);
    // Taken back: it is as the file says.
    stand.drains.undrain(&Target { backend: address(1), service: None }, &stand.file).unwrap();
    stand.run();
    let observed = stand.agent.maps.observe();
    assert!(
        observed
            .rings
            .values()
            .flat_map(|ring| ring.members.values())
            .all(|m| MemberState::of(m) == MemberState::Active)
    );
}

#[test]
fn a_connection_that_is_silent_is_left_until_it_would_be_forgotten() {
    let mut stand = Stand::new();
    // A connection that goes to backend 1 while nobody drains.
    let port = (1000..).find(|&port| stand.goes_to_1(port)).unwrap();
    stand.drain(None, None, None);
    stand.run();
    let left = stand.left();
    assert!(left["web"].silent_slots > 0 && left["web"].flows == 0 && !left["web"].is_done());
    assert!(left["media"].is_done(), "everybody of a service that tracks exactly is remembered: {left:?}");

    // One of them speaks: now it is remembered, and counted.
    assert!(stand.goes_to_1(port));
    assert_eq!(stand.left()["web"].flows, 1);

    // It speaks again after an hour. When the silent ones would be forgotten, it is still left.
    stand.pass(3600);
    stand.run();
    assert!(stand.goes_to_1(port));
    stand.pass(4000);
    stand.run();
    let web = &stand.left()["web"];
    assert!(web.flows == 1 && web.silent_slots <= 1 && !web.is_done(), "{web:?}");
    stand.pass(3600);
    stand.run();
    let web = &stand.left()["web"];
    assert!(web.is_done() && web.state == MemberState::Draining, "{web:?}");
}

/// Of an old connection to the TCP service.
fn segment(port: u16) -> Packet {
    Packet {
        source: ([198, 51, 100, 7].into(), port),
        destination: (vip(0), 443),
        protocol: TCP,
        segment: Segment::Data,
        named: Default::default(),
    }
}

/// What has left the file drains as its service says; what a command said of it is no longer asked.
#[test]
fn who_leaves_the_file_goes_by_the_service_s_terms() {
    const HOUR: u64 = 3600;
    let (stick, shed) = (Some(DrainMode::Stick), Some(DrainMode::Shed));
    let secs = |n| Some(Duration::from_secs(n));
    let service = |mode, max| DrainPolicy { mode, max: Duration::from_secs(max) };
    let long = service(DrainMode::Stick, 5 * HOUR);
    // The service's terms; the command's, an hour before; how long it goes on after that hour; none: at once.
    let cases = [
        ("no command: until max", long, None, Some(5 * HOUR)),
        ("no command: shed", service(DrainMode::Shed, 5 * HOUR), None, None),
        ("a longer command", long, Some((None, secs(8 * HOUR))), Some(4 * HOUR)),
        ("a shorter one", long, Some((None, secs(2 * HOUR))), Some(4 * HOUR)),
        ("a command that kept", service(DrainMode::Shed, 5 * HOUR), Some((stick, None)), None),
        ("the service's time is up", service(DrainMode::Stick, 60), Some((None, secs(8 * HOUR))), None),
        // What has lost its flows does not come alive again.
        ("a command that shed", long, Some((shed, None)), None),
        ("the command's time was up", long, Some((None, secs(60))), None),
    ];
    for (name, policy, command, ends_after) in cases {
        let mut stand = Stand::new();
        stand.file.services.iter_mut().for_each(|service| service.drain = policy);
        // A call on backend 1 that goes on.
        let port = (1000..).find(|&port| stand.goes_to_1(port)).unwrap();
        if let Some((mode, max)) = command {
            stand.drain(None, mode, max);
            stand.run();
            _ = stand.goes_to_1(port);
        }
        stand.pass(HOUR);
        stand.run();
        for service in &mut stand.file.services {
            service.backends.retain(|b| b.address != address(1));
        }
        let left_at = stand.agent.now.as_secs();
        let wake = stand.run();
        let until = stand.left().get("web").map(|left| left.until);
        let Some(after) = ends_after else {
            assert!(!stand.goes_to_1(port), "{name}: nobody stays");
            continue;
        };
        assert_eq!(wake, Some(left_at + after), "{name}");
        assert!(command.is_none() || until == wake, "{name}: {until:?} is told");
        while stand.agent.now.as_secs() + 600 < left_at + after {
            stand.pass(600);
            stand.run();
            assert!(stand.goes_to_1(port), "{name}: {} s after it left", stand.agent.now.as_secs() - left_at);
        }
        stand.pass(600);
        stand.run();
        assert!(!stand.goes_to_1(port), "{name}: its time is up");
        stand.run();
        let observed = stand.agent.maps.observe();
        let mut members = observed.rings.values().flat_map(|ring| ring.members.values());
        assert!(members.all(|m| xdp_lb::template::from_map(m.address) != address(1)), "{name}: forgotten");
    }
}
