//! An echo server: TCP records, UDP datagrams and HTTP/1.0 on the same port, each answered with [`Seen`].

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

use super::seen::{REQUEST_HEAD, SEQUENCE, Seen};
use super::udp_socket;
use crate::lab::namespace::Namespace;
use crate::lab::worker::Worker;

/// How long binding may take.
const BIND_BOUND: Duration = Duration::from_secs(5);
/// Longest HTTP request head read.
const HTTP_HEAD: usize = 8192;

/// A running echo server. Stopping or dropping it closes every connection.
#[derive(Debug)]
pub struct Server {
    worker: Worker,
}

impl Server {
    /// Starts one in `ns` that calls itself `name`, on TCP and UDP of all `addresses`; returns once it is bound.
    /// Exact addresses, because an answer must come from the address that was asked.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub fn start(ns: &Namespace, name: &str, addresses: &[SocketAddr]) -> Result<Self> {
        let (bound, is_bound) = mpsc::channel();
        let (name, addresses) = (name.to_owned(), addresses.to_owned());
        let worker = ns.work(&format!("server {name}"), move |stop| async move {
            let mut tasks = JoinSet::new();
            for address in addresses {
                let listener =
                    TcpListener::bind(address).await.with_context(|| format!("bind TCP {address}"))?;
                tasks.spawn(accept(listener, name.clone()));
                tasks.spawn(echo_datagrams(udp_socket(address).await?, name.clone()));
            }
            // The starter may have given up waiting; then it drops us and `stop` is given.
            let _ = bound.send(());
            stop.given().await;
            Ok(())
        })?;
        let mut server = Self { worker };
        if is_bound.recv_timeout(BIND_BOUND).is_err() {
            server.worker.stop()?;
            anyhow::bail!("the server was not bound within {BIND_BOUND:?}");
        }
        Ok(server)
    }

    /// Ends it: open connections are closed.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(mut self) -> Result<()> {
        self.worker.stop()
    }
}

async fn accept(listener: TcpListener, name: String) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // A connection that died in the queue is its client's to report.
                if let Ok((stream, client)) = accepted {
                    let seen = Seen { server: name.clone(), client };
                    connections.spawn(serve(stream, seen.to_string()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves one connection; its errors are its client's to report.
async fn serve(mut stream: TcpStream, seen: String) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = [0; REQUEST_HEAD];
    let mut padding = vec![0; 64 << 10];
    loop {
        stream.read_exact(&mut head).await?;
        if head.starts_with(b"GET ") {
            return serve_http(stream, &head, &seen).await;
        }
        let (sequence, length) = head.split_at(SEQUENCE);
        let mut left = length.iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
        while left > 0 {
            let part = left.min(padding.len());
            left -= stream.read_exact(&mut padding[..part]).await?;
        }
        let mut reply = sequence.to_vec();
        reply.push(u8::try_from(seen.len()).unwrap_or(u8::MAX));
        reply.extend_from_slice(&seen.as_bytes()[..seen.len().min(u8::MAX.into())]);
        stream.write_all(&reply).await?;
    }
}

async fn serve_http(mut stream: TcpStream, head: &[u8], seen: &str) -> std::io::Result<()> {
    let mut request = head.to_vec();
    while !request.windows(4).any(|w| w == b"\r\n\r\n") {
        if request.len() > HTTP_HEAD || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let body = format!("{seen}\n");
    let reply =
        format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    stream.write_all(reply.as_bytes()).await?;
    // We close first, so that the wait for late segments is ours and the client's ports are free again.
    stream.shutdown().await
}

async fn echo_datagrams(socket: UdpSocket, name: String) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        // An ICMP error for an earlier answer comes out here; the next datagram is none the worse.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let Some(sequence) = buffer[..length].get(..SEQUENCE) else { continue };
        let mut reply = sequence.to_vec();
        reply.extend_from_slice(Seen { server: name.clone(), client }.to_string().as_bytes());
        // What cannot be sent is lost, and the client counts losses.
        drop(socket.send_to(&reply, client).await);
    }
}
