//! One netlink socket for questions and answers, every one of them bounded in time.
//!
//! Apart from the socket of `events`: when a storm of notifications overflows that one, no answer is lost.

use std::future::Future;
use std::time::Duration;

use futures::{Stream, TryStreamExt};
use rtnetlink::Handle;
use tokio::task::JoinHandle;

use super::NetlinkError;

/// How long the kernel may take for one answer. It answers in microseconds; a dump of 100 000 neighbours
/// takes a fraction of a second.
const LIMIT: Duration = Duration::from_secs(5);

/// A socket to ask the kernel.
#[derive(Debug)]
pub struct Requests {
    handle: Handle,
    /// Moves bytes between the socket and the handle; ends with us.
    pump: JoinHandle<()>,
}

impl Requests {
    /// Opens a socket in the calling thread's network namespace. Needs a running tokio runtime.
    ///
    /// # Errors
    /// [`NetlinkError::Open`].
    pub fn open() -> Result<Self, NetlinkError> {
        let (connection, handle, _unsolicited) = rtnetlink::new_connection().map_err(NetlinkError::Open)?;
        Ok(Self { handle, pump: tokio::spawn(connection) })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

/// Waits for a request that answers with success alone. `what` names it in errors.
pub(super) async fn done(
    what: impl FnOnce() -> String,
    request: impl Future<Output = Result<(), rtnetlink::Error>>,
) -> Result<(), NetlinkError> {
    match tokio::time::timeout(LIMIT, request).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(explain(what(), error)),
        Err(_) => Err(NetlinkError::Silent { what: what() }),
    }
}

/// Collects all answers of a dump. `what` names it in errors.
pub(super) async fn all<T>(
    what: impl FnOnce() -> String,
    answers: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, NetlinkError> {
    match tokio::time::timeout(LIMIT, answers.try_collect()).await {
        Ok(Ok(answers)) => Ok(answers),
        Ok(Err(error)) => Err(explain(what(), error)),
        Err(_) => Err(NetlinkError::Silent { what: what() }),
    }
}

fn explain(what: String, error: rtnetlink::Error) -> NetlinkError {
    match error {
        rtnetlink::Error::NetlinkError(message) => NetlinkError::Refused { what, source: message.to_io() },
        rtnetlink::Error::RequestFailed => NetlinkError::Silent { what },
        other => NetlinkError::Unexpected { what, answer: other.to_string() },
    }
}
