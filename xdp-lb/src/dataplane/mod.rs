//! The kernel side of the agent: programs, maps, attachment.
//!
//! ```text
//!   model::Limits -> shape -> load ----> ROOT/maps/*, ROOT/prog     (pins outlive the agent)
//!                              |
//!                              +-------> attach -> ROOT/links/*
//!   plan (MapOp) ----------> kernel_maps -> mapped memory of the pinned maps
//!   status, explain, flows <- kernel_maps, tables
//! ```
//!
//! `mapped`, `sys`, `netns` and `ethtool` hold all the `unsafe`: map memory in the first, system calls in the others.

pub mod attach;
mod btf;
pub mod cuts;
mod errors;
pub mod ethtool;
pub mod health_map;
pub mod kernel_maps;
mod linker;
pub mod load;
mod locked;
mod mapped;
pub mod mss;
mod netlink_xdp;
pub mod netns;
pub mod object;
pub mod pods;
pub mod probe;
pub mod root;
pub mod shape;
pub mod sys;
pub mod tables;

pub use attach::{AttachError, Attached, Mode};
pub use kernel_maps::{Access, Carried, KernelMaps, OpenError, TooSmall};
pub use load::{LoadError, Loaded, Program, Setup};
pub use root::BpffsRoot;
pub use shape::{Machine, Shape};
pub use tables::KernelTables;
