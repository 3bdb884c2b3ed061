//! The TC programs that carry health checks' packets, and their maps. Nothing is pinned: all of it ends with the agent.
//!
//! Kernels of 6.6 and later hold the programs by TCX links; before, by clsact filters, which a killed agent leaves
//! behind and the next one takes away.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd as _;

use aya::{
    Ebpf, EbpfLoader,
    maps::Map,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        tc::{self, NlOptions, TcAttachOptions},
    },
    util::KernelVersion,
};
use xdp_lb_common::{
    backend::Template,
    probe::{self, ProbeControl, ProbeWay, TunnelError},
};

use super::{errors, mapped::Mapped, object};

/// Where a program of the object is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Egress of the namespace's interface.
    Label,
    /// Ingress of the node's end of the pair.
    Out,
    /// Ingress of an interface that answers come in by.
    Back,
}

impl Place {
    fn program(self) -> &'static str {
        match self {
            Self::Label => probe::PROGRAM_LABEL,
            Self::Out => probe::PROGRAM_OUT,
            Self::Back => probe::PROGRAM_BACK,
        }
    }

    fn side(self) -> TcAttachType {
        match self {
            Self::Label => TcAttachType::Egress,
            Self::Out | Self::Back => TcAttachType::Ingress,
        }
    }
}

/// Why a program or a map is not there.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The object could not be brought into the kernel.
    #[error("load the health checks' programs: {0}")]
    Object(#[from] aya::EbpfError),
    /// A program or map is missing from the object: a broken build.
    #[error("{0} is missing from the health checks' object")]
    BrokenObject(&'static str),
    /// The kernel refused a program.
    #[error("load program {name}: {source}")]
    Program {
        /// Program.
        name: &'static str,
        /// aya's error.
        source: ProgramError,
    },
    /// A map cannot be mapped.
    #[error("mmap map {name}: {source}")]
    Map {
        /// Map.
        name: &'static str,
        /// The kernel's word.
        source: io::Error,
    },
    /// The kernel refused a place for a program.
    #[error("attach {name} to {interface}: {source}")]
    Attach {
        /// Program.
        name: &'static str,
        /// Interface.
        interface: String,
        /// The kernel's word.
        source: io::Error,
    },
}

/// The loaded programs.
#[derive(Debug)]
pub struct ProbePrograms(Ebpf);

/// What the agent reads and writes while they run.
pub struct ProbeMaps {
    control: Mapped<ProbeControl>,
    ways: Mapped<ProbeWay>,
}

/// Loads programs and maps.
///
/// # Errors
/// [`ProbeError`].
pub fn load() -> Result<(ProbePrograms, ProbeMaps), ProbeError> {
    super::sys::lift_memlock();
    let mut ebpf = EbpfLoader::new().load(object::PROBE)?;
    for place in [Place::Label, Place::Out, Place::Back] {
        let name = place.program();
        program(&mut ebpf, name)?.load().map_err(|source| ProbeError::Program { name, source })?;
    }
    let maps = ProbeMaps {
        control: map(&ebpf, probe::CONTROL, 1)?,
        ways: map(&ebpf, probe::WAYS, probe::WAY_COUNT)?,
    };
    Ok((ProbePrograms(ebpf), maps))
}

impl ProbePrograms {
    /// Puts a program in its place on `interface` of the calling thread's namespace. It is there until this value
    /// is dropped.
    ///
    /// # Errors
    /// [`ProbeError::Attach`].
    pub fn attach(&mut self, place: Place, interface: &str) -> Result<(), ProbeError> {
        let (name, side) = (place.program(), place.side());
        let refused = |source| ProbeError::Attach {
            name,
            interface: interface.into(),
            source: errors::program(source),
        };
        let options = if KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0))
        {
            // Before anybody who would let the stack have the answers.
            TcAttachOptions::TcxOrder(LinkOrder::first())
        } else {
            // There already is as good as made now; what cannot be made shows when attaching.
            let _ = tc::qdisc_add_clsact(interface);
            let _ = tc::qdisc_detach_program(interface, side, name);
            TcAttachOptions::Netlink(NlOptions { priority: 1, ..NlOptions::default() })
        };
        program(&mut self.0, name)?.attach_with_options(interface, side, options).map(drop).map_err(refused)
    }

    /// A program, for test runs.
    ///
    /// # Errors
    /// [`ProbeError::BrokenObject`].
    pub fn program(&mut self, place: Place) -> Result<&mut SchedClassifier, ProbeError> {
        program(&mut self.0, place.program())
    }
}

impl ProbeMaps {
    /// Says where questions come from and answers go.
    ///
    /// # Errors
    /// None while the map is there.
    pub fn set_control(&self, control: &ProbeControl) -> io::Result<()> {
        self.control.write(0, control)
    }

    /// Makes `mark` lead through a tunnel. A question that is on its way this very moment may get half of the old
    /// header; the next one will not.
    ///
    /// # Errors
    /// When there is no such mark.
    pub fn set_way(&self, mark: u32, template: &Template) -> io::Result<()> {
        self.ways.write_part(mark, std::mem::offset_of!(ProbeWay, template), template)
    }

    /// A number that changes with every ICMP error that comes back from a tunnel.
    #[must_use]
    pub fn errors(&self, mark: u32) -> u32 {
        self.ways.load_u32(mark, std::mem::offset_of!(ProbeWay, error)).unwrap_or(0)
    }

    /// The last of them and who sent it.
    #[must_use]
    pub fn last_error(&self, mark: u32) -> Option<(TunnelError, IpAddr)> {
        let way = self.ways.read(mark)?;
        Some((TunnelError::unpack(way.error), Ipv6Addr::from(way.error_by).to_canonical()))
    }
}

impl std::fmt::Debug for ProbeMaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProbeMaps").finish_non_exhaustive()
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, ProbeError> {
    let program = ebpf.program_mut(name).and_then(|program| program.try_into().ok());
    program.ok_or(ProbeError::BrokenObject(name))
}

fn map<T: bytemuck::Pod>(ebpf: &Ebpf, name: &'static str, len: u32) -> Result<Mapped<T>, ProbeError> {
    let Some(Map::Array(data)) = ebpf.map(name) else { return Err(ProbeError::BrokenObject(name)) };
    Mapped::new(data.fd().as_fd(), len, true).map_err(|source| ProbeError::Map { name, source })
}
