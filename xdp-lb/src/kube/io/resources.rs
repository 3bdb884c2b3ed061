//! What an edge node follows of its own settings: EdgeConfigs, BgpPeers, and the labels of its Node.
//!
//! A cluster whose API server does not know our kinds has none of them: that is said once, and it is looked again and again
//! whether they come.

use std::time::Duration;

use futures::stream::{BoxStream, StreamExt as _, select_all};
use k8s_openapi::api::core::v1 as core;
use kube::runtime::watcher::{Config, Error, Event};
use kube::{Api, Client, Resource};
use tracing::info;

use super::feed::{Events, Feed, List, Pace, Picture, turn};
use super::follow::{follow, follow_as};
use crate::config::Document;
use crate::kube::crd::{BgpPeer, EdgeConfig};
use crate::kube::{Change, Resources};
use crate::model::Inherited;

impl Feed<Vec<Document>> {
    /// Begins to follow what is for the node of this name.
    #[must_use]
    pub fn resources(client: &Client, node: &str, inherited: Inherited, pace: Pace) -> Self {
        let own = Config::default().fields(&format!("metadata.name={node}"));
        let nodes = follow_as(Api::<core::Node>::all(client.clone()), own, pace);
        let configs = follow(Api::<EdgeConfig>::all(client.clone()), None, pace);
        let peers = follow(Api::<BgpPeer>::all(client.clone()), None, pace);
        let events = select_all([
            known("Nodes", nodes, Item::Node, None),
            known("EdgeConfigs", configs, Item::Config, Some(Kind::Configs)),
            known("BgpPeers", peers, Item::Peer, Some(Kind::Peers)),
        ]);
        Self::of(Watched::default(), events.boxed(), inherited, pace)
    }
}

/// A kind that the API server may not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Configs,
    Peers,
}

/// An event of any kind.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, on its way")]
enum Item {
    Node(Event<core::Node>),
    Config(Event<EdgeConfig>),
    Peer(Event<BgpPeer>),
    /// There is no such kind.
    Unknown(Kind),
}

/// Events as items; that a kind is not known is one, too, if it may be.
fn known<K: Resource + 'static>(
    name: &'static str,
    stream: BoxStream<'static, Result<Event<K>, Error>>,
    item: fn(Event<K>) -> Item,
    kind: Option<Kind>,
) -> Events<Item> {
    stream
        .map(move |event| match (event, kind) {
            (Err(error), Some(kind)) if is_unknown(&error) => Ok(Item::Unknown(kind)),
            (event, _) => event.map(item).map_err(|error| (name, error)),
        })
        .boxed()
}

fn is_unknown(error: &Error) -> bool {
    let code = match error {
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status))
        | Error::WatchFailed(kube::Error::Api(status)) => status.code,
        Error::WatchError(status) => status.code,
        _ => return false,
    };
    code == 404
}

#[derive(Default)]
struct Watched {
    resources: Resources,
    /// Of Nodes, EdgeConfigs, BgpPeers.
    lists: [List; 3],
    /// The API server does not know our kinds.
    is_unknown: bool,
}

impl Picture for Watched {
    type Item = Item;
    type Told = Vec<Document>;

    fn take(&mut self, item: Item) -> Option<Change> {
        let (resources, [nodes, configs, peers]) = (&mut self.resources, &mut self.lists);
        let is_list = matches!(&item, Item::Config(Event::InitDone) | Item::Peer(Event::InitDone));
        let change = match item {
            Item::Node(event) => turn(
                nodes,
                event,
                resources,
                Resources::node,
                |resources, _| resources.node_gone(),
                |resources, there| if there.is_empty() { resources.node_gone() } else { Change::No },
            ),
            Item::Config(event) => turn(
                configs,
                event,
                resources,
                Resources::config,
                |resources, gone| resources.config_gone(gone.metadata.name.as_deref().unwrap_or_default()),
                Resources::configs_are,
            ),
            Item::Peer(event) => turn(
                peers,
                event,
                resources,
                Resources::peer,
                |resources, gone| resources.peer_gone(gone.metadata.name.as_deref().unwrap_or_default()),
                Resources::peers_are,
            ),
            Item::Unknown(kind) => {
                if !std::mem::replace(&mut self.is_unknown, true) {
                    info!(
                        "the API server knows no EdgeConfigs and BgpPeers: settings are the file's alone; `xdp-lb crds` defines them"
                    );
                }
                let none = Default::default();
                Some(match kind {
                    Kind::Configs => {
                        configs.is_known = true;
                        resources.configs_are(&none)
                    }
                    Kind::Peers => {
                        peers.is_known = true;
                        resources.peers_are(&none)
                    }
                })
            }
        };
        if is_list && std::mem::take(&mut self.is_unknown) {
            info!("the API server knows EdgeConfigs and BgpPeers now");
        }
        change
    }

    fn is_known(&self) -> bool {
        self.lists.iter().all(|list| list.is_known)
    }

    fn tell(&mut self, _: &Inherited, _: Duration) -> Vec<Document> {
        self.resources.selected()
    }
}
