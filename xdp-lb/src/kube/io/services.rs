//! What an edge node follows: Services, EndpointSlices and Nodes of the whole cluster.

use std::time::Duration;

use futures::stream::{StreamExt as _, select_all};
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use kube::runtime::watcher::Event;
use kube::{Api, Client};

use super::feed::{Feed, List, Pace, Picture, all, turn};
use super::follow::follow;
use crate::kube::{Change, Cluster, Key, Mapped, Settings};
use crate::model::Inherited;

/// Slices of Services with an address of their own.
pub(super) const SLICES: &str = "kubernetes.io/service-name,!service.kubernetes.io/headless";

impl Feed<Mapped> {
    /// Begins to follow.
    #[must_use]
    pub fn start(client: &Client, settings: Settings, inherited: Inherited, pace: Pace) -> Self {
        let services = follow(Api::<core::Service>::all(client.clone()), None, pace);
        let slices = follow(Api::<discovery::EndpointSlice>::all(client.clone()), Some(SLICES), pace);
        let nodes = follow(Api::<core::Node>::all(client.clone()), None, pace);
        let events = select_all([
            all("Services", services, Item::Service),
            all("EndpointSlices", slices, Item::Slice),
            all("Nodes", nodes, Item::Node),
        ]);
        let picture = Services { cluster: Cluster::new(settings), lists: Default::default() };
        Self::of(picture, events.boxed(), inherited, pace)
    }
}

/// An event of any kind.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, on its way")]
enum Item {
    Service(Event<core::Service>),
    Slice(Event<discovery::EndpointSlice>),
    Node(Event<core::Node>),
}

struct Services {
    cluster: Cluster,
    /// Of Services, EndpointSlices, Nodes.
    lists: [List; 3],
}

impl Picture for Services {
    type Item = Item;
    type Told = Mapped;

    fn take(&mut self, item: Item) -> Option<Change> {
        let (cluster, [services, slices, nodes]) = (&mut self.cluster, &mut self.lists);
        match item {
            Item::Service(event) => turn(
                services,
                event,
                cluster,
                Cluster::service,
                |cluster, service| cluster.service_gone(&Key::of(&service.metadata)),
                Cluster::services_are,
            ),
            Item::Slice(event) => turn(
                slices,
                event,
                cluster,
                Cluster::slice,
                |cluster, slice| cluster.slice_gone(&Key::of(&slice.metadata)),
                Cluster::slices_are,
            ),
            Item::Node(event) => turn(
                nodes,
                event,
                cluster,
                Cluster::node,
                |cluster, node| cluster.node_gone(node.metadata.name.as_deref().unwrap_or_default()),
                Cluster::nodes_are,
            ),
        }
    }

    fn is_known(&self) -> bool {
        self.lists.iter().all(|list| list.is_known)
    }

    fn tell(&mut self, inherited: &Inherited, _: Duration) -> Mapped {
        self.cluster.map(inherited)
    }
}
