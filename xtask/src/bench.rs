//! `cargo xtask bench`: the packet path, measured by the release build.

use anyhow::Result;

use crate::build;
use crate::run::become_program;

/// Builds with optimization, then becomes the benchmark.
///
/// # Errors
/// The build fails or the benchmark cannot be started; otherwise this does not return.
pub fn run(arguments: Vec<String>) -> Result<()> {
    build::run(true)?;
    become_program("xdp-lb-bench", true, arguments)
}
