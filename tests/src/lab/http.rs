//! A question in HTTP/1.1, asked from inside a namespace with nothing but a socket.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::namespace::Namespace;

/// How long an answer may take.
pub const BOUND: Duration = Duration::from_secs(20);

/// Sends `request` as it is; the status and the body.
///
/// # Errors
/// When nobody answers, or not in HTTP.
pub fn ask(ns: &Namespace, address: SocketAddr, request: &str) -> Result<(u16, String)> {
    let request = request.to_owned();
    ns.enter(move || {
        let stream = TcpStream::connect_timeout(&address, BOUND)?;
        stream.set_read_timeout(Some(BOUND))?;
        exchange(stream, &request)
    })?
}

/// Asks for `path`.
///
/// # Errors
/// As [`ask`].
pub fn get(ns: &Namespace, address: SocketAddr, path: &str) -> Result<(u16, String)> {
    ask(ns, address, &format!("GET {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n"))
}

/// One figure of the metrics endpoint at `address`: `name` without its prefix, with labels if it has some.
///
/// # Errors
/// As [`ask`], and when the figure is not there.
pub fn figure(ns: &Namespace, address: &str, name: &str) -> Result<f64> {
    let (status, text) = get(ns, address.parse()?, "/metrics")?;
    ensure!(status == 200, "{status}: {text}");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("xdp_lb_{name} ")));
    line.with_context(|| format!("no {name}"))?.parse().with_context(|| name.to_owned())
}

/// The same over a connection of the caller's.
///
/// # Errors
/// As [`ask`].
pub fn exchange(mut stream: impl Read + Write, request: &str) -> Result<(u16, String)> {
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    parts(&answer)
}

fn parts(answer: &str) -> Result<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n").context("no end of the head")?;
    let status = head.split(' ').nth(1).context("no status")?.parse().context("the status")?;
    Ok((status, body.to_owned()))
}
