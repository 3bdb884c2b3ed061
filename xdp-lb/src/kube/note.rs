//! What is to be said about an object: text for an Event.

use std::fmt;

use super::names::Key;

/// How bad it is: the `type` of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Works, and is seldom meant.
    Normal,
    /// Something does not work.
    Warning,
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A Service.
    Service(Key),
    /// A Node.
    Node(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(key) => write!(f, "Service {key}"),
            Self::Node(name) => write!(f, "Node {name}"),
        }
    }
}

/// A sentence about an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    /// How bad it is.
    pub severity: Severity,
    /// One word for machines, in Kubernetes' way of writing: `InvalidPolicy`.
    pub reason: &'static str,
    /// For people: where and what.
    pub message: String,
}

impl Note {
    pub(super) fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Normal, reason, message: message.into() }
    }

    pub(super) fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, reason, message: message.into() }
    }
}
