//! `xdp-lb status bgp` for people: sessions, VIPs, and the routes of each session.

use super::table::{self, Align, Table};
use crate::bgp::status::{PeerStatus, RouteStatus, Status};

/// Three tables and, where there are any, the routes that a router cannot be told.
pub(super) fn table(status: &Status) -> String {
    let router_id = status.router_id.map_or_else(String::new, |id| id.to_string());
    let head = table::fields(&[("local AS", status.local_as.to_string()), ("router id", router_id)]);
    let sections = [head, sessions(status), vips(status), routes(status), untold(status)];
    sections.into_iter().filter(|section| !section.is_empty()).collect::<Vec<_>>().join("\n")
}

fn sessions(status: &Status) -> String {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("ROUTER", Left),
        ("AS", Right),
        ("STATE", Left),
        ("FOR", Right),
        ("BFD", Left),
        ("TOLD", Right),
        ("HEARD", Right),
        ("TROUBLE", Left),
    ]);
    let ago = |at: u64| table::duration(status.written.saturating_sub(at));
    for peer in &status.peers {
        let down = match (&peer.failing, &peer.last_down_reason, peer.last_down) {
            (Some(why), ..) => format!("does not come up: {why}"),
            (None, Some(why), Some(at)) => format!("down {} ago: {why}", ago(at)),
            _ => "-".to_owned(),
        };
        table.row([
            peer.address.to_string(),
            peer.remote_as.to_string(),
            peer.state.clone(),
            peer.since.map_or_else(|| "-".to_owned(), ago),
            peer.bfd.as_ref().map_or_else(|| "-".to_owned(), |bfd| bfd.state.clone()),
            peer.routes.len().to_string(),
            peer.prefixes_received.to_string(),
            down,
        ]);
    }
    table.render()
}

fn vips(status: &Status) -> String {
    use Align::{Left, Right};
    let mut table = Table::new([("VIP", Left), ("STATE", Left), ("FOR", Right), ("WHY", Left)]);
    for vip in &status.vips {
        let since = table::duration(status.written.saturating_sub(vip.since));
        table.row([vip.address.to_string(), vip.state.clone(), since, vip.reason.clone()]);
    }
    table.render()
}

fn routes(status: &Status) -> String {
    use Align::Left;
    let mut table = Table::new([
        ("ROUTER", Left),
        ("PREFIX", Left),
        ("NEXT HOP", Left),
        ("ATTRIBUTES", Left),
        ("WHY", Left),
    ]);
    for (peer, route) in status.peers.iter().flat_map(|p: &PeerStatus| p.routes.iter().map(move |r| (p, r))) {
        table.row([
            peer.address.to_string(),
            route.prefix.clone(),
            route.next_hop.to_string(),
            attributes(route),
            route.reason.clone(),
        ]);
    }
    table.render()
}

/// `path 65010 65010, med 50, communities 64500:100`.
fn attributes(route: &RouteStatus) -> String {
    let list = |values: &[String]| values.join(" ");
    let path: Vec<String> = route.as_path.iter().map(ToString::to_string).collect();
    let parts = [
        (!path.is_empty()).then(|| format!("path {}", path.join(" "))),
        route.med.map(|med| format!("med {med}")),
        route.local_pref.map(|preference| format!("local-pref {preference}")),
        (!route.communities.is_empty()).then(|| format!("communities {}", list(&route.communities))),
        (!route.large_communities.is_empty())
            .then(|| format!("large communities {}", list(&route.large_communities))),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn untold(status: &Status) -> String {
    let mut table =
        Table::new([("ROUTER", Align::Left), ("NOT TOLD", Align::Left), ("WHY NOT", Align::Left)]);
    for (peer, (prefix, why)) in status.peers.iter().flat_map(|p| p.untold.iter().map(move |u| (p, u))) {
        table.row([peer.address.to_string(), prefix.clone(), why.clone()]);
    }
    table.render()
}
