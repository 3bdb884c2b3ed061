//! One connection to a router: never the other way round. Everything that must be set before the SYN is set here.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use tokio::net::{TcpSocket, TcpStream};

use super::Secrets;
use crate::bgp::settings::{Password, PeerLink};
use crate::file;
use crate::socket;

/// Dials.
///
/// # Errors
/// What failed, with its cause.
pub(super) async fn dial(link: &PeerLink, local_as: u32, secrets: &Secrets) -> Result<TcpStream, String> {
    let key = match &link.password {
        None => None,
        Some(Password::File(path)) => Some(key(path)?),
        Some(Password::Secret(wanted)) => Some(secrets.get(wanted).await?),
    };
    let made = prepared(link, local_as, key.as_deref()).map_err(|e| format!("prepare a connection: {e}"))?;
    let to = SocketAddr::new(link.address, link.port);
    made.connect(to).await.map_err(|e| format!("connect: {e}"))
}

fn key(path: &Path) -> Result<Vec<u8>, String> {
    file::secret(path).map_err(|e| format!("read password_file {}: {e}", path.display()))
}

fn prepared(link: &PeerLink, local_as: u32, key: Option<&[u8]>) -> io::Result<TcpSocket> {
    let v6 = link.address.is_ipv6();
    let made = if v6 { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    made.set_nodelay(true)?;
    socket::set_ttl(&made, v6, link.ttl(local_as))?;
    if let Some(least) = link.min_ttl() {
        socket::set_min_ttl(&made, v6, least)?;
    }
    socket::set_network_control(&made, v6)?;
    if let Some(key) = key {
        socket::set_md5(&made, link.address, key)?;
    }
    if let Some(interface) = &link.interface {
        socket::bind_device(&made, interface)?;
    }
    if let Some(source) = link.source {
        made.bind(SocketAddr::new(source, 0))?;
    }
    Ok(made)
}
