//! Whether the agent lives, and whether traffic may be sent to this node.

use std::fmt;
use std::time::Duration;

use super::Condition;

/// A loop that has not turned for so long hangs: it turns every ten seconds though nothing happens.
pub const STALLED: Duration = Duration::from_secs(30);

/// Why no traffic should be sent here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotReady {
    /// Tables are being filled.
    Starting,
    /// The agent ends.
    Leaving,
    /// The agent's loop hangs.
    Stalled {
        /// For how long.
        silent: Duration,
    },
    /// Interfaces without the program.
    NotAttached {
        /// Their names.
        interfaces: Vec<String>,
    },
    /// The maps are not as wanted.
    NotApplied {
        /// What failed.
        why: String,
    },
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("starting: the tables are being filled"),
            Self::Leaving => f.write_str("leaving: the agent was told to end"),
            Self::Stalled { silent } => {
                write!(f, "the agent's loop has not turned for {} s", silent.as_secs())
            }
            Self::NotAttached { interfaces } => {
                write!(f, "the program is not attached to {}", interfaces.join(", "))
            }
            Self::NotApplied { why } => write!(f, "the maps are not as wanted: {why}"),
        }
    }
}

/// Whether the agent's loop turns. `now` is the agent's clock.
///
/// # Errors
/// [`NotReady::Stalled`].
pub fn alive(condition: &Condition, now: Duration) -> Result<(), NotReady> {
    let silent = now.saturating_sub(condition.beat);
    if silent < STALLED { Ok(()) } else { Err(NotReady::Stalled { silent }) }
}

/// Whether traffic may be sent here. A file that was refused changes nothing: what was in force forwards.
///
/// # Errors
/// Every reason that holds.
pub fn ready(
    condition: &Condition,
    attached: &[(String, String)],
    now: Duration,
) -> Result<(), Vec<NotReady>> {
    let mut reasons = Vec::new();
    if !condition.started {
        reasons.push(NotReady::Starting);
    }
    if condition.leaving {
        reasons.push(NotReady::Leaving);
    }
    reasons.extend(alive(condition, now).err());
    let idle = |name: &&String| !attached.iter().any(|(interface, _)| interface == *name);
    let interfaces: Vec<String> = condition.interfaces.iter().filter(idle).cloned().collect();
    if !interfaces.is_empty() {
        reasons.push(NotReady::NotAttached { interfaces });
    }
    reasons.extend(condition.failure.clone().map(|why| NotReady::NotApplied { why }));
    if reasons.is_empty() { Ok(()) } else { Err(reasons) }
}
