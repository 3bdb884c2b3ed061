//! What both halves of xdp-lb share: the layout of the map values, and the arithmetic on packets.
//!
//! The kernel half runs this code under the verifier, the user half in `explain`, in unit tests and
//! under the fuzzer: there is one parser, one hash, one selection.
//!
//! ```text
//!  vlan, parse --> classify --> hash --> select --> encap, gue        decap
//!                   vips,ports           ring, before,  template
//!                   fragment             flow set                             translate
//! ```
#![no_std]

#[cfg(test)]
extern crate std;

pub mod affinity;
pub mod backend;
pub mod checksum;
pub mod classify;
pub mod control;
pub mod cut;
pub mod decap;
pub mod echo;
pub mod encap;
pub mod flow;
pub mod fragment;
pub mod gue;
pub mod hash;
pub mod ice;
pub mod icmp;
#[cfg(feature = "user")]
pub mod memory;
pub mod mss;
pub mod names;
pub mod parse;
pub mod path_mtu;
mod pod;
pub mod probe;
pub mod quic;
pub mod reason;
pub mod ring;
pub mod select;
pub mod server_id;
pub mod service;
pub mod source;
pub mod stats;
pub mod toobig;
pub mod translate;
pub mod udp;
pub mod vip;
pub mod vlan;
pub mod word;
