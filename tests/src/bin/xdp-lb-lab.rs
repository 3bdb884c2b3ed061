//! `xdp-lb-lab`: what `cargo xtask run` starts. See [`xdp_lb_tests::demo`].

use std::process::ExitCode;

use clap::Parser as _;
use xdp_lb_tests::demo::arguments::Arguments;
use xdp_lb_tests::demo::show;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match show::run(&arguments, std::io::stdout()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  because: {cause}");
            }
            ExitCode::from(show::LOST)
        }
    }
}
