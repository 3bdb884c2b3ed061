//! One BFD session in asynchronous mode: the state machine, the intervals and the poll sequence of RFC 5880 section
//! 6.8. Pure; time is a parameter.
//!
//! ```text
//!   Down --Down--> Init --Init, Up--> Up         what the other side says moves us;
//!     '----Init------------------------^          Down, AdminDown or silence take us back to Down
//! ```

use std::time::Duration;

use super::State;
use super::packet::{Diagnostic, Packet};

/// Interval while not up: not faster than a second (section 6.8.3).
const SLOW: u32 = 1_000_000;

/// What a session is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Interval both ways, microseconds.
    pub interval: u32,
    /// Packets that may be missing.
    pub multiplier: u8,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Both sides hear each other.
    Up,
    /// They did and do not any more: why.
    Down(String),
    /// The other side has switched its session off, which says nothing about the path (RFC 5882 section 3.2).
    SwitchedOff,
}

/// A session.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    state: State,
    diagnostic: Diagnostic,
    my: u32,
    your: u32,
    remote_state: State,
    remote_demand: bool,
    /// Least interval the other side can receive with, microseconds.
    remote_rx: u32,
    /// Least interval it sends with, and packets that may be missing, of its last packet.
    remote_tx: u32,
    remote_multiplier: u8,
    /// A poll sequence of ours has no answer yet.
    polling: bool,
    next: Duration,
    heard: Option<Duration>,
    random: u32,
    ups: u64,
    downs: u64,
}

impl Session {
    /// A session that begins to send at once. `discriminator` is this node's alone and not 0.
    #[must_use]
    pub fn new(settings: Settings, discriminator: u32, now: Duration) -> Self {
        Self {
            settings,
            state: State::Down,
            diagnostic: Diagnostic::NONE,
            my: discriminator,
            your: 0,
            remote_state: State::Down,
            remote_demand: false,
            remote_rx: 1,
            remote_tx: SLOW,
            remote_multiplier: 1,
            polling: false,
            next: now,
            heard: None,
            random: discriminator,
            ups: 0,
            downs: 0,
        }
    }

    /// Our state.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Our discriminator, by which the other side names the session.
    #[must_use]
    pub fn discriminator(&self) -> u32 {
        self.my
    }

    /// Times it came up, and times it went down from there.
    #[must_use]
    pub fn flaps(&self) -> (u64, u64) {
        (self.ups, self.downs)
    }

    /// How long silence may last at the moment.
    #[must_use]
    pub fn detection_time(&self) -> Duration {
        let interval = self.required_rx().max(self.remote_tx);
        Duration::from_micros(u64::from(interval) * u64::from(self.remote_multiplier))
    }

    /// A packet of the other side. Returns the answer it asks for, and what it changed.
    pub fn received(&mut self, packet: &Packet, now: Duration) -> (Option<Packet>, Option<Change>) {
        if self.state == State::AdminDown {
            return (None, None);
        }
        self.your = packet.my;
        self.remote_state = packet.state;
        self.remote_demand = packet.demand;
        self.remote_rx = packet.required_rx;
        self.remote_tx = packet.desired_tx;
        self.remote_multiplier = packet.multiplier;
        if packet.fin {
            self.polling = false;
        }
        self.heard = Some(now);
        let before = self.state;
        let change = self.moved(packet);
        if self.state != before {
            // Everybody is glad to know at once.
            self.next = now;
        } else {
            // A shorter interval counts from now on.
            self.next = self.next.min(now + self.interval());
        }
        let answer = packet.poll.then(|| Packet { poll: false, fin: true, ..self.packet() });
        (answer, change)
    }

    /// Section 6.8.6, its last part.
    fn moved(&mut self, packet: &Packet) -> Option<Change> {
        match (self.state, packet.state) {
            (State::Init | State::Up, State::AdminDown) => {
                let was_up = self.state == State::Up;
                self.down(Diagnostic::SIGNALLED);
                was_up.then_some(Change::SwitchedOff)
            }
            (State::Down, State::Down) => {
                self.state = State::Init;
                None
            }
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.state = State::Up;
                self.diagnostic = Diagnostic::NONE;
                self.ups += 1;
                // The intervals have changed from slow to configured.
                self.polling = true;
                Some(Change::Up)
            }
            (State::Up, State::Down) => {
                let theirs = packet.diagnostic.words();
                self.down(Diagnostic::SIGNALLED);
                Some(Change::Down(format!("the router's session is down: {theirs}")))
            }
            _ => None,
        }
    }

    fn down(&mut self, diagnostic: Diagnostic) {
        if self.state == State::Up {
            self.downs += 1;
        }
        self.state = State::Down;
        self.diagnostic = diagnostic;
        self.polling = false;
    }

    /// Something may be due. Returns the packet to send, and what changed.
    pub fn tick(&mut self, now: Duration) -> (Option<Packet>, Option<Change>) {
        let mut change = None;
        if self.silent_at().is_some_and(|at| at <= now) {
            let time = self.detection_time();
            self.heard = None;
            self.your = 0;
            self.remote_rx = 1;
            let was_up = self.state == State::Up;
            if matches!(self.state, State::Init | State::Up) {
                self.down(Diagnostic::EXPIRED);
                self.next = now;
            }
            if was_up {
                change = Some(Change::Down(format!("nothing heard for {time:?}")));
            }
        }
        if now < self.next {
            return (None, change);
        }
        self.next = now + self.jittered();
        // Section 6.8.7: nothing periodic for one that takes nothing, or wants none.
        let quiet = self.remote_rx == 0
            || self.remote_demand
                && self.state == State::Up
                && self.remote_state == State::Up
                && !self.polling;
        ((!quiet).then(|| self.packet()), change)
    }

    /// When to tick.
    #[must_use]
    pub fn wake(&self) -> Duration {
        self.silent_at().map_or(self.next, |at| at.min(self.next))
    }

    /// Switches the session off and returns the packet that says so.
    pub fn switch_off(&mut self) -> Packet {
        self.state = State::AdminDown;
        self.diagnostic = Diagnostic::ADMIN_DOWN;
        self.polling = false;
        self.heard = None;
        self.packet()
    }

    fn silent_at(&self) -> Option<Duration> {
        self.heard.map(|heard| heard + self.detection_time())
    }

    fn desired_tx(&self) -> u32 {
        if self.state == State::Up { self.settings.interval } else { self.settings.interval.max(SLOW) }
    }

    fn required_rx(&self) -> u32 {
        self.settings.interval
    }

    fn packet(&self) -> Packet {
        Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            poll: self.polling,
            fin: false,
            demand: false,
            multiplier: self.settings.multiplier,
            my: self.my,
            your: self.your,
            desired_tx: self.desired_tx(),
            required_rx: self.required_rx(),
        }
    }

    /// Time between our packets before jitter. While a poll of ours has no answer the other side may still announce
    /// its slow start, though it already expects us at the rate that we announce (seen with FRR 8.4: honouring its
    /// second made the session flap every 300 ms).
    fn interval(&self) -> Duration {
        let ours = self.desired_tx();
        let interval = if self.state == State::Up && self.polling { ours } else { ours.max(self.remote_rx) };
        Duration::from_micros(interval.into())
    }

    /// 75 to 100 % of the interval, 75 to 90 % where none may be missing (section 6.8.7).
    fn jittered(&mut self) -> Duration {
        self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let most = if self.settings.multiplier == 1 { 15 } else { 25 };
        let per_mille = 750 + (self.random >> 16) * most * 10 / 65_536;
        self.interval() * per_mille / 1000
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: Settings = Settings { interval: 100_000, multiplier: 3 };

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn from(state: State) -> Packet {
        Packet {
            diagnostic: Diagnostic::NONE,
            state,
            poll: false,
            fin: false,
            demand: false,
            multiplier: 3,
            my: 77,
            your: if state == State::Down || state == State::AdminDown { 0 } else { 5 },
            desired_tx: 100_000,
            required_rx: 100_000,
        }
    }

    /// A session in that state at time 0.
    fn session(state: State) -> Session {
        let mut session = Session::new(SETTINGS, 5, ms(0));
        match state {
            State::Down => {}
            State::Init => _ = session.received(&from(State::Down), ms(0)),
            State::Up => _ = session.received(&from(State::Init), ms(0)),
            State::AdminDown => _ = session.switch_off(),
        }
        assert_eq!(session.state(), state);
        session
    }

    /// RFC 5880 section 6.2 (the diagram) and 6.8.6 (its rules), every pair.
    #[test]
    fn every_state_meets_every_state() {
        use State::{AdminDown, Down, Init, Up};
        for (ours, theirs, becomes) in [
            (Down, AdminDown, Down),
            (Down, Down, Init),
            (Down, Init, Up),
            (Down, Up, Down),
            (Init, AdminDown, Down),
            (Init, Down, Init),
            (Init, Init, Up),
            (Init, Up, Up),
            (Up, AdminDown, Down),
            (Up, Down, Down),
            (Up, Init, Up),
            (Up, Up, Up),
            (AdminDown, AdminDown, AdminDown),
            (AdminDown, Down, AdminDown),
            (AdminDown, Init, AdminDown),
            (AdminDown, Up, AdminDown),
        ] {
            let mut session = session(ours);
            let (_, change) = session.received(&from(theirs), ms(1));
            assert_eq!(session.state(), becomes, "{ours:?} hears {theirs:?}");
            match (ours, becomes) {
                (Up, Down) if theirs == AdminDown => assert_eq!(change, Some(Change::SwitchedOff)),
                (Up, Down) => assert!(matches!(change, Some(Change::Down(_))), "{change:?}"),
                (Down | Init, Up) => assert_eq!(change, Some(Change::Up)),
                _ => assert_eq!(change, None, "{ours:?} hears {theirs:?}"),
            }
        }
    }

    #[test]
    fn silence_takes_every_session_down() {
        for state in [State::Init, State::Up] {
            let mut session = session(state);
            session.tick(ms(299));
            assert_eq!(session.state(), state);
            let (packet, change) = session.tick(ms(300));
            assert_eq!(session.state(), State::Down);
            let packet = packet.unwrap();
            assert_eq!((packet.diagnostic, packet.state, packet.your), (Diagnostic::EXPIRED, State::Down, 0));
            assert_eq!(change.is_some(), state == State::Up);
        }
        assert_eq!(session(State::Up).detection_time(), ms(300));
    }

    #[test]
    fn the_slower_of_both_sides_rules() {
        let mut session = session(State::Up);
        let slow =
            Packet { fin: true, desired_tx: 500_000, required_rx: 400_000, multiplier: 5, ..from(State::Up) };
        session.received(&slow, ms(10));
        assert_eq!(session.detection_time(), ms(2500));
        session.tick(ms(10));
        assert!((ms(310)..=ms(410)).contains(&session.wake()), "{:?}", session.wake());
    }

    #[test]
    fn slow_until_up_then_a_poll_at_our_own_rate() {
        let mut session = session(State::Down);
        let (packet, _) = session.tick(ms(0));
        assert_eq!(packet.unwrap().desired_tx, SLOW);
        // The other side comes up while it still announces its slow start.
        let slow = Packet { desired_tx: SLOW, required_rx: SLOW, ..from(State::Init) };
        session.received(&slow, ms(500));
        let (mut now, mut sent) = (ms(500), 0);
        while now < ms(1500) {
            if let (Some(packet), _) = session.tick(now) {
                assert!(packet.poll && packet.desired_tx == 100_000, "{packet:?}");
                sent += 1;
            }
            now = session.wake();
        }
        // Not one a second: the trap.
        assert!((10..=15).contains(&sent), "{sent}");
        session.received(&Packet { fin: true, ..from(State::Up) }, now);
        let (packet, _) = session.tick(now + ms(100));
        assert!(!packet.unwrap().poll);
    }

    #[test]
    fn a_poll_is_answered_at_once() {
        let mut session = session(State::Up);
        let (answer, _) = session.received(&Packet { poll: true, ..from(State::Up) }, ms(3));
        let answer = answer.unwrap();
        assert!(answer.fin && !answer.poll && answer.your == 77);
    }

    #[test]
    fn nothing_periodic_for_one_that_wants_none() {
        let mut session = session(State::Up);
        session.tick(ms(0));
        session.received(&Packet { fin: true, required_rx: 0, ..from(State::Up) }, ms(1));
        assert_eq!(session.tick(ms(200)).0, None);
        session.received(&Packet { demand: true, ..from(State::Up) }, ms(201));
        assert_eq!(session.tick(ms(400)).0, None);
        session.received(&from(State::Up), ms(401));
        assert!(session.tick(ms(600)).0.is_some());
    }

    #[test]
    fn switched_off_it_says_so_and_stays() {
        let mut session = session(State::Up);
        let packet = session.switch_off();
        assert_eq!((packet.state, packet.diagnostic), (State::AdminDown, Diagnostic::ADMIN_DOWN));
        session.received(&from(State::Up), ms(1));
        assert_eq!(session.state(), State::AdminDown);
    }

    proptest! {
        /// Two of us over a wire with delay and some loss: up, and no flap as long as fewer packets in a row are
        /// lost than may be missing.
        #[test]
        fn two_sessions_come_up_and_stay(seed in any::<u32>(), delay in 0u64..20, first in 0u64..3000) {
            let mut ends = [Session::new(SETTINGS, 1 + seed % 1000, ms(0)), Session::new(SETTINGS, 2000, ms(first))];
            let mut wire: Vec<(Duration, usize, Packet)> = Vec::new();
            let (mut now, mut random, mut lost) = (ms(0), seed, [0; 2]);
            while now < ms(20_000) {
                for end in 0..2 {
                    let (mut deliver, later): (Vec<_>, Vec<_>) = wire.drain(..).partition(|(at, to, _)| *at <= now && *to == end);
                    wire = later;
                    for (_, _, packet) in deliver.drain(..) {
                        if let (Some(answer), _) = ends[end].received(&packet, now) {
                            wire.push((now + ms(delay), 1 - end, answer));
                        }
                    }
                    if let (Some(packet), _) = ends[end].tick(now) {
                        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        // At most one of two in a row.
                        if random >> 30 == 0 && lost[end] == 0 {
                            lost[end] = 1;
                        } else {
                            lost[end] = 0;
                            wire.push((now + ms(delay), 1 - end, packet));
                        }
                    }
                }
                now += ms(1);
            }
            for end in &ends {
                prop_assert_eq!((end.state(), end.flaps()), (State::Up, (1, 0)));
            }
        }

        #[test]
        fn any_packets(steps in proptest::collection::vec((0u64..2000, 0u8..4, any::<u8>(), any::<u32>(), any::<u32>(), 1u8..), 0..80)) {
            let mut session = Session::new(SETTINGS, 5, ms(0));
            let mut now = ms(0);
            for (pause, state, flags, tx, rx, multiplier) in steps {
                now += ms(pause);
                let packet = Packet {
                    poll: flags & 1 != 0, fin: flags & 2 != 0, demand: flags & 4 != 0,
                    desired_tx: tx, required_rx: rx, multiplier,
                    ..from(State::from_bits(state))
                };
                session.received(&packet, now);
                session.tick(now);
                prop_assert!(session.wake() > now);
            }
        }
    }
}
