//! The program on interfaces, as links pinned under `ROOT/links`: they hold it there when the agent is gone.
//!
//! ```text
//!   no pin                          -> attach, pin
//!   pin, the interface runs it      -> BPF_LINK_UPDATE: the next packet meets the new program, none meets nothing
//!   pin of an interface that went   -> pin removed, attach, pin
//!   another program runs            -> refused with its name, or taken away with `replace`
//! ```

use std::{fs, io, path::Path};

use aya::programs::{
    Xdp, XdpMode,
    links::{FdLink, LinkError, PinnedLink},
    loaded_programs,
    xdp::XdpLink,
};

pub use super::netlink_xdp::Mode;
use super::{errors, ethtool, netlink_xdp, root::BpffsRoot, sys};
use crate::{model::AttachMode, offloads};

/// An interface that runs our program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Kernel name.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// Where the program runs.
    pub mode: Mode,
    /// Id of the program.
    pub program: u32,
    /// True when a link that was there before was updated.
    pub updated: bool,
}

/// Why the program is not on the interface.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// No such interface in this namespace.
    #[error("there is no interface {0}")]
    NoInterface(String),
    /// Somebody else's program runs there.
    #[error(
        "{interface} already runs the XDP program {name:?} (id {id}), which is not ours: stop its owner, or take it \
         away with --replace"
    )]
    Foreign {
        /// Interface.
        interface: String,
        /// The program's id.
        id: u32,
        /// The program's name.
        name: String,
    },
    /// The kernel or the driver refused.
    #[error("attach {program} to {interface} in {mode} mode: {source}{}", hint(*mode, obstacles, source))]
    Refused {
        /// Program.
        program: String,
        /// Interface.
        interface: String,
        /// Mode asked for.
        mode: Mode,
        /// What may be the reason, with cures.
        obstacles: Vec<String>,
        /// The kernel's word.
        source: io::Error,
    },
    /// A pin or a question to the kernel.
    #[error("{what} {on}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        on: String,
        /// The kernel's word.
        source: io::Error,
    },
}

fn hint(mode: Mode, obstacles: &[String], source: &io::Error) -> String {
    // The mode would be the same; it is an interface above that is in the way.
    if source.raw_os_error() == Some(libc::EEXIST) {
        return "; an interface above it (a bond, a VLAN device, a bridge) runs an XDP program, and the kernel allows no \
                other below: `ip link` shows which; take it away there"
            .to_owned();
    }
    match (mode, obstacles) {
        (Mode::Native, []) => {
            "; does the driver know XDP, are there queues enough? `mode: generic` always works".to_owned()
        }
        (Mode::Native, obstacles) => format!("; {}; or `mode: generic`", obstacles.join("; ")),
        (Mode::Generic | Mode::Offload, _) => String::new(),
    }
}

/// Puts `program`, loaded, on `interface`, or updates our link there.
///
/// A link in another mode than an explicit one is replaced: for a moment the kernel sees the packets. `auto` keeps
/// the mode it finds, else tries native, then generic. With `replace` another program is taken away.
///
/// # Errors
/// [`AttachError`].
pub fn attach(
    root: &BpffsRoot,
    program: &mut Xdp,
    interface: &str,
    mode: AttachMode,
    replace: bool,
) -> Result<Attached, AttachError> {
    let no_interface = || AttachError::NoInterface(interface.into());
    let ifindex = sys::ifindex(interface).ok_or_else(no_interface)?;
    fs::create_dir_all(root.links()).map_err(failed("make", root.links().display()))?;
    let pin = root.link(interface);
    if let Some(found) = ours(&pin, ifindex)? {
        if wants(mode, found) {
            update(program, &pin)?;
            return describe(interface, ifindex, true);
        }
        tracing::warn!(interface, from = %found, to = ?mode, "attach: changing the mode; packets pass the balancer by for a moment");
    }
    // A stale link, or one in another mode.
    remove_link(&pin)?;
    if let Some(running) = running(interface, ifindex)? {
        take_away(interface, ifindex, running, replace)?;
    }
    match mode {
        AttachMode::Native => create(program, interface, ifindex, Mode::Native, &pin)?,
        AttachMode::Generic => create(program, interface, ifindex, Mode::Generic, &pin)?,
        AttachMode::Auto => {
            let native = create(program, interface, ifindex, Mode::Native, &pin);
            native.or_else(|error| {
                tracing::info!(interface, %error, "attach: no native XDP, using generic");
                create(program, interface, ifindex, Mode::Generic, &pin)
            })?;
        }
    }
    describe(interface, ifindex, false)
}

/// Takes our program from one interface; says whether it was there.
///
/// # Errors
/// [`AttachError::Io`].
pub fn detach(root: &BpffsRoot, interface: &str) -> Result<bool, AttachError> {
    remove_link(&root.link(interface))
}

/// Takes our program from every interface and returns their names.
///
/// # Errors
/// [`AttachError::Io`] with the first that stays.
pub fn detach_all(root: &BpffsRoot) -> Result<Vec<String>, AttachError> {
    let names = pinned(root)?;
    names.iter().try_for_each(|name| detach(root, name).map(drop))?;
    Ok(names)
}

/// The interfaces that run our program, by name. Links of interfaces that are gone are left out.
///
/// # Errors
/// [`AttachError::Io`].
pub fn attached(root: &BpffsRoot) -> Result<Vec<Attached>, AttachError> {
    let mut found = Vec::new();
    for interface in pinned(root)? {
        let Some(ifindex) = sys::ifindex(&interface) else { continue };
        if ours(&root.link(&interface), ifindex)?.is_some() {
            found.push(describe(&interface, ifindex, false)?);
        }
    }
    Ok(found)
}

/// Names of all interfaces that a link is pinned for, sorted, whether they still exist or not.
///
/// # Errors
/// [`AttachError::Io`].
pub fn pinned(root: &BpffsRoot) -> Result<Vec<String>, AttachError> {
    let directory = root.links();
    let list = match fs::read_dir(&directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        list => list.and_then(Iterator::collect::<io::Result<Vec<_>>>),
    };
    let list = list.map_err(failed("list", directory.display()))?;
    let mut names: Vec<_> =
        list.iter().filter_map(|e| e.file_name().to_str().map(BpffsRoot::interface_of)).collect();
    names.sort();
    Ok(names)
}

/// The mode of our link on the interface; `None` without one, or when it holds another, vanished interface.
fn ours(pin: &Path, ifindex: u32) -> Result<Option<Mode>, AttachError> {
    let link = match sys::pinned_link(pin) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        link => link.map_err(failed("read link", pin.display()))?,
    };
    if link.ifindex != ifindex {
        return Ok(None);
    }
    let running = running(&pin.display().to_string(), ifindex)?;
    Ok(running.filter(|running| running.program == link.program).map(|running| running.mode))
}

fn wants(mode: AttachMode, found: Mode) -> bool {
    match mode {
        AttachMode::Auto => true,
        AttachMode::Native => found == Mode::Native,
        AttachMode::Generic => found == Mode::Generic,
    }
}

fn update(program: &mut Xdp, pin: &Path) -> Result<(), AttachError> {
    let link = PinnedLink::from_pin(pin).map(FdLink::from).and_then(XdpLink::try_from);
    let link = link.map_err(|e| failed("open link", pin.display())(errors::link(e)))?;
    let updated = program.attach_to_link(link).and_then(|id| program.take_link(id));
    // The pin holds the link; our descriptor of it can go.
    updated.map(drop).map_err(|e| failed("update link", pin.display())(errors::program(e)))
}

fn create(
    program: &mut Xdp,
    interface: &str,
    ifindex: u32,
    mode: Mode,
    pin: &Path,
) -> Result<(), AttachError> {
    let flags = match mode {
        Mode::Native => XdpMode::Driver,
        Mode::Generic => XdpMode::Skb,
        Mode::Offload => XdpMode::Hardware,
    };
    let name = program.info().ok().and_then(|i| i.name_as_str().map(str::to_owned)).unwrap_or_default();
    let refused = |source| {
        let (interface, obstacles) = (interface.to_owned(), obstacles(interface, ifindex));
        AttachError::Refused { program: name, interface, mode, obstacles, source }
    };
    let link = program
        .attach_to_if_index(ifindex, flags)
        .and_then(|id| program.take_link(id))
        .map_err(errors::program)
        .and_then(|link| FdLink::try_from(link).map_err(|e| no_link(ifindex, e)))
        .map_err(refused)?;
    link.pin(pin).map(drop).map_err(|e| failed("pin link", pin.display())(errors::pin(e)))
}

/// What may be in the way of native mode. Best effort: it explains an error that is reported either way.
fn obstacles(interface: &str, ifindex: u32) -> Vec<String> {
    let card = ethtool::look(interface).unwrap_or_default();
    offloads::obstacles(interface, &card, netlink_xdp::mtu(ifindex).unwrap_or_default())
}

/// aya falls back to netlink where XDP links are unknown (Linux before 5.9). Nothing would own that attachment, so
/// it is undone.
fn no_link(ifindex: u32, error: LinkError) -> io::Error {
    match netlink_xdp::remove(ifindex) {
        Ok(()) => io::Error::new(io::ErrorKind::Unsupported, "the kernel has no XDP links; Linux 5.9 has"),
        Err(_) => errors::link(error),
    }
}

/// Another's program, which only `replace` takes away.
fn take_away(
    interface: &str,
    ifindex: u32,
    running: netlink_xdp::Running,
    replace: bool,
) -> Result<(), AttachError> {
    let id = running.program;
    let name = program_name(id);
    if !replace {
        return Err(AttachError::Foreign { interface: interface.into(), id, name });
    }
    tracing::warn!(interface, id, name, "attach: taking another XDP program away");
    let removed = match netlink_xdp::remove(ifindex) {
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => sys::detach_link_of(id, ifindex),
        removed => removed,
    };
    removed.map_err(failed("take the other program from", interface))
}

fn describe(interface: &str, ifindex: u32, updated: bool) -> Result<Attached, AttachError> {
    let vanished = || AttachError::NoInterface(interface.into());
    let running = running(interface, ifindex)?.ok_or_else(vanished)?;
    Ok(Attached {
        interface: interface.into(),
        ifindex,
        mode: running.mode,
        program: running.program,
        updated,
    })
}

/// Name of the XDP program that runs on an interface, whosever it is.
///
/// # Errors
/// [`AttachError::Io`].
pub fn program_on(interface: &str, ifindex: u32) -> Result<Option<String>, AttachError> {
    Ok(running(interface, ifindex)?.map(|running| program_name(running.program)))
}

fn running(interface: &str, ifindex: u32) -> Result<Option<netlink_xdp::Running>, AttachError> {
    netlink_xdp::running(ifindex).map_err(failed("ask for the XDP program of", interface))
}

fn program_name(id: u32) -> String {
    let mut programs = loaded_programs().filter_map(Result::ok);
    let found = programs.find(|program| program.id() == id);
    found.and_then(|program| program.name_as_str().map(str::to_owned)).unwrap_or_else(|| "(no name)".into())
}

/// Detaches at once, then forgets the link.
fn remove_link(pin: &Path) -> Result<bool, AttachError> {
    match sys::detach_pinned_link(pin) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        detached => detached.map_err(failed("detach link", pin.display()))?,
    }
    fs::remove_file(pin).map_err(failed("remove", pin.display()))?;
    Ok(true)
}

fn failed(what: &'static str, on: impl ToString) -> impl FnOnce(io::Error) -> AttachError {
    let on = on.to_string();
    move |source| AttachError::Io { what, on, source }
}
