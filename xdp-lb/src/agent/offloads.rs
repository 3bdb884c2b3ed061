//! Says in the log what network cards do that breaks packets.

use tracing::{debug, info, warn};

use crate::{
    dataplane::{Mode, ethtool},
    nexthop::Links,
};

/// Looks at an interface that runs the program.
pub fn tell(interface: &str, mode: Mode, links: &Links) {
    match ethtool::findings(interface, mode != Mode::Generic, links) {
        Ok(findings) => {
            for finding in findings {
                if finding.is_certain() {
                    warn!(interface, "{finding}");
                } else {
                    info!(interface, "{finding}");
                }
            }
        }
        Err(error) => debug!(interface, %error, "its offloads are not known"),
    }
}
