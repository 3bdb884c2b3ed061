//! The TC program that lowers what servers behind a VIP offer as their largest segment, on its interfaces.
//!
//! It ends with the agent: without it segments that do not fit earn their sender an ICMP message from the balancer,
//! which is slower, and works. Kernels of 6.6 and later hold it by TCX links; before, by clsact filters, which a killed
//! agent leaves behind and the next one takes away.

use std::{collections::BTreeMap, io};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        tc::{self, NlOptions, SchedClassifierLinkId, TcAttachOptions},
    },
    util::KernelVersion,
};
use xdp_lb_common::names;

use super::errors;

/// Why the program is not on an interface.
#[derive(Debug, thiserror::Error)]
pub enum MssError {
    /// It is missing from the object: a broken build.
    #[error("program {} is missing from the object", names::PROGRAM_MSS)]
    BrokenObject,
    /// The kernel refused the place.
    #[error("attach {} to {interface}: {source}", names::PROGRAM_MSS)]
    Attach {
        /// Interface.
        interface: String,
        /// The kernel's word.
        source: io::Error,
    },
}

/// Where it is attached, by interface.
pub(super) type Places = BTreeMap<String, SchedClassifierLinkId>;

/// Puts the program on exactly `interfaces`.
pub(super) fn place(ebpf: &mut Ebpf, places: &mut Places, interfaces: &[String]) -> Result<(), MssError> {
    let program = program(ebpf)?;
    let gone: Vec<String> = places.keys().filter(|name| !interfaces.contains(name)).cloned().collect();
    for name in gone {
        if let Some(link) = places.remove(&name) {
            // An interface that went took its program along.
            let _ = program.detach(link);
        }
    }
    for interface in interfaces.iter().filter(|name| !places.contains_key(*name)).cloned().collect::<Vec<_>>()
    {
        let link = attach(program, &interface)
            .map_err(|source| MssError::Attach { interface: interface.clone(), source })?;
        places.insert(interface, link);
    }
    Ok(())
}

/// The program, loaded with the others or not yet.
pub(super) fn program(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, MssError> {
    let program = ebpf.program_mut(names::PROGRAM_MSS).and_then(|program| program.try_into().ok());
    program.ok_or(MssError::BrokenObject)
}

fn attach(program: &mut SchedClassifier, interface: &str) -> io::Result<SchedClassifierLinkId> {
    let side = TcAttachType::Egress;
    let options = if KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0)) {
        TcAttachOptions::TcxOrder(LinkOrder::default())
    } else {
        // There already is as good as made now; what cannot be made shows when attaching.
        let _ = tc::qdisc_add_clsact(interface);
        let _ = tc::qdisc_detach_program(interface, side, names::PROGRAM_MSS);
        TcAttachOptions::Netlink(NlOptions::default())
    };
    program.attach_with_options(interface, side, options).map_err(errors::program)
}
