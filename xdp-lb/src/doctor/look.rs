//! Finds out what a [`Host`] is: files under `/proc`, rtnetlink, programs on interfaces. Nothing is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::{Agent, Host, Program, Way};
use crate::dataplane::{BpffsRoot, attach, sys};
use crate::netlink::{Requests, addresses, links, routes};
use crate::nexthop::{Links, Route};
use crate::status::Status;

/// Sysctls of the whole host.
const SYSCTLS: [&str; 3] = ["net.core.bpf_jit_enable", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"];
/// Sysctls under `net.ipv4.conf.INTERFACE`.
const CONF: [&str; 3] = ["rp_filter", "arp_ignore", "arp_announce"];

/// This host, in the network namespace of the calling thread. `wanted`: interfaces that the configuration names.
///
/// # Errors
/// When the kernel does not tell its interfaces, addresses or routes.
pub async fn host(
    root: &BpffsRoot,
    status: Option<Status>,
    agent: Agent,
    wanted: Option<Vec<String>>,
    clients: &[IpAddr],
) -> Result<Host> {
    let requests = Requests::open()?;
    let links = links::links(&requests).await?;
    let attached =
        status.iter().flat_map(|status| &status.interfaces).map(|interface| interface.name.clone());
    let named: BTreeSet<String> = attached.chain(wanted.iter().flatten().cloned()).collect();
    let mut ways = BTreeMap::new();
    for &client in clients {
        ways.insert(client, way(routes::lookup(&requests, client).await?, &links));
    }
    let held = addresses::held(&requests).await?;
    let name = |index: u32| links.by_index(index).map_or_else(|| index.to_string(), |link| link.name.clone());
    Ok(Host {
        release: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
        has_bpffs: root.path().ancestors().find(|path| path.exists()).is_some_and(is_bpffs),
        sysctls: sysctls(&named),
        programs: programs(root, &named, &links)?,
        addresses: held.into_iter().map(|(index, addresses)| (name(index), addresses)).collect(),
        ways,
        conntrack: number("nf_conntrack_count").zip(number("nf_conntrack_max")),
        links,
        status,
        agent,
        wanted,
    })
}

fn is_bpffs(path: &Path) -> bool {
    sys::is_bpffs(path).unwrap_or(false)
}

fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn number(name: &str) -> Option<u64> {
    read(&format!("/proc/sys/net/netfilter/{name}"))?.parse().ok()
}

fn sysctls(interfaces: &BTreeSet<String>) -> BTreeMap<String, String> {
    let all = "all".to_owned();
    let of = |interface: &String| CONF.map(|key| (interface.clone(), key));
    let conf = interfaces.iter().chain([&all]).flat_map(of).filter_map(|(interface, key)| {
        // A VLAN device's name may have a dot.
        let value = read(&format!("/proc/sys/net/ipv4/conf/{interface}/{key}"))?;
        Some((format!("net.ipv4.conf.{interface}.{key}"), value))
    });
    let whole = SYSCTLS.iter().filter_map(|name| {
        Some(((*name).to_owned(), read(&format!("/proc/sys/{}", name.replace('.', "/")))?))
    });
    conf.chain(whole).collect()
}

fn programs(
    root: &BpffsRoot,
    interfaces: &BTreeSet<String>,
    links: &Links,
) -> Result<BTreeMap<String, Program>> {
    let ours: BTreeSet<String> =
        attach::attached(root).context("list the links")?.into_iter().map(|a| a.interface).collect();
    let mut found = BTreeMap::new();
    for link in interfaces.iter().filter_map(|name| links.by_name(name)) {
        if let Some(name) = attach::program_on(&link.name, link.index)? {
            found.insert(link.name.clone(), Program { name, is_ours: ours.contains(&link.name) });
        }
    }
    Ok(found)
}

fn way(route: Route, links: &Links) -> Way {
    match route {
        Route::Local => Way::None("the address is this host's own".to_owned()),
        Route::Refused(why) => Way::None(why.to_string()),
        Route::Via { ways, .. } => {
            let name = |index| {
                links.by_index(index).map_or_else(|| format!("index {index}"), |link| link.name.clone())
            };
            Way::By(ways.iter().map(|way| name(way.interface)).collect())
        }
    }
}
