//! What single values mean, for sources that hold them outside of a service's words. Called by `kube`.

use std::ops::RangeInclusive;

use super::leaf;
use crate::model::Share;

/// A gate's opening: `10%` or a part of one.
///
/// # Errors
/// What it must be, for whoever wrote it.
pub fn share(text: &str) -> Result<Share, String> {
    leaf::share(text)
}

/// A backend's weight, 0..=1000.
///
/// # Errors
/// What it must be, for whoever wrote it.
pub fn weight(text: &str) -> Result<u16, String> {
    leaf::number(0..=1000)(text)
}

/// A port or `first-last`.
///
/// # Errors
/// What it must be, for whoever wrote it.
pub fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    leaf::port_range(text)
}
