//! Reads `peers`. Called by [`super::sections`].

use std::net::{IpAddr, SocketAddr};

use super::finding::Placed;
use super::keys;
use super::leaf::{self, host_address};
use super::reader::{Item, Leaf, must_be};
use crate::model::Peers;

/// Of a node whose own port is a mistake.
const PORT: u16 = 9411;

/// Reads the section. `None` after a mistake in it.
pub(super) fn read(item: &Item<'_>) -> Option<Peers> {
    let keys = item.mapping(&keys::PEERS)?;
    let listen = keys.required("listen", "\"10.0.0.11:9411\"").and_then(|item| item.leaf(leaf::listener));
    let key_file =
        keys.required("key_file", "/etc/xdp-lb/peers.key").and_then(|item| item.leaf(leaf::absolute_path));
    let nodes = keys.required("nodes", "[10.0.0.12]");
    let port = listen.as_ref().map_or(PORT, SocketAddr::port);
    let mut listed: Vec<Placed<SocketAddr>> = Vec::new();
    for item in nodes.iter().flat_map(Item::one_or_more) {
        let Some(node) = item.placed(|text| node(text, port)) else { continue };
        match listed.iter().find(|other| other.value == node.value) {
            Some(first) => {
                let at = item.findings.cite(&node.spot, &first.spot);
                item.findings.error(&node.spot, format!("{} is listed twice, first as {at}", node.value));
            }
            None => listed.push(node),
        }
    }
    let (listen, key_file) = (listen?, key_file?);
    // One list may serve all nodes: a node does not tell itself.
    let mut nodes: Vec<SocketAddr> =
        listed.into_iter().map(|node| node.value).filter(|&n| n != listen).collect();
    nodes.sort();
    Some(Peers { listen, key_file, nodes })
}

/// An address, whose port is ours, or an address and a port.
fn node(text: &str, port: u16) -> Leaf<SocketAddr> {
    if let Ok(node) = text.parse::<SocketAddr>() {
        return if node.port() == 0 {
            must_be("an address and a port, which is not 0", text)
        } else {
            Ok(node)
        };
    }
    match text.parse::<IpAddr>() {
        Ok(_) => host_address(text).map(|address| SocketAddr::new(address, port)),
        Err(_) => must_be("another edge node's address, as in 10.0.0.12 or \"[fd00::12]:9411\"", text),
    }
}
