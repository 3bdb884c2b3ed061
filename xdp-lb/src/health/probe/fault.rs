//! What went wrong in an exchange, and what that says of the backend.

use std::io;
use std::net::{IpAddr, SocketAddr};

use xdp_lb_common::probe::TunnelError;

use crate::health::{Answer, Failure, Suspect, Unable};

/// Why an exchange did not end well.
#[derive(Debug)]
pub(super) enum Fault {
    /// It could not be begun.
    Unable(Unable),
    /// The answer was wrong.
    Failure(Failure),
    /// Time is up.
    Silence,
    /// The socket failed.
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl Fault {
    /// After the connection stands, silence is the application's and an error is its doing.
    pub fn when_connected(self, address: IpAddr) -> Self {
        match self {
            Self::Silence => Self::Failure(Failure::Hangs { address }),
            Self::Io(_) => Self::Failure(Failure::Broken { address }),
            other => other,
        }
    }

    /// What it says of the backend that was asked at `to`.
    pub fn answer(self, to: SocketAddr) -> Answer {
        let (address, port) = (to.ip(), to.port());
        match self {
            Self::Unable(unable) => Answer::Unable(unable),
            Self::Failure(failure) => Answer::Bad(failure),
            Self::Silence => Answer::Bad(Failure::Silent { address, suspect: Suspect::Unknown }),
            Self::Io(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => {
                    Answer::Bad(Failure::Refused { address, port })
                }
                // The kernel's own timeout, or an ICMP error on the way.
                io::ErrorKind::TimedOut
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable => {
                    Answer::Bad(Failure::Silent { address, suspect: Suspect::Unknown })
                }
                _ => Answer::Unable(Unable::Os(error.raw_os_error().unwrap_or(0))),
            },
        }
    }
}

/// An ICMP error about a tunnel (RFC 792, RFC 4443). A node without `ipip` says protocol unreachable, one with the
/// module and no tunnel port unreachable; over IPv6 it does not know the next header.
pub(super) fn of_tunnel(error: TunnelError, by: IpAddr) -> Failure {
    match (error.version, error.kind, error.code) {
        (4, 3, 2 | 3) | (6, 1, 4) | (6, 4, _) => Failure::TunnelRefused { by },
        (4, 3, 4) | (6, 2, _) => Failure::TunnelTooBig { by },
        _ => Failure::NodeUnreachable { by },
    }
}
