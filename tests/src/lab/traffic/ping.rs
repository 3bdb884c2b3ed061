//! One ICMP or ICMPv6 echo, through the kernel's ping sockets: the kernel fills in and checks everything but the payload.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::lab::namespace::Namespace;
use crate::lab::sys;

/// Type, code, checksum, identifier and sequence number.
const HEADER: usize = 8;

/// Sends one echo request with `size` bytes of payload from `ns` and waits for its reply.
///
/// # Errors
/// When there is none within `bound`, or it is another payload's.
pub fn ping(ns: &Namespace, target: IpAddr, size: usize, bound: Duration) -> Result<()> {
    // Everybody's group may ping; by default nobody's may.
    ns.sysctl("net/ipv4/ping_group_range", "0 0")?;
    let socket = ns.enter(|| sys::ping_socket(target.is_ipv6()))?.context("open a ping socket")?;
    socket.set_read_timeout(Some(bound))?;
    let mut request = vec![0; HEADER];
    let (ask, answer) = if target.is_ipv4() { (8, 0) } else { (128, 129) };
    request[0] = ask;
    request.extend((0..size).map(|i| u8::try_from(i % 251).unwrap_or(0)));
    socket.send_to(&request, SocketAddr::new(target, 0)).with_context(|| format!("ping {target}"))?;
    let mut reply = vec![0; HEADER + size + 1];
    let (length, from) = match socket.recv_from(&mut reply) {
        Ok(received) => received,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            bail!("{target} does not answer to ping within {bound:?}")
        }
        Err(error) => return Err(error).with_context(|| format!("ping {target}")),
    };
    ensure!(from.ip() == target, "{from} answered for {target}");
    ensure!(
        length == request.len() && reply[0] == answer && reply[HEADER..length] == request[HEADER..],
        "{target} answered a ping of {size} bytes with type {} and {length} bytes",
        reply[0]
    );
    Ok(())
}
