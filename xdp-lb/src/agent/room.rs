//! No room for all rings that health and drains ask for: some services go by the states of others, and the rest is carried
//! out.

use super::{FlowTable, Outcome, ReconcileError, Reconciler, Run};
use crate::{
    aside::{self, Parting},
    model::Desired,
    plan::PlanError,
    state::Maps,
};

/// Names that are told; of the others how many.
const NAMES: usize = 5;

/// What was carried out instead.
pub(super) struct Instead {
    /// The configuration as the planner saw it.
    pub(super) judged: Desired,
    /// What is not as wanted, in words.
    pub(super) why: String,
}

/// Whether leaving services aside could help.
pub(super) fn is_short(error: &ReconcileError) -> bool {
    matches!(error, ReconcileError::Plan(PlanError::Limit { what: "ring_slots" | "backends", .. }))
}

/// Carries `run` out with as few services left aside as there is no room for. `file` is what the configuration says,
/// `short` why all of it does not fit.
///
/// # Errors
/// `short`, when it would not fit with all of them left aside; else what became of carrying it out.
pub(super) fn reconcile<M: Maps + FlowTable>(
    reconciler: &mut Reconciler<M>,
    run: &Run<'_>,
    file: &Desired,
    short: ReconcileError,
) -> (Result<Outcome, ReconcileError>, Option<Instead>) {
    let partings = aside::partings(&file.services, &run.desired.services);
    let observed = reconciler.observe();
    let with = |own: usize| aside::without(run.desired, &partings[own..]);
    let fits =
        |own: usize| reconciler.plan(&observed, &Run { desired: &with(own), only: None, ..*run }).is_ok();
    if partings.is_empty() || !fits(0) {
        return (Err(short), None);
    }
    // So many get rings of their own; one more would not fit.
    let (mut own, mut too_many) = (0, partings.len());
    while too_many - own > 1 {
        let middle = own.midpoint(too_many);
        if fits(middle) { own = middle } else { too_many = middle }
    }
    let judged = with(own);
    let done = reconciler.reconcile(&Run { desired: &judged, only: None, ..*run });
    let why = words(&partings[own..], file, &short);
    (done, Some(Instead { judged, why }))
}

fn words(aside: &[Parting], file: &Desired, short: &ReconcileError) -> String {
    let name = |n: usize| file.services[n].name.as_str();
    let all: Vec<String> = aside
        .iter()
        .flat_map(|p| p.services.iter().map(|&n| format!("{} as {}", name(n), name(p.like))))
        .collect();
    let more = all.len().saturating_sub(NAMES);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let named = all.iter().take(NAMES).cloned().collect::<Vec<_>>().join(", ");
    format!("no room for rings of their own, so backends are up or down for {named}{more}: {short}")
}
