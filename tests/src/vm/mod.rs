//! The guest of `cargo xtask vm-test`: the balancer on another kernel, in a machine that holds nothing else.
//!
//! ```text
//!  /init (process 1) -- mounts, modules -- starts itself as --> check -- one line for each thing --> serial console
//!     '---- last line, exit code of the emulator  <-- exit code --'
//! ```
//!
//! `xtask/src/vm/` builds the image, starts the emulator and reads the lines. [`verify`] alone also runs on an ordinary
//! machine: `cargo xtask vm-test --here`.
//!
//! | file | decides |
//! |---|---|
//! | `init` | what a kernel needs before anything runs on it, and how the machine ends |
//! | `verify` | how much work each program is for the kernel's verifier |
//! | `pins` | whether attachment and pins live as long as they should |
//! | `traffic` | whether real packets take the tunnel, and come back straight |
//! | `vlans` | VLAN devices and bonds: the program below them, packets with the right tag |
//! | `binaries` | which integration tests run there as they are |
//! | `report` | the lines |
//! | `sys` | the unsafe system calls |

mod binaries;
pub mod init;
mod pins;
pub mod report;
#[expect(unsafe_code, reason = "system calls take pointers, and the emulator's exit is an I/O port")]
mod sys;
mod traffic;
pub mod verify;
mod vlans;

use std::time::Instant;

use anyhow::Result;

use report::Line;

/// A check and its name.
type Check = (&'static str, fn() -> Result<()>);

/// The programs load. Without that nothing else can be asked.
const VERIFY: Check = ("verify", verify_all);
/// The rest, the cheapest first.
const CHECKS: [Check; 4] = [
    ("pins", pins::check),
    ("traffic", traffic::check),
    ("vlans", vlans::check),
    ("golden", binaries::golden),
];

fn verify_all() -> Result<()> {
    verify::all(&mut |program| report::say(&Line::Program(program)))
}

/// Set by `cargo xtask vm-test --verify-only`, on the kernel's command line.
const ONLY: (&str, &str) = ("xlb_only", "verify");

/// Runs every check and says what became of each; false when one failed. A failed check does not stop the others,
/// unless the kernel refuses the programs.
#[must_use]
pub fn check() -> bool {
    let rest = if std::env::var(ONLY.0).is_ok_and(|value| value == ONLY.1) { &[] } else { &CHECKS[..] };
    // All of them, whatever becomes of the first.
    run(VERIFY) && rest.iter().filter(|check| !run(**check)).count() == 0
}

fn run((name, check): Check) -> bool {
    let begun = Instant::now();
    match check() {
        Ok(()) => {
            report::say(&Line::Passed { name, took: begun.elapsed() });
            true
        }
        Err(error) => {
            report::say(&Line::Failed { name, why: format!("{error:#}") });
            false
        }
    }
}
