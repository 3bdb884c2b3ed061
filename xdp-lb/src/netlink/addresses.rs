//! Puts the VIPs on a backend's `lo` and takes exactly those away again (`decap: { vip_on_lo: true }`).
//!
//! **No ARP, no ND.** A VIP is routed to the edge nodes; no backend may claim it on a shared segment.
//! - IPv4: Linux answers ARP for every local address on every interface. The VIPs are therefore of scope
//!   *host*, and `arp_ignore` of the given interfaces goes from 0 to 3: "no answer for addresses of scope
//!   host". That touches nothing but such addresses. Linux also puts the source of the packet that waits,
//!   a reply from the VIP, into its own ARP requests, which teaches the neighbour a claim nobody made:
//!   `arp_announce` goes from 0 to 2, "the best address of the outgoing interface". A value that is not 0
//!   is somebody's choice and stays: each of them keeps VIPs on `lo` quiet as well.
//! - IPv6: neighbour solicitations are answered for addresses of the receiving interface only. The VIPs
//!   skip duplicate address detection, for two backends hold the same one on purpose.
//!
//! **Never a source by itself.** Scope host (IPv4) and a preferred lifetime of 0 (IPv6, RFC 6724 rule 3)
//! keep this node from choosing a VIP for its own connections; sockets bound to it work as ever.
//!
//! **Ownership.** An address that is already there is somebody else's and stays. Ours bear the address
//! metric [`MARK`] in the kernel, so that an agent that was killed and started again still knows them.
//! A prefix of full length has no prefix route, so the metric means nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope, CacheInfo,
};

use super::links::links;
use super::{NetlinkError, Requests, requests};

/// The metric that marks an address as ours: "xdpl" in ASCII; `ip address show lo` prints it.
pub const MARK: u32 = u32::from_be_bytes(*b"xdpl");

/// The interface that holds the VIPs.
const LOOPBACK: &str = "lo";

/// What keeps an interface quiet about the VIPs: sysctls under `net.ipv4.conf.INTERFACE` and their values,
/// set where both theirs and that of `all` are 0 (the kernel takes the greater of the two).
const QUIET: [(&str, &str); 2] = [("arp_ignore", "3"), ("arp_announce", "2")];

/// What can go wrong with the VIPs on `lo`.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The namespace has no `lo`, or it is down: its addresses would be dead.
    #[error("interface lo is missing or down: ip link set lo up")]
    Loopback,
    /// The kernel refused, or did not answer.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A sysctl could not be read or written.
    #[error("{path}: {source}; without it this node would claim the VIPs by ARP", path = path.display())]
    Sysctl {
        /// Its file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What became of one VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// Put there now, by us.
    Added,
    /// Put there earlier, by us.
    Ours,
    /// Somebody else put it there; it stays when we leave.
    Foreign,
}

/// The VIPs that this node holds on `lo`: [`LoopbackVips`] in the kernel, [`MemoryVips`] for tests.
#[expect(async_fn_in_trait, reason = "callers are generic over it and run it in one task")]
pub trait HostVips {
    /// Makes ours exactly `vips`: adds what is missing, takes away what is ours and no longer wanted.
    /// A second call changes nothing. Interfaces in `quiet` stop claiming them by ARP.
    ///
    /// # Errors
    /// [`AddressError`]; what was done before stays done, and a second call finishes the work.
    async fn hold(
        &mut self,
        vips: &BTreeSet<IpAddr>,
        quiet: &[String],
    ) -> Result<BTreeMap<IpAddr, Put>, AddressError>;

    /// Takes away all that are ours, this process's or an earlier one's, and returns them. Sysctls
    /// go back where this very object changed them.
    ///
    /// # Errors
    /// [`AddressError`].
    async fn release(&mut self) -> Result<BTreeSet<IpAddr>, AddressError>;
}

/// The kernel's `lo`, in the network namespace of the thread that makes the calls.
#[derive(Debug)]
pub struct LoopbackVips {
    requests: Requests,
    /// What we raised from 0: interface, sysctl, our value.
    quieted: BTreeSet<(String, &'static str, &'static str)>,
}

impl LoopbackVips {
    /// Opens a socket.
    ///
    /// # Errors
    /// [`NetlinkError::Open`].
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { requests: Requests::open()?, quieted: BTreeSet::new() })
    }

    /// Index of `lo`, which must be up.
    async fn loopback(&self) -> Result<u32, AddressError> {
        let links = links(&self.requests).await?;
        let lo = links.by_name(LOOPBACK).filter(|link| link.up).ok_or(AddressError::Loopback)?;
        Ok(lo.index)
    }

    /// Addresses on `lo` and whether each is ours. A bigger prefix around the same address counts too.
    async fn present(&self, lo: u32) -> Result<BTreeMap<IpAddr, bool>, AddressError> {
        let answers = self.requests.handle().address().get().execute();
        let messages = requests::all(|| "list the addresses".into(), answers).await?;
        let on_lo = messages.iter().filter(|message| message.header.index == lo);
        Ok(on_lo.filter_map(|message| Some((address_of(message)?, is_ours(message)))).collect())
    }

    async fn add(&self, lo: u32, vip: IpAddr) -> Result<(), AddressError> {
        // The builder's own message would have scope global; ours replaces it whole.
        let mut request = self.requests.handle().address().add(lo, vip, full_length(vip));
        *request.message_mut() = vip_message(lo, vip);
        Ok(requests::done(|| format!("put {vip} on lo"), request.execute()).await?)
    }

    async fn remove(&self, lo: u32, vip: IpAddr) -> Result<(), AddressError> {
        let request = self.requests.handle().address().del(vip_message(lo, vip));
        match requests::done(|| format!("take {vip} off lo"), request.execute()).await {
            // Somebody was faster.
            Err(error) if error.errno() == Some(libc::EADDRNOTAVAIL) => Ok(()),
            other => Ok(other?),
        }
    }

    fn quiet(&mut self, interface: &str) -> Result<(), AddressError> {
        for (name, value) in QUIET {
            if read(&sysctl("all", name))? == "0" && read(&sysctl(interface, name))? == "0" {
                write(&sysctl(interface, name), value)?;
                self.quieted.insert((interface.to_owned(), name, value));
            }
        }
        Ok(())
    }

    fn unquiet(&mut self) -> Result<(), AddressError> {
        while let Some((interface, name, ours)) = self.quieted.pop_first() {
            let path = sysctl(&interface, name);
            // Another value was set by somebody else meanwhile; an error means that the interface is gone.
            if read(&path).is_ok_and(|value| value == ours) {
                write(&path, "0")?;
            }
        }
        Ok(())
    }
}

impl HostVips for LoopbackVips {
    async fn hold(
        &mut self,
        vips: &BTreeSet<IpAddr>,
        quiet: &[String],
    ) -> Result<BTreeMap<IpAddr, Put>, AddressError> {
        let lo = self.loopback().await?;
        // First the silence, then the addresses.
        if vips.iter().any(IpAddr::is_ipv4) {
            quiet.iter().try_for_each(|interface| self.quiet(interface))?;
        }
        let present = self.present(lo).await?;
        for (address, _) in present.iter().filter(|(address, ours)| **ours && !vips.contains(address)) {
            self.remove(lo, *address).await?;
        }
        let mut held = BTreeMap::new();
        for vip in vips {
            let put = match present.get(vip) {
                Some(true) => Put::Ours,
                Some(false) => Put::Foreign,
                None => {
                    self.add(lo, *vip).await?;
                    Put::Added
                }
            };
            held.insert(*vip, put);
        }
        Ok(held)
    }

    async fn release(&mut self) -> Result<BTreeSet<IpAddr>, AddressError> {
        let mut taken = BTreeSet::new();
        // A `lo` that went down has kept its IPv4 addresses: take them all the same.
        if let Some(lo) = links(&self.requests).await?.by_name(LOOPBACK).map(|link| link.index) {
            for (address, _) in self.present(lo).await?.into_iter().filter(|(_, ours)| *ours) {
                self.remove(lo, address).await?;
                taken.insert(address);
            }
        }
        self.unquiet()?;
        Ok(taken)
    }
}

fn vip_message(lo: u32, vip: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = lo;
    message.header.prefix_len = full_length(vip);
    message.header.scope = AddressScope::Host;
    message.attributes = vec![
        AddressAttribute::Local(vip),
        AddressAttribute::Address(vip),
        AddressAttribute::RoutePriority(MARK),
    ];
    message.header.family = match vip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => {
            let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
            let mut lifetimes = CacheInfo::default();
            (lifetimes.ifa_preferred, lifetimes.ifa_valid) = (0, u32::MAX);
            message
                .attributes
                .extend([AddressAttribute::Flags(flags), AddressAttribute::CacheInfo(lifetimes)]);
            AddressFamily::Inet6
        }
    };
    message
}

fn full_length(vip: IpAddr) -> u8 {
    if vip.is_ipv4() { 32 } else { 128 }
}

/// IPv4 tells the address in `Local`, IPv6 in `Address` alone.
/// Addresses of this namespace, by index of their interface.
///
/// # Errors
/// [`NetlinkError::Silent`] or [`NetlinkError::Refused`].
pub async fn held(requests: &Requests) -> Result<BTreeMap<u32, BTreeSet<IpAddr>>, NetlinkError> {
    let answers = requests.handle().address().get().execute();
    let messages = requests::all(|| "list the addresses".into(), answers).await?;
    let mut held: BTreeMap<u32, BTreeSet<IpAddr>> = BTreeMap::new();
    for message in &messages {
        held.entry(message.header.index).or_default().extend(address_of(message));
    }
    Ok(held)
}

fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(a) => local = Some(*a),
            AddressAttribute::Address(a) => address = Some(*a),
            _ => {}
        }
    }
    local.or(address)
}

fn is_ours(message: &AddressMessage) -> bool {
    message.attributes.contains(&AddressAttribute::RoutePriority(MARK))
}

/// A sysctl's file. /proc/sys/net shows the namespace of the thread that opens it.
fn sysctl(interface: &str, name: &str) -> PathBuf {
    ["/proc/sys/net/ipv4/conf", interface, name].iter().collect()
}

fn read(path: &Path) -> Result<String, AddressError> {
    let value =
        fs::read_to_string(path).map_err(|source| AddressError::Sysctl { path: path.into(), source })?;
    Ok(value.trim().to_owned())
}

fn write(path: &Path, value: &str) -> Result<(), AddressError> {
    fs::write(path, value).map_err(|source| AddressError::Sysctl { path: path.into(), source })
}

/// VIPs held in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryVips {
    /// Addresses that were there before.
    pub foreign: BTreeSet<IpAddr>,
    /// Addresses that are ours.
    pub ours: BTreeSet<IpAddr>,
}

impl HostVips for MemoryVips {
    async fn hold(
        &mut self,
        vips: &BTreeSet<IpAddr>,
        _quiet: &[String],
    ) -> Result<BTreeMap<IpAddr, Put>, AddressError> {
        self.ours.retain(|vip| vips.contains(vip));
        let put = |vip: &IpAddr| {
            if self.foreign.contains(vip) {
                Put::Foreign
            } else if self.ours.insert(*vip) {
                Put::Added
            } else {
                Put::Ours
            }
        };
        Ok(vips.iter().copied().zip(vips.iter().map(put)).collect())
    }

    async fn release(&mut self) -> Result<BTreeSet<IpAddr>, AddressError> {
        Ok(std::mem::take(&mut self.ours))
    }
}
