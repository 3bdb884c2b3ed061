//! Tests of [`super`]: a session against a router of a few lines that speaks through the same codec.

use bytes::Bytes;
use proptest::prelude::*;
use rustbgpd_wire::{OpenMessage, RouteRefreshMessage};

use super::super::settings::Overrides;
use super::super::testing::{bgp, peer};
use super::*;

const OURS: u32 = 4_200_000_001;
const THEIRS: u32 = 65_001;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn wish(host: u8) -> Wish {
    let address = IpAddr::from([203, 0, 113, host]);
    let reason = "because".to_owned();
    Wish { prefix: Prefix::host(address), draining: false, attributes: Overrides::default(), reason }
}

fn open(asn: u32, extra: Vec<Capability>) -> Message {
    let mut capabilities = vec![
        Capability::MultiProtocol { afi: Afi::Ipv4, safi: Safi::Unicast },
        Capability::MultiProtocol { afi: Afi::Ipv6, safi: Safi::Unicast },
        Capability::FourOctetAs { asn },
    ];
    capabilities.extend(extra);
    let my_as = u16::try_from(asn).unwrap_or(23_456);
    let bgp_identifier = "10.0.0.1".parse().unwrap();
    Message::Open(OpenMessage { version: 4, my_as, hold_time: 90, bgp_identifier, capabilities })
}

fn restarting() -> Vec<Capability> {
    vec![Capability::GracefulRestart {
        restart_state: false,
        notification: true,
        restart_time: 9,
        families: vec![],
    }]
}

/// A session, and what it has said.
struct Talk {
    session: Session,
    generation: u64,
}

impl Talk {
    fn new(peer: Peer, restarted: bool) -> Self {
        let mut session = Session::new(Arc::new(bgp(OURS)), peer, restarted, at(0));
        session.tick(at(0));
        assert_eq!(session.orders(), [Order::Connect]);
        Self { session, generation: 0 }
    }

    fn wish(&mut self, hosts: &[u8]) {
        self.generation += 1;
        let wishes = Arc::new(hosts.iter().map(|host| wish(*host)).collect());
        let (bgp, peer) = (Arc::clone(&self.session.bgp), self.session.peer.clone());
        self.session.wish(bgp, peer, wishes, self.generation);
    }

    /// What it wants to write, written.
    fn said(&mut self, now: Duration) -> Vec<Message> {
        let bytes = self.session.outgoing().len();
        let mut buffer = Bytes::copy_from_slice(self.session.outgoing());
        self.session.written(bytes, now);
        messages(&mut buffer)
    }

    fn hear(&mut self, message: &Message, now: Duration) {
        self.session.received(&encode_message(message).unwrap(), now);
    }

    /// Through the handshake to Established.
    fn up(mut self, hosts: &[u8], extra: Vec<Capability>) -> (Self, Vec<Message>) {
        self.wish(hosts);
        self.session.connected("10.0.0.2".parse().unwrap(), at(1));
        assert!(matches!(self.said(at(1))[..], [Message::Open(_)]));
        self.hear(&open(THEIRS, extra), at(1));
        assert_eq!(self.said(at(1)), [Message::Keepalive]);
        self.hear(&Message::Keepalive, at(1));
        assert_eq!(self.session.state(), State::Established);
        assert_eq!(self.session.orders(), [Order::Tell(Tiding::Up)]);
        let said = self.said(at(1));
        (self, said)
    }

    fn down(&mut self) -> String {
        let orders = self.session.orders();
        let why = orders.iter().find_map(|order| match order {
            Order::Tell(Tiding::Down(why) | Tiding::Failing(why)) => Some(why.clone()),
            _ => None,
        });
        why.unwrap_or_else(|| panic!("{orders:?}"))
    }

    /// The NOTIFICATION of a session that ended.
    fn last_words(&mut self) -> (u8, u8) {
        match messages(&mut self.session.farewell().freeze())[..] {
            [Message::Notification(ref n)] => (n.code.as_u8(), n.subcode),
            ref other => panic!("{other:?}"),
        }
    }
}

fn messages(bytes: &mut Bytes) -> Vec<Message> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let length = peek_message_length(bytes, wire::LONGEST).unwrap().unwrap();
        all.push(decode_message(&mut bytes.split_to(length.into()), wire::LONGEST).unwrap());
    }
    all
}

/// Hosts announced and withdrawn.
fn hosts(said: &[Message]) -> (Vec<u8>, Vec<u8>) {
    let last = |prefixes: Vec<Prefix>| -> Vec<u8> {
        prefixes
            .into_iter()
            .map(|p| match p.address {
                IpAddr::V4(a) => a.octets()[3],
                IpAddr::V6(_) => 0,
            })
            .collect()
    };
    let updates = said.iter().filter_map(|m| if let Message::Update(u) = m { Some(u) } else { None });
    let heard: Vec<_> = updates.map(|u| wire::heard(u, true, false).unwrap()).collect();
    (
        last(heard.iter().flat_map(|h| h.announced.clone()).collect()),
        last(heard.iter().flat_map(|h| h.withdrawn.clone()).collect()),
    )
}

fn start() -> Talk {
    Talk::new(peer("10.0.0.1", THEIRS), false)
}

#[test]
fn everything_is_announced_before_the_end_of_the_rib() {
    let (mut talk, said) = start().up(&[10, 11], restarting());
    assert_eq!(hosts(&said), (vec![10, 11], vec![]));
    // One UPDATE for two prefixes with equal attributes, then one mark for each family.
    assert_eq!(said.len(), 3, "{said:?}");
    let marks = [wire::end_of_rib(false).unwrap(), wire::end_of_rib(true).unwrap()];
    for (said, mark) in said[1..].iter().zip(marks) {
        assert_eq!(encode_message(said).unwrap(), mark);
    }
    assert_eq!(talk.session.told(), 1);
    talk.wish(&[11, 12]);
    assert_eq!(talk.session.told(), 1, "not told before it is written");
    assert_eq!(hosts(&talk.said(at(2))), (vec![12], vec![10]));
    assert_eq!(talk.session.told(), 2);
    talk.wish(&[11, 12]);
    assert_eq!(talk.said(at(2)), []);
}

#[test]
fn a_router_without_graceful_restart_gets_no_marks() {
    let (_, said) = start().up(&[10], vec![]);
    assert_eq!(said.len(), 1);
}

#[test]
fn only_the_first_session_after_a_restart_says_so() {
    let says_restarted = |talk: &mut Talk, now| {
        let said = talk.said(now);
        let [Message::Open(open)] = &said[..] else { panic!("{said:?}") };
        open.capabilities
            .iter()
            .find_map(|c| match c {
                Capability::GracefulRestart { restart_state, notification, families, .. } => {
                    assert!(!notification, "the N bit would keep a silent node's routes");
                    assert!(families.len() == 2 && families.iter().all(|f| f.forwarding_preserved));
                    Some(*restart_state)
                }
                _ => None,
            })
            .unwrap()
    };
    for restarted in [true, false] {
        let mut talk = Talk::new(peer("10.0.0.1", THEIRS), restarted);
        let local = "10.0.0.2".parse().unwrap();
        talk.session.connected(local, at(1));
        assert_eq!(says_restarted(&mut talk, at(1)), restarted);
        // A connection that ends before there is a session tells the router nothing.
        talk.session.closed("reset", at(1));
        talk.session.tick(at(20));
        talk.session.orders();
        talk.session.connected(local, at(20));
        assert_eq!(says_restarted(&mut talk, at(20)), restarted);
        talk.hear(&open(THEIRS, vec![]), at(20));
        talk.hear(&Message::Keepalive, at(20));
        assert_eq!(talk.session.state(), State::Established);
        talk.session.closed("reset", at(21));
        talk.session.tick(at(60));
        talk.session.orders();
        talk.session.connected(local, at(60));
        assert!(!says_restarted(&mut talk, at(60)));
    }
}

#[test]
fn silence_ends_a_session_and_keepalives_prevent_it() {
    let (mut talk, _) = start().up(&[10], vec![]);
    assert_eq!(talk.session.hold_time(), Some(9));
    // A third of the hold time.
    assert_eq!(talk.session.wake(), Some(at(4)));
    talk.session.tick(at(4));
    assert_eq!(talk.said(at(4)), [Message::Keepalive]);
    talk.hear(&Message::Keepalive, at(8));
    talk.session.tick(at(16));
    assert_eq!(talk.session.state(), State::Established);
    talk.said(at(16));
    talk.session.tick(at(17));
    assert_eq!(talk.session.state(), State::Idle);
    assert_eq!(talk.down(), "hold timer: nothing heard for 9 s");
    assert_eq!(talk.last_words(), (4, 0));
}

#[test]
fn without_a_hold_time_silence_ends_only_the_handshake() {
    let never = |asn: u32| match open(asn, vec![]) {
        Message::Open(open) => Message::Open(OpenMessage { hold_time: 0, ..open }),
        other => other,
    };
    for confirmed in [false, true] {
        let mut talk = start();
        talk.session.connected("10.0.0.2".parse().unwrap(), at(1));
        talk.said(at(1));
        talk.hear(&never(THEIRS), at(1));
        talk.said(at(1));
        if confirmed {
            talk.hear(&Message::Keepalive, at(2));
        }
        assert_eq!(talk.session.wake().is_none(), confirmed, "{:?}", talk.session);
        talk.session.tick(at(300));
        assert_eq!(talk.session.state(), if confirmed { State::Established } else { State::Idle });
    }
}

#[test]
fn what_the_router_ends_a_session_with_is_told() {
    let (mut talk, _) = start().up(&[10], vec![]);
    let data = rustbgpd_wire::notification::encode_shutdown_communication("maintenance");
    talk.hear(&Message::Notification(NotificationMessage::new(NotificationCode::Cease, 2, data)), at(3));
    let why = talk.down();
    assert!(
        why.starts_with("the router ended it: NOTIFICATION 6/2") && why.contains("\"maintenance\""),
        "{why}"
    );
    assert_eq!(talk.session.last_down(), Some(&(at(3), why)));
}

#[test]
fn another_as_is_refused() {
    let mut talk = start();
    talk.session.connected("10.0.0.2".parse().unwrap(), at(1));
    talk.said(at(1));
    talk.hear(&open(65_002, vec![]), at(1));
    assert!(talk.down().contains("2/2 Bad Peer AS"));
    assert_eq!(talk.last_words(), (2, 2));
}

#[test]
fn garbage_ends_the_session_and_another_begins() {
    for (garbage, code) in [
        (vec![0u8; 40], (1, 1)),
        ([vec![0xff; 16], vec![0, 18, 4]].concat(), (1, 2)),
        ([vec![0xff; 16], vec![0xff, 0xff, 2]].concat(), (1, 2)),
        ([vec![0xff; 16], vec![0, 19, 99]].concat(), (1, 3)),
        ([vec![0xff; 16], vec![0, 23, 2, 0, 9, 0, 0]].concat(), (3, 1)),
    ] {
        let (mut talk, _) = start().up(&[10], vec![]);
        talk.session.received(&garbage, at(2));
        assert_eq!(talk.session.state(), State::Idle, "{garbage:02x?}");
        assert!(talk.down().contains("the router sent"));
        assert_eq!(talk.last_words(), code, "{garbage:02x?}");
        let start = talk.session.wake().unwrap();
        assert!((at(2) + IDLE / 2..=at(2) + IDLE).contains(&start));
        talk.session.tick(start);
        assert_eq!(talk.session.orders(), [Order::Connect]);
    }
}

#[test]
fn messages_may_come_in_any_pieces() {
    let mut talk = start();
    talk.wish(&[10]);
    talk.session.connected("10.0.0.2".parse().unwrap(), at(1));
    talk.said(at(1));
    let bytes =
        [encode_message(&open(THEIRS, vec![])).unwrap(), encode_message(&Message::Keepalive).unwrap()]
            .concat();
    for byte in bytes {
        talk.session.received(&[byte], at(1));
    }
    assert_eq!(hosts(&talk.said(at(1))).0, [10]);
}

#[test]
fn idle_lasts_longer_with_every_failure_but_not_for_ever() {
    let mut talk = start();
    let (mut now, mut pauses) = (at(1), Vec::new());
    for _ in 0..9 {
        talk.session.connected("10.0.0.2".parse().unwrap(), now);
        talk.hear(&open(65_002, vec![]), now);
        let start = talk.session.wake().unwrap();
        pauses.push(start - now);
        now = start;
        talk.session.tick(now);
        talk.session.orders();
    }
    for (pause, whole) in pauses.iter().zip([1, 2, 4, 8, 16, 30, 30, 30, 30].map(at)) {
        assert!((whole.mul_f64(0.75)..=whole).contains(pause), "{pauses:?}");
    }
    // A session that lasts makes up for all of it.
    talk.session.connected("10.0.0.2".parse().unwrap(), now);
    talk.hear(&open(THEIRS, vec![]), now);
    for _ in 0..10 {
        talk.hear(&Message::Keepalive, now);
        now += at(5);
    }
    talk.session.closed("gone", now);
    assert!(talk.session.wake().unwrap() <= now + IDLE);
}

#[test]
fn a_router_that_does_not_answer_is_asked_every_few_seconds() {
    let mut talk = start();
    let mut now = at(0);
    let mut dialled = 0;
    while now < at(120) {
        now = talk.session.wake().unwrap();
        talk.session.tick(now);
        let orders = talk.session.orders();
        dialled += orders.iter().filter(|o| **o == Order::Connect).count();
        let failing = orders.iter().filter(|o| matches!(o, Order::Tell(_))).count();
        assert_eq!(failing, usize::from(dialled == 1), "the same reason is told once: {orders:?}");
    }
    assert!((10..=30).contains(&dialled), "{dialled}");
    // Refused connections are tried again within ten seconds, too.
    for _ in 0..12 {
        talk.session.closed("connection refused", now);
        let next = talk.session.wake().unwrap();
        assert!(next <= now + at(u64::from(RETRY_LIMIT)), "{next:?} {now:?}");
        now = next;
        talk.session.tick(now);
    }
}

#[test]
fn a_refresh_is_answered_with_everything_of_its_family() {
    let (mut talk, _) = start().up(&[10, 11], vec![]);
    talk.hear(&Message::RouteRefresh(RouteRefreshMessage::new(Afi::Ipv6, Safi::Unicast)), at(2));
    assert_eq!(talk.said(at(2)), []);
    talk.hear(&Message::RouteRefresh(RouteRefreshMessage::new(Afi::Ipv4, Safi::Unicast)), at(2));
    assert_eq!(hosts(&talk.said(at(2))), (vec![10, 11], vec![]));
    assert_eq!(talk.session.counts().refreshes, 2);
}

#[test]
fn received_routes_are_counted_limited_and_forgotten_with_the_session() {
    let (mut talk, _) = start().up(&[10], vec![]);
    let attributes = |prefixes: Vec<Prefix>| rib::Changes {
        withdraw: vec![],
        announce: vec![(
            rib::Attributes {
                as_path: vec![THEIRS],
                next_hop: "10.0.0.1".parse().unwrap(),
                med: None,
                local_pref: None,
                communities: vec![],
                large_communities: vec![],
            },
            prefixes,
        )],
    };
    let net = |n: u8| Prefix { address: IpAddr::from([10, 9, n, 0]), length: 24 };
    let tell = |talk: &mut Talk, changes: &rib::Changes| {
        for message in wire::updates(changes, true).unwrap() {
            talk.session.received(&message, at(2));
        }
    };
    // Withdrawals of what was never announced, twice.
    let gone = rib::Changes { withdraw: vec![(net(1), "10.0.0.1".parse().unwrap())], announce: vec![] };
    tell(&mut talk, &gone);
    tell(&mut talk, &gone);
    assert_eq!(talk.session.heard(), 0);
    tell(&mut talk, &attributes((0..100).map(net).collect()));
    tell(&mut talk, &attributes((0..50).map(net).collect()));
    assert_eq!(talk.session.heard(), 100);
    tell(&mut talk, &gone);
    assert_eq!((talk.session.heard(), talk.session.state()), (99, State::Established));
    tell(&mut talk, &attributes(vec![net(100), net(101)]));
    assert_eq!((talk.session.heard(), talk.session.state()), (0, State::Idle));
    assert!(talk.down().contains("max_received"));
    assert_eq!(talk.last_words(), (6, 1));
}

#[test]
fn a_router_that_takes_nothing_is_given_up() {
    let (mut talk, _) = start().up(&[10], vec![]);
    talk.wish(&[11]);
    talk.session.waits_to_write(at(10));
    // Some progress starts the wait anew.
    talk.session.written(1, at(100));
    for now in (13..579).step_by(3).map(at) {
        talk.hear(&Message::Keepalive, now);
        talk.session.tick(now);
    }
    assert_eq!(talk.session.state(), State::Established);
    talk.hear(&Message::Keepalive, at(579));
    talk.session.tick(at(580));
    assert_ne!(talk.session.state(), State::Established);
    assert!(talk.session.outgoing().is_empty(), "it takes nothing");
    assert!(talk.down().contains("send-hold timer"));
}

#[test]
fn leaving_says_why_and_cutting_says_nothing() {
    let (mut talk, _) = start().up(&[10], vec![]);
    talk.session.stop("the agent ends", at(2));
    let said = messages(&mut talk.session.farewell().freeze());
    assert_eq!(hosts(&said), (vec![], vec![10]), "withdrawn first");
    let Some(Message::Notification(last)) = said.last() else { panic!("{said:?}") };
    assert!(words(last).contains("6/2") && words(last).contains("\"the agent ends\""), "{last:?}");
    assert_eq!((talk.session.state(), talk.session.wake()), (State::Idle, None));

    let (mut talk, _) = start().up(&[10], vec![]);
    talk.wish(&[]);
    talk.session.cut();
    assert_eq!(talk.session.orders(), [Order::Close]);
    assert!(talk.session.farewell().is_empty());
    assert_eq!(talk.session.wake(), None);
}

#[test]
fn bfd_takes_the_session_down_at_once() {
    let (mut talk, _) = start().up(&[10], vec![]);
    talk.session.bfd_down("nothing heard for 300 ms", at(2));
    assert_eq!(talk.session.state(), State::Idle);
    assert_eq!(talk.down(), "BFD: nothing heard for 300 ms");
    assert_eq!(talk.last_words(), (6, 10));
    // While there is no session it is no news.
    talk.session.bfd_down("again", at(2));
    assert_eq!(talk.session.orders(), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever a router sends and whenever: no panic, and a session that is not stopped always comes again.
    #[test]
    fn any_router(steps in proptest::collection::vec((0u8..9, 0u64..400, proptest::collection::vec(any::<u8>(), 0..60)), 0..60)) {
        let mut talk = start();
        let mut now = at(0);
        for (step, pause, bytes) in steps {
            now += Duration::from_secs(pause / 20);
            match step {
                0 => talk.session.connected("10.0.0.2".parse().unwrap(), now),
                1 => talk.session.closed("gone", now),
                2 => talk.hear(&open(THEIRS, restarting()), now),
                3 => talk.hear(&Message::Keepalive, now),
                4 => talk.session.received(&bytes, now),
                5 => {
                    // A whole message with a body of garbage.
                    let length = u16::try_from(19 + bytes.len()).unwrap().to_be_bytes();
                    let kind = bytes.first().map_or(2, |b| b % 6);
                    talk.session.received(&[&[0xff; 16][..], &length, &[kind], &bytes].concat(), now);
                }
                6 => talk.wish(&bytes),
                7 => talk.session.bfd_down("test", now),
                _ => talk.session.tick(now),
            }
            if talk.session.orders().contains(&Order::Close) {
                talk.session.farewell();
            }
            drop(talk.said(now));
            let up = talk.session.state() == State::Established;
            prop_assert!(up || talk.session.wake().is_some(), "{:?}", talk.session);
        }
    }
}
