//! `xdp-lb-vm`: what `cargo xtask vm-test` runs, as process 1 of a virtual machine or, to verify, on this one.
//! See [`xdp_lb_tests::vm`].

use std::process::ExitCode;

use clap::Parser;
use xdp_lb_tests::vm::{check, init, verify};

/// Has the kernel verify the programs, and tries them.
#[derive(Parser)]
enum Command {
    /// Have every program verified and say how many instructions the verifier looked at. Needs root; attaches nothing
    Verify,
    /// Everything: for a machine of its own
    Check,
}

fn main() -> ExitCode {
    // As the kernel starts it, and nobody else.
    if std::process::id() == 1 && std::env::args_os().next().is_some_and(|name| name == "/init") {
        init::run();
    }
    match Command::parse() {
        Command::Check => ExitCode::from(u8::from(!check())),
        Command::Verify => {
            let mut print = |program: &verify::Verified| {
                println!(
                    "{}: {} instructions verified, loaded in {:.1} ms ({})",
                    program.name,
                    program.instructions,
                    program.took.as_secs_f64() * 1e3,
                    program.details
                );
            };
            match verify::all(&mut print) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("xdp-lb-vm: {error:#}");
                    ExitCode::FAILURE
                }
            }
        }
    }
}
