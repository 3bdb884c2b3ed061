//! Fragments: docs/architecture.md and docs/configuration.md, "Fragments".

use xdp_lb_common::reason::DropReason;

use super::file::{Affinity, File, Service};
use super::hash::{self, Hash, Key};
use super::ip::{Fragment, Ip, Version, is_extension};
use super::read::Read;
use super::step::{Change, Judged, Step};
use super::transport::{Segment, segment};
use super::{Target, choose, service, unmatched};

/// Ways of a set.
const WAYS: usize = super::flows::WAYS;
/// Seconds that a first fragment is remembered.
const LIFE: u8 = 30;

/// What a first fragment leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The second in which it came.
    pub second: u8,
    /// Ring-local backend; 4095 is nobody.
    pub backend: u16,
    /// Service id; 0 is none.
    pub service: u16,
    /// Low bits of the hash.
    pub tag: u64,
}

const NOBODY: u16 = 4095;

impl Entry {
    /// From the map's word; `None` when that is empty.
    #[must_use]
    pub fn from_word(word: u64) -> Option<Self> {
        (word != 0).then_some(Self {
            second: (word >> 56) as u8,
            backend: (word >> 44 & 0xfff) as u16,
            service: (word >> 30 & 0x3fff) as u16,
            tag: word & 0x3fff_ffff,
        })
    }

    /// To the map's word.
    #[must_use]
    pub fn word(&self) -> u64 {
        u64::from(self.second) << 56
            | u64::from(self.backend) << 44
            | u64::from(self.service) << 30
            | self.tag
    }

    fn age(&self, second: u8) -> u8 {
        second.wrapping_sub(self.second)
    }
}

/// The table of first fragments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FragmentTable {
    /// Its sets, a power of two.
    pub sets: Vec<[Option<Entry>; WAYS]>,
}

impl FragmentTable {
    /// An empty one of so many entries.
    #[must_use]
    pub fn new(entries: u32) -> Self {
        Self { sets: vec![[None; WAYS]; (entries as usize / WAYS).max(16)] }
    }
}

/// Where a fragment goes.
pub(super) fn target<'a>(step: &mut Step<'a>, ip: &Ip<'_>, fragment: Fragment) -> Judged<Target<'a>> {
    let model = step.model;
    let passes = model.file.passing.contains(&ip.named.destination);
    let first = match first(ip, fragment) {
        Err(DropReason::Fragment) if passes => return Err(unmatched(step, ip)),
        first => first?,
    };
    if matches!(ip.protocol, 6 | 17) {
        match takers(&model.file, ip) {
            Takers::Refuse => return Err(DropReason::FragmentRefused.into()),
            Takers::Client(service) => {
                let placed = model.placed.get(&service.name).ok_or(DropReason::TableInconsistent)?;
                // Of TCP, all fragments of a segment count as data.
                let segment = if ip.protocol == 6 { Segment::Data } else { Segment::Datagram };
                return choose(step, ip, service, placed, None, segment);
            }
            Takers::First => {}
        }
    }
    let hash = datagram(model.file.seed, ip, fragment);
    match first {
        Some((ports, segment)) => of_first(step, ip, hash, ports, segment),
        None => of_later(step, ip, hash),
    }
}

type First = Option<((u16, u16), Segment)>;

/// The ports of a first fragment, unless it or a later one is only made to hide something.
fn first(ip: &Ip<'_>, fragment: Fragment) -> Result<First, DropReason> {
    let payload = ip.payload();
    // Of IPv4 the header counts; IPv6 counts what is behind the header, and the fragment header goes.
    let reassembled = match ip.named.version {
        Version::V4 => ip.whole().len() + fragment.offset,
        Version::V6 => (ip.whole().len() + fragment.offset).saturating_sub(40 + 8),
    };
    if reassembled > 65535 || (fragment.more && !payload.len().is_multiple_of(8)) {
        return Err(DropReason::FragmentLength);
    }
    match (ip.protocol, fragment.offset) {
        (6, 0) => {
            let h: [u8; 16] = payload.some(0).ok_or(DropReason::FragmentTiny)?;
            if h[12] >> 4 < 5 {
                return Err(DropReason::L4Length);
            }
            Ok(Some((ports(&h), segment(h[13], payload.len()))))
        }
        (17, 0) => {
            let h: [u8; 8] = payload.some(0).ok_or(DropReason::FragmentTiny)?;
            if u16::from_be_bytes([h[4], h[5]]) < 8 {
                return Err(DropReason::L4Length);
            }
            Ok(Some((ports(&h), Segment::Datagram)))
        }
        (6, 8) => Err(DropReason::FragmentOverlap),
        (6 | 17, 1..) => Ok(None),
        // What a later one's header announces may be behind options that the first one has.
        (protocol, 1..) if ip.named.version == Version::V6 && is_extension(protocol) => Ok(None),
        _ => Err(DropReason::Fragment),
    }
}

fn ports(h: &[u8]) -> (u16, u16) {
    (u16::from_be_bytes([h[0], h[1]]), u16::from_be_bytes([h[2], h[3]]))
}

/// What fragments of a datagram have in common: in IPv6 not what their headers announce (RFC 8200, section 4.5).
fn datagram(seed: u64, ip: &Ip<'_>, fragment: Fragment) -> Hash {
    let protocol = if ip.named.version == Version::V4 { ip.protocol } else { 0 };
    hash::hash(seed, Key::Packet(ip.named.source, ip.named.destination, protocol, fragment.id))
}

/// Who takes the fragments of an address and protocol.
enum Takers<'a> {
    /// The service that all others are like.
    Client(&'a Service),
    /// Nobody.
    Refuse,
    /// Whose ports the first one has.
    First,
}

fn takers<'a>(file: &'a File, ip: &Ip<'_>) -> Takers<'a> {
    let address = ip.named.destination;
    let here = |s: &&Service| s.tcp == (ip.protocol == 6) && s.vips.contains(&address);
    let mut services = file.services.iter().filter(here);
    let passes = file.passing.contains(&address);
    let Some(one) = services.next().filter(|_| !passes) else { return Takers::First };
    let mut all = file.services.iter().filter(here);
    if all.clone().all(|s| s.drops_fragments) {
        return Takers::Refuse;
    }
    let alike = |s: &Service| {
        s.affinity == Affinity::ClientIp && !s.drops_fragments && same(file, s) == same(file, one)
    };
    if all.all(alike) { Takers::Client(one) } else { Takers::First }
}

/// What decides who is let in, on a client's backend, and how packets get there.
fn same<'a>(file: &File, service: &'a Service) -> impl PartialEq + use<'a> {
    let encap = service.encap.or(&file.encap).to_string();
    (service.table_size, &service.backends, &service.sources, encap)
}

/// The first fragment chooses as its flow would, and remembers that for the others.
fn of_first<'a>(
    step: &mut Step<'a>,
    ip: &Ip<'_>,
    hash: Hash,
    ports: (u16, u16),
    segment: Segment,
) -> Judged<Target<'a>> {
    let Some((service, placed)) = service(step.model, ip, ports.1) else {
        let end = unmatched(step, ip);
        // The others of the datagram pass as well.
        if step.model.file.passing.contains(&ip.named.destination) {
            remember(step, hash, 0, NOBODY);
        }
        return Err(end);
    };
    if service.drops_fragments {
        remember(step, hash, placed.id, NOBODY);
        return Err(DropReason::FragmentRefused.into());
    }
    let target = choose(step, ip, service, placed, Some(ports), segment)?;
    remember(step, hash, placed.id, target.local);
    // All fragments of a datagram go the same way through the fabric.
    Ok(Target { hash, ..target })
}

fn of_later<'a>(step: &mut Step<'a>, ip: &Ip<'_>, hash: Hash) -> Judged<Target<'a>> {
    let second = step.second() as u8;
    let table = &step.model.state.fragments;
    let set = table.sets[hash.set(table.sets.len())];
    let entry = set.into_iter().flatten().rfind(|entry| entry.tag == tag(hash));
    let entry = entry.ok_or(DropReason::FragmentEarly)?;
    if entry.age(second) > LIFE {
        return Err(DropReason::FragmentLate.into());
    }
    if entry.service == 0 {
        return Err(unmatched(step, ip));
    }
    if entry.backend == NOBODY {
        return Err(DropReason::FragmentRefused.into());
    }
    let model = step.model;
    let by_id = |service: &&Service| model.placed.get(&service.name).is_some_and(|p| p.id == entry.service);
    let service = model.file.services.iter().find(by_id).ok_or(DropReason::FragmentOrphan)?;
    let placed = &model.placed[&service.name];
    if !service.lets_in(ip.named.source) {
        return Err(DropReason::SourceDenied.into());
    }
    if !placed.is_alive(entry.backend) {
        return Err(DropReason::FragmentOrphan.into());
    }
    Ok(Target { service, placed, local: entry.backend, hash })
}

fn tag(hash: Hash) -> u64 {
    hash.0 % (1 << 30)
}

/// In the datagram's own way, or an empty one, or the oldest; of several the last.
fn remember(step: &mut Step<'_>, hash: Hash, service: u16, backend: u16) {
    let second = step.second() as u8;
    let table = &step.model.state.fragments;
    let set = hash.set(table.sets.len());
    let rank = |way: &usize| match table.sets[set][*way] {
        Some(entry) if entry.tag == tag(hash) => 1000,
        None => 999,
        Some(entry) => u32::from(entry.age(second)),
    };
    let Some(way) = (0..WAYS).max_by_key(rank) else { return };
    step.change(Change::Fragment { set, way, entry: Entry { second, backend, service, tag: tag(hash) } });
}
