//! One packet's way through the model: what is known meanwhile, and how it ends.

use xdp_lb_common::reason::{DropReason, FlowEvent, PassReason};

use super::flows::Entry;
use super::fragments;
use super::tables::Moment;
use super::{Model, Prediction};
use crate::prog::{Counted, XdpAction};

/// How a packet ends.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// It goes to the kernel as it is.
    Pass(PassReason),
    /// It ends here, unchanged.
    Drop(DropReason),
    /// It was changed.
    Changed(XdpAction, Vec<u8>, Option<PassReason>),
}

impl From<PassReason> for End {
    fn from(reason: PassReason) -> Self {
        Self::Pass(reason)
    }
}

impl From<DropReason> for End {
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

/// A value, or the packet's end.
pub(super) type Judged<T> = Result<T, End>;

/// A write to a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A way of the flow table.
    Flow {
        /// Set.
        set: usize,
        /// Way.
        way: usize,
        /// Entry.
        entry: Entry,
    },
    /// A way of the fragment table.
    Fragment {
        /// Set.
        set: usize,
        /// Way.
        way: usize,
        /// Entry.
        entry: fragments::Entry,
    },
    /// A service remembered one more flow in this second.
    Admission {
        /// Its id.
        service: u16,
        /// The second.
        second: u32,
        /// How many.
        count: u32,
    },
    /// One more answer to a packet that is too big in this second.
    Answer {
        /// The second.
        second: u32,
        /// How many.
        count: u32,
    },
}

/// A packet on its way.
pub(super) struct Step<'a> {
    pub model: &'a Model,
    pub moment: Moment,
    /// Interface that it came in by.
    pub ingress: u32,
    counted: Vec<Counted>,
    changes: Vec<Change>,
}

impl<'a> Step<'a> {
    pub fn new(model: &'a Model, moment: Moment, ingress: u32) -> Self {
        Self { model, moment, ingress, counted: Vec::new(), changes: Vec::new() }
    }

    /// The flow table's clock.
    pub fn tick(&self) -> u16 {
        (self.moment.jiffies >> self.model.clock.tick_shift) as u16 % 2048
    }

    /// The clock of admissions, answers and fragments.
    pub fn second(&self) -> u32 {
        self.moment.jiffies >> self.model.clock.second_shift
    }

    pub fn count(&mut self, event: FlowEvent) {
        self.counted.push(Counted::Flow(event));
    }

    pub fn forwarded(&mut self, bytes: usize) {
        self.counted.push(Counted::Forwarded(bytes as u64));
    }

    pub fn change(&mut self, change: Change) {
        self.changes.push(change);
    }

    pub fn end(mut self, frame: &[u8], end: End) -> Prediction {
        let (verdict, packet) = match end {
            End::Pass(reason) => {
                self.counted.push(Counted::Pass(reason));
                (XdpAction::Pass, frame.to_vec())
            }
            End::Drop(reason) => {
                self.counted.push(Counted::Drop(reason));
                (XdpAction::Drop, frame.to_vec())
            }
            End::Changed(verdict, packet, reason) => {
                self.counted.extend(reason.map(Counted::Pass));
                (verdict, packet)
            }
        };
        Prediction { verdict, packet, counted: self.counted, changes: self.changes }
    }
}
