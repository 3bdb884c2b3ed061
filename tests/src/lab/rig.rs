//! A few hosts and the links that a test draws between them, smaller than a [`super::Lab`]: for routers and speakers.
//!
//! ```text
//!   link number N between hosts A and B:   A has 10.99.N.1 and fd99:N::1, B has 10.99.N.2 and fd99:N::2
//!   its ends are named after the host at the other end
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Once;

use anyhow::{Context, Result};

use super::id::LabId;
use super::janitor;
use super::namespace::{Lifetime, Namespace};
use super::netlink::{VethEnd, Via};
use super::plan::Dual;
use super::scratch::Scratch;

/// Hosts and links; dropping it takes everything away.
#[derive(Debug)]
pub struct Rig {
    hosts: BTreeMap<String, Namespace>,
    scratch: Scratch,
    id: LabId,
    links: u8,
}

/// Addresses of both ends of a link.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// Of the host named first.
    pub a: Dual,
    /// Of the other.
    pub b: Dual,
}

impl Rig {
    /// Makes the hosts, all of which forward.
    ///
    /// # Errors
    /// Says which could not be made.
    pub fn start(hosts: &[&str]) -> Result<Self> {
        static SWEPT: Once = Once::new();
        SWEPT.call_once(|| drop(janitor::sweep()));
        let id = LabId::next();
        let scratch = Scratch::create(id, Lifetime::Dropped)?;
        let make = |name: &&str| -> Result<(String, Namespace)> {
            let ns = Namespace::create(id, name, Lifetime::Dropped)?;
            ns.sysctl("net/ipv4/ip_forward", "1")?;
            ns.sysctl("net/ipv6/conf/all/forwarding", "1")?;
            Ok(((*name).to_owned(), ns))
        };
        let hosts = hosts.iter().map(make).collect::<Result<_>>()?;
        Ok(Self { hosts, scratch, id, links: 0 })
    }

    /// Its identity, for [`super::leaks::Leaks::check`].
    #[must_use]
    pub fn id(&self) -> LabId {
        self.id
    }

    /// The host of that name.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn host(&self, name: &str) -> &Namespace {
        &self.hosts[name]
    }

    /// Its directory for files.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.scratch.path()
    }

    /// Its directory, to write files.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Draws a link between two hosts.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn link(&mut self, a: &str, b: &str) -> Result<Ends> {
        self.links += 1;
        let n = self.links;
        let address = |end: u8| Dual {
            v4: Ipv4Addr::new(10, 99, n, end),
            v6: Ipv6Addr::new(0xfd99, n.into(), 0, 0, 0, 0, 0, end.into()),
        };
        let end = |name: &str, end: u8| VethEnd {
            name: name.into(),
            mac: [2, 0x72, 0x67, n, 0, end],
            mtu: 1500,
            queues: 1,
        };
        let [from, to] = [self.host(a), self.host(b)];
        from.netlink().add_veth(&end(b, 1), &end(a, 2), to.fd())?;
        for (ns, interface, own) in [(from, b, address(1)), (to, a, address(2))] {
            ns.netlink().add_address(interface, (own.v4.into(), 24))?;
            ns.netlink().add_address(interface, (own.v6.into(), 64))?;
            ns.netlink().set_up(interface, true).with_context(|| format!("set {interface} up"))?;
        }
        Ok(Ends { a: address(1), b: address(2) })
    }

    /// Sends what `host` has for these addresses' networks through the neighbour `via` at `gateway`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn route(&self, host: &str, to: Dual, via: &str, gateway: Dual) -> Result<()> {
        let [v4, v6] = to.both();
        let network = |address: IpAddr| match address {
            IpAddr::V4(a) => (IpAddr::from(Ipv4Addr::from_bits(a.to_bits() & !0xff)), 24),
            IpAddr::V6(a) => (IpAddr::from(Ipv6Addr::from_bits(a.to_bits() & !u128::from(u64::MAX))), 64),
        };
        for address in [v4, v6] {
            let way = Via::gateway(via, gateway.like(address));
            self.host(host).netlink().set_route(network(address), &[way])?;
        }
        Ok(())
    }
}
