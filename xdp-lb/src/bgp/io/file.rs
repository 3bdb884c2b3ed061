//! The files of the speaker: keys it reads, and the status it leaves for `xdp-lb status bgp`.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use tracing::warn;

use crate::bgp::status::Status;

/// Replaces the file: a reader sees the old one or the new one, whole.
///
/// # Errors
/// What the file system says.
pub(super) fn write(path: &Path, status: &Status) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = File::create(&beside).and_then(|mut file| {
        file.write_all(&serde_json::to_vec_pretty(status)?)?;
        file.write_all(b"\n")
    });
    written.and_then(|()| fs::rename(&beside, path)).inspect_err(|_| drop(fs::remove_file(&beside)))
}

/// Takes the file away.
pub(super) fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!(path = %path.display(), %error, "the BGP status stays behind");
    }
}

/// What the agent last wrote.
///
/// # Errors
/// When there is nothing, or its writer is no more.
pub fn read(path: &Path) -> anyhow::Result<Status> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            bail!(
                "there is no {}: no agent that speaks BGP runs here, or its status_file is another",
                path.display()
            )
        }
        Err(e) => return Err(e).with_context(|| format!("read {}", path.display())),
    };
    let status: Status = serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?;
    if !Path::new("/proc").join(status.pid.to_string()).exists() {
        bail!(
            "the agent that wrote {} (pid {}) has ended: its sessions are gone, the routers decide how long routes stay",
            path.display(),
            status.pid
        );
    }
    Ok(status)
}
