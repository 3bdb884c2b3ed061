//! What changed in the kernel since we last looked: notifications of rtnetlink's multicast groups, merged.
//!
//! A collector task drains the socket at once and keeps only the sum, [`Dirt`], so that a storm (a full BGP
//! table arriving) costs bounded memory however busy the resolver is. When the socket overflows all the
//! same, the sum is [`Dirt::everything`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use futures::stream::Stream;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::AsyncSocket;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::debug;

use super::NetlinkError;
use super::neighbours::{self, Entry};
use super::routes::address_of;
use crate::nexthop::NeighbourKey;

/// What a next hop can depend on.
const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

/// Changed prefixes kept apart; more in one burst count as "all".
const PREFIXES: usize = 256;

/// Changed neighbours kept apart; more in one burst count as "everything".
const NEIGHBOURS: usize = 65_536;

/// Bytes asked for the socket's receive buffer; the kernel grants at most `net.core.rmem_max`.
const RECEIVE_BUFFER: i32 = 4 << 20;

/// Destinations whose route may be another now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Routes {
    /// None.
    #[default]
    Same,
    /// Those inside these prefixes.
    Within(Vec<Prefix>),
    /// All.
    All,
}

impl Routes {
    /// Whether the route to `address` may have changed.
    pub(super) fn touch(&self, address: IpAddr) -> bool {
        match self {
            Self::Same => false,
            Self::Within(prefixes) => prefixes.iter().any(|prefix| prefix.contains(address)),
            Self::All => true,
        }
    }

    fn add(&mut self, prefix: Prefix) {
        match self {
            Self::Same => *self = Self::Within(vec![prefix]),
            Self::Within(prefixes) if prefixes.contains(&prefix) => {}
            Self::Within(prefixes) if prefixes.len() < PREFIXES => prefixes.push(prefix),
            Self::Within(_) => *self = Self::All,
            Self::All => {}
        }
    }
}

/// A destination prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    fn contains(self, address: IpAddr) -> bool {
        let length = u32::from(self.length);
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                (a.to_bits() ^ b.to_bits()).checked_shr(32 - length.min(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                (a.to_bits() ^ b.to_bits()).checked_shr(128 - length.min(128)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// The sum of the changes since the last [`Events::take`].
#[derive(Debug, Default)]
pub(super) struct Dirt {
    /// Notifications were lost, or there were too many: read everything anew.
    pub(super) everything: bool,
    /// Interfaces came, went or changed.
    pub(super) links: bool,
    /// Routes changed.
    pub(super) routes: Routes,
    /// Neighbours that changed, with their last state; `None` is gone.
    pub(super) neighbours: BTreeMap<NeighbourKey, Option<Entry>>,
}

impl Dirt {
    /// Everything may have changed.
    pub(super) fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    fn is_clean(&self) -> bool {
        !self.everything && !self.links && self.routes == Routes::Same && self.neighbours.is_empty()
    }

    fn add(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) {
        use RouteNetlinkMessage as Message;
        let message = match message.payload {
            NetlinkPayload::InnerMessage(message) => message,
            // netlink-proto's word for ENOBUFS.
            NetlinkPayload::Overrun(_) => return *self = Self::everything(),
            _ => return,
        };
        match message {
            Message::NewLink(_) | Message::DelLink(_) => self.links = true,
            Message::NewRoute(route) | Message::DelRoute(route) => match prefix(&route) {
                Some(prefix) => self.routes.add(prefix),
                None => self.routes = Routes::All,
            },
            // Taking an address away takes routes with it, and those go without a notification.
            Message::NewAddress(_) | Message::DelAddress(_) | Message::NewRule(_) | Message::DelRule(_) => {
                self.routes = Routes::All;
            }
            Message::NewNeighbour(neighbour) => {
                if let Some((key, entry)) = neighbours::decode(&neighbour) {
                    self.neighbour(key, Some(entry));
                }
            }
            Message::DelNeighbour(neighbour) => {
                if let Some((key, _)) = neighbours::decode(&neighbour) {
                    self.neighbour(key, None);
                }
            }
            _ => {}
        }
    }

    fn neighbour(&mut self, key: NeighbourKey, entry: Option<Entry>) {
        if self.neighbours.len() >= NEIGHBOURS {
            return *self = Self::everything();
        }
        // Kept even when it changes back: a failure between two states must not be lost on `Entry::after`.
        let earlier = self.neighbours.get(&key).copied().flatten();
        self.neighbours.insert(key, entry.map(|entry| entry.after(earlier.as_ref())));
    }
}

/// `None` for a route whose prefix is not told.
fn prefix(route: &RouteMessage) -> Option<Prefix> {
    let length = route.header.destination_prefix_length;
    let told = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => address_of(address),
        _ => None,
    });
    let address = match (told, route.header.address_family) {
        (Some(address), _) => address,
        (None, AddressFamily::Inet) if length == 0 => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        (None, AddressFamily::Inet6) if length == 0 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        (None, _) => return None,
    };
    Some(Prefix { address, length })
}

/// A subscription. Dropping it closes the socket.
#[derive(Debug)]
pub(super) struct Events {
    shared: Arc<Shared>,
    pump: JoinHandle<()>,
    collector: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    dirt: Mutex<Dirt>,
    news: Notify,
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Dirt> {
        self.dirt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Events {
    /// Subscribes. What happens from here on is not missed, and what happened before is asked for: a new
    /// subscription begins with [`Dirt::everything`].
    ///
    /// # Errors
    /// [`NetlinkError::Open`].
    pub(super) fn subscribe() -> Result<Self, NetlinkError> {
        let (mut connection, _, messages) =
            rtnetlink::new_multicast_connection(&GROUPS).map_err(NetlinkError::Open)?;
        let socket = connection.socket_mut().socket_mut();
        if let Err(error) = socket.set_rx_buf_sz(RECEIVE_BUFFER) {
            debug!(%error, "netlink keeps its default receive buffer");
        }
        let shared = Arc::new(Shared { dirt: Mutex::new(Dirt::everything()), news: Notify::new() });
        let collector = tokio::spawn(collect(messages.map(|(message, _)| message), Arc::clone(&shared)));
        Ok(Self { shared, pump: tokio::spawn(connection), collector })
    }

    /// Waits until there is something to take, or the socket is closed. Cancel-safe.
    pub(super) async fn wait(&self) {
        while self.shared.lock().is_clean() && !self.closed() {
            self.shared.news.notified().await;
        }
    }

    /// Takes the sum of the changes.
    pub(super) fn take(&self) -> Dirt {
        std::mem::take(&mut *self.shared.lock())
    }

    /// Whether the socket failed: nothing more will come.
    pub(super) fn closed(&self) -> bool {
        self.pump.is_finished() || self.collector.is_finished()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.pump.abort();
        self.collector.abort();
    }
}

async fn collect(messages: impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>>, shared: Arc<Shared>) {
    let mut messages = std::pin::pin!(messages);
    while let Some(message) = messages.next().await {
        shared.lock().add(message);
        shared.news.notify_one();
    }
    *shared.lock() = Dirt::everything();
    shared.news.notify_one();
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::NetlinkHeader;

    use super::*;

    fn within(prefix: &str, length: u8, address: &str) -> bool {
        Prefix { address: prefix.parse().unwrap(), length }.contains(address.parse().unwrap())
    }

    #[test]
    fn prefixes_contain_by_their_length_and_family() {
        assert!(within("10.1.0.0", 16, "10.1.2.3"));
        assert!(!within("10.1.0.0", 16, "10.2.0.0"));
        assert!(within("0.0.0.0", 0, "203.0.113.1"));
        assert!(!within("0.0.0.0", 0, "2001:db8::1"));
        assert!(within("10.0.0.1", 32, "10.0.0.1"));
        assert!(!within("10.0.0.1", 32, "10.0.0.0"));
        assert!(within("2001:db8::", 32, "2001:db8:1::1"));
        assert!(within("::", 0, "fe80::1"));
        assert!(!within("fe80::1", 128, "fe80::2"));
    }

    #[test]
    fn a_storm_of_prefixes_becomes_all_and_stays_small() {
        let mut routes = Routes::default();
        for i in 0..u32::try_from(PREFIXES).unwrap() {
            let prefix = Prefix { address: IpAddr::V4(i.into()), length: 32 };
            routes.add(prefix);
            routes.add(prefix);
        }
        assert!(matches!(&routes, Routes::Within(prefixes) if prefixes.len() == PREFIXES));
        routes.add(Prefix { address: IpAddr::V4(u32::MAX.into()), length: 32 });
        assert_eq!(routes, Routes::All);
    }

    #[tokio::test]
    async fn an_overflow_of_the_socket_asks_for_everything() {
        let overrun = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::Overrun(Vec::new()));
        let shared = Arc::new(Shared { dirt: Mutex::default(), news: Notify::new() });
        collect(futures::stream::iter([overrun]), Arc::clone(&shared)).await;
        assert!(shared.lock().everything);
    }
}
