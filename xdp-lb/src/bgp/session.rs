//! One session to one router, without any I/O: bytes and moments go in, bytes and orders come out.
//!
//! The state machine of RFC 4271 is `rustbgpd_fsm`'s, named here alone. What it leaves to its user is here: framing,
//! timers as deadlines, the start out of Idle with backoff, what our OPEN says, the send-hold timer (RFC 9687), the
//! routes told and heard. [`super::io`] dials, reads, writes and waits.
//!
//! ```text
//!   connected / received / closed --+                    +-- orders(): Connect, Close, Tell
//!   wish / refresh / stop / bfd ----+--> state machine --+-- outgoing(): bytes to write
//!   tick(now) at wake() ------------+    routes          +-- wake(): when to come again
//! ```

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use rustbgpd_fsm::{Action, Event, NegotiatedSession, PeerConfig, SessionState, TimerType};
use rustbgpd_wire::{
    Afi, Capability, DecodeError, Message, NotificationCode, NotificationMessage, Safi, UpdateMessage,
    decode_message, encode_message, peek_message_length,
};

use super::rib::{self, Routes, Terms, Wish};
use super::settings::{Bgp, Peer, Prefix};
use super::wire;

/// Time a connection may take to come up.
const CONNECT: u32 = 5;
/// Longest pause between two attempts to connect; the state machine would wait five minutes.
const RETRY_LIMIT: u32 = 10;
/// First pause in Idle; it doubles with every failure up to [`IDLE_LIMIT`].
const IDLE: Duration = Duration::from_secs(1);
/// Longest pause in Idle.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// A session that lasted so long was no failure.
const LASTING: Duration = Duration::from_secs(30);
/// How long a router may take to confirm a session without hold timer: as long as for its OPEN.
const CONFIRM: Duration = Duration::from_secs(240);
/// Cease: too many prefixes (RFC 4486).
const MAX_PREFIXES: u8 = 1;

/// What the state machine wants done outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Dial the router; [`Session::connected`] or [`Session::closed`] tells the outcome.
    Connect,
    /// Write what [`Session::farewell`] returns, if the connection takes it at once, and close it.
    Close,
    /// Something for the log.
    Tell(Tiding),
}

/// News of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tiding {
    /// It is established.
    Up,
    /// It was, and is not any more: why.
    Down(String),
    /// It did not come up: why. Told once for each new reason.
    Failing(String),
}

/// State of the session, as RFC 4271 names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Stopped, or waiting to start.
    Idle,
    /// Dialling.
    Connect,
    /// Waiting to dial again.
    Active,
    /// Waiting for the router's OPEN.
    OpenSent,
    /// Waiting for its first KEEPALIVE.
    OpenConfirm,
    /// Exchanging routes.
    Established,
}

/// What has been counted over all connections of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Times it was established.
    pub established: u64,
    /// UPDATEs received.
    pub updates_received: u64,
    /// UPDATEs sent.
    pub updates_sent: u64,
    /// Route refreshes asked of us.
    pub refreshes: u64,
    /// Attributes received broken (RFC 7606); they are ignored like all others.
    pub malformed: u64,
}

/// Deadlines on the agent's clock.
#[derive(Debug, Default)]
struct Deadlines {
    connect_retry: Option<Duration>,
    hold: Option<Duration>,
    keepalive: Option<Duration>,
    /// When Idle ends.
    start: Option<Duration>,
    /// When a router that takes nothing is given up.
    stalled: Option<Duration>,
}

/// An established session.
#[derive(Debug)]
struct Established {
    terms: Terms,
    since: Duration,
    sent: Routes,
    /// Generation of the wishes that `sent` fulfils.
    generation: u64,
    heard: HashSet<Prefix>,
}

/// A session.
#[derive(Debug)]
pub struct Session {
    bgp: Arc<Bgp>,
    peer: Peer,
    fsm: rustbgpd_fsm::Session,
    /// Whether the agent has restarted and this router has not had a session since.
    restarted: bool,
    stopped: bool,
    inbox: BytesMut,
    outbox: BytesMut,
    orders: Vec<Order>,
    deadlines: Deadlines,
    /// Our address while there is a connection.
    local: Option<IpAddr>,
    established: Option<Established>,
    wishes: Arc<Vec<Wish>>,
    generation: u64,
    failures: u32,
    /// What the event at hand would end the session by.
    cause: Option<String>,
    last_down: Option<(Duration, String)>,
    /// Why it does not come up.
    failing: Option<String>,
    counts: Counts,
}

impl Session {
    /// A session that starts at once. `restarted`: an earlier agent's routes may still be with the router.
    #[must_use]
    pub fn new(bgp: Arc<Bgp>, peer: Peer, restarted: bool, now: Duration) -> Self {
        let fsm = rustbgpd_fsm::Session::new(config(&bgp, &peer));
        Self {
            bgp,
            peer,
            fsm,
            restarted,
            stopped: false,
            inbox: BytesMut::new(),
            outbox: BytesMut::new(),
            orders: Vec::new(),
            deadlines: Deadlines { start: Some(now), ..Deadlines::default() },
            local: None,
            established: None,
            wishes: Arc::default(),
            generation: 0,
            failures: 0,
            cause: None,
            last_down: None,
            failing: None,
            counts: Counts::default(),
        }
    }

    /// The router it speaks with.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Orders since the last call, in order.
    pub fn orders(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders)
    }

    /// Bytes to write.
    #[must_use]
    pub fn outgoing(&self) -> &[u8] {
        &self.outbox
    }

    /// So many of them have been written.
    pub fn written(&mut self, bytes: usize, now: Duration) {
        self.outbox.advance(bytes.min(self.outbox.len()));
        self.deadlines.stalled = (!self.outbox.is_empty()).then(|| now + self.peer.link.send_hold_time);
    }

    /// The last bytes of a connection that [`Order::Close`] closes.
    pub fn farewell(&mut self) -> BytesMut {
        self.inbox.clear();
        self.deadlines.stalled = None;
        self.local = None;
        self.outbox.split()
    }

    /// The connection stands; `local` is our address on it.
    pub fn connected(&mut self, local: IpAddr, now: Duration) {
        self.inbox.clear();
        self.outbox.clear();
        if !matches!(self.fsm.state(), SessionState::Connect | SessionState::Active) {
            // The state machine has changed its mind meanwhile.
            return self.orders.push(Order::Close);
        }
        self.local = Some(local);
        self.event(Event::TcpConnectionConfirmed, now);
    }

    /// The connection has ended or did not come up, and why.
    pub fn closed(&mut self, why: &str, now: Duration) {
        self.local = None;
        self.inbox.clear();
        self.outbox.clear();
        self.deadlines.stalled = None;
        self.cause = Some(why.to_owned());
        self.event(Event::TcpConnectionFails, now);
    }

    /// Bytes from the router.
    pub fn received(&mut self, bytes: &[u8], now: Duration) {
        self.inbox.extend_from_slice(bytes);
        while self.local.is_some() && !self.closing() {
            match self.next_message() {
                Ok(Some(message)) => self.message(message, now),
                Ok(None) => return,
                Err(error) => {
                    // Nothing behind it can be framed.
                    self.inbox.clear();
                    self.cause = Some(format!("the router sent what is no BGP: {error}"));
                    self.event(Event::DecodeError(error), now);
                    return;
                }
            }
        }
    }

    /// Something may be due.
    pub fn tick(&mut self, now: Duration) {
        let due = |deadline: &mut Option<Duration>| deadline.take_if(|at| *at <= now).is_some();
        if due(&mut self.deadlines.start) && !self.stopped {
            self.event(Event::ManualStart, now);
        }
        if due(&mut self.deadlines.connect_retry) {
            self.cause = Some(NO_ANSWER.to_owned());
            self.event(Event::ConnectRetryTimerExpires, now);
        }
        if due(&mut self.deadlines.hold) {
            let seconds = self.fsm.negotiated().map_or(240, |n| n.hold_time);
            self.cause = Some(format!("hold timer: nothing heard for {seconds} s"));
            self.event(Event::HoldTimerExpires, now);
        }
        if due(&mut self.deadlines.keepalive) {
            self.event(Event::KeepaliveTimerExpires, now);
        }
        if due(&mut self.deadlines.stalled) {
            // Nothing more can be said to it, not even why.
            self.outbox.clear();
            let seconds = self.peer.link.send_hold_time.as_secs();
            self.cause = Some(format!("send-hold timer: the router took nothing for {seconds} s"));
            self.orders.push(Order::Close);
            self.event(Event::TcpConnectionFails, now);
        }
    }

    /// When to tick, on the agent's clock.
    #[must_use]
    pub fn wake(&self) -> Option<Duration> {
        let d = &self.deadlines;
        [d.connect_retry, d.hold, d.keepalive, d.start, d.stalled].into_iter().flatten().min()
    }

    /// What should be announced from now on; `generation` names it in [`Session::told`].
    pub fn wish(&mut self, bgp: Arc<Bgp>, peer: Peer, wishes: Arc<Vec<Wish>>, generation: u64) {
        (self.bgp, self.peer, self.wishes, self.generation) = (bgp, peer, wishes, generation);
        self.speak();
    }

    /// Generation of the wishes that the router has been told, once the connection has taken all of it; a session
    /// that is not established has nothing left to tell.
    #[must_use]
    pub fn told(&self) -> u64 {
        match &self.established {
            Some(e) if self.outbox.is_empty() => e.generation,
            Some(e) => e.generation.saturating_sub(1),
            None => self.generation,
        }
    }

    /// BFD has found the router gone.
    pub fn bfd_down(&mut self, why: &str, now: Duration) {
        self.cause = Some(format!("BFD: {why}"));
        self.event(Event::BfdDown, now);
    }

    /// Ends the session for good: everything is withdrawn, or a router might keep it over a graceful restart, and then
    /// comes a NOTIFICATION (Cease, administrative shutdown).
    pub fn stop(&mut self, why: &str, now: Duration) {
        self.wishes = Arc::default();
        self.speak();
        self.stopped = true;
        self.deadlines = Deadlines::default();
        self.cause = Some(why.to_owned());
        let reason = Some(rustbgpd_wire::notification::encode_shutdown_communication(why));
        self.event(Event::ManualStop { reason }, now);
    }

    /// Ends the session for good without a word, so that the router keeps the routes over a graceful restart.
    pub fn cut(&mut self) {
        self.stopped = true;
        self.deadlines = Deadlines::default();
        self.outbox.clear();
        self.established = None;
        self.orders.push(Order::Close);
    }

    /// Whether it has been stopped or cut and waits for nothing any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stopped && self.local.is_none()
    }

    /// State of the session.
    #[must_use]
    pub fn state(&self) -> State {
        match self.fsm.state() {
            SessionState::Idle => State::Idle,
            SessionState::Connect => State::Connect,
            SessionState::Active => State::Active,
            SessionState::OpenSent => State::OpenSent,
            SessionState::OpenConfirm => State::OpenConfirm,
            SessionState::Established => State::Established,
        }
    }

    /// Since when it is established, on the agent's clock.
    #[must_use]
    pub fn since(&self) -> Option<Duration> {
        self.established.as_ref().map(|e| e.since)
    }

    /// Why it does not come up, as far as the last attempt told.
    #[must_use]
    pub fn failing(&self) -> Option<&str> {
        self.failing.as_deref()
    }

    /// When it last went down, and why.
    #[must_use]
    pub fn last_down(&self) -> Option<&(Duration, String)> {
        self.last_down.as_ref()
    }

    /// What has been counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What the router has been told.
    #[must_use]
    pub fn routes(&self) -> Option<&Routes> {
        self.established.as_ref().map(|e| &e.sent)
    }

    /// Prefixes that the router tells us of at the moment.
    #[must_use]
    pub fn heard(&self) -> usize {
        self.established.as_ref().map_or(0, |e| e.heard.len())
    }

    /// What the session has agreed on.
    #[must_use]
    pub fn terms(&self) -> Option<Terms> {
        self.established.as_ref().map(|e| e.terms)
    }

    /// Hold time agreed on, seconds.
    #[must_use]
    pub fn hold_time(&self) -> Option<u16> {
        self.fsm.negotiated().map(|n| n.hold_time)
    }

    fn closing(&self) -> bool {
        self.orders.contains(&Order::Close)
    }

    fn next_message(&mut self) -> Result<Option<Message>, DecodeError> {
        let Some(length) = peek_message_length(&self.inbox, wire::LONGEST)? else { return Ok(None) };
        if self.inbox.len() < usize::from(length) {
            return Ok(None);
        }
        let mut message = self.inbox.split_to(usize::from(length)).freeze();
        decode_message(&mut message, wire::LONGEST).map(Some)
    }

    fn message(&mut self, message: Message, now: Duration) {
        match message {
            Message::Open(open) => self.event(Event::OpenReceived(open), now),
            Message::Keepalive => self.event(Event::KeepaliveReceived, now),
            Message::Notification(notification) => {
                self.cause = Some(format!("the router ended it: {}", words(&notification)));
                self.event(Event::NotificationReceived(notification), now);
            }
            Message::Update(update) => self.update(&update, now),
            Message::RouteRefresh(refresh) => {
                // A family that we do not speak is ignored (RFC 2918 section 4).
                let (Some(afi), Some(safi)) = (refresh.afi(), refresh.safi()) else { return };
                self.event(Event::RouteRefreshReceived { afi, safi }, now);
                if let Some(established) = self.established.as_mut().filter(|_| safi == Safi::Unicast) {
                    self.counts.refreshes += 1;
                    let asked = |p: &Prefix| if p.address.is_ipv6() { Afi::Ipv6 } else { Afi::Ipv4 };
                    established.sent.told.retain(|prefix, _| asked(prefix) != afi);
                    self.speak();
                }
            }
            // Message types of a later codec.
            _ => {}
        }
    }

    /// Counts, limits and ignores.
    fn update(&mut self, update: &UpdateMessage, now: Duration) {
        self.counts.updates_received += 1;
        let four_octets = self.fsm.negotiated().is_none_or(|n| n.four_octet_as);
        let internal = self.peer.link.is_internal(self.bgp.local_as);
        let heard = match wire::heard(update, four_octets, internal) {
            Ok(heard) => heard,
            Err(error) => {
                self.cause = Some(format!("the router sent an UPDATE that cannot be read: {error}"));
                return self.event(Event::DecodeError(error), now);
            }
        };
        self.counts.malformed += heard.malformed as u64;
        let limit = self.peer.link.max_received as usize;
        if let Some(established) = &mut self.established {
            for prefix in &heard.withdrawn {
                established.heard.remove(prefix);
            }
            established.heard.extend(heard.announced);
            if established.heard.len() > limit {
                self.cause = Some(format!("the router told more than {limit} prefixes (max_received)"));
                let cease =
                    NotificationMessage::new(NotificationCode::Cease, MAX_PREFIXES, bytes::Bytes::new());
                return self.event(Event::UpdateValidationError(cease), now);
            }
        }
        self.event(Event::UpdateReceived, now);
    }

    /// Hands an event to the state machine and does what it asks for.
    fn event(&mut self, event: Event, now: Duration) {
        let before = self.fsm.state();
        let actions = self.fsm.handle_event(event);
        let mut up = None;
        for action in actions {
            match action {
                Action::SendOpen(open) => {
                    let restart =
                        self.bgp.restart_time.map(|t| u16::try_from(t.as_secs()).unwrap_or(u16::MAX));
                    let open = wire::our_open(open, restart, self.restarted);
                    self.send(&Message::Open(open));
                }
                Action::SendKeepalive => self.send(&Message::Keepalive),
                Action::SendNotification(notification) => {
                    let ours = format!("we ended it: {}", words(&notification));
                    self.cause.get_or_insert(ours);
                    self.send(&Message::Notification(notification));
                }
                Action::StartTimer(timer, seconds) => self.start_timer(timer, seconds, now),
                Action::StopTimer(timer) => *self.timer(timer) = None,
                Action::InitiateTcpConnection => self.orders.push(Order::Connect),
                Action::CloseTcpConnection => self.orders.push(Order::Close),
                Action::SessionEstablished(negotiated) => up = Some(negotiated),
                // The state shows them.
                _ => {}
            }
        }
        if self.fsm.state() == SessionState::OpenConfirm && self.deadlines.hold.is_none() {
            // A hold time of 0 lets nobody wait for ever for the first KEEPALIVE.
            self.deadlines.hold = Some(now + CONFIRM);
        }
        if let Some(negotiated) = up {
            if negotiated.hold_time == 0 {
                self.deadlines.hold = None;
            }
            self.establish(&negotiated, now);
        }
        self.after(before, now);
        self.cause = None;
    }

    fn start_timer(&mut self, timer: TimerType, seconds: u32, now: Duration) {
        let seconds = if timer == TimerType::ConnectRetry { seconds.min(RETRY_LIMIT) } else { seconds };
        *self.timer(timer) = Some(now + Duration::from_secs(seconds.into()));
    }

    fn timer(&mut self, timer: TimerType) -> &mut Option<Duration> {
        match timer {
            TimerType::Hold => &mut self.deadlines.hold,
            TimerType::Keepalive => &mut self.deadlines.keepalive,
            // Timers of a later state machine end up where they do no harm: a retry.
            _ => &mut self.deadlines.connect_retry,
        }
    }

    /// What follows from a change of state.
    fn after(&mut self, before: SessionState, now: Duration) {
        let state = self.fsm.state();
        let was_up = before == SessionState::Established && state != SessionState::Established;
        if was_up {
            let lasted = self.established.take().map_or(Duration::ZERO, |e| now.saturating_sub(e.since));
            if lasted >= LASTING {
                self.failures = 0;
            }
        }
        // In Idle most events mean nothing, and without a change of state a failure is one of dialling.
        let dialling = matches!(state, SessionState::Connect | SessionState::Active);
        if let Some(why) = self.cause.take().filter(|_| state != before || dialling) {
            if was_up {
                self.last_down = Some((now, why.clone()));
                self.orders.push(Order::Tell(Tiding::Down(why)));
            } else if self.failing.as_ref() != Some(&why) {
                self.failing = Some(why.clone());
                self.orders.push(Order::Tell(Tiding::Failing(why)));
            }
        }
        if state == SessionState::Idle && before != SessionState::Idle {
            self.deadlines = Deadlines { stalled: self.deadlines.stalled, ..Deadlines::default() };
            if !self.stopped {
                self.deadlines.start = Some(now + self.pause());
                self.failures = self.failures.saturating_add(1);
            }
        }
    }

    /// Doubles with every failure; spread by a quarter, so that nodes do not come back in step.
    fn pause(&self) -> Duration {
        let whole = IDLE.saturating_mul(1 << self.failures.min(10)).min(IDLE_LIMIT);
        let seed = u32::from(self.bgp.router_id)
            .wrapping_mul(0x9e37_79b1)
            .wrapping_add(self.failures.wrapping_mul(0x85eb_ca6b));
        whole - whole.mul_f64(f64::from(seed >> 8) / f64::from(1u32 << 24) / 4.0)
    }

    fn establish(&mut self, negotiated: &NegotiatedSession, now: Duration) {
        let has = |afi| negotiated.negotiated_families.contains(&(afi, Safi::Unicast));
        let extended = negotiated.extended_nexthop_families.contains_key(&(Afi::Ipv4, Safi::Unicast));
        let Some(local) = self.local else { return };
        let terms = Terms {
            local,
            ipv4: has(Afi::Ipv4),
            ipv6: has(Afi::Ipv6),
            extended_next_hop: extended,
            four_octets: negotiated.four_octet_as,
        };
        self.established = Some(Established {
            terms,
            since: now,
            sent: Routes::default(),
            generation: 0,
            heard: HashSet::new(),
        });
        self.counts.established += 1;
        self.restarted = false;
        self.failing = None;
        self.orders.push(Order::Tell(Tiding::Up));
        self.speak();
        let keeps = |c: &Capability| matches!(c, Capability::GracefulRestart { .. });
        if negotiated.peer_capabilities.iter().any(keeps) {
            for (v6, spoken) in [(false, terms.ipv4), (true, terms.ipv6)] {
                if let Some(mark) = spoken.then(|| wire::end_of_rib(v6).ok()).flatten() {
                    self.push(&mark);
                }
            }
        }
    }

    /// Tells the router what it does not know yet.
    fn speak(&mut self) {
        let Some(established) = &mut self.established else { return };
        let wanted = rib::routes(&self.bgp, &self.peer, &established.terms, &self.wishes);
        let changes = rib::changes(&established.sent.told, &wanted.told);
        let messages = match wire::updates(&changes, established.terms.four_octets) {
            Ok(messages) => messages,
            Err(error) => {
                self.failing = Some(format!("routes cannot be encoded: {error}"));
                return;
            }
        };
        established.sent = wanted;
        established.generation = self.generation;
        self.counts.updates_sent += messages.len() as u64;
        for message in messages {
            self.push(&message);
        }
    }

    fn send(&mut self, message: &Message) {
        // Only attributes can be too long, and these have none.
        if let Ok(bytes) = encode_message(message) {
            self.push(&bytes);
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.outbox.extend_from_slice(bytes);
    }

    /// Starts the send-hold timer when there is something to write that waits for the connection.
    pub fn waits_to_write(&mut self, now: Duration) {
        if !self.outbox.is_empty() && self.deadlines.stalled.is_none() {
            self.deadlines.stalled = Some(now + self.peer.link.send_hold_time);
        }
    }
}

/// What a wrong TCP-MD5 key looks like, too: the router drops our segments.
const NO_ANSWER: &str =
    "no answer to our connection (a router that is down, a filter, or another TCP-MD5 key)";

fn config(bgp: &Bgp, peer: &Peer) -> PeerConfig {
    let mut config = PeerConfig::new(bgp.local_as, peer.link.remote_as, bgp.router_id);
    config.hold_time = peer.link.hold_time;
    config.connect_retry_secs = CONNECT;
    for (afi, offered) in [(Afi::Ipv4, peer.link.ipv4), (Afi::Ipv6, peer.link.ipv6)] {
        if offered {
            config.families.push((afi, Safi::Unicast));
        }
    }
    config.disable_ipv4_unicast = !peer.link.ipv4;
    config
}

/// A NOTIFICATION in words: `6/2 Administrative Shutdown ("maintenance")`.
fn words(notification: &NotificationMessage) -> String {
    let (code, subcode) = (notification.code.as_u8(), notification.subcode);
    let name = rustbgpd_wire::notification::description(notification.code, subcode);
    let said = rustbgpd_wire::notification::extract_shutdown_communication(notification).ok().flatten();
    match said.filter(|text| !text.is_empty()) {
        Some(text) => format!("NOTIFICATION {code}/{subcode} {name} ({text:?})"),
        None => format!("NOTIFICATION {code}/{subcode} {name}"),
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
