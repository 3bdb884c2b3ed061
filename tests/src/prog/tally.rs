//! Which counters moved: every packet must show up exactly where the test says, and nowhere else.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use xdp_lb_common::reason::{DropReason, FlowEvent, PassReason, Reason};
use xdp_lb_common::stats::{Counters, Traffic};

/// One thing that the program counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counted {
    /// A packet dropped.
    Drop(DropReason),
    /// A packet handed to the kernel, or answered.
    Pass(PassReason),
    /// Something that the flow table did.
    Flow(FlowEvent),
    /// A packet forwarded, of so many bytes of inner IP packet.
    Forwarded(u64),
}

impl Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drop(reason) => write!(f, "drops.{}", reason.name()),
            Self::Pass(reason) => write!(f, "passes.{}", reason.name()),
            Self::Flow(event) => write!(f, "flows.{}", event.name()),
            Self::Forwarded(bytes) => write!(f, "forwarded ({bytes} bytes)"),
        }
    }
}

/// All counters at one moment, summed over CPUs and services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// The node's counters.
    pub counters: Counters,
    /// What all services together forwarded.
    pub forwarded: Traffic,
}

impl From<Counters> for Tally {
    fn from(counters: Counters) -> Self {
        Self { counters, forwarded: Traffic::default() }
    }
}

/// The sum of what the CPUs counted, field by field; `T` is [`Counters`] or [`Traffic`].
#[must_use]
pub fn sum<T: bytemuck::Pod>(per_cpu: impl IntoIterator<Item = T>) -> T {
    let mut total = T::zeroed();
    for value in per_cpu {
        let words: &mut [u64] = bytemuck::cast_slice_mut(std::slice::from_mut(&mut total));
        for (word, more) in words.iter_mut().zip(bytemuck::cast_slice::<T, u64>(&[value])) {
            *word = word.wrapping_add(*more);
        }
    }
    total
}

/// Asserts that between `before` and `after` exactly `expected` was counted, each as often as it is named.
///
/// # Panics
/// When anything else moved, or the same by another number; the message names each such counter.
#[track_caller]
pub fn assert_counted(before: impl Into<Tally>, after: impl Into<Tally>, expected: &[Counted]) {
    if let Err(message) = counted(before, after, expected) {
        panic!("{message}");
    }
}

/// [`assert_counted`] as a value, for tables that report all failing rows.
///
/// # Errors
/// One line for each counter that did not move as expected.
pub fn counted(
    before: impl Into<Tally>,
    after: impl Into<Tally>,
    expected: &[Counted],
) -> Result<(), String> {
    let moved = differences(&before.into(), &after.into());
    let mut wanted: BTreeMap<String, i128> = BTreeMap::new();
    for counted in expected {
        for (name, by) in movements(*counted) {
            *wanted.entry(name).or_default() += by;
        }
    }
    let mut names: Vec<&String> = moved.keys().chain(wanted.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let wrong: Vec<String> = names
        .into_iter()
        .filter_map(|name| {
            let got = moved.get(name).copied().unwrap_or(0);
            let want = wanted.get(name).copied().unwrap_or(0);
            (got != want).then(|| format!("counter {name} moved by {got}, expected {want}"))
        })
        .collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// The counters that `counted` moves, and by how much.
fn movements(counted: Counted) -> Vec<(String, i128)> {
    match counted {
        Counted::Forwarded(bytes) => {
            vec![("forwarded.packets".to_owned(), 1), ("forwarded.bytes".to_owned(), i128::from(bytes))]
        }
        other => vec![(other.to_string(), 1)],
    }
}

/// Every counter that moved, by name.
fn differences(before: &Tally, after: &Tally) -> BTreeMap<String, i128> {
    let names = names();
    let (before, after) = (words(before), words(after));
    assert_eq!(names.len(), before.len(), "a counter without a name");
    let pairs = before.iter().zip(&after).map(|(&before, &after)| i128::from(after) - i128::from(before));
    names.into_iter().zip(pairs).filter(|(_, by)| *by != 0).collect()
}

/// All counters in the order of [`names`].
fn words(tally: &Tally) -> Vec<u64> {
    let counters = bytemuck::cast_slice::<Counters, u64>(std::slice::from_ref(&tally.counters));
    let named = counters.len() - 1 - tally.counters.reserved.len();
    [&counters[..named], &[tally.forwarded.packets, tally.forwarded.bytes]].concat()
}

/// Names of all counters, in the order of the fields of [`Counters`].
fn names() -> Vec<String> {
    let drops = DropReason::ALL.iter().map(|reason| Counted::Drop(*reason).to_string());
    let passes = PassReason::ALL.iter().map(|reason| Counted::Pass(*reason).to_string());
    let flows = FlowEvent::ALL.iter().map(|event| Counted::Flow(*event).to_string());
    let forwarded = ["forwarded.packets", "forwarded.bytes"].map(ToOwned::to_owned);
    drops.chain(passes).chain(flows).chain(forwarded).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn before() -> Tally {
        let mut tally = Tally::default();
        tally.counters.drops.no_service = 7;
        tally.counters.flows.hit = 9;
        tally
    }

    #[test]
    fn what_moved_is_what_was_said() {
        let mut after = before();
        after.counters.drops.no_service += 1;
        after.counters.passes.echo_answered += 2;
        after.counters.flows.over_limit += 1;
        after.forwarded.packets += 1;
        after.forwarded.bytes += 60;
        let echo = Counted::Pass(PassReason::EchoAnswered);
        let all = [
            Counted::Drop(DropReason::NoService),
            echo,
            echo,
            Counted::Flow(FlowEvent::OverLimit),
            Counted::Forwarded(60),
        ];
        assert_counted(before(), after, &all);
        for left_out in 0..all.len() {
            let mut some = all.to_vec();
            some.remove(left_out);
            assert!(counted(before(), after, &some).is_err(), "nothing misses {}", all[left_out]);
        }
    }

    #[test]
    fn an_uncounted_packet_is_named() {
        let message = counted(before(), before(), &[Counted::Drop(DropReason::TtlZero)]).unwrap_err();
        assert_eq!(message, "counter drops.ttl_zero moved by 0, expected 1");
    }

    #[test]
    fn every_counter_is_watched() {
        let watched = names().len();
        for index in 0..watched - 2 {
            let mut after = before();
            bytemuck::cast_slice_mut::<Counters, u64>(std::slice::from_mut(&mut after.counters))[index] += 1;
            let message = counted(before(), after, &[]).unwrap_err();
            assert_eq!(message, format!("counter {} moved by 1, expected 0", names()[index]));
        }
    }

    #[test]
    fn cpus_add_up() {
        let total = sum([before().counters, before().counters, Counters::default()]);
        assert_eq!((total.drops.no_service, total.flows.hit), (14, 18));
        assert_eq!(sum(std::iter::empty::<Traffic>()), Traffic::default());
    }
}
