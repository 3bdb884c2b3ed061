//! The TC program that makes pods' answers the VIP's, on the interfaces that they leave by.
//!
//! Without it a pod's answers come from an address that no client has asked, so it stays when the agent goes, as the XDP
//! program does, and one that takes over updates it in place. Kernels of 6.6 and later hold it by TCX links, pinned under
//! `ROOT/egress`; before, by clsact filters of a fixed place, and what is pinned there is the program, as a note that the
//! filter is ours.

use std::{fs, io, mem, path::Path};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        links::{FdLink, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
    },
    util::KernelVersion,
};
use xdp_lb_common::names;

use super::{errors, root::BpffsRoot, sys};

/// Why the program is not on an interface, or still is.
#[derive(Debug, thiserror::Error)]
pub enum PodsError {
    /// It is missing from the object: a broken build.
    #[error("program {} is missing from the object", names::PROGRAM_FROM_POD)]
    BrokenObject,
    /// The kernel refused the place.
    #[error("attach {} to {interface}: {source}", names::PROGRAM_FROM_POD)]
    Attach {
        /// Interface.
        interface: String,
        /// The kernel's word.
        source: io::Error,
    },
    /// A pin.
    #[error("{what} {path}: {source}")]
    Pin {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: String,
        /// The kernel's word.
        source: io::Error,
    },
}

/// Where filters are, on kernels without links: nobody else looks for the first place, and one of ours is found again.
const FILTER: NlOptions = NlOptions { priority: 1, handle: TcHandle::new(0, 1), classid: None };
const SIDE: TcAttachType = TcAttachType::Egress;

/// Puts the program on exactly `interfaces`.
pub(super) fn place(ebpf: &mut Ebpf, root: &BpffsRoot, interfaces: &[String]) -> Result<(), PodsError> {
    for gone in pinned(root)?.iter().filter(|name| !interfaces.contains(name)) {
        detach(root, gone)?;
    }
    if interfaces.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(root.egress()).map_err(failed("make", &root.egress()))?;
    let program = program(ebpf)?;
    interfaces.iter().try_for_each(|interface| {
        let pin = root.egress_link(interface);
        let refused = |source| PodsError::Attach { interface: interface.clone(), source };
        if has_links() {
            if update(program, &pin).is_ok() {
                return Ok(());
            }
            // There was none, or its interface is gone.
            forget(&pin)?;
            let link = create(program, interface).map_err(refused)?;
            return link.pin(&pin).map(drop).map_err(|e| failed("pin link", &pin)(errors::pin(e)));
        }
        filter(program, interface).map_err(|e| refused(errors::program(e)))?;
        forget(&pin)?;
        program.pin(&pin).map_err(|e| failed("pin program", &pin)(errors::pin(e)))
    })
}

/// Takes the program from every interface.
pub(super) fn detach_all(root: &BpffsRoot) -> Result<(), PodsError> {
    pinned(root)?.iter().try_for_each(|interface| detach(root, interface))
}

/// The program, loaded with the others or not yet.
pub(super) fn program(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, PodsError> {
    let program = ebpf.program_mut(names::PROGRAM_FROM_POD).and_then(|program| program.try_into().ok());
    program.ok_or(PodsError::BrokenObject)
}

fn has_links() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0))
}

/// The next packet meets the new program, none meets nothing.
fn update(program: &mut SchedClassifier, pin: &Path) -> io::Result<()> {
    let link = PinnedLink::from_pin(pin).map(FdLink::from).and_then(SchedClassifierLink::try_from);
    let updated = program.attach_to_link(link.map_err(errors::link)?).and_then(|id| program.take_link(id));
    // The pin holds the link; our descriptor of it can go.
    FdLink::try_from(updated.map_err(errors::program)?).map(drop).map_err(errors::link)
}

fn create(program: &mut SchedClassifier, interface: &str) -> io::Result<FdLink> {
    // Ahead of whoever looks at answers of the VIP.
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let attached = program.attach_with_options(interface, SIDE, options).and_then(|id| program.take_link(id));
    FdLink::try_from(attached.map_err(errors::program)?).map_err(errors::link)
}

fn filter(program: &mut SchedClassifier, interface: &str) -> Result<(), ProgramError> {
    // There already is as good as made now; what cannot be made shows when attaching.
    let _ = tc::qdisc_add_clsact(interface);
    let there =
        SchedClassifierLink::attached(interface, SIDE, FILTER.priority, FILTER.handle, FILTER.classid);
    let updated =
        there.map_err(|e| tc::TcError::IoError(e).into()).and_then(|link| program.attach_to_link(link));
    let id = match updated {
        Ok(id) => id,
        Err(_) => program.attach_with_options(interface, SIDE, TcAttachOptions::Netlink(FILTER))?,
    };
    // Dropped, it would take the filter away.
    program.take_link(id).map(mem::forget)
}

/// Names of all interfaces that a pin is there for.
fn pinned(root: &BpffsRoot) -> Result<Vec<String>, PodsError> {
    let directory = root.egress();
    let list = match fs::read_dir(&directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        list => list.and_then(Iterator::collect::<io::Result<Vec<_>>>),
    };
    let list = list.map_err(failed("list", &directory))?;
    Ok(list.iter().filter_map(|e| e.file_name().to_str().map(BpffsRoot::interface_of)).collect())
}

fn detach(root: &BpffsRoot, interface: &str) -> Result<(), PodsError> {
    let pin = root.egress_link(interface);
    // An interface that went took its filter or link along.
    if has_links() {
        let _ = sys::detach_pinned_link(&pin);
    } else {
        let _ = tc::qdisc_detach_program(interface, SIDE, names::PROGRAM_FROM_POD);
    }
    forget(&pin)
}

fn forget(pin: &Path) -> Result<(), PodsError> {
    match fs::remove_file(pin) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", pin)(e)),
        _ => Ok(()),
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PodsError {
    let path = path.display().to_string();
    move |source| PodsError::Pin { what, path, source }
}
