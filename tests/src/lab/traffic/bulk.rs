//! Large bodies over HTTP/1.1: a server of ours that gives and takes as many bytes as it is told, and the distribution's
//! curl as its client.
//!
//! ```text
//!   GET /N      N bytes back
//!   PUT /       whatever comes, counted; the answer is the number
//! ```

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::lab::namespace::Namespace;
use crate::lab::product::run_to_end;
use crate::lab::scratch::Scratch;
use crate::lab::worker::Worker;

const BIND_BOUND: Duration = Duration::from_secs(5);
/// Bytes of one write.
const PIECE: usize = 64 << 10;

/// A running server of large bodies.
#[derive(Debug)]
pub struct Bulk {
    worker: Worker,
    clients: mpsc::Receiver<IpAddr>,
}

impl Bulk {
    /// Starts one in `ns` on these addresses; returns once it listens.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub fn start(ns: &Namespace, addresses: &[SocketAddr]) -> Result<Self> {
        let (bound, is_bound) = mpsc::channel();
        let (told, clients) = mpsc::channel();
        let addresses = addresses.to_owned();
        let worker = ns.work("a server of large bodies", move |stop| async move {
            let mut tasks = JoinSet::new();
            for address in addresses {
                let listener =
                    TcpListener::bind(address).await.with_context(|| format!("bind TCP {address}"))?;
                tasks.spawn(accept(listener, told.clone()));
            }
            // The starter may have given up waiting; then it drops us and `stop` is given.
            let _ = bound.send(());
            stop.given().await;
            Ok(())
        })?;
        let mut bulk = Self { worker, clients };
        if is_bound.recv_timeout(BIND_BOUND).is_err() {
            bulk.worker.stop()?;
            anyhow::bail!("the server was not bound within {BIND_BOUND:?}");
        }
        Ok(bulk)
    }

    /// Addresses that clients had, as the server saw them, since the last time it was asked.
    #[must_use]
    pub fn clients(&self) -> Vec<IpAddr> {
        self.clients.try_iter().collect()
    }
}

async fn accept(listener: TcpListener, told: mpsc::Sender<IpAddr>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // A connection that died in the queue is its client's to report.
                if let Ok((stream, client)) = accepted {
                    let _ = told.send(client.ip().to_canonical());
                    connections.spawn(serve(stream));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One request; its errors are its client's to report.
async fn serve(stream: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let (mut first, mut length, mut waits) = (String::new(), 0, false);
    stream.read_line(&mut first).await?;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let (name, value) = line.split_once(':').unwrap_or((line.as_str(), ""));
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap_or(0),
            "expect" => waits = true,
            name if name.trim().is_empty() => break,
            _ => {}
        }
    }
    if waits {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let taken = tokio::io::copy(&mut (&mut stream).take(length), &mut tokio::io::sink()).await?;
    let wanted = first.strip_prefix("GET /").and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
    let text = taken.to_string();
    let body = wanted.unwrap_or(text.len());
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {body}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    if wanted.is_none() {
        stream.write_all(text.as_bytes()).await?;
    }
    let mut left = wanted.unwrap_or(0);
    let piece = vec![0x5a; PIECE];
    while left > 0 {
        let part = left.min(PIECE);
        stream.write_all(&piece[..part]).await?;
        left -= part;
    }
    stream.shutdown().await
}

/// Downloads `bytes` from `target` with curl in `ns`.
///
/// # Errors
/// When curl fails, or other than all of them come.
pub fn download(ns: &Namespace, target: SocketAddr, bytes: u64, bound: Duration) -> Result<()> {
    let mut command = Command::new("curl");
    command.args(["--output", "/dev/null", "--write-out", "%{size_download}"]);
    let got = curl(ns, command, &format!("http://{target}/{bytes}"), bound)?;
    ensure!(got == bytes.to_string(), "{target}: {got} bytes came, not {bytes}");
    Ok(())
}

/// Uploads `bytes` to `target` with curl in `ns`.
///
/// # Errors
/// When curl fails, or the server got other than all of them.
pub fn upload(
    ns: &Namespace,
    scratch: &Scratch,
    target: SocketAddr,
    bytes: u64,
    bound: Duration,
) -> Result<()> {
    let path = scratch.path().join(format!("upload-{bytes}"));
    // A file of nothing: it takes no room.
    let file = std::fs::File::create(&path).with_context(|| format!("make {}", path.display()))?;
    file.set_len(bytes).with_context(|| format!("make {} long", path.display()))?;
    let mut command = Command::new("curl");
    command.arg("--upload-file").arg(&path);
    let got = curl(ns, command, &format!("http://{target}/"), bound)?;
    ensure!(got == bytes.to_string(), "{target}: the server got {got} bytes, not {bytes}");
    Ok(())
}

fn curl(ns: &Namespace, mut command: Command, url: &str, bound: Duration) -> Result<String> {
    command.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time"]);
    command.arg(bound.as_secs_f64().to_string()).arg(url);
    let output = run_to_end(ns, "curl", command, bound + Duration::from_secs(2))?;
    ensure!(output.status.success(), "curl {url}: {} ({})", output.stderr.trim(), output.status);
    Ok(output.stdout.trim().to_owned())
}
