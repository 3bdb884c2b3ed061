//! Sockets and moments for all BFD sessions of this node: one task that the BGP thread runs.
//!
//! Packets go out from a port of their own at 49152 and up with TTL 255, and come in on 3784 (single hop, TTL 255
//! exactly) or 4784 (multihop). What a session changes is told to whoever watches the router.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::State;
use super::packet::Packet;
use super::session::{Change, Session, Settings};
use crate::socket;

const SINGLE_HOP: u16 = 3784;
const MULTIHOP: u16 = 4784;
/// RFC 5881 section 4.
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;
/// Datagrams that are taken from one socket at a time.
const MOST: usize = 1000;
/// Pause before a socket that could not be had is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A router to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Hops to it; more than one is multihop.
    pub hops: u8,
    /// Our address.
    pub source: Option<IpAddr>,
    /// Interface to keep to.
    pub interface: Option<String>,
    /// Interval and multiplier.
    pub settings: Settings,
}

/// The routers to watch, by address.
pub type Watchlist = BTreeMap<IpAddr, Watched>;

/// News of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// The router.
    pub peer: IpAddr,
    /// State of the session.
    pub state: State,
    /// What changed, when it is not the first word.
    pub change: Option<Change>,
    /// Times it came up and went down.
    pub flaps: (u64, u64),
    /// How long silence may last at the moment.
    pub detection_time: Duration,
}

/// Which receiving socket: whether IPv6, and the port.
type Listening = (bool, u16);

struct Entry {
    watched: Watched,
    session: Session,
    /// `None` until it can be had.
    out: Option<UdpSocket>,
    retry: Instant,
}

impl Entry {
    fn listening(&self, peer: IpAddr) -> Listening {
        (peer.is_ipv6(), if self.watched.hops > 1 { MULTIHOP } else { SINGLE_HOP })
    }
}

/// Runs the sessions of `watchlist`, as it changes, until its sender goes; sessions are switched off then, unless
/// `quiet` says that the routers are to notice nothing.
pub async fn run(
    mut watchlist: watch::Receiver<Watchlist>,
    news: mpsc::UnboundedSender<News>,
    quiet: watch::Receiver<bool>,
) {
    let mut hub = Hub { began: Instant::now(), entries: BTreeMap::new(), listening: BTreeMap::new(), news };
    loop {
        let wanted = watchlist.borrow_and_update().clone();
        hub.follow(&wanted);
        loop {
            let wake = hub.due();
            tokio::select! {
                changed = watchlist.changed() => {
                    if changed.is_err() {
                        if !*quiet.borrow() {
                            hub.follow(&Watchlist::new());
                        }
                        return;
                    }
                    break;
                }
                heard = hear(&hub.listening) => hub.heard(heard),
                () = sleep_until(wake) => {}
            }
            hub.drain();
            hub.tick();
        }
    }
}

/// A datagram from any of the sockets.
struct Heard {
    at: Listening,
    outcome: io::Result<(Vec<u8>, Option<SocketAddr>, Option<u8>)>,
}

async fn hear(sockets: &BTreeMap<Listening, UdpSocket>) -> Heard {
    let waiting = sockets.iter().map(|(at, udp)| {
        Box::pin(async move {
            let mut buffer = [0; 128];
            let outcome = udp.async_io(Interest::READABLE, || socket::receive(udp, &mut buffer)).await;
            let outcome = outcome.map(|(length, sender, ttl)| (buffer[..length].to_vec(), sender, ttl));
            Heard { at: *at, outcome }
        })
    });
    let waiting: Vec<_> = waiting.collect();
    if waiting.is_empty() {
        return std::future::pending().await;
    }
    futures::future::select_all(waiting).await.0
}

struct Hub {
    began: Instant,
    entries: BTreeMap<IpAddr, Entry>,
    listening: BTreeMap<Listening, UdpSocket>,
    news: mpsc::UnboundedSender<News>,
}

impl Hub {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn follow(&mut self, wanted: &Watchlist) {
        let now = self.now();
        let gone: Vec<IpAddr> = self
            .entries
            .iter()
            .filter(|(peer, entry)| wanted.get(peer) != Some(&entry.watched))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in gone {
            if let Some(mut entry) = self.entries.remove(&peer) {
                let packet = entry.session.switch_off();
                if let Some(out) = &entry.out {
                    // Best effort: without it the router finds out by itself.
                    drop(out.try_send(&packet.encode()));
                }
            }
        }
        for (peer, watched) in wanted {
            if !self.entries.contains_key(peer) {
                let session = Session::new(watched.settings, self.discriminator(*peer), now);
                let entry = Entry { watched: watched.clone(), session, out: None, retry: Instant::now() };
                self.entries.insert(*peer, entry);
                self.tell(*peer, None);
            }
        }
    }

    /// Not 0, nobody else's here, and another one after a restart: the router must not take us for the session
    /// before.
    fn discriminator(&self, peer: IpAddr) -> u32 {
        use std::hash::{BuildHasher as _, RandomState};
        loop {
            let candidate = RandomState::new().hash_one(peer) as u32;
            if candidate != 0 && self.entries.values().all(|e| e.session.discriminator() != candidate) {
                return candidate;
            }
        }
    }

    fn due(&self) -> Instant {
        let later = Instant::now() + Duration::from_secs(60);
        let wakes = self.entries.values().map(|entry| self.began + entry.session.wake());
        wakes.min().unwrap_or(later)
    }

    /// Takes what has come before anything is given up: a thread that got no CPU for a while must not take its own
    /// lateness for the router's silence.
    fn drain(&mut self) {
        let mut buffer = [0; 128];
        let ports: Vec<Listening> = self.listening.keys().copied().collect();
        for at in ports {
            for _ in 0..MOST {
                let Some(udp) = self.listening.get(&at) else { break };
                let outcome = socket::receive(udp, &mut buffer);
                let outcome = outcome.map(|(length, sender, ttl)| (buffer[..length].to_vec(), sender, ttl));
                match outcome {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    outcome => self.heard(Heard { at, outcome }),
                }
            }
        }
    }

    fn heard(&mut self, heard: Heard) {
        let (bytes, sender, ttl) = match heard.outcome {
            Ok(datagram) => datagram,
            Err(error) => {
                warn!(%error, port = heard.at.1, "BFD: receive; opening the socket again");
                self.listening.remove(&heard.at);
                return;
            }
        };
        let Some(from) = sender.map(|sender| sender.ip()) else { return };
        let packet = match Packet::decode(&bytes) {
            Ok(packet) => packet,
            Err(error) => return debug!(%from, %error, "BFD packet discarded"),
        };
        let Some(entry) = self.entries.get_mut(&from) else {
            return debug!(%from, "BFD packet of a stranger discarded");
        };
        let least = if entry.watched.hops > 1 { 255 - entry.watched.hops } else { 255 };
        let ours = packet.your == 0 || packet.your == entry.session.discriminator();
        if entry.listening(from) != heard.at || ttl.is_none_or(|ttl| ttl < least) || !ours {
            return debug!(%from, ?ttl, "BFD packet discarded: it comes from too far or is for another session");
        }
        let (now, before) = (self.began.elapsed(), entry.session.detection_time());
        let (answer, change) = entry.session.received(&packet, now);
        let faster = entry.session.detection_time() != before;
        if let (Some(answer), Some(out)) = (answer, &entry.out) {
            drop(out.try_send(&answer.encode()));
        }
        if change.is_some() || faster {
            self.tell(from, change);
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        let mut told = Vec::new();
        for (peer, entry) in &mut self.entries {
            let (packet, change) = entry.session.tick(now);
            if let Some(packet) = packet {
                transmit(*peer, entry, &packet);
            }
            if change.is_some() {
                told.push((*peer, change));
            }
        }
        for (peer, change) in told {
            self.tell(peer, change);
        }
        self.listen();
    }

    /// Has every socket that a session receives on.
    fn listen(&mut self) {
        let mut wanted: Vec<Listening> =
            self.entries.iter().map(|(peer, entry)| entry.listening(*peer)).collect();
        wanted.sort_unstable();
        wanted.dedup();
        self.listening.retain(|at, _| wanted.contains(at));
        for at in wanted {
            if self.listening.contains_key(&at) {
                continue;
            }
            match receiver(at) {
                Ok(udp) => _ = self.listening.insert(at, udp),
                // The next tick tries again; a session that hears nothing says so itself.
                Err(error) => debug!(%error, port = at.1, "BFD: listen"),
            }
        }
    }

    fn tell(&self, peer: IpAddr, change: Option<Change>) {
        let Some(entry) = self.entries.get(&peer) else { return };
        match &change {
            Some(Change::Up) => info!(%peer, "BFD up"),
            Some(Change::Down(why)) => warn!(%peer, why, "BFD down"),
            Some(Change::SwitchedOff) => info!(%peer, "BFD switched off by the router"),
            None => {}
        }
        let session = &entry.session;
        let (state, flaps, detection_time) = (session.state(), session.flaps(), session.detection_time());
        // Nobody listens only when everything ends.
        drop(self.news.send(News { peer, state, change, flaps, detection_time }));
    }
}

/// Sends, or finds a new socket for the next packet: addresses come and go with links.
fn transmit(peer: IpAddr, entry: &mut Entry, packet: &Packet) {
    if entry.out.is_none() && entry.retry <= Instant::now() {
        entry.retry = Instant::now() + RETRY;
        match sender(peer, &entry.watched) {
            Ok(udp) => entry.out = Some(udp),
            Err(error) => debug!(%peer, %error, "BFD: open a socket"),
        }
    }
    let Some(out) = &entry.out else { return };
    match out.try_send(&packet.encode()) {
        Ok(_) => {}
        // The router has no BFD there, or not yet.
        Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock) => {}
        Err(error) => {
            debug!(%peer, %error, "BFD: send");
            entry.out = None;
        }
    }
}

fn unspecified(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

fn sender(peer: IpAddr, watched: &Watched) -> io::Result<UdpSocket> {
    let v6 = peer.is_ipv6();
    let local = watched.source.unwrap_or(unspecified(v6));
    let udp = free_port(local)?;
    udp.set_nonblocking(true)?;
    socket::set_ttl(&udp, v6, 255)?;
    socket::set_network_control(&udp, v6)?;
    if let Some(interface) = &watched.interface {
        socket::bind_device(&udp, interface)?;
    }
    udp.connect((peer, if watched.hops > 1 { MULTIHOP } else { SINGLE_HOP }))?;
    UdpSocket::from_std(udp)
}

fn free_port(local: IpAddr) -> io::Result<std::net::UdpSocket> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for port in SOURCE_PORTS {
        match std::net::UdpSocket::bind((local, port)) {
            Ok(udp) => return Ok(udp),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

fn receiver((v6, port): Listening) -> io::Result<UdpSocket> {
    // Bound to both families it would take IPv4's port, too.
    let udp =
        if v6 { socket::udp_v6_only(port)? } else { std::net::UdpSocket::bind((unspecified(false), port))? };
    udp.set_nonblocking(true)?;
    socket::want_ttl(&udp, v6)?;
    UdpSocket::from_std(udp)
}
