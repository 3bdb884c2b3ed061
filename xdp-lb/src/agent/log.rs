//! The daemon's log: one line an event on stderr, for people or as JSON.

use std::io::IsTerminal as _;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{EnvFilter, fmt};

use crate::model::{Log, LogFormat, LogLevel};

/// Starts the log. `RUST_LOG` overrules the configured level. A second call changes nothing.
pub fn init(log: &Log) {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // What the libraries say below INFO is about themselves, and more than all packets together.
    let libraries = EnvFilter::builder().with_default_directive(level.min(LevelFilter::INFO).into());
    let filter = libraries.from_env_lossy();
    // Each request to an API server that fails is an error to this one. We say once that it does not answer.
    let own = [format!("xdp_lb={level}"), "kube_client::client::builder=off".to_owned()];
    let filter = match std::env::var_os(EnvFilter::DEFAULT_ENV) {
        None => own.iter().filter_map(|text| text.parse().ok()).fold(filter, EnvFilter::add_directive),
        Some(_) => filter,
    };
    let stderr = || fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match log.format {
        LogFormat::Json => stderr().json().flatten_event(true).try_init(),
        LogFormat::Text => stderr().with_target(false).with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    drop(started);
}
