//! What the guest says on its console, line by line. `xtask/src/vm/report.rs` reads it; the two must agree.
//!
//! ```text
//!  vm: program xdp_lb verified 2345 in 812 us
//!  vm: passed traffic in 2311 ms
//!  vm: failed golden: what, with newlines as " | "
//!  vm: skipped golden: why
//! ```

use std::fmt;
use std::io::{Write as _, stdout};
use std::time::Duration;

use super::verify::Verified;

/// Begins every line that is ours: kernels talk on the same console.
pub const MARK: &str = "vm:";

/// Lines of an explanation that are told, an even number.
const MOST_LINES: usize = 60;

/// One line.
#[derive(Debug)]
pub enum Line<'a> {
    /// A program that the kernel takes.
    Program(&'a Verified),
    /// A check that found nothing wrong.
    Passed {
        /// Its name.
        name: &'a str,
        /// How long it took.
        took: Duration,
    },
    /// A check that did.
    Failed {
        /// Its name.
        name: &'a str,
        /// What is wrong.
        why: String,
    },
    /// A part of a check that this kernel cannot do.
    Skipped {
        /// The check's name.
        name: &'a str,
        /// What and why.
        why: String,
    },
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one_line = |text: &str| shortened(text.trim()).replace('\n', " | ");
        match self {
            Self::Program(Verified { name, instructions, took, .. }) => {
                write!(f, "{MARK} program {name} verified {instructions} in {} us", took.as_micros())
            }
            Self::Passed { name, took } => write!(f, "{MARK} passed {name} in {} ms", took.as_millis()),
            Self::Failed { name, why } => write!(f, "{MARK} failed {name}: {}", one_line(why)),
            Self::Skipped { name, why } => write!(f, "{MARK} skipped {name}: {}", one_line(why)),
        }
    }
}

/// Enough to see what is wrong; the console is slow.
fn shortened(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let Some(left) = lines.len().checked_sub(MOST_LINES).filter(|left| *left > 0) else {
        return lines.join("\n");
    };
    let (first, last) = (&lines[..MOST_LINES / 2], &lines[lines.len() - MOST_LINES / 2..]);
    format!("{}\n[{left} lines]\n{}", first.join("\n"), last.join("\n"))
}

/// Says it at once: the machine may end any moment.
pub fn say(line: &Line<'_>) {
    let mut out = stdout().lock();
    // A console that cannot be written to shows as a missing last line.
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_story_is_cut_in_the_middle() {
        let story = |lines: usize| (0..lines).map(|n| n.to_string()).collect::<Vec<_>>().join("\n");
        assert_eq!(shortened(&story(MOST_LINES)), story(MOST_LINES));
        let cut = shortened(&story(MOST_LINES + 7));
        assert!(
            cut.starts_with("0\n1\n") && cut.ends_with("\n66") && cut.contains("\n29\n[7 lines]\n37\n"),
            "{cut}"
        );
    }

    #[test]
    fn a_line_is_a_line() {
        let failed = Line::Failed { name: "pins", why: "first\nsecond\n".to_owned() };
        assert_eq!(failed.to_string(), "vm: failed pins: first | second");
        let passed = Line::Passed { name: "pins", took: Duration::from_micros(1_234_999) };
        assert_eq!(passed.to_string(), "vm: passed pins in 1234 ms");
        let program = Verified {
            name: "xdp_lb".to_owned(),
            instructions: 7,
            took: Duration::from_nanos(8_999),
            details: String::new(),
        };
        assert_eq!(Line::Program(&program).to_string(), "vm: program xdp_lb verified 7 in 8 us");
    }
}
