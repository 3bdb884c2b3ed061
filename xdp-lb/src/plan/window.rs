//! Whether a planned change of a ring's slots waits until untracked UDP flows have been seen.
//!
//! A window is a service's, a change is a ring's: the change waits for the windows of all services on the ring that
//! need one. Those are UDP services without exact tracking; nothing else waits for itself.

use xdp_lb_common::service::{ServiceConfig, TRACK_WINDOW};

use super::{Inputs, Plan};
use crate::model::{self, Affinity, Protocol, Tracking};

/// The window of one service.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Window {
    Opens,
    Open,
    Over,
}

/// The windows of the services on a ring.
#[derive(Default)]
pub(super) struct Windows(Vec<(u16, Window)>);

/// Flows of the service may be neither remembered nor told by `before`.
pub(super) fn needs_window(wanted: &model::Service) -> bool {
    // Slots decide nothing that a window could keep together where ports or requests do.
    let by_slots = !matches!(wanted.affinity, Affinity::DestPort | Affinity::IceUfrag);
    by_slots && wanted.protocol == Protocol::Udp && wanted.tracking != Tracking::Exact
}

impl Windows {
    /// Of services that are there: what is wanted of each, its id, its configuration of today.
    pub(super) fn of<'a>(
        inputs: &Inputs,
        services: impl Iterator<Item = (&'a model::Service, u16, &'a ServiceConfig)>,
    ) -> Self {
        let length = inputs.desired.flow_table.track_window.as_secs();
        let window = |id: u16, old: &ServiceConfig| match inputs.windows.get(&id) {
            _ if old.flags & TRACK_WINDOW == 0 => Window::Opens,
            // Opened by an agent that is gone: it starts again.
            None => Window::Opens,
            Some(opened) if opened + length <= inputs.now => Window::Over,
            Some(_) => Window::Open,
        };
        Self(services.filter(|(w, ..)| needs_window(w)).map(|(_, id, old)| (id, window(id, old))).collect())
    }

    /// Whether a change waits.
    pub(super) fn postpones(&self, planned: bool) -> bool {
        planned && self.0.iter().any(|&(_, window)| window != Window::Over)
    }

    /// Something waits: opens what is not open, for `newcomers` too, whose first flow is tracked already.
    pub(super) fn wait(&self, inputs: &Inputs, newcomers: impl Iterator<Item = u16>, plan: &mut Plan) {
        let opened = |&(id, window): &(u16, Window)| match window {
            Window::Opens => inputs.now,
            Window::Open | Window::Over => inputs.windows.get(&id).copied().unwrap_or(inputs.now),
        };
        let last = self.0.iter().map(opened).max().unwrap_or(inputs.now);
        let opens = self.0.iter().filter(|(_, window)| *window == Window::Opens);
        plan.windows_opened.extend(opens.map(|&(id, _)| (id, inputs.now)));
        plan.windows_opened.extend(newcomers.map(|id| (id, last)));
        plan.wake_at(last + inputs.desired.flow_table.track_window.as_secs().max(1));
    }
}
