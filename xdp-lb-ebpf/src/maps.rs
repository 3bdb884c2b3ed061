//! The maps, each behind a function that says what it is for. Nothing else in the kernel half names one.
//!
//! Sizes given here are the smallest; the agent sets the real ones when it makes the maps. All that the
//! agent changes under traffic is memory-mapped: it stores 2, 4 or 8 bytes where the kernel loads them.

use core::{arch::asm, marker::PhantomData};

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_CPU, BPF_F_MMAPABLE, xdp_action::XDP_REDIRECT},
    btf_maps::{Array, DevMap, HashMap, LpmTrie, LruHashMap, PerfEventByteArray},
    helpers::generated::{
        bpf_get_smp_processor_id, bpf_jiffies64, bpf_map_lookup_elem, bpf_perf_event_output, bpf_redirect_map,
    },
    macros::btf_map,
};
use xdp_lb_common::{
    affinity,
    backend::{BACKEND_ALIVE, BACKEND_USED, Backend, Template},
    classify,
    control::Control,
    cut::{CutCounts, CutRequest, SlowState},
    decap::AllowList,
    flow::{Admission, FlowSet, TICKS, WAYS},
    hash::{FlowHash, fold},
    mss,
    names::{self, Constant},
    parse::{Ip, Words},
    path_mtu::{self, PathMtu},
    reason::{DropReason, FlowEvent, PassReason, Reason},
    ring::{RingWord, Slot},
    select,
    server_id::Place,
    service::Service,
    source::{self, SourceKey},
    stats::{Counters, Ended, Traffic},
    translate::{self, PodFlow, PodPeer, PodPort},
    vip::{PortPage, VipSlot},
};

use crate::{packet::Packet, send::Stop};

const MMAP: usize = BPF_F_MMAPABLE as usize;

/// A table whose address is in the program: an array map with one value that is the whole table. A lookup is a masked
/// index, where an element of an array map is a key on the stack, a comparison with the size and a pointer that may be
/// null.
struct Table<T, const NUMBER: u32>(PhantomData<T>);

impl<T: 'static, const NUMBER: u32> Table<T, NUMBER> {
    /// Element `index & mask`; `mask` is a constant of the program, the table's length minus one.
    #[inline(always)]
    fn at(&self, index: u32, mask: u32) -> &'static T {
        // SAFETY: a map element; what changes under our eyes does so by single stores.
        unsafe { &*self.pointer(index, mask) }
    }

    /// Element `index`; `last` is a constant of the program, the table's length minus one. The mask changes nothing:
    /// kernels before 6.8 lose the comparison's result where rustc keeps the index in two places.
    #[inline(always)]
    fn get(&self, index: u32, last: u32) -> Option<&'static T> {
        if index > last { None } else { Some(self.at(index, last)) }
    }

    /// The same to write: of tables where each CPU has a part of its own.
    #[inline(always)]
    fn pointer(&self, index: u32, mask: u32) -> *mut T {
        let base: *mut T;
        // SAFETY: loads a constant, which the agent makes the table's address.
        unsafe {
            asm!("{0} = {1} ll", out(reg) base, const names::table_mark(NUMBER), options(pure, nomem, nostack, preserves_flags));
        }
        // SAFETY: the map has `mask + 1` elements, or the verifier refuses the program.
        unsafe { base.add((index & mask) as usize) }
    }
}

/// Position in [`names::TABLES`].
const CONTROL: Table<Control, 0> = Table(PhantomData);
const VIPS: Table<VipSlot, 1> = Table(PhantomData);
const SERVICES: Table<Service, 2> = Table(PhantomData);
const BACKENDS: Table<Backend, 3> = Table(PhantomData);
const COUNTERS: Table<Counters, 4> = Table(PhantomData);
const SVC_STATS: Table<Traffic, 5> = Table(PhantomData);
const BACKEND_STATS: Table<Traffic, 6> = Table(PhantomData);
const SERVER_IDS: Table<Place, 7> = Table(PhantomData);

#[btf_map(name = "ports")]
static PORTS: Array<PortPage, 16, MMAP> = Array::new();
#[btf_map(name = "rings")]
static RINGS: Array<RingWord, 16, MMAP> = Array::new();
#[btf_map(name = "rings_before")]
static RINGS_BEFORE: Array<RingWord, 16, MMAP> = Array::new();
#[btf_map(name = "flows")]
static FLOWS: Array<FlowSet, 16, MMAP> = Array::new();
#[btf_map(name = "fragments")]
static FRAGMENTS: Array<FlowSet, 16, MMAP> = Array::new();
#[btf_map(name = "admissions")]
static ADMISSIONS: Array<Admission, 16, 0> = Array::new();
#[btf_map(name = "decap_sources")]
static DECAP_SOURCES: Array<AllowList, 2, MMAP> = Array::new();
#[btf_map(name = "slow")]
static SLOW: Array<SlowState, 16, 0> = Array::new();
#[btf_map(name = "cuts")]
static CUTS: PerfEventByteArray = PerfEventByteArray::new();
/// The agent's own, beside the others so that whoever reads them finds it.
#[btf_map(name = "cut_counts")]
static CUT_COUNTS: Array<CutCounts, 1, MMAP> = Array::new();
#[btf_map(name = "path_mtus")]
static PATH_MTUS: Array<PathMtu, { path_mtu::PLACES as usize }, MMAP> = Array::new();
/// [`SourceKey`] without its first field, which the trie adds.
#[repr(C)]
pub struct ClientPrefix {
    service: u32,
    address: [u8; 16],
}
#[btf_map(name = "source_ranges")]
static SOURCE_RANGES: LpmTrie<ClientPrefix, u32, 16> = LpmTrie::new();
#[btf_map(name = "pod_ports")]
static POD_PORTS: HashMap<PodPort, u32, 16> = HashMap::new();
#[btf_map(name = "pod_flows")]
static POD_FLOWS: LruHashMap<PodFlow, PodPeer, 16> = LruHashMap::new();
#[btf_map(name = "tx_ports")]
static TX_PORTS: DevMap<256, 0> = DevMap::new();

/// A number that the agent knew when it loaded the program.
macro_rules! constant {
    ($name:ident as $type:ty) => {{
        let value: u64;
        // SAFETY: loads a constant.
        unsafe {
            asm!("{0} = {1} ll", out(reg) value, const names::constant_mark(Constant::$name), options(pure, nomem, nostack, preserves_flags));
        }
        value as $type
    }};
}

/// Seed of the flow hash.
#[inline(always)]
pub fn seed() -> u64 {
    constant!(Seed as u64)
}

/// True when the balancer also takes tunnels off.
#[inline(always)]
pub fn decap() -> bool {
    constant!(Decap as u32) != 0
}

/// The tables as `xdp_lb_common` asks for them.
pub struct Tables;

impl classify::Tables for Tables {
    #[inline(always)]
    fn vip_bank(&self) -> u32 {
        control().vip_bank
    }
    #[inline(always)]
    fn vip_slots(&self) -> u32 {
        constant!(VipSlots as u32)
    }
    #[inline(always)]
    fn vip_slot(&self, index: u32) -> Option<&VipSlot> {
        Some(VIPS.at(index, u32::MAX))
    }
    #[inline(always)]
    fn port_page(&self, index: u32) -> Option<&PortPage> {
        PORTS.get(index)
    }
}

/// A set of the flow table in the map's memory.
#[derive(Clone, Copy)]
pub struct MapSet(*mut FlowSet);

impl select::Set for MapSet {
    #[inline(always)]
    fn load(&self, way: usize) -> u64 {
        // SAFETY: a map element, `way` masked below WAYS; volatile since other CPUs write it.
        unsafe { (&raw const (*self.0).entries).cast::<u64>().add(way % WAYS).read_volatile() }
    }
    #[inline(always)]
    fn store(&self, way: usize, entry: u64) {
        // SAFETY: as in `load`; an aligned 8-byte store is one store.
        unsafe { (&raw mut (*self.0).entries).cast::<u64>().add(way % WAYS).write_volatile(entry) }
    }
    #[inline(always)]
    fn computed(&self, way: usize) -> usize {
        unknown(way) % WAYS
    }
}

impl select::Tables for Tables {
    type Set = MapSet;

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<Slot> {
        Some(Slot(RINGS.get(index >> 2)?.slots[(index & 3) as usize]))
    }
    #[inline(always)]
    fn before(&self, index: u32) -> Option<u16> {
        Some(RINGS_BEFORE.get(index >> 2)?.slots[(index & 3) as usize])
    }
    #[inline(always)]
    fn is_alive(&self, backend: u32) -> bool {
        is_alive(backend)
    }
    #[inline(always)]
    fn flow_set(&self, hash: FlowHash) -> Option<MapSet> {
        FLOWS.get_ptr_mut(hash.set(constant!(FlowSetMask as u32))).map(MapSet)
    }
    #[inline(always)]
    fn tick(&self) -> u16 {
        (jiffies() >> constant!(TickShift as u32)) as u16 & (TICKS - 1)
    }
    #[inline(always)]
    fn sample(&self, hash: FlowHash) -> bool {
        fold(jiffies().wrapping_add(hash.entropy()), 0x9e37_79b9_7f4a_7c15) & 15 == 0
    }
    #[inline(always)]
    fn admit(&self, service: u16, limit: u32) -> bool {
        let Some(admission) = ADMISSIONS.get_ptr_mut(u32::from(service)) else { return false };
        let second = second() << 32;
        // SAFETY: a map element. CPUs race for the count on purpose: an exact limit would cost an atomic
        // on a shared line, a lost increment admits one flow too many.
        unsafe {
            let word = &raw mut (*admission).second_count;
            let seen = word.read_volatile();
            let count = if seen >> 32 << 32 == second { seen & 0xffff_ffff } else { 0 };
            if count >= u64::from(limit) {
                return false;
            }
            word.write_volatile(second | (count + 1));
        }
        true
    }
    #[inline(always)]
    fn count(&self, event: FlowEvent) {
        add(|c| &raw mut c.flows, event);
    }
}

impl affinity::Tables for Tables {
    #[inline(always)]
    fn server_id(&self, index: u32) -> Option<[u64; 2]> {
        let place = SERVER_IDS.pointer(index, constant!(ServerIdMask as u32)).cast::<u64>();
        // SAFETY: a map element of two words; volatile since the agent writes each by one store.
        Some(unsafe { [place.read_volatile(), place.add(1).read_volatile()] })
    }
    #[inline(always)]
    fn admits(&self, service: u16, client: Words) -> bool {
        let key = SourceKey::of(service, client);
        // SAFETY: the map is a trie whose keys are as long as `key`; what is found is one of its values.
        unsafe {
            let found: *mut u32 =
                bpf_map_lookup_elem((&raw const SOURCE_RANGES).cast_mut().cast(), (&raw const key).cast())
                    .cast();
            !found.is_null() && found.read_volatile() == source::ALLOW
        }
    }
}

impl translate::Tables for Tables {
    #[inline(always)]
    fn pod_port(&self, key: &PodPort) -> Option<u16> {
        // SAFETY: the map's value, which the agent writes whole; copied at once.
        unsafe { POD_PORTS.get(key) }.map(|port| *port as u16)
    }
    #[inline(always)]
    fn pod_flow(&self, key: &PodFlow) -> Option<PodPeer> {
        // SAFETY: copied at once. An entry that is taken for another flow this very moment gives one packet to nobody.
        unsafe { POD_FLOWS.get(key) }.copied()
    }
    #[inline(always)]
    fn remember(&self, key: &PodFlow, peer: &PodPeer) -> bool {
        POD_FLOWS.insert(key, peer, 0).is_ok()
    }
    #[inline(always)]
    fn second(&self) -> u32 {
        second() as u32
    }
}

/// Where the first fragment of a datagram leaves its entry.
#[inline(always)]
pub fn fragment_set(key: FlowHash) -> Option<MapSet> {
    FRAGMENTS.get_ptr_mut(key.set(constant!(FragmentSetMask as u32))).map(MapSet)
}

/// The time in seconds of 0.85 to 1.28 seconds, whatever power of two of jiffies is nearest.
#[inline(always)]
pub fn second() -> u64 {
    jiffies() >> constant!(SecondShift as u32)
}

/// True when flows and fragments may go to this member: up or draining.
#[inline(always)]
pub fn is_alive(index: u32) -> bool {
    const LIVE: u32 = BACKEND_USED | BACKEND_ALIVE;
    backend(index).is_some_and(|b| b.state & LIVE == LIVE)
}

/// A service by id.
#[inline(always)]
pub fn service(id: u16) -> Option<&'static Service> {
    SERVICES.get(u32::from(id), constant!(ServiceMask as u32))
}

/// A service that has been found before: `id` is a number that this function got, of which the compiler makes two.
#[inline(always)]
pub fn known_service(id: u32) -> &'static Service {
    SERVICES.at(id, constant!(ServiceMask as u32))
}

/// A backend by its index over all rings.
#[inline(always)]
pub fn backend(index: u32) -> Option<&'static Backend> {
    BACKENDS.get(index, constant!(BackendMask as u32))
}

/// The largest segments that servers on this node may offer.
#[inline(always)]
pub fn mss() -> mss::Limits {
    mss::Limits::unpack(control().mss)
}

/// Outer sources that may send us tunnels.
#[inline(always)]
pub fn tunnel_sources() -> Option<&'static AllowList> {
    DECAP_SOURCES.get(control().decap_bank & 1)
}

#[inline(always)]
fn control() -> &'static Control {
    CONTROL.at(0, 0)
}

/// Counts a forwarded packet for its service and its backend.
#[inline(always)]
pub fn count_forwarded(service: u16, backend_stats: u32, bytes: u64) {
    let cpu = cpu() & constant!(CpuMask as u32);
    let index = cpu * constant!(SvcStatsPart as u32) + u32::from(service);
    count_traffic(SVC_STATS.pointer(index, constant!(SvcStatsMask as u32)), bytes);
    let part = constant!(BackendStatsPart as u32);
    if backend_stats < part {
        count_traffic(
            BACKEND_STATS.pointer(cpu * part + backend_stats, constant!(BackendStatsMask as u32)),
            bytes,
        );
    }
}

#[inline(always)]
fn count_traffic(stats: *mut Traffic, bytes: u64) {
    // SAFETY: this CPU's element; XDP does not nest on one CPU.
    unsafe {
        (*stats).packets += 1;
        (*stats).bytes += bytes;
    }
}

/// True when every packet's end is told.
#[inline(always)]
pub fn trace() -> bool {
    constant!(Trace as u32) != 0
}

/// Why the last packet on this CPU ended, for who tells it; the next one begins as forwarded.
#[inline(always)]
pub fn take_ended() -> u64 {
    let counters = COUNTERS.pointer(cpu(), constant!(CpuMask as u32));
    // SAFETY: this CPU's element.
    unsafe { core::mem::replace(&mut (*counters).ended, Ended::Forwarded.pack()) }
}

#[inline(always)]
fn note(ended: Ended) {
    if trace() {
        let counters = COUNTERS.pointer(cpu(), constant!(CpuMask as u32));
        // SAFETY: this CPU's element.
        unsafe { (*counters).ended = ended.pack() };
    }
}

/// Counts a packet that went to the kernel.
#[inline(always)]
pub fn count_pass(reason: PassReason) {
    note(Ended::Passed(reason));
    add(|c| &raw mut c.passes, reason);
}

/// Counts a packet that leaves, of which nobody tells the end.
#[inline(always)]
pub fn count_left(reason: PassReason) {
    add(|c| &raw mut c.passes, reason);
}

/// Counts a dropped packet.
#[inline(always)]
pub fn count_drop(reason: DropReason) {
    note(Ended::Dropped(reason));
    add(|c| &raw mut c.drops, reason);
}

#[inline(always)]
fn add<R: Reason>(group: impl FnOnce(&mut Counters) -> *mut R::Counts, reason: R) {
    let index = unknown(reason.index());
    if index >= R::ALL.len() {
        return;
    }
    let counters = COUNTERS.pointer(cpu(), constant!(CpuMask as u32));
    // SAFETY: this CPU's element; the index is below the number of u64 fields in the group.
    unsafe { *group(&mut *counters).cast::<u64>().add(index) += 1 };
}

/// The same number, of which rustc knows nothing any more: it would drop a check that it can prove needless, and the
/// kernel's verifier cannot prove as much.
#[inline(always)]
fn unknown(mut number: usize) -> usize {
    // SAFETY: moves a register to itself. Without any instruction its line would have none, which the kernel refuses.
    unsafe {
        asm!("{0} = {0}", inout(reg) number, options(pure, nomem, nostack, preserves_flags));
    }
    number
}

/// This CPU's part of what rare packets keep.
#[inline(always)]
fn slow() -> Option<*mut SlowState> {
    SLOW.get_ptr_mut(cpu() & constant!(CpuMask as u32))
}

/// Keeps what is known of a packet that does not fit the tunnel to `backend`, or is for a pod of this node, for the function
/// that comes next.
#[inline(always)]
pub fn put_off(ip: &Ip, backend: u32, hash: FlowHash, counts: (u16, u32)) -> Stop {
    let Some(slow) = slow() else { return Stop::Drop(DropReason::TableInconsistent) };
    // SAFETY: this CPU's element; XDP does not nest on one CPU.
    unsafe {
        (*slow).hash = hash.0;
        (*slow).backend = backend;
        (*slow).place = ip.addresses.l3 as u32 | (ip.len() as u32) << 16;
        (*slow).protocol = u32::from(ip.protocol);
        ((*slow).service, (*slow).stats) = (u32::from(counts.0), counts.1);
    }
    Stop::TooBig
}

/// Keeps the tag and the interface that the packet is to leave with and by; false when there is no place.
#[inline(always)]
pub fn put_tag_off(template: &Template) -> bool {
    let Some(slow) = slow() else { return false };
    // SAFETY: this CPU's element; XDP does not nest on one CPU.
    unsafe {
        (*slow).tag = u32::from_le_bytes(template.tag_bytes());
        (*slow).ifindex = template.leaves_by();
    }
    true
}

/// What was put off.
#[inline(always)]
pub fn what_was_put_off() -> Option<&'static SlowState> {
    // SAFETY: this CPU's element; XDP does not nest on one CPU.
    slow().map(|slow| unsafe { &*slow })
}

/// Answers to packets that are too big which one CPU sends in a second.
const ANSWERS_A_SECOND: u64 = 1000;

/// True when this CPU may tell another sender that its packet is too big.
#[inline(always)]
pub fn may_answer() -> bool {
    let Some(slow) = slow() else { return false };
    let second = jiffies() >> constant!(SecondShift as u32) << 32;
    // SAFETY: this CPU's element; XDP does not nest on one CPU.
    let word = unsafe { &mut (*slow).answers };
    let count = if *word >> 32 << 32 == second { *word & 0xffff_ffff } else { 0 };
    if count >= ANSWERS_A_SECOND {
        return false;
    }
    *word = second | (count + 1);
    true
}

/// Gives the agent a copy of the frame, to be cut; false when nobody reads, or not fast enough.
#[inline(always)]
pub fn hand_to_cutter(packet: &Packet, mut request: CutRequest) -> bool {
    let flags = u64::from(request.len) << 32 | u64::from(BPF_F_CURRENT_CPU as u32);
    // SAFETY: the map is a perf event array, the request is as long as we say, and the helper checks the frame's
    // length itself.
    let refused = unsafe {
        bpf_perf_event_output(
            packet.context().cast(),
            (&raw const CUTS).cast_mut().cast(),
            flags,
            (&raw mut request).cast(),
            size_of::<CutRequest>() as u64,
        )
    };
    refused == 0
}

/// Notes for the agent that a tunnel from `source` to `backend` met a link of `mtu`.
#[inline(always)]
pub fn note_path_mtu(backend: Words, port: u16, source: Words, mtu: u32) {
    let Some(note) = PATH_MTUS.get_ptr_mut(path_mtu::place(backend)) else { return };
    // SAFETY: a map element of six aligned words. Volatile, for the reader relies on the order; two CPUs that write
    // at once leave a mixture that the agent has to doubt like everything here.
    unsafe {
        let stamp = &raw mut (*note).stamp;
        stamp.write_volatile(0);
        (&raw mut (*note).backend).cast::<Words>().write_volatile(backend);
        (&raw mut (*note).source).cast::<Words>().write_volatile(source);
        (&raw mut (*note).mtu).write_volatile(mtu);
        (&raw mut (*note).port).write_volatile(port.into());
        stamp.write_volatile(jiffies());
    }
}

/// Hands the packet to another interface; false when the device map does not know it. What the driver there
/// refuses later, the kernel's tracepoint `xdp_redirect_err` tells.
#[inline(always)]
pub fn redirect(ifindex: u32) -> bool {
    // SAFETY: the map is a device map; flags 0 make a missing entry XDP_ABORTED.
    let action = unsafe { bpf_redirect_map((&raw const TX_PORTS).cast_mut().cast(), u64::from(ifindex), 0) };
    action as u32 == XDP_REDIRECT
}

/// This CPU's number.
#[inline(always)]
fn cpu() -> u32 {
    // SAFETY: a helper without arguments, inlined by kernels since 6.10 to two loads.
    unsafe { bpf_get_smp_processor_id() }
}

#[inline(always)]
fn jiffies() -> u64 {
    // SAFETY: a helper without arguments, inlined by the kernel to one load.
    unsafe { bpf_jiffies64() }
}
