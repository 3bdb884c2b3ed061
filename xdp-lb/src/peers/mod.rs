//! Flows that another edge node could not guess, told to it: exception sync.
//!
//! Two nodes with the same configuration choose the same backend for a flow, unless its slot is dirty: then the node
//! that saw the flow begin remembers it, and the other goes by `now` or `before`. [`exceptions`] finds the remembered
//! flows for which that guess would be wrong; they alone are told, and only while they last.
//!
//! ```text
//!   flow table -> exceptions() -> Ledger::due() -> message -> channel (Noise, shared key) -> the other node
//!   the other node: message -> exceptions::place() -> its flow table, if there is a free way
//! ```
//!
//! Drains by command go the same way, for they are one node's: [`apart`] says what follows where nodes drain differently.
//!
//! Everything but [`channel`] and [`link`] is pure. Nothing is sent, and nothing connected, while no slot is dirty and no
//! command drains anybody.

pub mod apart;
pub mod channel;
pub mod exceptions;
pub mod ledger;
pub mod link;
pub mod message;

pub use self::apart::{Apart, Heard};
pub use self::exceptions::{Exception, Refusal};
pub use self::ledger::Ledger;
pub use self::link::{Counts, Peers, Told};
pub use self::message::{Flows, Message};

/// Flows that are kept in mind as told to one peer, or learned from one; those beyond it are not told. 65 536 take
/// about 3 MB for each peer.
pub const MOST: usize = 1 << 16;
