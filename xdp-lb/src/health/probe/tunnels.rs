//! The namespace that questions through tunnels are asked in, with the programs on its way out and back.
//!
//! Why a namespace: the node's own stack would not let a packet to a VIP out (a service proxy translates it on output,
//! a VIP on `lo` is local), nor the answer in (a reset for want of a socket, a martian for want of a route). What
//! leaves here enters the node at its end of a veth pair, where a program sends it on before routing or netfilter; what
//! comes back is taken at the interface, before either.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};

use xdp_lb_common::probe::{FIRST_PORT, ProbeControl};

use crate::{
    dataplane::{
        ethtool::{self, Offload},
        netns::Netns,
        probe::{self, Place, ProbeError, ProbeMaps, ProbePrograms},
    },
    netlink::{
        NetlinkError, Requests,
        probe_link::{self, INSIDE, OUTSIDE, Sources},
    },
    template::map_address,
};

/// Why questions cannot be asked through tunnels.
#[derive(Debug, thiserror::Error)]
pub enum TunnelsError {
    /// No namespace.
    #[error("make a network namespace for health checks: {0}; it takes CAP_SYS_ADMIN")]
    Namespace(#[source] io::Error),
    /// No way between it and the node.
    #[error("connect the health checks' namespace: {0}")]
    Link(#[from] NetlinkError),
    /// A setting of its interface.
    #[error("set up {interface}: {source}")]
    Setting {
        /// Interface.
        interface: &'static str,
        /// The kernel's word.
        source: io::Error,
    },
    /// The programs.
    #[error(transparent)]
    Programs(#[from] ProbeError),
    /// The node has no address to ask from.
    #[error("this node has no global address to ask health checks from")]
    NoSource,
}

/// The namespace. Dropping it takes everything away.
#[derive(Debug)]
pub struct Tunnels {
    programs: Mutex<ProbePrograms>,
    maps: ProbeMaps,
    sources: Sources,
    ports: Arc<Mutex<VecDeque<u16>>>,
    inside: Netns,
}

impl Tunnels {
    /// Makes it. Answers are taken at `interfaces`.
    ///
    /// # Errors
    /// [`TunnelsError`]; nothing stays.
    pub async fn build(interfaces: &[String], vips: &BTreeSet<IpAddr>) -> Result<Self, TunnelsError> {
        let node = Requests::open()?;
        let sources = probe_link::sources(&node, interfaces, vips).await?;
        if sources == Sources::default() {
            return Err(TunnelsError::NoSource);
        }
        let inside = Netns::create("probe-sockets").map_err(TunnelsError::Namespace)?;
        let ended = TunnelsError::Namespace;
        let runtime = tokio::runtime::Handle::current();
        let open = move || {
            let _entered = runtime.enter();
            Requests::open()
        };
        let requests = inside.run(open).await.map_err(ended)??;
        // A node may have IPv6 off by default and on where it is used. Where this cannot be written, adding the address
        // says whether it had to be.
        let ipv6 = || drop(std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "0"));
        inside.run(ipv6).await.map_err(ended)?;
        let outside = probe_link::build(&node, &requests, inside.as_fd(), &sources).await?;
        let settled = inside.run(|| {
            [Offload::Checksum, Offload::Tso, Offload::Gso]
                .into_iter()
                .try_for_each(|offload| ethtool::switch(INSIDE, offload, false))
        });
        settled
            .await
            .map_err(ended)?
            .map_err(|source| TunnelsError::Setting { interface: INSIDE, source })?;

        let (mut programs, maps) = probe::load()?;
        let address = |ip: Option<IpAddr>| ip.map_or([0; 16], map_address);
        let control = ProbeControl {
            source_v4: address(sources.v4.map(IpAddr::V4)),
            source_v6: address(sources.v6.map(IpAddr::V6)),
            ifindex: outside,
            reserved: 0,
        };
        maps.set_control(&control)
            .map_err(|source| ProbeError::Map { name: xdp_lb_common::probe::CONTROL, source })?;
        programs.attach(Place::Out, OUTSIDE)?;
        for interface in interfaces {
            programs.attach(Place::Back, interface)?;
        }
        let attach = move || programs.attach(Place::Label, INSIDE).map(|()| programs);
        let programs = inside.run(attach).await.map_err(ended)??;
        let ports = Arc::new(Mutex::new((FIRST_PORT..=u16::MAX).collect()));
        Ok(Self { programs: Mutex::new(programs), maps, sources, ports, inside })
    }

    /// Addresses that a new one would ask from.
    ///
    /// # Errors
    /// [`TunnelsError::Link`].
    pub async fn sources_of_node(
        interfaces: &[String],
        vips: &BTreeSet<IpAddr>,
    ) -> Result<Sources, TunnelsError> {
        Ok(probe_link::sources(&Requests::open()?, interfaces, vips).await?)
    }

    /// Takes answers at another interface as well.
    ///
    /// # Errors
    /// [`ProbeError::Attach`].
    pub fn also_at(&self, interface: &str) -> Result<(), ProbeError> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner).attach(Place::Back, interface)
    }

    /// The maps of the programs.
    #[must_use]
    pub fn maps(&self) -> &ProbeMaps {
        &self.maps
    }

    /// Addresses that are asked from.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// A port that nobody has asked from for the longest time.
    pub(super) fn port(&self) -> Option<Lease> {
        let port = self.ports.lock().unwrap_or_else(PoisonError::into_inner).pop_front()?;
        Some(Lease { port, ports: Arc::clone(&self.ports) })
    }

    /// Runs `job` in the namespace.
    pub(super) async fn inside<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        self.inside.run(job).await
    }
}

/// A port of ours until it is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    port: u16,
    ports: Arc<Mutex<VecDeque<u16>>>,
}

impl Lease {
    /// Its number.
    pub fn get(&self) -> u16 {
        self.port
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).push_back(self.port);
    }
}
