//! The socket: whose it is, and who may speak to it.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::unistd::Group;
use socket2::{Domain, SockAddr, Socket, Type};

/// Where it is unless the file or the command line says otherwise.
pub const SOCKET: &str = "/run/xdp-lb/admin.sock";
/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// Why nobody can be spoken to.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another agent's.
    #[error("another process answers at {}: give this agent another one (`admin.socket` or --socket)", .0.display())]
    Taken(PathBuf),
    /// Something else is in its place.
    #[error("{} is no socket: remove it, or name another one (`admin.socket` or --socket)", .0.display())]
    NoSocket(PathBuf),
    /// No such group.
    #[error("admin.group: there is no group {0}")]
    NoGroup(String),
    /// What the system said.
    #[error("{what} {}: {source}", path.display())]
    System {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A socket that is listened to. It goes with its owner, unless somebody else has put his own there.
#[derive(Debug)]
pub struct Bound {
    path: PathBuf,
    inode: (u64, u64),
}

/// Listens at `path`: mode 0600, with a group 0660 and that group's. A socket that nobody listens to any more is replaced.
pub fn bind(path: &Path, group: Option<&str>) -> Result<(UnixListener, Bound), BindError> {
    let failed = |what| {
        let path = path.to_owned();
        move |source| BindError::System { what, path, source }
    };
    let group = group.map(group_id).transpose()?;
    if let Some(parent) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .map_err(failed("make the directory of"))?;
    }
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => return Err(BindError::NoSocket(path.to_owned())),
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(BindError::Taken(path.to_owned())),
        Ok(_) => fs::remove_file(path).map_err(failed("remove"))?,
        Err(_) => {}
    }
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    let listen = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        // Before it listens: nobody can have connected yet.
        std::os::unix::fs::chown(path, None, group)?;
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        socket.listen(BACKLOG)?;
        let metadata = fs::symlink_metadata(path)?;
        let bound = Bound { path: path.to_owned(), inode: (metadata.dev(), metadata.ino()) };
        Ok((UnixListener::from(OwnedFd::from(socket)), bound))
    };
    listen().map_err(failed("listen at"))
}

/// By name or number.
fn group_id(group: &str) -> Result<u32, BindError> {
    match (group.parse(), Group::from_name(group)) {
        (_, Ok(Some(found))) => Ok(found.gid.as_raw()),
        (Ok(number), _) => Ok(number),
        _ => Err(BindError::NoGroup(group.to_owned())),
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let ours = |m: fs::Metadata| (m.dev(), m.ino()) == self.inode;
        if fs::symlink_metadata(&self.path).is_ok_and(ours) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("xdp-lb-socket-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn only_the_owner_may_speak_to_it_and_a_group_where_one_is_named() {
        let dir = scratch("mode");
        let path = dir.join("admin.sock");
        let (_listener, bound) = bind(&path, None).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert!(matches!(bind(&path, None), Err(BindError::Taken(_))), "one that answers is another's");
        drop(bound);
        assert!(!path.exists(), "it goes with its owner");
        let own = fs::metadata(&dir).unwrap().gid().to_string();
        let (_listener, _bound) = bind(&path, Some(&own)).unwrap();
        assert_eq!(mode(&path), 0o660);
        assert!(matches!(bind(&path, Some("no such group")), Err(BindError::NoGroup(_))));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_a_killed_agent_left_is_replaced_and_nothing_else_is() {
        let dir = scratch("stale");
        let path = dir.join("admin.sock");
        let (listener, bound) = bind(&path, None).unwrap();
        drop(listener);
        std::mem::forget(bound);
        let (_listener, bound) = bind(&path, None).unwrap();
        // Somebody else's socket in the same place stays.
        fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        drop(bound);
        assert!(path.exists());
        drop(other);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a file").unwrap();
        assert!(matches!(bind(&path, None), Err(BindError::NoSocket(_))));
        fs::remove_dir_all(dir).unwrap();
    }
}
