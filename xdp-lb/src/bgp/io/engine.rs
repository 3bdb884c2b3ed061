//! The engine: facts become wishes, wishes go to the peer tasks, their reports become the status file.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::file;
use super::peer::{self, Command, Report};
use super::speaker::{Leave, Orders, Progress};
use super::{Clock, Secrets};
use crate::bfd::io::{News, Watched, Watchlist};
use crate::bfd::session::{Change, Settings};
use crate::bgp::decide::{Verdict, Wish as Decision, verdicts};
use crate::bgp::presence::{Presence, Presences};
use crate::bgp::rib::{self, Wish};
use crate::bgp::session::{Session, State};
use crate::bgp::settings::{Bgp, Peer};
use crate::bgp::status::{BfdStatus, PeerStatus, RouteStatus, Status, VipStatus};

/// Least time between two writes of the status.
const STATUS_PAUSE: Duration = Duration::from_millis(100);
/// How long a peer task may take to end.
const END: Duration = Duration::from_secs(2);

struct Running {
    peer: Peer,
    /// Who we are on the session: AS and identifier.
    identity: (u32, Ipv4Addr),
    commands: mpsc::UnboundedSender<Command>,
    task: JoinHandle<()>,
    report: Option<Report>,
    /// Whether the session has been established: BFD starts then. Seen with FRR 8.4: it makes its BFD session anew
    /// when the BGP session comes up, which would take an early one of ours, and with it the BGP session, down.
    met: bool,
    bfd: Option<BfdStatus>,
}

pub(super) struct Engine {
    clock: Clock,
    bgp: Arc<Bgp>,
    restarted: bool,
    presences: Presences,
    wishes: Arc<Vec<Wish>>,
    generation: u64,
    peers: BTreeMap<IpAddr, Running>,
    /// Peers that were taken out of the file and say goodbye.
    leaving: Vec<JoinHandle<()>>,
    reports: mpsc::UnboundedSender<Report>,
    secrets: Secrets,
    watchlist: watch::Sender<Watchlist>,
    quiet: watch::Sender<bool>,
    status_due: Option<Instant>,
    status_failed: bool,
    /// Who wants to know it without the file.
    told: watch::Sender<Option<Arc<Status>>>,
}

/// Runs the speaker until it is told to leave, or its [`super::Speaker`] goes.
pub(super) async fn run(
    bgp: Arc<Bgp>,
    restarted: bool,
    secrets: Secrets,
    mut orders: watch::Receiver<Orders>,
    progress: watch::Sender<Progress>,
    told: watch::Sender<Option<Arc<Status>>>,
) {
    let clock = Clock(Instant::now());
    let (reports, mut incoming) = mpsc::unbounded_channel();
    let (news, mut bfd_news) = mpsc::unbounded_channel();
    let (watchlist, watching) = watch::channel(Watchlist::new());
    let (quiet, is_quiet) = watch::channel(false);
    let bfd = tokio::task::spawn_local(crate::bfd::io::run(watching, news, is_quiet));
    let mut engine = Engine {
        clock,
        bgp,
        restarted,
        presences: Presences::default(),
        wishes: Arc::default(),
        generation: 0,
        peers: BTreeMap::new(),
        leaving: Vec::new(),
        reports,
        secrets,
        watchlist,
        quiet,
        status_due: None,
        status_failed: false,
        told,
    };
    let mut current = orders.borrow_and_update().clone();
    let leave = loop {
        if let Some(leave) = current.leave {
            break leave;
        }
        engine.order(&current);
        engine.publish(&progress, current.number);
        let wake = engine.wake();
        tokio::select! {
            changed = orders.changed() => {
                // Without a speaker nobody is left to withdraw for: as if the agent were killed.
                current = orders.borrow_and_update().clone();
                if changed.is_err() && current.leave.is_none() {
                    current.leave = Some(Leave::Keep);
                }
            }
            Some(report) = incoming.recv() => engine.report(report),
            Some(news) = bfd_news.recv() => engine.bfd(news),
            () = sleep_until(wake) => {}
        }
        engine.write_status();
    };
    engine.leave(leave, &current, &mut incoming).await;
    drop(engine);
    // Its sessions are switched off when the watchlist goes.
    drop(bfd.await);
}

impl Engine {
    /// Carries out what the agent wants.
    fn order(&mut self, orders: &Orders) {
        let changed = *self.bgp != *orders.bgp;
        if changed {
            if self.bgp.status_file != orders.bgp.status_file {
                file::remove(&self.bgp.status_file);
            }
            self.bgp = Arc::clone(&orders.bgp);
        }
        // Nothing is said before the facts are known: everything must be announced before the end of the RIB.
        let Some(facts) = &orders.facts else { return };
        self.judge(&verdicts(&self.bgp.vips, facts), changed);
        self.staff();
    }

    /// Steps the presences and tells everybody, if anything changed.
    fn judge(&mut self, verdicts: &BTreeMap<IpAddr, Verdict>, changed: bool) {
        let now = self.clock.now();
        for change in self.presences.step(now, verdicts, self.bgp.drain_time) {
            let (vip, reason) = (change.address, change.reason);
            match change.presence {
                Presence::Announced => info!(%vip, reason, "VIP announced"),
                Presence::Draining { .. } => {
                    info!(%vip, reason, drain_time = ?self.bgp.drain_time, "VIP made unattractive");
                }
                Presence::Absent => warn!(%vip, reason, "VIP withdrawn"),
            }
            self.soon();
        }
        let wishes = rib::wishes(&self.bgp, &self.presences);
        if changed || wishes != *self.wishes || self.generation == 0 {
            self.wishes = Arc::new(wishes);
            self.generation += 1;
            for running in self.peers.values() {
                self.tell(running);
            }
            self.soon();
        }
    }

    fn tell(&self, running: &Running) {
        let wish = Command::Wish {
            bgp: Arc::clone(&self.bgp),
            peer: Box::new(running.peer.clone()),
            wishes: Arc::clone(&self.wishes),
            generation: self.generation,
        };
        // A task that has ended is missed when it is awaited.
        drop(running.commands.send(wish));
    }

    /// Starts and ends sessions as the file has it.
    fn staff(&mut self) {
        let wanted: BTreeMap<IpAddr, Peer> =
            self.bgp.peers.iter().map(|peer| (peer.link.address, peer.clone())).collect();
        let own = (self.bgp.local_as, self.bgp.router_id);
        let same = |running: &Running, peer: &Peer| running.peer.link == peer.link && running.identity == own;
        let gone: Vec<IpAddr> = self
            .peers
            .iter()
            .filter(|(address, running)| wanted.get(address).is_none_or(|peer| !same(running, peer)))
            .map(|(address, _)| *address)
            .collect();
        for address in gone {
            if let Some(running) = self.peers.remove(&address) {
                let why = "the configuration of this session has changed";
                drop(running.commands.send(Command::Stop(why.to_owned())));
                self.leaving.push(running.task);
                info!(peer = %address, "BGP session ended: {why}");
            }
        }
        self.leaving.retain(|task| !task.is_finished());
        for (address, peer) in wanted {
            match self.peers.get_mut(&address) {
                Some(running) if running.peer != peer => {
                    running.peer = peer;
                    let running = &self.peers[&address];
                    self.tell(running);
                }
                Some(_) => {}
                None => self.start(address, peer),
            }
        }
        self.watch();
    }

    fn start(&mut self, address: IpAddr, peer: Peer) {
        let (commands, receiver) = mpsc::unbounded_channel();
        let session = Session::new(Arc::clone(&self.bgp), peer.clone(), self.restarted, self.clock.now());
        let (reports, secrets) = (self.reports.clone(), self.secrets.clone());
        let task = peer::run(session, self.bgp.local_as, self.clock, receiver, reports, secrets);
        let task = tokio::task::spawn_local(task);
        let identity = (self.bgp.local_as, self.bgp.router_id);
        let running = Running { peer, identity, commands, task, report: None, met: false, bfd: None };
        self.tell(&running);
        self.peers.insert(address, running);
        self.soon();
    }

    fn watch(&self) {
        let watched = |running: &Running| {
            let link = &running.peer.link;
            let bfd = running.peer.bfd.filter(|_| running.met)?;
            let interval = u32::try_from(bfd.interval.as_micros()).unwrap_or(u32::MAX);
            let settings = Settings { interval, multiplier: bfd.multiplier };
            let watched =
                Watched { hops: link.hops, source: link.source, interface: link.interface.clone(), settings };
            Some((link.address, watched))
        };
        let list: Watchlist = self.peers.values().filter_map(watched).collect();
        self.watchlist.send_if_modified(|current| {
            let differs = *current != list;
            *current = list;
            differs
        });
    }

    fn report(&mut self, report: Report) {
        let Some(running) = self.peers.get_mut(&report.address) else { return };
        let met = running.met || report.state == State::Established;
        let first = met != running.met;
        (running.met, running.report) = (met, Some(report));
        if first {
            self.watch();
        }
        self.soon();
    }

    fn bfd(&mut self, news: News) {
        let Some(running) = self.peers.get_mut(&news.peer) else { return };
        let (ups, downs) = news.flaps;
        let detection_time_ms = u64::try_from(news.detection_time.as_millis()).unwrap_or(u64::MAX);
        running.bfd = Some(BfdStatus { state: news.state.name().to_owned(), ups, downs, detection_time_ms });
        if let Some(Change::Down(why)) = news.change {
            drop(running.commands.send(Command::BfdDown(why)));
        }
        self.soon();
    }

    /// Whether every router with a session knows the latest wishes.
    fn all_told(&self) -> bool {
        self.peers.values().all(|running| {
            running.report.as_ref().is_none_or(|r| r.state != State::Established || r.told >= self.generation)
        })
    }

    fn publish(&self, progress: &watch::Sender<Progress>, number: u64) {
        let told = self.all_told();
        progress.send_if_modified(|current| {
            let next = Progress { number, told };
            let differs = *current != next;
            *current = next;
            differs
        });
    }

    fn wake(&self) -> Instant {
        let later = Instant::now() + Duration::from_secs(3600);
        let due = self.presences.wake().map(|at| self.clock.at(at));
        [due, self.status_due].into_iter().flatten().min().unwrap_or(later)
    }

    /// In order: unattractive, withdrawn, told to everybody, a time of grace, and only then goodbye.
    async fn leave(&mut self, leave: Leave, orders: &Orders, incoming: &mut mpsc::UnboundedReceiver<Report>) {
        if leave == Leave::Keep {
            self.quiet.send_replace(true);
            info!("BGP sessions cut; routers keep the routes for restart_time, if they keep them at all");
        } else {
            self.order(orders);
            let going = |decision| -> BTreeMap<IpAddr, Verdict> {
                let verdict = || Verdict { wish: decision, reason: "the agent ends".to_owned() };
                self.bgp.vips.iter().map(|vip| (vip.address, verdict())).collect()
            };
            let retired = going(Decision::Retire);
            self.judge(&retired, false);
            while let Some(until) = self.presences.wake() {
                self.listen(incoming, self.clock.at(until)).await;
                self.judge(&retired, false);
            }
            let begun = Instant::now();
            let grace = begun + self.bgp.withdraw_grace;
            let bound = grace.max(begun + END);
            while !self.all_told() && Instant::now() < bound {
                self.listen(incoming, bound.min(Instant::now() + STATUS_PAUSE)).await;
            }
            info!(told = self.all_told(), grace = ?self.bgp.withdraw_grace, "all VIPs withdrawn");
            while Instant::now() < grace {
                self.listen(incoming, grace).await;
            }
        }
        self.told.send_replace(Some(Arc::new(self.status())));
        for running in self.peers.values() {
            let end =
                if leave == Leave::Keep { Command::Cut } else { Command::Stop("the agent ends".into()) };
            drop(running.commands.send(end));
        }
        let tasks =
            std::mem::take(&mut self.peers).into_values().map(|r| r.task).chain(self.leaving.drain(..));
        let all = futures::future::join_all(tasks);
        if tokio::time::timeout(END, all).await.is_err() {
            warn!("a BGP session did not end in time");
        }
        file::remove(&self.bgp.status_file);
    }

    /// Takes reports until one has come or the moment has.
    async fn listen(&mut self, incoming: &mut mpsc::UnboundedReceiver<Report>, until: Instant) {
        tokio::select! {
            Some(report) = incoming.recv() => self.report(report),
            () = sleep_until(until) => {}
        }
        self.write_status();
    }

    /// The status is to be written, together with what else changes at once.
    fn soon(&mut self) {
        self.status_due.get_or_insert(Instant::now() + STATUS_PAUSE);
    }

    fn write_status(&mut self) {
        if self.status_due.take_if(|due| *due <= Instant::now()).is_none() {
            return;
        }
        let status = self.status();
        let written = file::write(&self.bgp.status_file, &status);
        self.told.send_replace(Some(Arc::new(status)));
        if let (Err(error), false) = (&written, self.status_failed) {
            warn!(path = %self.bgp.status_file.display(), %error, "the BGP status cannot be written");
        }
        self.status_failed = written.is_err();
    }

    fn status(&self) -> Status {
        let unix = |moment: Duration| {
            let ago = self.clock.now().saturating_sub(moment);
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(ago).as_secs()
        };
        let vip = |(address, standing): (IpAddr, &crate::bgp::presence::Standing)| VipStatus {
            address,
            state: match standing.presence {
                Presence::Announced => "announced",
                Presence::Draining { .. } => "draining",
                Presence::Absent => "withdrawn",
            }
            .to_owned(),
            since: unix(standing.since),
            reason: standing.reason.clone(),
        };
        Status {
            written: unix(self.clock.now()),
            pid: std::process::id(),
            local_as: self.bgp.local_as,
            router_id: Some(self.bgp.router_id),
            peers: self.peers.values().map(|running| peer_status(running, &unix)).collect(),
            vips: self.presences.iter().map(vip).collect(),
        }
    }
}

fn peer_status(running: &Running, unix: &dyn Fn(Duration) -> u64) -> PeerStatus {
    let link = &running.peer.link;
    let report = running.report.as_ref();
    let counts = report.map(|r| r.counts).unwrap_or_default();
    let terms = report.and_then(|r| r.terms);
    let route = |(prefix, route): (&crate::bgp::settings::Prefix, &rib::Route)| RouteStatus {
        prefix: prefix.to_string(),
        next_hop: route.attributes.next_hop,
        as_path: route.attributes.as_path.clone(),
        med: route.attributes.med,
        local_pref: route.attributes.local_pref,
        communities: route.attributes.communities.iter().map(ToString::to_string).collect(),
        large_communities: route.attributes.large_communities.iter().map(ToString::to_string).collect(),
        reason: route.reason.clone(),
    };
    PeerStatus {
        address: link.address,
        remote_as: link.remote_as,
        state: report.map_or("Idle".to_owned(), |r| format!("{:?}", r.state)),
        since: report.and_then(|r| r.since).map(unix),
        established: counts.established,
        last_down: report.and_then(|r| r.last_down.as_ref()).map(|(at, _)| unix(*at)),
        last_down_reason: report.and_then(|r| r.last_down.as_ref()).map(|(_, why)| why.clone()),
        failing: report.and_then(|r| r.failing.clone()),
        local_address: terms.map(|t| t.local),
        hold_time: report.and_then(|r| r.hold_time),
        extended_next_hop: terms.is_some_and(|t| t.extended_next_hop),
        routes: report.map(|r| r.routes.told.iter().map(route).collect()).unwrap_or_default(),
        untold: report
            .map(|r| r.routes.untold.iter().map(|(p, why)| (p.to_string(), why.clone())).collect())
            .unwrap_or_default(),
        prefixes_received: report.map_or(0, |r| r.heard),
        updates_received: counts.updates_received,
        updates_sent: counts.updates_sent,
        refreshes: counts.refreshes,
        bfd: running.bfd.clone().filter(|_| running.peer.bfd.is_some()),
    }
}
