//! Real traffic: servers that say who they are and whom they see, and clients that count what happens to them.
//!
//! | | server | client | counts |
//! |---|---|---|---|
//! | long TCP connections | [`Server`] | [`Connections`] | resets, timeouts, moves |
//! | UDP streams | [`Server`] | [`Datagrams`] | loss, reordering, moves |
//! | both at once | [`Server`] | [`Calls`] | the same |
//! | short requests (HTTP/1.0) | [`Server`], [`Nginx`] | [`Load`], [`curl()`] | rate, share of each server, failures |
//! | large bodies | [`Bulk`] | [`download()`], [`upload()`] | bytes |
//! | RTP and RTCP | [`Server`] | [`Media`] | loss, reordering, jitter |
//! | QUIC | [`QuicServer`] | [`migrate()`] | who answers, before and after a move |
//! | STUN and media | [`IceServer`] | [`IceClient`] | who answers |
//! | echo | the product | [`ping()`] | nothing: it is answered or not |
//!
//! Everything is bounded in time and number. Every answer carries the server's name and the client's address as the
//! server saw it ([`Seen`]), so a test can tell a misdirected packet from a good one and DSR from translation.

mod bulk;
mod calls;
mod connections;
mod curl;
mod datagrams;
mod ice;
mod load;
mod media;
mod nginx;
mod ping;
mod quic;
mod seen;
mod server;

pub use bulk::{Bulk, download, upload};
pub use calls::{CallReport, Calls};
pub use connections::{Connection, ConnectionOptions, Connections, End};
pub use curl::{curl, url};
pub use datagrams::{DatagramOptions, Datagrams, Flow};
pub use ice::{IceClient, IceServer};
pub use load::{Failure, FailureKind, Load, LoadOptions, LoadReport};
pub use media::{Media, Stream};
pub use nginx::Nginx;
pub use ping::ping;
pub use quic::{QuicServer, Trust, migrate};
pub use seen::Seen;
pub use server::Server;

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use tokio::net::UdpSocket;

use super::sys;

/// Receive buffer of a UDP socket in bytes. The default of 208 KiB holds 277 small datagrams: a generator that a busy
/// machine keeps waiting for 30 ms would count its own losses as the network's.
const RECEIVE_BUFFER: i32 = 8 << 20;

/// A UDP socket that loses nothing of its own accord.
async fn udp_socket(address: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(address).await.with_context(|| format!("bind UDP {address}"))?;
    sys::force_receive_buffer(socket.as_fd(), RECEIVE_BUFFER).context("enlarge a receive buffer")?;
    Ok(socket)
}

/// A lock whose holder's panic does not hide what was counted.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
