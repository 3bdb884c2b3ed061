//! The twin of the resolver for tests: next hops are what the test says they are.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::watch;

use super::NextHops;
use crate::nexthop::{Links, Resolution, Snapshot};

/// Next hops held in memory.
#[derive(Debug)]
pub struct MemoryNextHops {
    followed: watch::Sender<BTreeSet<IpAddr>>,
    snapshot: watch::Sender<Arc<Snapshot>>,
}

impl Default for MemoryNextHops {
    fn default() -> Self {
        Self {
            followed: watch::Sender::new(BTreeSet::new()),
            snapshot: watch::Sender::new(Arc::new(Snapshot::default())),
        }
    }
}

impl MemoryNextHops {
    /// Sets what is known of `address` and wakes the readers if that is news.
    pub fn set(&self, address: IpAddr, resolution: Resolution) {
        self.change(|snapshot| {
            snapshot.resolutions.insert(address, resolution);
        });
    }

    /// Sets the interfaces and wakes the readers if that is news.
    pub fn set_links(&self, links: Links) {
        self.change(|snapshot| snapshot.links = links);
    }

    /// What the code under test asked to follow.
    #[must_use]
    pub fn followed(&self) -> BTreeSet<IpAddr> {
        self.followed.borrow().clone()
    }

    fn change(&self, edit: impl FnOnce(&mut Snapshot)) {
        self.snapshot.send_if_modified(|current| {
            let mut next = Snapshot::clone(current);
            edit(&mut next);
            let news = next != **current;
            *current = Arc::new(next);
            news
        });
    }
}

impl NextHops for MemoryNextHops {
    fn follow(&self, addresses: BTreeSet<IpAddr>) {
        self.followed.send_replace(addresses);
    }

    fn changes(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_wake_for_news_alone() {
        let hops = MemoryNextHops::default();
        let mut changes = hops.changes();
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        hops.set(address, Resolution::Local);
        assert!(changes.has_changed().unwrap());
        assert_eq!(changes.borrow_and_update().resolve(address), Some(&Resolution::Local));
        hops.set(address, Resolution::Local);
        assert!(!changes.has_changed().unwrap());
        assert_eq!(hops.resolve(address), Some(Resolution::Local));
    }
}
