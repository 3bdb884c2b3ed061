//! Sockets to ask with: in the node's namespace or in that of the tunnels, never blocking, never lingering.

use std::io;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::fault::Fault;
use super::tunnels::{Lease, Tunnels};
use crate::health::Unable;

/// From where a question is asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin<'a> {
    /// From this node, by its own routes.
    Node,
    /// From this node to itself, and never out.
    Loopback,
    /// From the namespace of the tunnels.
    Tunnel {
        /// The namespace.
        tunnels: &'a Tunnels,
        /// The tunnel.
        mark: u32,
    },
}

/// A socket with the port that it was lent.
#[derive(Debug)]
pub(super) struct Leased<S> {
    // Closed before the port is free for another.
    socket: S,
    _port: Option<Lease>,
}

impl<S> Deref for Leased<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.socket
    }
}

impl<S> DerefMut for Leased<S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.socket
    }
}

/// A TCP connection. Closing it resets it: the answer is there, and no port waits for late segments.
pub(super) async fn connect(from: Origin<'_>, to: SocketAddr) -> Result<Leased<TcpStream>, Fault> {
    let (socket, port) = open(from, to, Type::STREAM, Protocol::TCP).await?;
    socket.set_linger(Some(Duration::ZERO)).map_err(os)?;
    socket.set_tcp_nodelay(true).map_err(os)?;
    let stream = TcpSocket::from_std_stream(socket.into()).connect(to).await?;
    Ok(Leased { socket: stream, _port: port })
}

/// A UDP socket that hears `to` alone.
pub(super) async fn datagrams(from: Origin<'_>, to: SocketAddr) -> Result<Leased<UdpSocket>, Fault> {
    let (socket, port) = open(from, to, Type::DGRAM, Protocol::UDP).await?;
    let socket = UdpSocket::from_std(socket.into()).map_err(os)?;
    socket.connect(to).await?;
    Ok(Leased { socket, _port: port })
}

async fn open(
    from: Origin<'_>,
    to: SocketAddr,
    kind: Type,
    protocol: Protocol,
) -> Result<(Socket, Option<Lease>), Fault> {
    let domain = Domain::for_address(to);
    let make = move || {
        let socket = Socket::new(domain, kind, Some(protocol))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let Origin::Tunnel { tunnels, mark } = from else {
        let socket = make().map_err(os)?;
        if matches!(from, Origin::Loopback) {
            socket.bind_device(Some(b"lo")).map_err(os)?;
        }
        return Ok((socket, None));
    };
    let family = if to.is_ipv4() { "IPv4" } else { "IPv6" };
    let source = tunnels.sources().like(to.ip()).ok_or(Fault::Unable(Unable::NoSource(family)))?;
    let port = tunnels.port().ok_or(Fault::Unable(Unable::NoPort))?;
    let socket = tunnels.inside(make).await.map_err(os)?.map_err(os)?;
    socket.set_mark(mark).map_err(os)?;
    socket.set_reuse_address(true).map_err(os)?;
    socket.bind(&SockAddr::from(SocketAddr::new(source, port.get()))).map_err(os)?;
    Ok((socket, Some(port)))
}

/// What the system refuses before anything is sent says nothing about the backend.
fn os(error: io::Error) -> Fault {
    Fault::Unable(Unable::Os(error.raw_os_error().unwrap_or(0)))
}
