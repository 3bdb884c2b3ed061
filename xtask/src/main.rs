//! `cargo xtask`: everything a person or CI does with this repository. Here commands are told apart; each has its file.

mod bench;
mod build;
mod check;
mod chroot;
mod command;
mod fuzz;
mod lanes;
mod run;
mod setup;
mod test;
mod toolchain;
mod vm;
mod workspace;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

use setup::{Distro, Mode, Need};
use test::Part;

/// Set up, build, run and test xdp-lb.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
    /// Install nothing: only list what is missing, each with the command that brings it
    #[arg(long, global = true)]
    no_install: bool,
}

#[derive(Subcommand)]
enum Task {
    /// Bring what this machine lacks; the other commands do it themselves
    Setup {
        /// List what a fresh machine of this distribution would need: debian-12, debian-13, ubuntu-22.04, ubuntu-24.04
        #[arg(long, value_name = "NAME", requires = "no_install")]
        os: Option<Distro>,
    },
    /// Build the agent, its BPF programs and the tests' tools
    Build {
        /// With optimization, into target/release
        #[arg(long)]
        release: bool,
    },
    /// Show the balancer at work in a lab of network namespaces; with --config FILE, run it on this host's interfaces
    Run {
        /// With optimization, from target/release
        #[arg(long)]
        release: bool,
        /// For the lab (--for 30s, --keep), or for `xdp-lb run` (--config FILE ...)
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
        arguments: Vec<String>,
    },
    /// Run the tests, or one part of them
    Test {
        /// Which part; everything when left out
        part: Option<Part>,
        /// After `--`: for cargo test, and after a second `--` for the test binaries
        #[arg(last = true, value_name = "ARGUMENTS")]
        extra: Vec<String>,
    },
    /// Format, lints, documentation, purity, `unsafe`, licences
    Check,
    /// Look for inputs that break an invariant; wants cargo-fuzz
    Fuzz {
        /// Which of the targets in tests/fuzz; all, one after the other, when left out
        target: Option<String>,
        /// How long each: 60s, 5m, 2h
        #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = fuzz::length)]
        length: Duration,
    },
    /// Measure the packet path
    Bench {
        /// For the benchmark
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
        arguments: Vec<String>,
    },
    /// Load, verify and try the product on other kernels, in virtual machines
    VmTest {
        #[command(flatten)]
        arguments: vm::Arguments,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Task::Test { part: Some(Part::Kube), .. } = arguments.task {
        eprintln!("xtask: kube tests are not supported yet");
        return ExitCode::from(2);
    }
    match dispatch(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: Arguments) -> Result<()> {
    let mode = if arguments.no_install { Mode::List } else { Mode::Install };
    match arguments.task {
        Task::Setup { os: Some(distro) } => setup::list_for(distro),
        Task::Setup { os: None } => setup::run(mode),
        Task::Build { release } => {
            setup::before(Need::Build, mode)?;
            build::run(release)
        }
        Task::Run { release, arguments } => {
            setup::before(Need::Run, mode)?;
            run::run(release, arguments)
        }
        // Nothing is set up here: that is what it tests, elsewhere.
        Task::Test { part: Some(Part::Chroot), extra } => chroot::run(&extra),
        Task::Test { part: Some(Part::Vm), .. } => {
            setup::before(Need::Vm, mode)?;
            vm::run(&vm::Arguments::default())
        }
        Task::VmTest { arguments } => {
            setup::before(if arguments.here { Need::Run } else { Need::Vm }, mode)?;
            vm::run(&arguments)
        }
        Task::Test { part, extra } => {
            let need = if part == Some(Part::Unit) { Need::Build } else { Need::Run };
            setup::before(need, mode)?;
            test::run(part, &extra)
        }
        Task::Check => {
            setup::before(Need::Build, mode)?;
            check::run()
        }
        Task::Fuzz { target, length } => {
            setup::before(Need::Build, mode)?;
            fuzz::run(target.as_deref(), length)
        }
        Task::Bench { arguments } => {
            setup::before(Need::Run, mode)?;
            bench::run(arguments)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parsed(line: &str) -> Arguments {
        Arguments::try_parse_from(["xtask"].into_iter().chain(line.split_whitespace())).unwrap()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn foreign_options_pass_through() {
        let Arguments { task: Task::Run { release, arguments }, no_install } =
            parsed("run --no-install --for 30s --keep")
        else {
            panic!("not run");
        };
        assert_eq!((release, no_install, arguments.join(" ").as_str()), (false, true, "--for 30s --keep"));
        let Task::Test { part, extra } = parsed("test prog -- echo -- --nocapture").task else {
            panic!("not test")
        };
        assert_eq!((part, extra.join(" ").as_str()), (Some(Part::Prog), "echo -- --nocapture"));
    }

    #[test]
    fn another_distribution_is_only_listed() {
        assert!(Arguments::try_parse_from(["xtask", "setup", "--os", "ubuntu-22.04"]).is_err());
        assert!(matches!(
            parsed("setup --no-install --os ubuntu-22.04").task,
            Task::Setup { os: Some(Distro::Ubuntu2204) }
        ));
    }
}
