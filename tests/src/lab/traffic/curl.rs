//! The distribution's curl as a client that is not ours.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::seen::Seen;
use crate::lab::namespace::Namespace;
use crate::lab::product::run_to_end;

/// `http://` of an address, with the brackets that IPv6 wants.
#[must_use]
pub fn url(target: SocketAddr) -> String {
    format!("http://{target}/")
}

/// Fetches `/` of `target` with curl in `ns`.
///
/// # Errors
/// When curl fails (the error shows what it said) or the answer is none of ours.
pub fn curl(ns: &Namespace, target: SocketAddr, bound: Duration) -> Result<Seen> {
    let mut command = Command::new("curl");
    let seconds = bound.as_secs_f64().to_string();
    command.args([
        "--silent",
        "--show-error",
        "--fail",
        "--noproxy",
        "*",
        "--max-time",
        &seconds,
        &url(target),
    ]);
    let output = run_to_end(ns, "curl", command, bound + Duration::from_secs(2))?;
    ensure!(output.status.success(), "curl {target}: {} ({})", output.stderr.trim(), output.status);
    Seen::parse(&output.stdout)
        .with_context(|| format!("curl {target}: unexpected answer {:?}", output.stdout))
}
