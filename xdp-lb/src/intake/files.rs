//! A file or a directory of files, watched.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::{
    sync::Notify,
    time::{Interval, MissedTickBehavior, interval, sleep_until},
};
use tracing::{debug, warn};

use super::{
    Offer, Source,
    places::Places,
    quiet::{Change, Quiet},
};
use crate::file::{self, STDIN, Stamp, Texts};

/// How often the files' times are looked at: some file systems tell nothing, and a directory may be moved away.
const LOOK: Duration = Duration::from_secs(10);

/// A configuration in files.
pub struct Files {
    path: PathBuf,
    shared: Arc<Shared>,
    /// `None`: the times alone must do.
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    look: Interval,
    /// The files when they were last read.
    stamp: Option<Stamp>,
    /// What was read then, or why it was not.
    last: Option<u64>,
}

/// Between the watcher's thread and us.
struct Shared {
    started: Instant,
    state: Mutex<(Quiet, Places)>,
    changed: Notify,
}

impl Files {
    /// Watches a file or a directory of files.
    ///
    /// Where the kernel does not let us, the log says so, and changes are found by the files' times.
    ///
    /// `read` is what was read of it before.
    pub fn watch(path: &Path, read: &Texts) -> Self {
        let shared =
            Arc::new(Shared { started: Instant::now(), state: Mutex::default(), changed: Notify::new() });
        let told = Arc::clone(&shared);
        let watcher = notify::recommended_watcher(move |event| told.note(event));
        let watcher = watcher
            .inspect_err(|e| warn!("changes of the configuration are noticed within ten seconds only: {e}"));
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        look.reset();
        let mut files = Self {
            path: path.to_owned(),
            shared,
            watcher: watcher.ok(),
            watched: BTreeSet::new(),
            look,
            stamp: Stamp::of(path).ok(),
            last: Some(fingerprint(read)),
        };
        files.follow();
        // It may have changed before anybody watched.
        files.shared.changes(Change::Unknown);
        files
    }

    /// Watches the directories that matter now.
    fn follow(&mut self) {
        if self.path.as_os_str() == STDIN {
            return;
        }
        let places = Places::of(&self.path).unwrap_or_default();
        let wanted = places.directories();
        self.shared.lock().1 = places;
        let Some(watcher) = &mut self.watcher else { return };
        for gone in self.watched.difference(&wanted) {
            // Most often because it was removed.
            let _ = watcher.unwatch(gone);
        }
        // Those that are watched, too: another directory may have taken the name.
        let watch = |directory: &&PathBuf| match watcher.watch(directory, RecursiveMode::NonRecursive) {
            Ok(()) => true,
            Err(e) => {
                debug!(directory = %directory.display(), "not watched: {e}");
                false
            }
        };
        self.watched = wanted.iter().filter(watch).cloned().collect();
    }

    fn take(&mut self) -> (u64, anyhow::Result<Offer>) {
        // Before the reading: what changes after this is another change.
        self.shared.lock().0.looked();
        self.stamp = Stamp::of(&self.path).ok();
        self.follow();
        let (said, offer) = match file::texts(&self.path) {
            Ok(texts) => {
                let said = fingerprint(&texts);
                let checked = texts.check().map_err(anyhow::Error::from);
                (said, checked.map(|checked| Offer { texts, checked }))
            }
            Err(e) => (fingerprint(&format!("{e:#}")), Err(e)),
        };
        (said, offer)
    }
}

impl Source for Files {
    async fn changed(&mut self) {
        if self.path.as_os_str() == STDIN {
            return std::future::pending().await;
        }
        loop {
            let due = self.shared.lock().0.due().map(|at| self.shared.started + at);
            let wait = async {
                match due {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wait => return,
                () = self.shared.changed.notified() => {}
                _ = self.look.tick() => {
                    if Stamp::of(&self.path).ok() != self.stamp {
                        self.shared.changes(Change::Unknown);
                    }
                }
            }
        }
    }

    fn fresh(&mut self) -> Option<anyhow::Result<Offer>> {
        let (said, offer) = self.take();
        (self.last.replace(said) != Some(said)).then_some(offer)
    }

    fn read(&mut self) -> anyhow::Result<Offer> {
        let (said, offer) = self.take();
        self.last = Some(said);
        offer
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, (Quiet, Places)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// On the watcher's thread.
    fn note(&self, event: notify::Result<Event>) {
        let event = match event {
            Ok(event) if event.need_rescan() => return self.changes(Change::Unknown),
            Ok(event) => event,
            Err(e) => {
                debug!("watching the configuration: {e}");
                return self.changes(Change::Unknown);
            }
        };
        let change: fn(PathBuf) -> Change = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => Change::Done,
            // Reading is none, and we read ourselves.
            EventKind::Access(_) => return,
            EventKind::Modify(ModifyKind::Data(_)) => Change::Writing,
            EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => Change::Done,
            _ => |_| Change::Unknown,
        };
        for path in event.paths {
            let concerns = self.lock().1.concern(&path);
            if concerns {
                self.changes(change(path));
            }
        }
    }

    fn changes(&self, change: Change) {
        self.lock().0.note(change, self.started.elapsed());
        self.changed.notify_one();
    }
}

/// Tells what was read from what was read before, in this process.
fn fingerprint(what: &impl std::hash::Hash) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(what)
}

#[cfg(test)]
mod tests;
