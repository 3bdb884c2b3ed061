//! The task of one router: dials, reads, writes and waits for [`Session`], and tells the engine how it stands.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};
use tracing::{info, warn};

use super::dial::dial;
use super::{Clock, Secrets};
use crate::bgp::rib::{Routes, Terms, Wish};
use crate::bgp::session::{Counts, Order, Session, State, Tiding};
use crate::bgp::settings::{Bgp, Peer};

/// How long the last words of a connection may take.
const FAREWELL: Duration = Duration::from_millis(500);

/// What the engine tells a session.
#[derive(Debug)]
pub(super) enum Command {
    /// What should be announced from now on.
    Wish { bgp: Arc<Bgp>, peer: Box<Peer>, wishes: Arc<Vec<Wish>>, generation: u64 },
    /// BFD has found the router gone.
    BfdDown(String),
    /// End with a NOTIFICATION.
    Stop(String),
    /// End without a word.
    Cut,
}

/// How a session stands. Moments are on the speaker's clock.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Report {
    pub address: IpAddr,
    pub state: State,
    pub since: Option<Duration>,
    pub last_down: Option<(Duration, String)>,
    pub failing: Option<String>,
    pub counts: Counts,
    pub terms: Option<Terms>,
    pub hold_time: Option<u16>,
    pub routes: Routes,
    pub heard: usize,
    /// Generation of the wishes that the router knows.
    pub told: u64,
}

type Dialling = Pin<Box<dyn Future<Output = Result<TcpStream, String>>>>;

struct Task {
    session: Session,
    local_as: u32,
    clock: Clock,
    stream: Option<TcpStream>,
    dialling: Option<Dialling>,
    reports: mpsc::UnboundedSender<Report>,
    secrets: Secrets,
    last: Option<Report>,
}

/// Runs a session until it is told to end.
pub(super) async fn run(
    session: Session,
    local_as: u32,
    clock: Clock,
    mut commands: mpsc::UnboundedReceiver<Command>,
    reports: mpsc::UnboundedSender<Report>,
    secrets: Secrets,
) {
    let mut task =
        Task { session, local_as, clock, stream: None, dialling: None, reports, secrets, last: None };
    let mut buffer = vec![0; 16 << 10];
    loop {
        // First, for the last words of a connection may take a moment.
        task.report();
        let ending = task.obey().await;
        task.write();
        task.report();
        if ending {
            return;
        }
        let wake = task.session.wake().map(|at| clock.at(at));
        let writes = !task.session.outgoing().is_empty();
        tokio::select! {
            command = commands.recv() => match command {
                Some(command) => task.command(command),
                None => task.command(Command::Cut),
            },
            dialled = dialled(&mut task.dialling) => task.dialled(dialled),
            read = read(&task.stream, &mut buffer) => match read {
                Ok(0) => task.lost("the router closed the connection"),
                Ok(n) => task.session.received(&buffer[..n], clock.now()),
                Err(e) => task.lost(&format!("the connection broke: {e}")),
            },
            () = writable(&task.stream), if writes => {}
            () = wait(wake) => task.session.tick(clock.now()),
        }
    }
}

async fn wait(until: Option<tokio::time::Instant>) {
    match until {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn dialled(dialling: &mut Option<Dialling>) -> Result<TcpStream, String> {
    match dialling {
        Some(dialling) => dialling.await,
        None => std::future::pending().await,
    }
}

async fn read(stream: &Option<TcpStream>, buffer: &mut [u8]) -> io::Result<usize> {
    let Some(stream) = stream else { return std::future::pending().await };
    loop {
        stream.readable().await?;
        match stream.try_read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

async fn writable(stream: &Option<TcpStream>) {
    match stream {
        // An error shows when something is written.
        Some(stream) => drop(stream.writable().await),
        None => std::future::pending().await,
    }
}

impl Task {
    fn command(&mut self, command: Command) {
        let now = self.clock.now();
        match command {
            Command::Wish { bgp, peer, wishes, generation } => {
                self.session.wish(bgp, *peer, wishes, generation);
            }
            Command::BfdDown(why) => self.session.bfd_down(&why, now),
            Command::Stop(why) => self.session.stop(&why, now),
            Command::Cut => self.session.cut(),
        }
    }

    /// Does what the session has ordered. True when it has ended for good.
    async fn obey(&mut self) -> bool {
        let orders = self.session.orders();
        let tidings = orders.iter().filter_map(|order| match order {
            Order::Tell(tiding) => Some(tiding),
            Order::Connect | Order::Close => None,
        });
        tidings.for_each(|tiding| self.tell(tiding));
        for order in orders {
            match order {
                Order::Connect => {
                    let (link, local_as) = (self.session.peer().link.clone(), self.local_as);
                    let secrets = self.secrets.clone();
                    self.dialling = Some(Box::pin(async move { dial(&link, local_as, &secrets).await }));
                }
                Order::Close => {
                    self.dialling = None;
                    let last = self.session.farewell();
                    if let Some(stream) = self.stream.take() {
                        farewell(stream, &last).await;
                    }
                }
                Order::Tell(_) => {}
            }
        }
        self.session.is_over() && self.stream.is_none()
    }

    fn tell(&self, tiding: &Tiding) {
        let peer = self.session.peer().link.address;
        match tiding {
            Tiding::Up => {
                let routes = self.session.routes().map_or(0, |r| r.told.len());
                info!(%peer, remote_as = self.session.peer().link.remote_as, routes, "BGP session established");
            }
            Tiding::Down(why) => warn!(%peer, why, "BGP session down"),
            Tiding::Failing(why) => warn!(%peer, why, "BGP session does not come up"),
        }
    }

    fn dialled(&mut self, dialled: Result<TcpStream, String>) {
        self.dialling = None;
        let now = self.clock.now();
        match dialled.and_then(|stream| match stream.local_addr() {
            Ok(local) => Ok((stream, local.ip())),
            Err(e) => Err(format!("the connection broke: {e}")),
        }) {
            Ok((stream, local)) => {
                self.stream = Some(stream);
                self.session.connected(local, now);
            }
            Err(why) => self.session.closed(&why, now),
        }
    }

    fn lost(&mut self, why: &str) {
        self.stream = None;
        self.session.closed(why, self.clock.now());
    }

    /// Writes what the connection takes without waiting.
    fn write(&mut self) {
        while let Some(stream) = self.stream.as_ref().filter(|_| !self.session.outgoing().is_empty()) {
            match stream.try_write(self.session.outgoing()) {
                Ok(n) => self.session.written(n, self.clock.now()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.session.waits_to_write(self.clock.now());
                    return;
                }
                Err(e) => return self.lost(&format!("the connection broke: {e}")),
            }
        }
    }

    fn report(&mut self) {
        let session = &self.session;
        let report = Report {
            address: session.peer().link.address,
            state: session.state(),
            since: session.since(),
            last_down: session.last_down().cloned(),
            failing: session.failing().map(str::to_owned),
            counts: session.counts(),
            terms: session.terms(),
            hold_time: session.hold_time(),
            routes: session.routes().cloned().unwrap_or_default(),
            heard: session.heard(),
            told: session.told(),
        };
        if self.last.as_ref() != Some(&report) {
            // The engine is gone only when everything ends.
            drop(self.reports.send(report.clone()));
            self.last = Some(report);
        }
    }
}

/// Writes the last words and waits a moment for the router to take them: closing at once, with bytes of the router
/// unread, would be a reset that overtakes them.
async fn farewell(mut stream: TcpStream, last: &[u8]) {
    let said = async {
        if !last.is_empty() {
            stream.write_all(last).await?;
            stream.shutdown().await?;
            let mut rest = [0; 4096];
            while stream.read(&mut rest).await? > 0 {}
        }
        io::Result::Ok(())
    };
    // It is over either way.
    drop(timeout(FAREWELL, said).await);
}
