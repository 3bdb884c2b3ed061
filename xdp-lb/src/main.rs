//! The program `xdp-lb`. Everything is in the library; see [`xdp_lb::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    xdp_lb::cli::main()
}
