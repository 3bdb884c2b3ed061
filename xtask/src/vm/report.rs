//! What the guest said on its console. `tests/src/vm/report.rs` says what the lines look like; the two must agree.
//!
//! A machine that never came to its last line, or whose exit code is not the one the line says, proves nothing: that
//! is [`Verdict::Broken`], never a failed test.

use std::fmt::Write as _;
use std::time::Duration;

/// Begins every line that is the guest's; kernels talk on the same console.
const MARK: &str = "vm: ";

/// One program as the guest's verifier saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// Instructions that the verifier looked at.
    pub instructions: u64,
    /// Time of the load in microseconds of the guest.
    pub micros: u64,
}

/// What one machine proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All checks passed.
    Passed,
    /// Checks failed: which, and why.
    Failed(Vec<String>),
    /// The machine did not get as far as an answer: why.
    Broken(String),
}

/// Everything that one machine said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Programs in the order of their verification.
    pub programs: Vec<Program>,
    /// Checks that passed, with their time.
    pub passed: Vec<(String, Duration)>,
    /// What this kernel could not be asked.
    pub skipped: Vec<String>,
    /// What it all proves.
    pub verdict: Verdict,
}

/// How the emulator ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this exit code; none when a signal ended it.
    Code(Option<i32>),
    /// By us: it took too long.
    Late(Duration),
}

/// Reads a console.
#[must_use]
pub fn read(console: &str, ended: Ended) -> Report {
    let (mut programs, mut passed, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
    let (mut failed, mut broken, mut end) = (Vec::new(), None, None);
    for line in console.lines().filter_map(|line| line.trim_end().strip_prefix(MARK)) {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        match kind {
            "program" => programs.extend(program(rest)),
            "passed" => passed.extend(check(rest)),
            "skipped" => skipped.push(rest.to_owned()),
            "failed" => failed.push(rest.to_owned()),
            "broken:" => broken = Some(rest.to_owned()),
            "end" => end = rest.parse::<i32>().ok(),
            _ => {}
        }
    }
    let verdict = match (ended, end) {
        _ if broken.is_some() => Verdict::Broken(broken.unwrap_or_default()),
        (Ended::Late(limit), _) => Verdict::Broken(format!("no end after {} s", limit.as_secs())),
        (Ended::Code(code), None) => {
            Verdict::Broken(format!("no last line; the emulator's exit code is {code:?}"))
        }
        // The device isa-debug-exit ends the emulator with 2 * code + 1.
        (Ended::Code(code), Some(end)) if code != Some(2 * end + 1) => {
            Verdict::Broken(format!("the guest says {end}, the emulator's exit code is {code:?}"))
        }
        (Ended::Code(_), Some(0)) if failed.is_empty() && passed.is_empty() => {
            Verdict::Broken("the guest says it is done and has done nothing".to_owned())
        }
        (Ended::Code(_), Some(0)) if failed.is_empty() => Verdict::Passed,
        (Ended::Code(_), Some(end)) => {
            if failed.is_empty() {
                failed.push(format!("the checks ended with {end} and did not say why"));
            }
            Verdict::Failed(failed)
        }
    };
    Report { programs, passed, skipped, verdict }
}

/// `xdp_lb verified 2345 in 812 us`.
fn program(text: &str) -> Option<Program> {
    let words: Vec<&str> = text.split(' ').collect();
    let [name, "verified", instructions, "in", micros, "us"] = words[..] else { return None };
    Some(Program {
        name: name.to_owned(),
        instructions: instructions.parse().ok()?,
        micros: micros.parse().ok()?,
    })
}

/// `traffic in 2311 ms`.
fn check(text: &str) -> Option<(String, Duration)> {
    let words: Vec<&str> = text.split(' ').collect();
    let [name, "in", millis, "ms"] = words[..] else { return None };
    Some((name.to_owned(), Duration::from_millis(millis.parse().ok()?)))
}

impl Report {
    /// The result for people: a line, and one more for everything that is not as it should be.
    #[must_use]
    pub fn lines(&self, kernel: &str, took: Duration) -> String {
        let word = match self.verdict {
            Verdict::Passed => "ok",
            Verdict::Failed(_) => "FAILED",
            Verdict::Broken(_) => "BROKEN",
        };
        let mut text = format!("{word:<7} {kernel}");
        for (i, program) in self.programs.iter().enumerate() {
            let separator = if i == 0 { "  verified:" } else { "," };
            #[expect(clippy::cast_precision_loss, reason = "a time in microseconds is far below 2^52")]
            let millis = program.micros as f64 / 1e3;
            let _ = write!(text, "{separator} {} {} ({millis:.0} ms)", program.name, program.instructions);
        }
        for (i, (name, time)) in self.passed.iter().enumerate() {
            let separator = if i == 0 { "; passed:" } else { "," };
            let _ = write!(text, "{separator} {name} {:.1} s", time.as_secs_f64());
        }
        let _ = write!(text, "; {:.0} s in all", took.as_secs_f64());
        for why in &self.skipped {
            let _ = write!(text, "\n          skipped {why}");
        }
        match &self.verdict {
            Verdict::Passed => {}
            Verdict::Failed(all) => {
                for why in all {
                    let _ = write!(text, "\n          failed {}", why.replace(" | ", "\n            "));
                }
            }
            Verdict::Broken(why) => {
                let _ = write!(text, "\n          not tested: {why}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[    0.5] some kernel talk\r\n\
        vm: program xdp_lb verified 82574 in 95301 us\r\n\
        vm: program xdp_decap verified 7 in 10 us\r\n\
        vm: passed verify in 900 ms\r\n\
        vm: skipped golden: row \"x\": since 5.15\r\n\
        vm: passed golden in 2311 ms\r\n\
        vm: end 0\r\n";

    #[test]
    fn a_good_machine() {
        let report = read(GOOD, Ended::Code(Some(1)));
        assert_eq!(report.verdict, Verdict::Passed);
        assert_eq!(report.programs.len(), 2);
        assert_eq!(report.passed.len(), 2);
        assert_eq!(
            report.lines("6.1.0-56", Duration::from_secs(20)),
            "ok      6.1.0-56  verified: xdp_lb 82574 (95 ms), xdp_decap 7 (0 ms); passed: verify 0.9 s, golden 2.3 s; \
             20 s in all\n          skipped golden: row \"x\": since 5.15"
        );
    }

    #[test]
    fn a_failed_check_is_a_failure() {
        let console = GOOD.replace("vm: end 0", "vm: failed pins: a | b\r\nvm: end 1");
        let report = read(&console, Ended::Code(Some(3)));
        assert_eq!(report.verdict, Verdict::Failed(vec!["pins: a | b".to_owned()]));
        assert!(report.lines("k", Duration::ZERO).contains("\n          failed pins: a\n            b"));
        // A checker that died has said nothing.
        let console = GOOD.replace("vm: end 0", "vm: end 101");
        assert!(matches!(read(&console, Ended::Code(Some(203))).verdict, Verdict::Failed(_)));
    }

    #[test]
    fn anything_else_proves_nothing() {
        let broken = |console: &str, ended| matches!(read(console, ended).verdict, Verdict::Broken(_));
        assert!(broken("", Ended::Code(Some(0))), "no guest");
        assert!(broken("Kernel panic\r\n", Ended::Code(Some(0))));
        assert!(broken(GOOD, Ended::Code(Some(0))), "the last line and the exit code disagree");
        assert!(broken(GOOD, Ended::Code(None)));
        assert!(broken(GOOD, Ended::Late(Duration::from_secs(9))));
        assert!(broken("vm: broken: mount proc\r\nvm: end 2\r\n", Ended::Code(Some(5))));
        assert!(broken("vm: end 0\r\n", Ended::Code(Some(1))), "nothing was done");
        assert!(broken(&GOOD.replace("vm: failed", ""), Ended::Code(Some(3))));
    }
}
