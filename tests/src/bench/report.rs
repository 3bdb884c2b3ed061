//! The result: saved as JSON, shown as a table, held against the targets and against a saved run.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::measure::{Effort, Measured};

/// The name of the row that the others are read against.
pub(super) const LIMIT: &str = "limit";
/// The name of the row that is the harness alone.
pub(super) const FLOOR: &str = "floor";

/// The most that a row may cost.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Row.
    pub row: &'static str,
    /// What it is read against.
    pub against: &'static str,
    /// Nanoseconds above that.
    pub above: i64,
}

const fn limit(row: &'static str, above: i64) -> Target {
    over(row, LIMIT, above)
}

const fn over(row: &'static str, against: &'static str, above: i64) -> Target {
    Target { row, against, above }
}

impl Target {
    /// What the project wants of itself.
    pub const ALL: &[Self] = &[
        limit("tcp", 12),
        limit("udp exact", 12),
        limit("tcp ipv6", 20),
        limit("udp ipv6 exact", 20),
        limit("tcp 1k flows", 12),
        limit("tcp 64k flows", 15),
        limit("tcp 1M flows", 20),
        limit("tcp 10M flows", 20),
        limit("tcp dirty 1% 1M flows", 20),
        limit("tcp dirty 10% 1M flows", 35),
        limit("tcp dirty 1M flows", 120),
        limit("udp exact 64k flows", 70),
        limit("udp exact 1M flows", 130),
        limit("udp exact new flow", 130),
        limit("udp sampled new flow", 20),
        limit("syn flood", 15),
        limit("syn dirty remembered", 140),
        limit("syn flood dirty", 25),
        limit("client-ip", 30),
        limit("dest-port", 30),
        limit("quic-cid", 30),
        limit("ice-ufrag request", 30),
        limit("ice-ufrag media", 30),
        over("tcp port range", "tcp", 5),
        over("tcp 10k services 100 rings", "tcp 1M flows", 15),
        over("tcp 384 services own rings", "tcp 1M flows", 50),
        over("not a vip", FLOOR, 12),
        limit("decap", 15),
    ];
}

/// One row's figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Row.
    pub name: String,
    /// Its rounds.
    #[serde(flatten)]
    pub measured: Measured,
}

/// A whole run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How much was measured.
    #[serde(flatten)]
    pub effort: Effort,
    /// Kernel and processor, for people.
    pub machine: String,
    /// Rows in their order.
    pub rows: Vec<Line>,
}

impl Report {
    fn median(&self, row: &str) -> Option<i64> {
        self.rows.iter().find(|line| line.name == row).map(|line| line.measured.median.into())
    }

    /// Median nanoseconds above another row's median.
    #[must_use]
    pub fn above(&self, row: &str, against: &str) -> Option<i64> {
        Some(self.median(row)? - self.median(against)?)
    }

    /// A table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = format!(
            "{:<34} {:>6} {:>6} {:>6} {:>6} {:>12}\n",
            "ns a packet", "min", "median", "max", "noise", "above limit"
        );
        for Line { name, measured: m } in &self.rows {
            let above = self.above(name, LIMIT).map_or_else(|| "-".to_owned(), |ns| format!("{ns:+}"));
            let _ = writeln!(
                out,
                "{name:<34} {:>6} {:>6} {:>6} {:>6} {above:>12}",
                m.min, m.median, m.max, m.noise
            );
        }
        out
    }

    /// A line for each target that was missed or not measured.
    #[must_use]
    pub fn missed(&self) -> Vec<String> {
        let verdict = |target: &Target| match self.above(target.row, target.against) {
            Some(ns) if ns <= target.above => None,
            Some(ns) => Some(format!(
                "{}: {ns} ns above the {}, at most {} wanted",
                target.row, target.against, target.above
            )),
            None => Some(format!("{}: not measured", target.row)),
        };
        Target::ALL.iter().filter_map(verdict).collect()
    }

    /// Every row beside the same row of an earlier run, each above its own run's limit. A difference counts where it is
    /// larger than the noise of both rows and both limits.
    #[must_use]
    pub fn compare(&self, earlier: &Self) -> String {
        let mut out = format!(
            "{:<34} {:>8} {:>8} {:>8} {:>8}\n",
            "ns above the limit", "before", "now", "change", "noise"
        );
        let noise = |report: &Self, row: &str| {
            report.rows.iter().find(|line| line.name == row).map_or(0, |line| i64::from(line.measured.noise))
        };
        for Line { name, .. } in self.rows.iter().filter(|line| line.name != LIMIT) {
            let (Some(before), Some(now)) = (earlier.above(name, LIMIT), self.above(name, LIMIT)) else {
                continue;
            };
            let noise =
                [name.as_str(), LIMIT].iter().map(|row| noise(self, row) + noise(earlier, row)).sum::<i64>();
            let change = now - before;
            let word = match change {
                _ if change.abs() <= noise.max(1) => "",
                1.. => "  slower",
                _ => "  faster",
            };
            let _ = writeln!(out, "{name:<34} {before:>+8} {now:>+8} {change:>+8} {noise:>8}{word}");
        }
        out
    }
}

/// Kernel and processor of this machine, for people.
#[must_use]
pub fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split(':').nth(1))
        .unwrap_or(" unknown processor");
    format!("Linux {}, {}", kernel.trim(), cpu.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(medians: &[(&str, u32)]) -> Report {
        let rows = medians.iter().map(|&(name, ns)| Line {
            name: name.to_owned(),
            measured: Measured { min: ns, median: ns, max: ns, noise: 1 },
        });
        Report { effort: Effort::default(), machine: "a machine".to_owned(), rows: rows.collect() }
    }

    #[test]
    fn a_target_is_met_missed_or_not_measured() {
        let whole: Vec<_> =
            Target::ALL.iter().map(|t| (t.row, 50)).chain([(LIMIT, 50), (FLOOR, 40)]).collect();
        assert_eq!(report(&whole).missed(), Vec::<String>::new());
        let slow = [&[("tcp", 63)], &whole[1..]].concat();
        assert_eq!(report(&slow).missed(), ["tcp: 13 ns above the limit, at most 12 wanted"]);
        let partial = [("limit", 50), ("tcp", 50)];
        assert_eq!(report(&partial).missed().len(), Target::ALL.len() - 1, "the rest is not known");
    }

    #[test]
    fn every_target_is_a_row() {
        let rows = super::super::rows();
        for target in Target::ALL {
            assert!(rows.iter().any(|row| row.name == target.row), "{}", target.row);
        }
    }

    #[test]
    fn rows_are_read_above_the_limit() {
        let table = report(&[("floor", 34), ("limit", 55), ("tcp", 60)]).table();
        assert!(table.lines().any(|l| l.starts_with("tcp ") && l.ends_with("+5")), "{table}");
    }

    #[test]
    fn a_saved_run_is_read_back_and_compared() {
        let before = report(&[("limit", 55), ("tcp", 60), ("decap", 61), ("old", 1)]);
        let text = serde_json::to_string(&before).unwrap();
        let before: Report = serde_json::from_str(&text).unwrap();
        let now = report(&[("limit", 50), ("tcp", 64), ("decap", 57), ("new", 1)]);
        let compared = now.compare(&before);
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let line = |name: &str| compared.lines().find(|l| l.starts_with(name)).map(words);
        assert_eq!(line("tcp").as_deref(), Some("tcp +5 +14 +9 4 slower"));
        assert_eq!(line("decap").as_deref(), Some("decap +6 +7 +1 4"), "within the noise");
        assert_eq!((line("new"), line("old")), (None, None));
    }
}
