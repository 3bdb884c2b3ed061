//! Where the configuration comes from, and when to look at it again.
//!
//! ```text
//!   notify: entries of directories --> quiet: bursts become one look --+
//!   every ten seconds: the files' times -------------------------------+--> read, if it is another --> agent
//!   SIGHUP ------------------------------------------------------------'
//! ```
//!
//! The agent waits for [`Source::changed`], then asks for [`Source::fresh`]. What cannot be used is an answer, too: the
//! agent says so once and goes on with what it has.

mod files;
mod places;
mod quiet;

pub use self::files::Files;
use crate::{config::Checked, file::Texts};

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub struct Offer {
    /// As it was written.
    pub texts: Texts,
    /// What it asks for.
    pub checked: Checked,
}

/// Where a configuration comes from.
pub trait Source {
    /// Waits until the configuration may be another, and has been so for a while. Nothing is lost if the wait is given up.
    fn changed(&mut self) -> impl Future<Output = ()>;

    /// The configuration, if it is not what it was at the last look, whatever came of that.
    fn fresh(&mut self) -> Option<anyhow::Result<Offer>>;

    /// The configuration as it is now.
    ///
    /// # Errors
    /// That it cannot be read, or [`crate::file::Refused`].
    fn read(&mut self) -> anyhow::Result<Offer>;
}
