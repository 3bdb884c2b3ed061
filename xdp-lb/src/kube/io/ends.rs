//! What a node that takes tunnels off follows: Services, and the Nodes that a label selector makes edge nodes.

use futures::stream::{StreamExt as _, select_all};
use k8s_openapi::api::core::v1 as core;
use kube::runtime::watcher::Event;
use kube::{Api, Client};

use super::feed::{Feed, List, Pace, Picture, all, turn};
use super::follow::follow;
use crate::kube::{Change, Ended, Ends, Key, Settings};
use crate::model::Inherited;

impl Feed<Ended> {
    /// Begins to follow; `edges` selects the edge nodes by their labels. The API server sends nobody else's Node.
    #[must_use]
    pub fn ends(client: &Client, settings: Settings, edges: &str, inherited: Inherited, pace: Pace) -> Self {
        let services = follow(Api::<core::Service>::all(client.clone()), None, pace);
        let nodes = follow(Api::<core::Node>::all(client.clone()), Some(edges), pace);
        let events = select_all([all("Services", services, Item::Service), all("Nodes", nodes, Item::Edge)]);
        let picture = Watched { ends: Ends::new(settings), lists: Default::default() };
        Self::of(picture, events.boxed(), inherited, pace)
    }
}

/// An event of either kind.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, on its way")]
enum Item {
    Service(Event<core::Service>),
    Edge(Event<core::Node>),
}

struct Watched {
    ends: Ends,
    /// Of Services, Nodes.
    lists: [List; 2],
}

impl Picture for Watched {
    type Item = Item;
    type Told = Ended;

    fn take(&mut self, item: Item) -> Option<Change> {
        let (ends, [services, edges]) = (&mut self.ends, &mut self.lists);
        match item {
            Item::Service(event) => turn(
                services,
                event,
                ends,
                Ends::service,
                |ends, service| ends.service_gone(&Key::of(&service.metadata)),
                Ends::services_are,
            ),
            Item::Edge(event) => turn(
                edges,
                event,
                ends,
                Ends::edge,
                |ends, node| ends.edge_gone(node.metadata.name.as_deref().unwrap_or_default()),
                Ends::edges_are,
            ),
        }
    }

    fn is_known(&self) -> bool {
        self.lists.iter().all(|list| list.is_known)
    }

    fn tell(&mut self, _: &Inherited) -> Ended {
        self.ends.ended()
    }
}
