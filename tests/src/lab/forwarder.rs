//! A way from inside a namespace to a server on the loopback of the namespace that we run in.
//!
//! ```text
//!   client in the lab ---> 127.0.0.1:PORT in its namespace | Forwarder | ---> 127.0.0.1:PORT out here
//! ```
//!
//! Both ends have the same address, so a file that says where the server is says it in the lab, too.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, Result};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::namespace::Namespace;
use super::worker::{Stop, Worker};

/// Connections at the same time; more wait until one has ended.
const CONNECTIONS: usize = 64;

/// Forwards TCP while it is there. Dropping it closes every connection.
#[derive(Debug)]
pub struct Forwarder<'ns> {
    inside: &'ns Namespace,
    at: SocketAddr,
    /// None while it is cut.
    worker: Option<Worker>,
}

impl<'ns> Forwarder<'ns> {
    /// Listens at `at` in the namespace for the server that listens there out here.
    ///
    /// # Errors
    /// When somebody else listens there.
    pub fn start(inside: &'ns Namespace, at: SocketAddr) -> Result<Self> {
        let mut forwarder = Self { inside, at, worker: None };
        forwarder.mend()?;
        Ok(forwarder)
    }

    /// Closes every connection and takes no more: who connects is refused.
    ///
    /// # Errors
    /// When the worker does not end.
    pub fn cut(&mut self) -> Result<()> {
        self.worker.take().map_or(Ok(()), |mut worker| worker.stop())
    }

    /// Forwards again.
    ///
    /// # Errors
    /// When somebody else listens there by now.
    pub fn mend(&mut self) -> Result<()> {
        let at = self.at;
        let listener = self.inside.enter(|| TcpListener::bind(at))?;
        let listener = listener.with_context(|| format!("listen at {at} in {}", self.inside.name()))?;
        listener.set_nonblocking(true)?;
        let here = File::open("/proc/thread-self/ns/net").context("open our own namespace")?;
        let title = format!("forwarder from {} to {at}", self.inside.name());
        let task = move |stop: Stop| async move {
            tokio::select! {
                never = forward(listener, at) => never,
                () = stop.given() => Ok(()),
            }
        };
        self.worker = Some(Worker::start(title, here.into(), &Stop::default(), task)?);
        Ok(())
    }
}

async fn forward(listener: TcpListener, to: SocketAddr) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => {
                if let Ok((client, _)) = accepted {
                    connections.spawn(carry(client, to));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection; that it ends is for its ends to see.
async fn carry(mut client: TcpStream, to: SocketAddr) -> std::io::Result<()> {
    let mut server = TcpStream::connect(to).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}
