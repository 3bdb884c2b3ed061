//! What a node that takes tunnels off follows: Services, the Nodes that a label selector makes edge nodes, and, once a
//! Service delivers to pods, EndpointSlices.

use std::time::Duration;

use futures::stream::{BoxStream, Stream, StreamExt as _, once, select_all};
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use kube::runtime::watcher::Event;
use kube::{Api, Client};
use tokio::sync::watch;

use super::feed::{Feed, List, Pace, Picture, all, turn};
use super::follow::follow;
use super::services::SLICES;
use crate::kube::{Change, Ended, Ends, Key, Settings};
use crate::model::Inherited;

impl Feed<Ended> {
    /// Begins to follow for the Node of this name; `edges` selects the edge nodes by their labels. The API server sends
    /// nobody else's Node.
    #[must_use]
    pub fn ends(
        client: &Client,
        settings: Settings,
        node: &str,
        edges: &str,
        inherited: Inherited,
        pace: Pace,
    ) -> Self {
        let (asks, asked) = watch::channel(false);
        let services = follow(Api::<core::Service>::all(client.clone()), None, pace);
        let nodes = follow(Api::<core::Node>::all(client.clone()), Some(edges), pace);
        let slices = follow(Api::<discovery::EndpointSlice>::all(client.clone()), Some(SLICES), pace);
        let events = select_all([
            all("Services", services, Item::Service),
            all("Nodes", nodes, Item::Edge),
            all("EndpointSlices", when(asked, slices), Item::Slice),
        ]);
        let picture =
            Watched { ends: Ends::new(settings, node, pace.linger), lists: Default::default(), asks };
        Self::of(picture, events.boxed(), inherited, pace)
    }
}

/// A stream that nobody looks at before it is asked for.
fn when<S>(mut asked: watch::Receiver<bool>, stream: S) -> BoxStream<'static, S::Item>
where
    S: Stream + Send + 'static,
{
    let wait = async move {
        // Who could ask has ended: nobody will.
        if asked.wait_for(|is_asked| *is_asked).await.is_err() {
            std::future::pending::<()>().await;
        }
        stream
    };
    once(wait).flatten().boxed()
}

/// An event of any kind.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, on its way")]
enum Item {
    Service(Event<core::Service>),
    Edge(Event<core::Node>),
    Slice(Event<discovery::EndpointSlice>),
}

struct Watched {
    ends: Ends,
    /// Of Services, Nodes, EndpointSlices.
    lists: [List; 3],
    /// Whether slices are wanted; they are followed from then on.
    asks: watch::Sender<bool>,
}

impl Picture for Watched {
    type Item = Item;
    type Told = Ended;

    fn take(&mut self, item: Item) -> Option<Change> {
        let (ends, [services, edges, slices]) = (&mut self.ends, &mut self.lists);
        let change = match item {
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
            Item::Slice(event) => turn(
                slices,
                event,
                ends,
                Ends::slice,
                |ends, slice| ends.slice_gone(&Key::of(&slice.metadata)),
                Ends::slices_are,
            ),
        };
        if self.ends.wants_slices() {
            self.asks.send_if_modified(|asks| !std::mem::replace(asks, true));
        }
        change
    }

    fn is_known(&self) -> bool {
        let [services, edges, slices] = &self.lists;
        services.is_known && edges.is_known && (slices.is_known || !self.ends.wants_slices())
    }

    fn tell(&mut self, _: &Inherited, now: Duration) -> Ended {
        self.ends.ended(now)
    }

    fn wakes(&self) -> Option<Duration> {
        self.ends.wakes()
    }
}
