//! Asks one backend on one address, over real sockets or in memory.
//!
//! ```text
//!   Target, backend, address -> sockets (which namespace, mark, port) -> http | tls | datagram | stun | sip
//!                                                                     -> Answer, with the reason in an enum
//! ```

mod datagram;
mod fault;
mod http;
mod memory;
mod sip;
mod sockets;
mod stun;
#[cfg(test)]
mod tests;
mod tls;
pub mod tunnels;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use self::fault::Fault;
pub use self::memory::{Behaviour, Counts, MemoryProber};
use self::sockets::Origin;
pub use self::tunnels::Tunnels;
use super::{Answer, Failure, Kind, Suspect, Target, Unable, Way};

/// Asks backends: [`Network`] over sockets, [`MemoryProber`] for tests.
pub trait Prober: Send + Sync + 'static {
    /// Asks `backend` on `address`, a VIP or its own, and returns within the check's timeout.
    fn ask(
        &self,
        target: Arc<Target>,
        backend: IpAddr,
        address: IpAddr,
    ) -> impl Future<Output = Answer> + Send;

    /// After a silence through the tunnel: whether the backend's node lives.
    fn suspect(&self, target: Arc<Target>, backend: IpAddr) -> impl Future<Output = Suspect> + Send;
}

/// The network.
#[derive(Debug, Default)]
pub struct Network {
    tunnels: RwLock<Option<Arc<Tunnels>>>,
    tls: tls::Client,
}

impl Network {
    /// Without tunnels yet: questions that want one are not asked.
    #[must_use]
    pub fn new() -> Self {
        Self { tunnels: RwLock::default(), tls: tls::Client::new() }
    }

    /// Asks through `tunnels` from now on.
    pub fn use_tunnels(&self, tunnels: Arc<Tunnels>) {
        *self.tunnels.write().unwrap_or_else(PoisonError::into_inner) = Some(tunnels);
    }

    fn tunnels(&self) -> Option<Arc<Tunnels>> {
        self.tunnels.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn exchange(
        &self,
        target: &Target,
        from: Origin<'_>,
        to: SocketAddr,
        deadline: Instant,
    ) -> Result<(), Fault> {
        if !target.check.kind.is_over_tcp(target.over_tcp) {
            let asked = timeout_at(deadline, over_datagrams(target, from, to)).await;
            return asked.unwrap_or(Err(Fault::Silence));
        }
        let connected = timeout_at(deadline, sockets::connect(from, to)).await;
        let mut stream = connected.unwrap_or(Err(Fault::Silence))?;
        let asked = timeout_at(deadline, self.over_stream(target, &mut stream, to)).await;
        asked.unwrap_or(Err(Fault::Silence)).map_err(|fault| fault.when_connected(to.ip()))
    }

    async fn over_stream(
        &self,
        target: &Target,
        stream: &mut TcpStream,
        to: SocketAddr,
    ) -> Result<(), Fault> {
        match &target.check.kind {
            Kind::Tcp | Kind::Udp(_) => Ok(()),
            Kind::Http(check) => http::ask(stream, to, check).await,
            Kind::Https(check) => {
                let mut session = self.tls.connect(stream, to.ip(), check.host.as_deref()).await?;
                http::ask(&mut session, to, check).await
            }
            Kind::Stun => stun::over_tcp(stream).await,
            Kind::SipOptions { host, expect } => {
                let local = stream.local_addr()?;
                sip::over_tcp(stream, local, to, host.as_deref(), expect).await
            }
        }
    }
}

/// From where to ask, or why not at all.
fn origin<'a>(way: &Way, tunnels: Option<&'a Tunnels>) -> Result<Origin<'a>, Answer> {
    match way {
        Way::Direct | Way::Pod(_) => Ok(Origin::Node),
        Way::Local => Ok(Origin::Loopback),
        Way::Tunnel { mark, .. } => match tunnels {
            Some(tunnels) => Ok(Origin::Tunnel { tunnels, mark: *mark }),
            None => Err(Answer::Unable(Unable::NoTunnels)),
        },
        Way::None(reason) => Err(Answer::Bad(Failure::NoNextHop(reason.clone()))),
        Way::NoMark => Err(Answer::Unable(Unable::TooMany)),
        Way::OtherTunnel => Err(Answer::Unable(Unable::OtherTunnel)),
    }
}

/// What a silence means: this node's own doubts, or what came back from the tunnel meanwhile.
fn explain(way: &Way, from: Origin<'_>, errors_before: u32, silence: Failure) -> Failure {
    if let Way::Tunnel { trouble: Some(trouble), .. } = way {
        return Failure::NoNextHop(trouble.clone());
    }
    match from {
        Origin::Tunnel { tunnels, mark } if tunnels.maps().errors(mark) != errors_before => {
            let last = tunnels.maps().last_error(mark);
            last.map_or(silence, |(error, by)| fault::of_tunnel(error, by))
        }
        Origin::Tunnel { .. } | Origin::Node | Origin::Loopback => silence,
    }
}

async fn over_datagrams(target: &Target, from: Origin<'_>, to: SocketAddr) -> Result<(), Fault> {
    let socket = sockets::datagrams(from, to).await?;
    match &target.check.kind {
        Kind::Udp(check) => datagram::ask(&socket, check).await,
        Kind::Stun => stun::over_udp(&socket).await,
        Kind::SipOptions { host, expect } => sip::over_udp(&socket, to, host.as_deref(), expect).await,
        Kind::Tcp | Kind::Http(_) | Kind::Https(_) => Ok(()),
    }
}

impl Prober for Network {
    async fn ask(&self, target: Arc<Target>, backend: IpAddr, address: IpAddr) -> Answer {
        let tunnels = self.tunnels();
        let from = match origin(&target.way, tunnels.as_deref()) {
            Ok(from) => from,
            Err(answer) => return answer,
        };
        let port = match &target.way {
            Way::Pod(targets) => targets.get(&address).copied(),
            _ => Some(target.check.port),
        };
        let Some(port) = port else {
            return Answer::Bad(Failure::Refused { address, port: target.check.port });
        };
        let address = if matches!(from, Origin::Node) { backend } else { address };
        let to = SocketAddr::new(address, port);
        let errors = match from {
            Origin::Tunnel { tunnels, mark } => tunnels.maps().errors(mark),
            Origin::Node | Origin::Loopback => 0,
        };
        let begun = Instant::now();
        let fault = match self.exchange(&target, from, to, begun + target.check.timeout).await {
            Ok(()) => return Answer::Good(begun.elapsed()),
            Err(fault) => fault,
        };
        match fault.answer(to) {
            Answer::Bad(silence @ Failure::Silent { .. }) => {
                Answer::Bad(explain(&target.way, from, errors, silence))
            }
            answer => answer,
        }
    }

    async fn suspect(&self, target: Arc<Target>, backend: IpAddr) -> Suspect {
        let to = SocketAddr::new(backend, target.check.port);
        let deadline = Instant::now() + target.check.timeout;
        let asked = timeout_at(deadline, sockets::connect(Origin::Node, to)).await;
        match asked.unwrap_or(Err(Fault::Silence)).map_err(|fault| fault.answer(to)) {
            // A reset is an answer of the node as good as any.
            Ok(_) | Err(Answer::Bad(Failure::Refused { .. })) => Suspect::TunnelOrVip,
            Err(Answer::Bad(_)) => Suspect::Node,
            Err(_) => Suspect::Unknown,
        }
    }
}
