//! A network namespace of the agent's own: one thread that lives in it and does there what it is told, mostly making
//! sockets. A socket stays in its namespace whoever uses it. The namespace and all in it end with the thread and the
//! last socket, so a killed agent leaves nothing.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::mpsc,
    thread::{self, JoinHandle},
};

use tokio::sync::oneshot;

/// Where a thread finds its own namespace.
const OWN: &str = "/proc/thread-self/ns/net";

type Job = Box<dyn FnOnce() + Send>;

/// The namespace. Dropping it ends the thread and waits for it.
#[derive(Debug)]
pub struct Netns {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    file: File,
}

impl Netns {
    /// Makes an empty namespace; its thread bears `name`.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`.
    pub fn create(name: &str) -> io::Result<Self> {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (made, is_made) = mpsc::channel();
        let live = move || {
            let file = unshare().and_then(|()| File::open(OWN));
            let failed = file.is_err();
            if made.send(file).is_err() || failed {
                return;
            }
            todo.into_iter().for_each(|job| job());
        };
        let thread = thread::Builder::new().name(name.into()).spawn(live)?;
        let file = is_made.recv().map_err(|_| io::Error::other("the namespace's thread ended"))??;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), file })
    }

    /// Runs `job` inside and returns what it returned; jobs are to take microseconds.
    ///
    /// # Errors
    /// When the thread has ended.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let ended = || io::Error::other("the namespace's thread ended");
        let (done, is_done) = oneshot::channel();
        let job = Box::new(move || drop(done.send(job())));
        self.jobs.as_ref().ok_or_else(ended)?.send(job).map_err(|_| ended())?;
        is_done.await.map_err(|_| ended())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn unshare() -> io::Result<()> {
    // SAFETY: takes flags only; changes this thread's namespace and no memory.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
