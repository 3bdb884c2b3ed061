//! What a network card and its driver do to packets: `SIOCETHTOOL`, in the calling thread's network namespace.
//!
//! [`look`] reads what [`crate::offloads`] judges, [`switch`] is for interfaces that we made ourselves.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd as _,
};

use bytemuck::{bytes_of, cast_slice, cast_slice_mut};

use crate::{
    nexthop::Links,
    offloads::{self, Card, Finding, Peer, Port},
};

/// `SIOCETHTOOL` of linux/sockios.h.
const SIOCETHTOOL: libc::c_ulong = 0x8946;
/// `ETHTOOL_GDRVINFO`: the driver's name is 32 bytes behind the command.
const DRIVER: u32 = 0x03;
/// Words of `struct ethtool_drvinfo`.
const DRIVER_WORDS: usize = 49;
/// `ETHTOOL_GSTRINGS`: command, set, count, then names of 32 bytes.
const STRINGS: u32 = 0x1b;
/// `ETHTOOL_GSSET_INFO`: command, a word of padding, a mask of sets (64 bits), then the sets' counts.
const SET_INFO: u32 = 0x37;
/// `ETHTOOL_GFEATURES`: command, count of blocks, then of each 32 features the words available, requested, active and
/// never changed.
const FEATURES: u32 = 0x3a;
/// `ETH_SS_FEATURES`.
const FEATURE_NAMES: u32 = 4;
/// Words of a name.
const NAME_WORDS: usize = 8;

/// Offloads that leave a packet unfinished on the way out, and one that joins packets on the way in.
#[derive(Clone, Copy, Debug)]
pub enum Offload {
    /// `ETHTOOL_STXCSUM`.
    Checksum = 0x17,
    /// `ETHTOOL_STSO`.
    Tso = 0x1f,
    /// `ETHTOOL_SGSO`.
    Gso = 0x24,
    /// `ETHTOOL_SGRO`.
    Gro = 0x2c,
}

/// Switches an offload of an interface on or off.
///
/// # Errors
/// `ENODEV` without such an interface, `EOPNOTSUPP` where the driver has no such switch.
pub fn switch(interface: &str, offload: Offload, on: bool) -> io::Result<()> {
    ask(interface, &mut [offload as u32, on.into()])
}

/// The driver and what is switched on. A virtual device that does not say (`lo`) is one without either.
///
/// # Errors
/// `ENODEV` without such an interface.
pub fn look(interface: &str) -> io::Result<Card> {
    let silent = |error: &io::Error| error.raw_os_error() == Some(libc::EOPNOTSUPP);
    let driver = match driver(interface) {
        Err(error) if silent(&error) => String::new(),
        driver => driver?,
    };
    let features = match features(interface) {
        Err(error) if silent(&error) => BTreeSet::new(),
        features => features?,
    };
    Ok(Card { driver, features })
}

/// What is to be said of an interface that runs the program; `links` are those of this namespace.
///
/// # Errors
/// `ENODEV` without such an interface.
pub fn findings(interface: &str, native: bool, links: &Links) -> io::Result<Vec<Finding>> {
    let link = links.by_name(interface);
    let peer = match link.filter(|link| link.kind.as_deref() == Some("veth")) {
        Some(link) => Some(match link.lower.and_then(|peer| links.by_index(peer)) {
            Some(peer) => Peer::Here(peer.name.clone(), look(&peer.name)?),
            None => Peer::Elsewhere,
        }),
        None => None,
    };
    let vlans = link.map_or_else(Vec::new, |link| offloads::vlans_on(link.index, links));
    Ok(offloads::findings(&Port { name: interface, native, card: look(interface)?, vlans, peer }))
}

fn driver(interface: &str) -> io::Result<String> {
    let mut info = [0; DRIVER_WORDS];
    info[0] = DRIVER;
    ask(interface, &mut info)?;
    Ok(text(&info[1..][..NAME_WORDS]))
}

/// Names of the features that are active.
fn features(interface: &str) -> io::Result<BTreeSet<String>> {
    let mut count = [SET_INFO, 0, 0, 0, 0];
    cast_slice_mut::<u32, u8>(&mut count)[8..16].copy_from_slice(bytes_of(&(1u64 << FEATURE_NAMES)));
    ask(interface, &mut count)?;
    let count = count[4];
    let mut names = vec![0; 3 + count as usize * NAME_WORDS];
    names[..3].copy_from_slice(&[STRINGS, FEATURE_NAMES, count]);
    ask(interface, &mut names)?;
    let blocks = count.div_ceil(32);
    let mut bits = vec![0; 2 + blocks as usize * 4];
    bits[..2].copy_from_slice(&[FEATURES, blocks]);
    ask(interface, &mut bits)?;
    let active = |n: usize| bits[2 + n / 32 * 4 + 2] >> (n % 32) & 1 != 0;
    let names = names[3..].chunks_exact(NAME_WORDS).map(text).enumerate();
    Ok(names.filter(|(n, _)| active(*n)).map(|(_, name)| name).collect())
}

/// A name that ends with its first zero.
fn text(words: &[u32]) -> String {
    let bytes: &[u8] = cast_slice(words);
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// One command: its number is the first word, the answer comes in the same place. The caller has made it as long as the
/// command wants it.
fn ask(interface: &str, command: &mut [u32]) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    if interface.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    // SAFETY: plain old data: all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = command.as_mut_ptr().cast();
    // SAFETY: `request` holds a terminated name (shorter than IFNAMSIZ, zeroed before) and a pointer to the command,
    // which has the size that its number and its counts say; both outlive the call. Names are written whatever their
    // count in the command, but the number of features is a constant of the kernel.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
