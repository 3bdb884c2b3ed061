//! Ctrl-C and its relatives: the show ends in order, whatever it is doing.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

/// Whether somebody wants us to end.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    state: Arc<(Mutex<bool>, Condvar)>,
}

impl Interrupt {
    /// Listens for SIGINT, SIGTERM and SIGHUP from now on. They no longer end the process by themselves.
    ///
    /// # Errors
    /// When the signals cannot be caught.
    pub fn listen() -> Result<Self> {
        let interrupt = Self::default();
        let heard = interrupt.clone();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("catch signals")?;
        let mut signals = {
            let _inside = runtime.enter();
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
                .map(signal)
                .into_iter()
                .collect::<std::io::Result<Vec<_>>>()
                .context("catch signals")?
        };
        // Lasts as long as we do. Every signal is taken, so that an impatient second one does not kill the clean-up.
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(async {
                loop {
                    let any = signals.iter_mut().map(|s| Box::pin(s.recv()));
                    futures::future::select_all(any).await;
                    heard.give();
                }
            });
        })?;
        Ok(interrupt)
    }

    /// Asks for the end.
    pub fn give(&self) {
        *self.state.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.state.1.notify_all();
    }

    /// Whether the end was asked for.
    #[must_use]
    pub fn is_given(&self) -> bool {
        *self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `time`, or less when the end is asked for: says whether it was.
    #[must_use]
    pub fn wait(&self, time: Duration) -> bool {
        let guard = self.state.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (given, _) = self
            .state
            .1
            .wait_timeout_while(guard, time, |given| !*given)
            .unwrap_or_else(PoisonError::into_inner);
        *given
    }
}
