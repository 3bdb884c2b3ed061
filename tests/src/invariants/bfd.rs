//! A BFD session against any packets at any time: only what RFC 5880 allows moves it, and it never stops sending for good.
//!
//! Input: steps of a pause in units of 10 ms and 24 bytes that are taken for a packet.

use std::time::Duration;

use xdp_lb::bfd::State;
use xdp_lb::bfd::packet::Packet;
use xdp_lb::bfd::session::{Change, Session, Settings};

pub fn check(data: &[u8]) {
    let mut session = Session::new(Settings { interval: 100_000, multiplier: 3 }, 5, Duration::ZERO);
    let (mut now, mut heard) = (Duration::ZERO, None::<Duration>);
    for step in data.chunks(25) {
        let Some((&pause, bytes)) = step.split_first() else { return };
        now += Duration::from_millis(u64::from(pause) * 10);
        let (before, limit) = (session.state(), session.detection_time());
        let (packet, change) = session.tick(now);
        if let Some(packet) = packet {
            assert_eq!(Packet::decode(&packet.encode()), Ok(packet), "what we send is what we take");
            assert_eq!(packet.state, session.state());
        }
        let silent = heard.is_some_and(|at| at + limit <= now);
        match (before, session.state()) {
            (State::Init | State::Up, State::Down) => assert!(silent, "down without silence"),
            (a, b) => assert_eq!(a, b, "a clock moves nothing up"),
        }
        assert_eq!(change.is_some(), before == State::Up && silent);
        if silent {
            heard = None;
        }
        let Ok(packet) = Packet::decode(bytes) else { continue };
        assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
        heard = Some(now);
        let before = session.state();
        let (answer, change) = session.received(&packet, now);
        assert_eq!(answer.is_some(), packet.poll, "a poll and nothing else is answered");
        assert!(answer.is_none_or(|a| a.fin && !a.poll && a.your == packet.my));
        let up = before != State::Up && session.state() == State::Up;
        assert_eq!(up, change == Some(Change::Up));
        assert!(!up || matches!(packet.state, State::Init | State::Up), "up by {packet:?}");
        session.tick(now);
        assert!(session.wake() > now, "it would spin: {session:?}");
    }
}
