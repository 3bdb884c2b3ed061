//! Port pages: which service or which slice a port belongs to, stored once for each content.
//!
//! VIPs and services with port slices take their pages from one [`Pages`], which knows the live ones.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use xdp_lb_common::vip::{PAGE_PORTS, PortPage};

use super::PlanError;
use crate::state::{MapOp, Observed};

/// Port pages by content: equal pages are stored once, live ones are never rewritten.
pub struct Pages {
    by_content: BTreeMap<PortPage, u32>,
    used: BTreeSet<u32>,
    /// No lower one is free.
    next: u32,
    capacity: u32,
    fresh: Vec<(u32, PortPage)>,
}

const EMPTY: PortPage = PortPage { values: [0; PAGE_PORTS] };

impl Pages {
    /// Those that are live.
    pub fn new(observed: &Observed) -> Self {
        let live = observed.pages.iter().map(|(&page, content)| (*content, page));
        Self {
            by_content: live.chain([(EMPTY, 0)]).collect(),
            used: observed.pages.keys().copied().chain([0]).collect(),
            next: 1,
            capacity: observed.capacity.port_pages,
            fresh: Vec::new(),
        }
    }

    /// Root page of a map from ports to values: ranges in the order of painting.
    pub fn root(&mut self, layers: &[(RangeInclusive<u16>, u16)]) -> Result<u32, PlanError> {
        let mut root = EMPTY;
        for (high, value) in (0u16..).zip(&mut root.values) {
            let first = high << 8;
            let (mut leaf, mut touched) = (EMPTY, false);
            for (range, id) in layers {
                let (from, to) = (*range.start().max(&first), *range.end().min(&(first | 255)));
                if from <= to {
                    leaf.values[usize::from(from & 255)..=usize::from(to & 255)].fill(*id);
                    touched = true;
                }
            }
            // Most pages of most addresses: comparing half a kilobyte 256 times would be the whole cost of a plan.
            if !touched {
                continue;
            }
            // Page numbers fit: `limits.port_pages` is at most 65535 where they are stored in 16 bits.
            *value = u16::try_from(self.intern(leaf)?).unwrap_or(0);
        }
        self.intern(root)
    }

    /// Writes of the pages that were made since the last call.
    pub fn take_fresh(&mut self) -> Vec<MapOp> {
        let fresh = self.fresh.drain(..);
        fresh.map(|(page, content)| MapOp::PutPage { page, content: Box::new(content) }).collect()
    }

    fn intern(&mut self, content: PortPage) -> Result<u32, PlanError> {
        if let Some(&page) = self.by_content.get(&content) {
            return Ok(page);
        }
        let end = self.capacity.min(1 << 16);
        let need = u64::from(end) + 1;
        let full = PlanError::Limit { what: "port_pages", need, have: u64::from(self.capacity) };
        let page = (self.next..end).find(|page| !self.used.contains(page)).ok_or(full)?;
        self.next = page + 1;
        self.by_content.insert(content, page);
        self.fresh.push((page, content));
        Ok(page)
    }
}

/// Ports and their values below a live root page, in runs of one value; 0 is left out.
pub fn runs(observed: &Observed, root: u32) -> Vec<(RangeInclusive<u16>, u16)> {
    let mut runs: Vec<(RangeInclusive<u16>, u16)> = Vec::new();
    let Some(root) = observed.pages.get(&root) else { return runs };
    let leaves = (0u16..).zip(root.values).filter_map(|(high, leaf)| {
        Some((high << 8, observed.pages.get(&u32::from(leaf)).filter(|_| leaf != 0)?))
    });
    for (port, value) in leaves.flat_map(|(first, leaf)| (first..=first | 255).zip(leaf.values)) {
        match runs.last_mut() {
            _ if value == 0 => {}
            Some((run, of)) if *of == value && *run.end() + 1 == port => *run = *run.start()..=port,
            _ => runs.push((port..=port, value)),
        }
    }
    runs
}
