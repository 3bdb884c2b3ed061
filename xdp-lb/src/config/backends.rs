//! Reads the backends of services. Called by [`super::service`].
//!
//! Ten thousand services that name one list by an alias are ten thousand times one node of the tree: what was read of it
//! without a finding is taken again, with its paths under the service that asks.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

use super::affinity;
use super::draft::Claim;
use super::finding::{Placed, Spot};
use super::keys;
use super::leaf;
use super::path::Path;
use super::reader::Item;
use super::tree::Node;
use crate::model::{AdminState, Affinity, Backend, Backends, Share};

/// The backends of one service, in a list that others may have, too.
#[derive(Debug)]
pub(super) struct BackendsDraft {
    /// Where the service names them.
    pub spot: Spot,
    list: Rc<List>,
}

/// A list as it was read for the first service.
#[derive(Debug)]
struct List {
    /// What the paths in it begin with.
    path: Path,
    /// By address.
    items: Vec<Placed<Backend>>,
    model: OnceCell<Backends>,
}

impl BackendsDraft {
    /// A list of its own, sorted by address.
    pub fn new(spot: Spot, items: Vec<Placed<Backend>>) -> Self {
        let list = List { path: spot.path.clone(), items, model: OnceCell::new() };
        Self { spot, list: Rc::new(list) }
    }

    /// The backends by address. Their places are those under the list's first service: see [`Self::at`].
    pub fn items(&self) -> &[Placed<Backend>] {
        &self.list.items
    }

    /// A place in the list, under this service.
    pub fn at(&self, spot: &Spot) -> Spot {
        match spot.path.moved(&self.list.path, &self.spot.path) {
            Some(path) => Spot { pos: spot.pos, path },
            None => spot.clone(),
        }
    }

    /// The same for all services with this very list, for as long as one of them lives.
    pub fn identity(&self) -> *const () {
        Rc::as_ptr(&self.list).cast()
    }

    /// One list in memory for all services with this one.
    pub fn model(&self) -> Backends {
        let build = || self.list.items.iter().map(|backend| backend.value.clone()).collect();
        self.list.model.get_or_init(build).clone()
    }
}

/// What has been read so far, by node.
#[derive(Debug, Default)]
pub(super) struct Lists(HashMap<*const Node, Rc<List>>);

impl Lists {
    /// The backends of a service with this affinity and what they claim of its packets, by address. `None` if `item` is no
    /// list.
    pub fn read(
        &mut self,
        item: &Item<'_>,
        affinity: Option<Affinity>,
    ) -> Option<(BackendsDraft, Vec<Claim>)> {
        // Where backends claim nothing, a list says the same of every service.
        let plain = matches!(affinity, Some(Affinity::FiveTuple | Affinity::ClientIp));
        if let Some(list) = self.0.get(&item.node()).filter(|_| plain) {
            return Some((BackendsDraft { spot: item.spot.clone(), list: list.clone() }, Vec::new()));
        }
        let before = item.findings.count();
        let (backends, claims) = read(item, affinity)?;
        if plain && item.findings.count() == before {
            self.0.insert(item.node(), backends.list.clone());
        }
        Some((backends, claims))
    }
}

fn read(item: &Item<'_>, affinity: Option<Affinity>) -> Option<(BackendsDraft, Vec<Claim>)> {
    let mut claims = Vec::new();
    let mut seen: HashMap<IpAddr, Path> = HashMap::new();
    let mut items: Vec<Placed<Backend>> = Vec::new();
    for item in item.list()? {
        let Some((backend, claim)) = backend(&item, affinity) else {
            continue;
        };
        let address = backend.value.address;
        if let Some(first) = seen.get(&address) {
            item.findings
                .error(&backend.spot, format!("{address} is listed twice, first as {first}; remove one"));
            continue;
        }
        seen.insert(address, backend.spot.path.clone());
        items.push(backend);
        claims.push(claim);
    }
    items.sort_by_key(|backend| backend.value.address);
    Some((BackendsDraft::new(item.spot.clone(), items), claims))
}

/// The place is the address's.
fn backend(item: &Item<'_>, affinity: Option<Affinity>) -> Option<(Placed<Backend>, Claim)> {
    const STATES: &[(&str, AdminState)] =
        &[("active", AdminState::Active), ("drain", AdminState::Drain), ("down", AdminState::Down)];
    let keys = item.mapping(&keys::BACKEND)?;
    let weight = keys.leaf("weight", 100, leaf::number(0..=1000));
    let zone = keys.get("zone").and_then(|item| item.leaf(leaf::label));
    let state = keys.leaf("state", AdminState::Active, leaf::choice(STATES, &[]));
    let share = keys.leaf("share", Share::FULL, leaf::share);
    let backup = keys.leaf("backup", false, leaf::boolean);
    let address = keys.required("address", "10.1.2.11").and_then(|item| item.placed(leaf::host_address));
    let claim = affinity::claim(&keys, affinity, address.as_ref());
    let (Placed { value: address, spot }, claim) = (address?, claim?);
    let value = Backend {
        address,
        weight: weight.unwrap_or_default(),
        zone,
        state: state.unwrap_or_default(),
        share: share.unwrap_or(Share::FULL),
        slice: claim.slice.iter().flatten().map(|range| range.value.clone()).collect(),
        server_id: claim.server_id.as_ref().map(|id| id.value),
        backup: backup.unwrap_or_default(),
    };
    Some((Placed { value, spot }, claim))
}
