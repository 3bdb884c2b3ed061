//! What single values mean, for sources that hold them outside of a service's words. Called by `kube`.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

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

/// How long an address rests where nothing is said.
pub const RELEASE_DELAY: Duration = Duration::from_secs(60);

/// How long an address that was released rests, up to 30 days.
///
/// # Errors
/// What it must be, for whoever wrote it.
pub fn release_delay(text: &str) -> Result<Duration, String> {
    leaf::duration(Duration::ZERO..=Duration::from_secs(30 * 24 * 3600))(text)
}

/// A prefix without host bits, as in 172.16.0.0/16.
///
/// # Errors
/// What it must be, for whoever wrote it.
pub fn prefix(text: &str) -> Result<(IpAddr, u8), String> {
    leaf::prefix(text)
}

/// Whether a VIP or a backend can be this address.
#[must_use]
pub fn is_host(address: IpAddr) -> bool {
    leaf::special(address).is_none()
}
