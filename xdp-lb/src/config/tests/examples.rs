//! The shipped examples load without errors or warnings, and mean what they say.

use super::good;
use crate::model::Desired;

/// Every file of `examples/`.
pub(super) const ALL: &[(&str, &str)] = &[
    ("minimal", include_str!("../../../../examples/minimal.yaml")),
    ("lab", include_str!("../../../../examples/lab.yaml")),
    ("decap", include_str!("../../../../examples/decap.yaml")),
    ("rtc", include_str!("../../../../examples/rtc.yaml")),
    ("edge-and-backend", include_str!("../../../../examples/edge-and-backend.yaml")),
];

pub(super) fn desired(name: &str) -> Desired {
    let (_, text) = ALL.iter().find(|(n, _)| *n == name).unwrap();
    good(text).desired
}

#[test]
fn all_load() {
    for (name, text) in ALL {
        let warnings = good(text).warnings;
        // Minimal is minimal: its seed is the public default.
        assert_eq!(warnings.len(), usize::from(*name == "minimal"), "{name}: {warnings:?}");
    }
}
