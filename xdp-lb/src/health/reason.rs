//! Why a backend is down, as an enum whose `Display` is a sentence for people, and why a question could not be asked.

use std::net::IpAddr;
use std::time::Duration;

use super::check::Statuses;
use crate::nexthop::UnresolvedReason;

/// What one question brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The right answer, after so long.
    Good(Duration),
    /// A wrong answer or none.
    Bad(Failure),
    /// It could not be asked; that says nothing about the backend.
    Unable(Unable),
}

/// Why a backend does not answer as it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A reset in answer to a SYN, or an ICMP port unreachable.
    #[error("nothing listens on port {port} of {address}: connection refused")]
    Refused {
        /// Address that was asked.
        address: IpAddr,
        /// Port that was asked.
        port: u16,
    },
    /// No answer at all.
    #[error("{address} does not answer{suspect}")]
    Silent {
        /// Address that was asked.
        address: IpAddr,
        /// What is known beyond that.
        suspect: Suspect,
    },
    /// The backend's node knows no such protocol: nobody takes tunnels off.
    #[error("the backend's node refuses tunnels ({by} says by ICMP): `xdp-lb decap` does not run there")]
    TunnelRefused {
        /// Who says so.
        by: IpAddr,
    },
    /// A router has no way to the backend.
    #[error("{by} says by ICMP that the backend's node is unreachable: it is dead or cut off")]
    NodeUnreachable {
        /// The router.
        by: IpAddr,
    },
    /// A tunnelled packet is too large for the fabric.
    #[error("{by} says by ICMP that the tunnel's packets are too big: raise the fabric's MTU")]
    TunnelTooBig {
        /// The router.
        by: IpAddr,
    },
    /// This node has no way to the backend.
    #[error("no way to the backend: {0}")]
    NoNextHop(UnresolvedReason),
    /// The connection was accepted and no answer followed.
    #[error("{address} accepts connections, but the application does not answer in time")]
    Hangs {
        /// Address that was asked.
        address: IpAddr,
    },
    /// The connection was accepted and broken.
    #[error("{address} accepts connections and breaks them off")]
    Broken {
        /// Address that was asked.
        address: IpAddr,
    },
    /// Another status than expected.
    #[error("status {got}, expected {expected}")]
    Status {
        /// What came.
        got: u16,
        /// What is good.
        expected: Statuses,
    },
    /// An answer that is none in the protocol.
    #[error("the answer is no {protocol}")]
    NotTheProtocol {
        /// What was spoken.
        protocol: &'static str,
    },
    /// A datagram without the bytes expected.
    #[error("the answer does not hold what is expected")]
    Unexpected,
    /// An error response to a STUN request.
    #[error("STUN error response")]
    StunError,
    /// No TLS session.
    #[error("TLS: {0}")]
    Tls(TlsFault),
}

/// What more is known of a silent backend, from a question to its own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspect {
    /// Nothing yet.
    Unknown,
    /// The node lives.
    TunnelOrVip,
    /// The node is as silent.
    Node,
}

impl std::fmt::Display for Suspect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unknown => "",
            Self::TunnelOrVip => {
                " through the tunnel, though the backend's node does on its own address: is the VIP on its lo?"
            }
            Self::Node => ", nor does the backend's node on its own address: it is dead or cut off",
        })
    }
}

/// Why there is no TLS session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsFault {
    /// The other side speaks something else.
    #[error("the answer is no TLS")]
    NotTls,
    /// The other side refused.
    #[error("the server refuses the handshake")]
    Refused,
    /// Anything else.
    #[error("the handshake fails")]
    Handshake,
}

/// Why a question could not be asked. States stay as they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unable {
    /// The node has no address of the VIP's family.
    #[error("this node has no {0} address to ask from")]
    NoSource(&'static str),
    /// The way to the VIP is not built: see the log.
    #[error("probes through tunnels cannot be sent: the log says why")]
    NoTunnels,
    /// More backends than a tunnel's mark can tell apart.
    #[error("more than 65535 backends to be asked through tunnels")]
    TooMany,
    /// The program for questions does not write such headers.
    #[error("health checks cannot be asked through this kind of tunnel yet; use via: direct")]
    OtherTunnel,
    /// All ports are in use.
    #[error("no port is free to ask from")]
    NoPort,
    /// The system refused a socket.
    #[error("the system refuses a socket (errno {0})")]
    Os(i32),
}
