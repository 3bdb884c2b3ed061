//! The result for people, for programs, and against the target.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::measure::{Effort, Measured};

/// The name of the row that the others are read against.
const LIMIT: &str = "limit";

/// The most that a row may cost.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Row.
    pub row: &'static str,
    /// Nanoseconds above the limit.
    pub above_limit: i64,
}

impl Target {
    /// What the project promises (issue 2).
    pub const ALL: [Self; 3] = [
        Self { row: "tcp", above_limit: 20 },
        Self { row: "udp exact", above_limit: 20 },
        Self { row: "tcp 1M flows", above_limit: 30 },
    ];
}

/// Median nanoseconds above the limit's median; `None` when the limit was not measured.
fn above_limit(results: &[(String, Measured)], measured: Measured) -> Option<i64> {
    let (_, limit) = results.iter().find(|(name, _)| *name == LIMIT)?;
    Some(i64::from(measured.median) - i64::from(limit.median))
}

/// A table for people.
#[must_use]
pub fn table(results: &[(String, Measured)]) -> String {
    let mut out =
        format!("{:<34} {:>6} {:>6} {:>6} {:>13}\n", "ns a packet", "min", "median", "max", "above limit");
    for (name, m) in results {
        let above = above_limit(results, *m).map_or_else(|| "-".to_owned(), |ns| format!("{ns:+}"));
        let _ = writeln!(out, "{name:<34} {:>6} {:>6} {:>6} {above:>13}", m.min, m.median, m.max);
    }
    out
}

/// The same for programs: `{"batch", "rounds", "rows": [{"name", "min_ns", "median_ns", "max_ns", "above_limit_ns"}]}`.
#[must_use]
pub fn json(results: &[(String, Measured)], effort: Effort) -> Value {
    let rows: Vec<Value> = results
        .iter()
        .map(|(name, m)| {
            json!({
                "name": name,
                "min_ns": m.min,
                "median_ns": m.median,
                "max_ns": m.max,
                "above_limit_ns": above_limit(results, *m),
            })
        })
        .collect();
    json!({ "batch": effort.batch, "rounds": effort.rounds, "rows": rows })
}

/// A line for each target that was missed or not measured.
#[must_use]
pub fn missed(results: &[(String, Measured)]) -> Vec<String> {
    Target::ALL
        .iter()
        .filter_map(|target| {
            let row = results.iter().find(|(name, _)| *name == target.row);
            match row.and_then(|(_, m)| above_limit(results, *m)) {
                Some(ns) if ns <= target.above_limit => None,
                Some(ns) => Some(format!(
                    "{}: {ns} ns above the limit, at most {} wanted",
                    target.row, target.above_limit
                )),
                None => Some(format!("{}: not measured", target.row)),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(medians: &[(&str, u32)]) -> Vec<(String, Measured)> {
        medians
            .iter()
            .map(|&(name, ns)| (name.to_owned(), Measured { min: ns, median: ns, max: ns }))
            .collect()
    }

    #[test]
    fn a_target_is_met_missed_or_not_measured() {
        let met = results(&[("limit", 55), ("tcp", 75), ("udp exact", 40), ("tcp 1M flows", 85)]);
        assert_eq!(missed(&met), Vec::<String>::new());
        let slow = results(&[("limit", 55), ("tcp", 76), ("udp exact", 75), ("tcp 1M flows", 85)]);
        assert_eq!(missed(&slow), ["tcp: 21 ns above the limit, at most 20 wanted"]);
        assert_eq!(missed(&met[1..]).len(), 3, "without a limit nothing is known");
    }

    #[test]
    fn rows_are_read_above_the_limit() {
        let results = results(&[("floor", 34), ("limit", 55), ("tcp", 60)]);
        assert!(
            table(&results).lines().any(|l| l.starts_with("tcp ") && l.ends_with("+5")),
            "{}",
            table(&results)
        );
        assert_eq!(json(&results, Effort::default())["rows"][0]["above_limit_ns"], -21);
    }
}
