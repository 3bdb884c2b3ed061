//! How much work the programs are for the kernel's verifier: the number of instructions that it looked at.
//!
//! The product loads each program as it does in service, with its own maps and constants. Kernels since 5.16 remember
//! the number; older ones say it only in the log of the load. So the object is linked once more, onto the same maps, and
//! verified once more for the log, on every kernel, and where the kernel remembers, the two must agree.

use std::collections::HashSet;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::maps::{MapFd, MapInfo};
use aya::programs::ProgramInfo;
use aya_obj::{Object, ProgramSection};
use xdp_lb::config;
use xdp_lb::dataplane::{BpffsRoot, Loaded, Program, Setup, Shape, load, object};
use xdp_lb_common::names::{PROGRAM_BALANCER, PROGRAM_DECAP, PROGRAM_FROM_POD, PROGRAM_MSS};

use super::sys::{self, Functions, Kind};
use crate::lab::EdgeFile;

/// `BPF_F_XDP_HAS_FRAGS`.
const HAS_FRAGS: u32 = 1 << 5;

/// A program that the kernel takes.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Its name, with what it was loaded for where that makes another program of it.
    pub name: String,
    /// Instructions that the verifier looked at; the kernel's limit is a million.
    pub instructions: u64,
    /// Time of the load: verifier and JIT compiler.
    pub took: Duration,
    /// What else the verifier says: states, stack.
    pub details: String,
}

/// Has every program of the object verified, in each way that the product loads it, and tells `found` of it.
///
/// # Errors
/// The first program that the kernel refuses, with the end of the verifier's log.
pub fn all(found: &mut dyn FnMut(&Verified)) -> Result<()> {
    // Sizes are the defaults: some are constants of the program.
    let desired = config::parse(&EdgeFile::new(1).text(1)).map_err(|errors| anyhow!("{errors:#?}"))?.desired;
    let machine = load::machine()?;
    let balancer = Shape::balancer(&desired.limits, &desired.flow_table, machine);
    let with_pods = balancer.with_pods(&desired.limits);
    let small = Shape::decap_only(&desired.limits, machine);
    let object = Object::parse(object::BALANCER).context("read the object")?;
    let mut others: Vec<&str> = object.programs.keys().map(String::as_str).collect();
    // Those of TC stand beside the one that takes tunnels off, on its maps.
    let of_tc = vec![PROGRAM_FROM_POD, PROGRAM_MSS];
    others.retain(|name| ![PROGRAM_BALANCER, PROGRAM_DECAP].contains(name) && !of_tc.contains(name));
    others.sort_unstable();
    let both = Program::Balancer { decap: true };
    let ways = [
        (balancer, Program::Balancer { decap: false }, false, false, "", others),
        (with_pods, both, false, false, "+decap", Vec::new()),
        (with_pods, both, true, false, "+decap+trace", Vec::new()),
        (with_pods, both, true, true, "+decap+trace+frags", Vec::new()),
        (small, Program::Decap, false, false, "", of_tc),
        (small, Program::Decap, true, false, "+trace", Vec::new()),
        (small, Program::Decap, true, true, "+trace+frags", Vec::new()),
    ];
    for (shape, program, trace, frags, suffix, also) in ways {
        if frags && !load::knows_frags() {
            continue;
        }
        let pins = Pins::of_process();
        let setup = Setup { shape, seed: desired.seed, program, trace, frags };
        let mut loaded = Loaded::open_or_create(&pins.0, &setup)?;
        let info = loaded.program()?.info()?;
        let linked = load::link(object::BALANCER, &setup, &pins.0.maps())?;
        let types = info.btf_id().map(sys::btf_by_id).transpose().context("open the object's types")?;
        for name in [program.name()].into_iter().chain(also) {
            let mut verified = verify(&pins.0, linked.bytes(), &info, types.as_ref().map(AsFd::as_fd), name)
                .with_context(|| format!("verify {name}"))?;
            let remembered = info.verified_instruction_count().filter(|_| name == program.name());
            ensure!(
                remembered.is_none_or(|count| u64::from(count) == verified.instructions),
                "{name}: {} instructions by the log, {remembered:?} by the kernel's memory",
                verified.instructions
            );
            verified.name.push_str(suffix);
            found(&verified);
        }
    }
    Ok(())
}

/// Pins of this process; they go with the value.
struct Pins(BpffsRoot);

impl Pins {
    fn of_process() -> Self {
        Self(BpffsRoot::new(PathBuf::from(format!("/sys/fs/bpf/xlb-vm-{}", std::process::id()))))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        drop(load::remove(&self.0));
    }
}

/// Verifies the program `name` of a linked object on the maps below `root`, with the object's `types` as they are loaded.
fn verify(
    root: &BpffsRoot,
    linked: &[u8],
    info: &ProgramInfo,
    types: Option<BorrowedFd<'_>>,
    name: &str,
) -> Result<Verified> {
    let mut object = Object::parse(linked)?;
    let program = object.programs.get(name).context("the object holds no such program")?.clone();
    let maps: Vec<_> = object.maps.drain().collect();
    let opened = maps.iter().map(|(name, _)| open(root, info, name)).collect::<Result<Vec<_>>>()?;
    let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    let numbers = opened.iter().map(|map| map.as_fd().as_raw_fd());
    object.relocate_maps(
        maps.iter().zip(numbers).map(|((name, map), fd)| (name.as_str(), fd, map)),
        &sections,
    )?;
    object.relocate_calls(&sections)?;
    let function = object.functions.get(&program.function_key()).context("it has no code")?;
    let code: Vec<u8> = function.instructions.iter().flat_map(bytes).collect();
    let (kind, frags) = match program.section {
        ProgramSection::SchedClassifier => (Kind::SchedCls, false),
        ProgramSection::Xdp { frags, .. } => (Kind::Xdp, frags),
        ref other => bail!("{other:?}: what is it to the kernel?"),
    };
    let records = function.func_info.func_info_bytes();
    let functions = types.map(|btf| Functions { btf, records: &records, size: function.func_info_rec_size });
    let begun = Instant::now();
    let log = sys::verify(kind, &code, &program.license, if frags { HAS_FRAGS } else { 0 }, functions)?;
    let took = begun.elapsed();
    let instructions = processed(&log).with_context(|| format!("no count in the verifier's log: {log:?}"))?;
    Ok(Verified { name: name.to_owned(), instructions, took, details: log.trim().replace('\n', ", ") })
}

/// Opens a map of the object: pinned by the product, or held by the loaded program alone.
fn open(root: &BpffsRoot, info: &ProgramInfo, name: &str) -> Result<MapFd> {
    let opening = || format!("open map {name}");
    let pin = root.map(name);
    if pin.exists() {
        return MapInfo::from_pin(pin).and_then(|map| map.fd()).with_context(opening);
    }
    let ids = info.map_ids()?.unwrap_or_default();
    let mut held = ids.iter().filter_map(|id| MapInfo::from_id(*id).ok());
    let map =
        held.find(|map| map.name_as_str().is_some_and(|held| !held.is_empty() && name.starts_with(held)));
    map.context("nobody holds it").and_then(|map| Ok(map.fd()?)).with_context(opening)
}

/// `struct bpf_insn` as it lies in memory.
fn bytes(instruction: &aya_obj::generated::bpf_insn) -> [u8; 8] {
    let [a, b] = instruction.off.to_ne_bytes();
    let [c, d, e, f] = instruction.imm.to_ne_bytes();
    [instruction.code, instruction.dst_reg() | instruction.src_reg() << 4, a, b, c, d, e, f]
}

/// `processed 2345 insns (limit 1000000) ...`, of kernels since 5.2.
fn processed(log: &str) -> Option<u64> {
    log.split("processed ").nth(1)?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_from_the_log() {
        let log = "verification time 812 usec\nstack depth 152\nprocessed 2345 insns (limit 1000000) \
                   max_states_per_insn 4 total_states 99 peak_states 99 mark_read 7\n";
        assert_eq!(processed(log), Some(2345));
        assert_eq!(processed(""), None);
        assert_eq!(processed("processed many insns"), None);
    }

    #[test]
    fn an_instruction_is_eight_bytes() {
        let mut call = aya_obj::generated::bpf_insn {
            code: 0x85,
            _bitfield_align_1: [],
            _bitfield_1: aya_obj::generated::bpf_insn::new_bitfield_1(1, 2),
            off: -2,
            imm: 44,
        };
        assert_eq!(bytes(&call), [0x85, 0x21, 0xfe, 0xff, 44, 0, 0, 0]);
        call.set_dst_reg(0);
        assert_eq!(bytes(&call)[1], 0x20);
    }
}
