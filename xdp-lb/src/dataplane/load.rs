//! Makes the maps or takes over the ones that are pinned, loads the wanted program on them, and pins it.
//!
//! ```text
//!   fresh:      new_maps/*  -> program loaded -> control written -> rename to maps/ -> prog
//!   taken over: maps/* checked against the shape -> program loaded -> prog replaced by rename
//!   other sizes: new_maps/* -> program loaded -> filled from maps/* -> maps to old_maps/, new_maps to maps/ -> prog
//! ```
//!
//! A crash before the rename leaves `new_maps`, which the next start removes; `maps` is always whole, but between the two
//! renames, when `old_maps` is and takes the name back. `old_maps` stays until the links run the new program: what
//! was remembered there meanwhile is carried over then.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, MapInfo, MapType},
    programs::{ProgramError, Xdp},
    util::KernelVersion,
};
use aya_log::EbpfLogger;
use xdp_lb_common::{
    control::{Control, LAYOUT},
    names::{self, Constant},
    source::SourceKey,
};

use super::{
    attach, btf, errors,
    kernel_maps::{Access, Carried, KernelMaps, OpenError, TooSmall},
    linker::{self, Marks},
    locked,
    mapped::Mapped,
    mss, object, pods,
    root::BpffsRoot,
    shape::{Machine, MapKind, MapSpec, Shape},
    sys,
};

/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;
/// Lines of the verifier's log that an error carries.
const LOG_LINES: usize = 25;

/// The program that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `xdp_lb`; with `decap` it also takes tunnels off.
    Balancer {
        /// One configuration holds `services` and `decap`.
        decap: bool,
    },
    /// `xdp_decap`.
    Decap,
}

impl Program {
    /// Its name in the kernel.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Balancer { .. } => names::PROGRAM_BALANCER,
            Self::Decap => names::PROGRAM_DECAP,
        }
    }
}

/// What is to be loaded.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Sizes.
    pub shape: Shape,
    /// Seed of the flow hash.
    pub seed: u64,
    /// Program.
    pub program: Program,
    /// The program tells what became of every packet.
    pub trace: bool,
    /// The program understands frames in several buffers (`xdp.frags`, Linux 5.18), as drivers make them of large packets.
    pub frags: bool,
}

/// Why the program could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The pins' directory cannot be made or used.
    #[error("{what} {}: {source}", path.display())]
    Pin {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// Pins need a BPF file system.
    #[error("{0} is not on a BPF file system: mount -t bpf bpf /sys/fs/bpf")]
    NotBpffs(BpffsRoot),
    /// Another agent works there.
    #[error("another xdp-lb works on {0}: stop it first, or choose another root with --bpffs")]
    Busy(BpffsRoot),
    /// A pinned map is not of the shape that the configuration asks for, and nothing can be carried over to one that is.
    #[error(
        "{root}/maps/{map}: {what} is {found}, but this configuration and this xdp-lb need {wanted}: keep the old ones, \
         or run `xdp-lb detach` first (it stops forwarding and forgets flows)"
    )]
    LayoutMismatch {
        /// Root.
        root: BpffsRoot,
        /// Map.
        map: &'static str,
        /// Which property.
        what: &'static str,
        /// As pinned.
        found: u64,
        /// As wanted.
        wanted: u64,
    },
    /// What is there needs more room than the configuration gives.
    #[error(
        "{root}/maps/{}: what is there needs {} elements, but the configuration gives {}: keep the old limits until \
         services and backends are fewer, or run `xdp-lb detach` first (it stops forwarding and forgets flows)",
        small.map, small.needed, small.wanted
    )]
    TooSmall {
        /// Root.
        root: BpffsRoot,
        /// What is too small.
        small: TooSmall,
    },
    /// The maps were made by a newer release.
    #[error(
        "the maps under {root} have layout {found}, this xdp-lb knows {LAYOUT}: use the release that made them"
    )]
    Newer {
        /// Root.
        root: BpffsRoot,
        /// As pinned.
        found: u32,
    },
    /// What is there could not be carried over.
    #[error("carry over from {}: {source}", path.display())]
    Carry {
        /// Where it is.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// The pinned maps were made with another seed: every flow would move.
    #[error(
        "{root}: the tables were made with seed {found}, but the configuration says {wanted}: keep the old \
         maglev.seed, or run `xdp-lb detach` first (it moves every flow)"
    )]
    SeedMismatch {
        /// Root.
        root: BpffsRoot,
        /// As pinned.
        found: u64,
        /// As wanted.
        wanted: u64,
    },
    /// A map cannot be read.
    #[error("map {name}: {source}")]
    Map {
        /// Name.
        name: &'static str,
        /// The kernel's word.
        source: io::Error,
    },
    /// The maps cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The object could not be brought into the kernel.
    #[error("load the kernel half: {}", chain(.0))]
    Object(aya::EbpfError),
    /// What the program tells cannot be read.
    #[error("read what the program tells of packets: {}", chain(.0.as_ref()))]
    PacketLog(Box<aya_log::Error>),
    /// The object does not use a table: a broken build.
    #[error("the kernel half does not name all of its tables")]
    Unmarked,
    /// The kernel refused the program.
    #[error("load program {name}: {source}\n{log}")]
    Program {
        /// Program.
        name: &'static str,
        /// The kernel's word.
        source: io::Error,
        /// The end of the verifier's log.
        log: String,
    },
    /// The program is missing from the object, or of another kind: a broken build.
    #[error("program {name}: {}", chain(source))]
    BrokenObject {
        /// Program.
        name: &'static str,
        /// aya's error.
        source: ProgramError,
    },
    /// A kernel that counts maps as locked memory has no more for us.
    #[error("{source}: {}", locked::cure(*limit))]
    LockedMemory {
        /// What could not be made.
        source: Box<LoadError>,
        /// Bytes that may be locked.
        limit: u64,
    },
    /// The program cannot be pinned.
    #[error("pin program {name}: {source}")]
    PinProgram {
        /// Program.
        name: &'static str,
        /// The kernel's word.
        source: io::Error,
    },
    /// A program that stays on an interface.
    #[error(transparent)]
    Pods(#[from] pods::PodsError),
    /// A link that stays on its interface.
    #[error(transparent)]
    Detach(#[from] attach::AttachError),
    /// A system call without which nothing can be loaded.
    #[error("{what}: {source}")]
    Kernel {
        /// What was asked.
        what: &'static str,
        /// The kernel's word.
        source: io::Error,
    },
}

/// The maps and the program, loaded and pinned. Dropping it leaves the pins: packets go on being forwarded.
#[derive(Debug)]
pub struct Loaded {
    root: BpffsRoot,
    ebpf: Ebpf,
    program: &'static str,
    took_over: bool,
    /// Maps that links may still read.
    previous: Option<KernelMaps>,
    mss: mss::Places,
    /// Held while this process owns the root.
    _lock: File,
}

impl Loaded {
    /// Makes what is missing below `root`, or takes over what is there.
    ///
    /// # Errors
    /// [`LoadError`]; what was pinned before is as it was.
    pub fn open_or_create(root: &BpffsRoot, setup: &Setup) -> Result<Self, LoadError> {
        Self::with_object(root, setup, object::BALANCER)
    }

    /// The same with another build of the kernel half.
    ///
    /// # Errors
    /// [`LoadError`]; what was pinned before is as it was.
    pub fn with_object(root: &BpffsRoot, setup: &Setup, object: &[u8]) -> Result<Self, LoadError> {
        let limit = sys::lift_memlock();
        make_directory(root.path())?;
        if !sys::is_bpffs(root.path()).map_err(pin("look at", root.path()))? {
            return Err(LoadError::NotBpffs(root.clone()));
        }
        let lock = lock(root)?;
        remove_tree(&root.new_maps())?;
        let ready = prepare(root, setup)?;
        let took_over = !matches!(ready, Ready::Nothing);
        let clean = |_: &LoadError| drop(remove_tree(&root.new_maps()));
        let made = match ready {
            Ready::Nothing => {
                remove_tree(&root.maps())?;
                create(root, setup, object).inspect_err(clean).map(|ebpf| (ebpf, None))
            }
            Ready::Fits => load(object, setup, &root.maps()).and_then(|ebpf| Ok((ebpf, previous(root)?))),
            Ready::Other => move_over(root, setup, object).inspect_err(clean),
        };
        let (ebpf, previous) = made.map_err(|error| explained(error, limit))?;
        let mut loaded = Self {
            root: root.clone(),
            ebpf,
            program: setup.program.name(),
            took_over,
            previous,
            mss: mss::Places::new(),
            _lock: lock,
        };
        loaded.pin_program()?;
        Ok(loaded)
    }

    /// True when the maps were there before.
    #[must_use]
    pub fn took_over(&self) -> bool {
        self.took_over
    }

    /// True while there are maps beside ours that links may still read.
    #[must_use]
    pub fn has_old_maps(&self) -> bool {
        self.previous.is_some()
    }

    /// The links run the program: flows that the one of before remembered in maps of other sizes until now are carried over
    /// to `maps`, ours, and the old ones go. `None` when there were none.
    ///
    /// # Errors
    /// [`LoadError::Carry`]; the old maps stay.
    pub fn leave_old_maps(&mut self, maps: &KernelMaps) -> Result<Option<Carried>, LoadError> {
        let Some(previous) = &self.previous else { return Ok(None) };
        // Packets that met the old program may still be under way.
        sys::grace_period();
        let path = self.root.old_maps();
        let carried =
            previous.carry_flows(maps).map_err(|source| LoadError::Carry { path: path.clone(), source })?;
        remove_tree(&path)?;
        self.previous = None;
        Ok(Some(carried))
    }

    /// Where the pins are.
    #[must_use]
    pub fn root(&self) -> &BpffsRoot {
        &self.root
    }

    /// The loaded program, for [`super::attach`] and test runs.
    ///
    /// # Errors
    /// [`LoadError::BrokenObject`].
    pub fn program(&mut self) -> Result<&mut Xdp, LoadError> {
        program(&mut self.ebpf, self.program)
    }

    /// Lets the program that lowers the MSS see what leaves by exactly these interfaces. It is there until this value
    /// is dropped.
    ///
    /// # Errors
    /// [`mss::MssError`].
    pub fn lower_mss_on(&mut self, interfaces: &[String]) -> Result<(), mss::MssError> {
        mss::place(&mut self.ebpf, &mut self.mss, interfaces)
    }

    /// Lets the program that makes pods' answers the VIP's see what leaves by exactly these interfaces. It stays there
    /// without an agent, as the XDP program does.
    ///
    /// # Errors
    /// [`pods::PodsError`].
    pub fn translate_on(&mut self, interfaces: &[String]) -> Result<(), pods::PodsError> {
        pods::place(&mut self.ebpf, &self.root, interfaces)
    }

    /// The maps, writable. One writer at a time: the agent's reconcile task.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn maps(&self) -> Result<KernelMaps, OpenError> {
        KernelMaps::open(&self.root, Access::Write)
    }

    /// What the program tells of packets, for one reader. Nothing comes without [`Setup::trace`].
    ///
    /// # Errors
    /// [`LoadError::PacketLog`].
    pub fn packet_log<L: log::Log>(&mut self, log: L) -> Result<EbpfLogger<L>, LoadError> {
        EbpfLogger::init_with_logger(&mut self.ebpf, log).map_err(|e| LoadError::PacketLog(Box::new(e)))
    }

    /// Gives the program its name at once: nobody sees the root without one.
    fn pin_program(&mut self) -> Result<(), LoadError> {
        let (new, path) = (self.root.new_program(), self.root.program());
        remove_tree(&new)?;
        let name = self.program;
        self.program()?.pin(&new).map_err(|e| LoadError::PinProgram { name, source: errors::pin(e) })?;
        fs::rename(&new, &path).map_err(pin("rename the new program to", &path))
    }
}

/// Claims `root` against agents for as long as the answer is held; `None` when there is no such directory.
///
/// # Errors
/// [`LoadError::Busy`] while an agent works there: what is taken away under its hands, it would put back.
pub fn claim(root: &BpffsRoot) -> Result<Option<File>, LoadError> {
    if root.path().exists() { lock(root).map(Some) } else { Ok(None) }
}

/// Removes every pin below `root` and the root itself: links first, so that no packet meets a program whose maps
/// are half gone. A root that is not there is no error.
///
/// # Errors
/// [`LoadError::Detach`] or [`LoadError::Pin`] with the first pin that stays.
pub fn remove(root: &BpffsRoot) -> Result<(), LoadError> {
    attach::detach_all(root)?;
    pods::detach_all(root)?;
    for path in [
        root.links(),
        root.egress(),
        root.program(),
        root.new_program(),
        root.health(),
        root.maps(),
        root.new_maps(),
        root.old_maps(),
        root.path().into(),
    ] {
        remove_tree(&path)?;
    }
    Ok(())
}

/// Whether this kernel runs XDP on frames in several buffers.
#[must_use]
pub fn knows_frags() -> bool {
    KernelVersion::current().is_ok_and(|kernel| kernel >= KernelVersion::new(5, 18, 0))
}

/// What sizes depend on on this machine.
///
/// # Errors
/// [`LoadError::Kernel`].
pub fn machine() -> Result<Machine, LoadError> {
    let kernel = |what| move |source| LoadError::Kernel { what, source };
    let hz = sys::hz().map_err(kernel("ask for the resolution of the coarse clock"))?;
    let cpus = aya::util::nr_cpus().map_err(|(_, source)| source).map_err(kernel("count the CPUs"))?;
    Ok(Machine { hz, cpus: u32::try_from(cpus).unwrap_or(u32::MAX) })
}

/// Loads object and program on the maps below `maps`; those that are missing are made and pinned there.
fn load(object: &[u8], setup: &Setup, maps: &Path) -> Result<Ebpf, LoadError> {
    let linked = link(object, setup, maps)?;
    let mut loader = EbpfLoader::new();
    for map in setup.shape.maps().iter().filter(|spec| spec.kind != MapKind::Table) {
        loader.map_max_entries(map.name, map.max_entries).map_pin_path(map.name, maps.join(map.name));
    }
    let mut ebpf = loader.load(linked.bytes()).map_err(LoadError::Object)?;
    let name = setup.program.name();
    program(&mut ebpf, name)?.load().map_err(|e| refused(name, e))?;
    if matches!(setup.program, Program::Decap | Program::Balancer { decap: true }) {
        // Now, wanted or not: the tables are in the object by their descriptors, which are closed later.
        mss::program(&mut ebpf)
            .map_err(|_| LoadError::Unmarked)?
            .load()
            .map_err(|e| refused(names::PROGRAM_MSS, e))?;
        pods::program(&mut ebpf)
            .map_err(|_| LoadError::Unmarked)?
            .load()
            .map_err(|e| refused(names::PROGRAM_FROM_POD, e))?;
    }
    Ok(ebpf)
}

/// An object with the tables' maps and the constants in it. Good while it lives: it holds the tables.
pub struct LinkedObject {
    linked: linker::Linked,
    _tables: Vec<OwnedFd>,
}

impl LinkedObject {
    /// Its bytes, which a loader of ordinary maps can take.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.linked.bytes()
    }
}

/// Puts the tables below `maps` and the constants of `setup` into `object`; tables that are missing are made and pinned
/// there.
///
/// # Errors
/// [`LoadError::Unmarked`], or a table that cannot be opened or made.
pub fn link(object: &[u8], setup: &Setup, maps: &Path) -> Result<LinkedObject, LoadError> {
    let specs = setup.shape.maps();
    let mut tables = Vec::new();
    for name in names::TABLES {
        tables.extend(specs.iter().find(|spec| spec.name == name).map(|spec| table(spec, maps)).transpose()?);
    }
    let marks = Marks {
        tables: std::array::from_fn(|n| tables.get(n).map_or(-1, |table| table.as_raw_fd())),
        constants: Constant::ALL.map(|constant| value(constant, setup)),
        frags: setup.frags,
    };
    let linked = linker::link(object, &marks).ok_or(LoadError::Unmarked)?;
    Ok(LinkedObject { linked, _tables: tables })
}

/// What the program is loaded with.
fn value(constant: Constant, setup: &Setup) -> u64 {
    let Setup { shape, seed, program, trace, frags } = setup;
    let capacity = &shape.capacity;
    let number = match constant {
        Constant::Seed => return *seed,
        Constant::VipSlots => capacity.vip_slots,
        Constant::ServiceMask => capacity.services - 1,
        Constant::BackendMask => capacity.backends - 1,
        Constant::CpuMask => shape.cpus - 1,
        Constant::SvcStatsPart => capacity.services,
        Constant::BackendStatsPart => capacity.backend_stats,
        Constant::SvcStatsMask => shape.cpus * capacity.services - 1,
        Constant::BackendStatsMask => shape.cpus * capacity.backend_stats - 1,
        Constant::FlowSetMask => capacity.flow_sets - 1,
        Constant::TickShift => shape.tick_shift,
        Constant::SecondShift => shape.second_shift,
        Constant::ServerIdMask => capacity.server_ids - 1,
        Constant::Trace => u32::from(*trace),
        Constant::Frags => u32::from(*frags),
        Constant::FragmentSetMask => shape.fragment_sets - 1,
        Constant::Decap => u32::from(*program == Program::Balancer { decap: true }),
    };
    number.into()
}

/// The table's map from its pin, or a new one, pinned.
fn table(spec: &MapSpec, maps: &Path) -> Result<OwnedFd, LoadError> {
    let path = maps.join(spec.name);
    if path.exists() {
        return sys::pinned(&path).map_err(pin("open", &path));
    }
    let error = |source| LoadError::Map { name: spec.name, source };
    let types =
        btf::table(spec.name, spec.max_entries).ok_or_else(|| error(io::ErrorKind::NotFound.into()))?;
    let map =
        sys::create_array(spec.name, spec.value_size * spec.max_entries, MMAPABLE, &types).map_err(error)?;
    sys::pin(&map, &path).map_err(pin("pin the new map to", &path))?;
    Ok(map)
}

/// What is pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ready {
    /// No maps.
    Nothing,
    /// Maps as the configuration wants them.
    Fits,
    /// Maps of other sizes, or of an older layout.
    Other,
}

/// Looks at what is pinned.
fn prepare(root: &BpffsRoot, setup: &Setup) -> Result<Ready, LoadError> {
    if !is_whole(root)? {
        if !root.old_maps().exists() {
            return Ok(Ready::Nothing);
        }
        // An agent died between two renames.
        remove_tree(&root.maps())?;
        fs::rename(root.old_maps(), root.maps()).map_err(pin("rename the old maps to", &root.maps()))?;
    }
    let layout = open_control(&root.maps())?.read(0).unwrap_or_default().layout;
    if layout > LAYOUT {
        return Err(LoadError::Newer { root: root.clone(), found: layout });
    }
    match check(root, setup) {
        Ok(()) => Ok(Ready::Fits),
        Err(LoadError::LayoutMismatch {
            what: "the layout" | ENTRIES | "vip_mask" | "flow_set_mask",
            ..
        }) => Ok(Ready::Other),
        Err(e) => Err(e),
    }
}

/// Maps that an earlier agent has left, or would have.
fn previous(root: &BpffsRoot) -> Result<Option<KernelMaps>, LoadError> {
    let old = root.old_maps();
    if !old.exists() {
        return Ok(None);
    }
    match KernelMaps::open_in(root, &old, Access::Read) {
        Ok(maps) => Ok(Some(maps)),
        Err(e) => {
            tracing::warn!("flows in {} cannot be carried over: {e}", old.display());
            remove_tree(&old).map(|()| None)
        }
    }
}

/// Makes new maps, fills them from those that are there, and exchanges them.
fn move_over(
    root: &BpffsRoot,
    setup: &Setup,
    object: &[u8],
) -> Result<(Ebpf, Option<KernelMaps>), LoadError> {
    let (maps, new, old) = (root.maps(), root.new_maps(), root.old_maps());
    let before = match KernelMaps::open_in(root, &maps, Access::Read) {
        Ok(before) => Some(before),
        Err(OpenError::Layout { found, .. }) => {
            tracing::warn!(
                found,
                layout = LAYOUT,
                "maps of an older layout: what is in them cannot be carried over"
            );
            None
        }
        Err(e) => return Err(e.into()),
    };
    if let Some(before) = &before {
        let seed = before.control().seed;
        if seed != setup.seed {
            return Err(LoadError::SeedMismatch { root: root.clone(), found: seed, wanted: setup.seed });
        }
        before
            .fit(&setup.shape.capacity)
            .map_err(|small| LoadError::TooSmall { root: root.clone(), small })?;
    }
    let ebpf = gather(root, setup, object)?;
    if let Some(before) = &before {
        let after = KernelMaps::open_in(root, &new, Access::Write)?;
        let carry = |source| LoadError::Carry { path: maps.clone(), source };
        before.carry_over(&after).map_err(carry)?;
        let carried = before.carry_flows(&after).map_err(carry)?;
        tracing::info!(
            flows = carried.flows,
            lost = carried.lost,
            "maps of other sizes: filled from those of before"
        );
    }
    // What an older agent left is older than what is in `maps`.
    remove_tree(&old)?;
    fs::rename(&maps, &old).map_err(pin("rename the old maps to", &old))?;
    fs::rename(&new, &maps).map_err(pin("rename the new maps to", &maps))?;
    if before.is_none() {
        remove_tree(&old)?;
    }
    Ok((ebpf, before))
}

/// Makes the maps beside their place, and moves them there when nothing can fail any more.
fn create(root: &BpffsRoot, setup: &Setup, object: &[u8]) -> Result<Ebpf, LoadError> {
    let ebpf = gather(root, setup, object)?;
    fs::rename(root.new_maps(), root.maps()).map_err(pin("rename the new maps to", &root.maps()))?;
    Ok(ebpf)
}

/// Makes the maps beside their place.
fn gather(root: &BpffsRoot, setup: &Setup, object: &[u8]) -> Result<Ebpf, LoadError> {
    let new = root.new_maps();
    make_directory(&new)?;
    let ebpf = load(object, setup, &new)?;
    let control = open_control(&new)?;
    control
        .write(0, &setup.shape.control(setup.seed))
        .map_err(|source| LoadError::Kernel { what: "write map control", source })?;
    Ok(ebpf)
}

/// The maps are there, and their maker got as far as saying what they are. Any other failure to look is no reason
/// to make them anew: packets may be using them.
fn is_whole(root: &BpffsRoot) -> Result<bool, LoadError> {
    if !root.map(names::CONTROL).exists() {
        return Ok(false);
    }
    Ok(open_control(&root.maps())?.read(0).is_some_and(|control| control.layout != 0))
}

/// Whether the pinned maps are the ones that this program and this configuration want.
fn check(root: &BpffsRoot, setup: &Setup) -> Result<(), LoadError> {
    let differs = |map, what, found, wanted| {
        if found == wanted {
            return Ok(());
        }
        Err(LoadError::LayoutMismatch { root: root.clone(), map, what, found, wanted })
    };
    let control = open_control(&root.maps())?.read(0).unwrap_or_default();
    differs(names::CONTROL, "the layout", control.layout.into(), LAYOUT.into())?;
    for spec in setup.shape.maps() {
        let info = MapInfo::from_pin(root.map(spec.name))
            .map_err(|e| LoadError::Map { name: spec.name, source: errors::map(e) })?;
        for (what, found, wanted) in properties(&info, &spec)? {
            differs(spec.name, what, found, wanted)?;
        }
    }
    let wanted = setup.shape.control(setup.seed);
    for (what, found, wanted) in [
        ("HZ", control.hz, wanted.hz),
        ("vip_mask", control.vip_mask, wanted.vip_mask),
        ("flow_set_mask", control.flow_set_mask, wanted.flow_set_mask),
        ("tick_shift", control.tick_shift, wanted.tick_shift),
        ("second_shift", control.second_shift, wanted.second_shift),
    ] {
        differs(names::CONTROL, what, found.into(), wanted.into())?;
    }
    if control.seed != setup.seed {
        return Err(LoadError::SeedMismatch { root: root.clone(), found: control.seed, wanted: setup.seed });
    }
    Ok(())
}

/// The property that may differ: what is in the map is carried over to another.
const ENTRIES: &str = "the number of entries";

/// What, found, wanted.
fn properties(info: &MapInfo, spec: &MapSpec) -> Result<[(&'static str, u64, u64); 5], LoadError> {
    let error = |e| LoadError::Map { name: spec.name, source: errors::map(e) };
    let kind = match spec.kind {
        MapKind::Table | MapKind::MappedArray | MapKind::Array => MapType::Array,
        MapKind::DevMap => MapType::DevMap,
        MapKind::PerfEvents => MapType::PerfEventArray,
        MapKind::Trie => MapType::LpmTrie,
        MapKind::Hash(_) => MapType::Hash,
        MapKind::Lru(_) => MapType::LruHash,
    };
    let found_kind = info.map_type().map_err(error)?;
    let (value_size, entries) = match spec.kind {
        MapKind::Table if info.max_entries() == 1 && info.value_size().is_multiple_of(spec.value_size) => {
            (spec.value_size, info.value_size() / spec.value_size)
        }
        // A device map's value is 4 bytes on kernels before 5.8, and which it is here says nothing about us.
        MapKind::DevMap => (spec.value_size, info.max_entries()),
        _ => (info.value_size(), info.max_entries()),
    };
    let key_size = match spec.kind {
        MapKind::Trie => size_of::<SourceKey>() as u64,
        MapKind::Hash(size) | MapKind::Lru(size) => size.into(),
        _ => 4,
    };
    let mmapable = if matches!(spec.kind, MapKind::Table | MapKind::MappedArray) { MMAPABLE } else { 0 };
    Ok([
        ("the map type", found_kind as u64, kind as u64),
        ("the key size", info.key_size().into(), key_size),
        ("the value size", value_size.into(), spec.value_size.into()),
        (ENTRIES, entries.into(), spec.max_entries.into()),
        ("the mmapable flag", (info.map_flags() & MMAPABLE).into(), mmapable.into()),
    ])
}

fn open_control(maps: &Path) -> Result<Mapped<Control>, LoadError> {
    let name = names::CONTROL;
    let map =
        MapData::from_pin(maps.join(name)).map_err(|e| LoadError::Map { name, source: errors::map(e) })?;
    Mapped::new(map.fd().as_fd(), 1, true)
        .map_err(|source| LoadError::Kernel { what: "mmap map control", source })
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, LoadError> {
    let missing = LoadError::BrokenObject { name, source: ProgramError::UnexpectedProgramType };
    ebpf.program_mut(name).and_then(|program| program.try_into().ok()).ok_or(missing)
}

fn refused(name: &'static str, error: ProgramError) -> LoadError {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return LoadError::BrokenObject { name, source: error };
    };
    let log = verifier_log.to_string();
    let lines: Vec<&str> = log.lines().collect();
    let log = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
    LoadError::Program { name, source: io_error, log }
}

/// One agent for each root. The kernel drops the lock with the process, however it ends.
fn lock(root: &BpffsRoot) -> Result<File, LoadError> {
    let directory = File::open(root.path()).map_err(pin("open", root.path()))?;
    match directory.try_lock() {
        Ok(()) => Ok(directory),
        Err(TryLockError::WouldBlock) => Err(LoadError::Busy(root.clone())),
        Err(TryLockError::Error(source)) => Err(pin("lock", root.path())(source)),
    }
}

fn make_directory(path: &Path) -> Result<(), LoadError> {
    fs::create_dir_all(path).map_err(pin("make", path))
}

/// A pin, or a directory of pins; nothing there is fine.
fn remove_tree(path: &Path) -> Result<(), LoadError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(pin("remove", path)(e)),
        _ => Ok(()),
    }
}

fn pin(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LoadError {
    move |source| LoadError::Pin { what, path: path.to_owned(), source }
}

/// An error that a limit on locked memory explains says so.
fn explained(error: LoadError, limit: Option<u64>) -> LoadError {
    let errno = match &error {
        LoadError::Object(error) => locked::errno(error),
        error => locked::errno(error),
    };
    match limit.filter(|_| locked::explains(errno, KernelVersion::current().ok())) {
        Some(limit) => LoadError::LockedMemory { source: Box::new(error), limit },
        None => error,
    }
}

/// An error with its causes: aya's own words alone rarely name the errno.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
