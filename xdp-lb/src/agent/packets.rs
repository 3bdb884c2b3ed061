//! With `log.level: trace`, what the program tells of every packet becomes events of the agent's log.
//!
//! The program writes words (`xdp-lb-ebpf/src/trace.rs`); the reason's number becomes its name here.

use std::future::Future;

use anyhow::{Context as _, Result};
use log::{Log, Metadata, Record};
use tokio::{io::unix::AsyncFd, sync::watch};
use tracing::{error, trace};
use xdp_lb_common::{reason::Reason as _, stats::Ended};

use crate::dataplane::Loaded;

/// Reads until `stopped` says so. Ends at once when the program tells nothing.
///
/// # Errors
/// When there is nothing to read from.
pub fn tell(
    loaded: &mut Loaded,
    mut stopped: watch::Receiver<bool>,
) -> Result<impl Future<Output = ()> + use<>> {
    let log = loaded.packet_log(PacketLog)?;
    #[expect(
        deprecated,
        reason = "the new constructor is unsafe; aya-log's reader owns its descriptor and keeps it"
    )]
    let log = AsyncFd::new(log);
    let mut log = log.context("watch what the program tells of packets")?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => return,
                ready = log.readable_mut() => match ready {
                    Ok(mut ready) => {
                        ready.get_inner_mut().flush();
                        ready.clear_ready();
                    }
                    Err(e) => return error!("what the program tells of packets is no longer read: {e}"),
                },
            }
        }
    })
}

/// Where aya-log's records go.
struct PacketLog;

impl Log for PacketLog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let Told { interface, verdict, reason, rest } = told(&record.args().to_string());
        trace!(interface, verdict, reason, "packet {rest}");
    }

    fn flush(&self) {}
}

/// One line of the program's, in words.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    interface: u32,
    verdict: &'static str,
    reason: &'static str,
    rest: String,
}

fn told(line: &str) -> Told {
    const VERDICTS: [&str; 5] = ["aborted", "drop", "pass", "tx", "redirect"];
    let mut told = Told::default();
    for word in line.split_whitespace() {
        let number = |text: &str| text.parse::<u32>().unwrap_or(u32::MAX);
        match word.split_once('=') {
            Some(("if", value)) => told.interface = number(value),
            Some(("action", value)) => told.verdict = VERDICTS.get(number(value) as usize).unwrap_or(&"?"),
            Some(("ended", value)) => {
                told.reason = match Ended::unpack(number(value).into()) {
                    Some(Ended::Forwarded) => "forwarded",
                    Some(Ended::Passed(reason)) => reason.name(),
                    Some(Ended::Dropped(reason)) => reason.name(),
                    None => "?",
                }
            }
            _ => told.rest = format!("{}{}{word}", told.rest, if told.rest.is_empty() { "" } else { " " }),
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use xdp_lb_common::reason::DropReason;

    #[test]
    fn words_become_fields() {
        let ended = Ended::Dropped(DropReason::NoService).pack();
        let line = format!("if=3 action=1 ended={ended} proto=17 203.0.113.10 <- 198.51.100.7");
        let expected = Told {
            interface: 3,
            verdict: "drop",
            reason: "no_service",
            rest: "proto=17 203.0.113.10 <- 198.51.100.7".to_owned(),
        };
        assert_eq!(told(&line), expected);
        assert_eq!(told("if=x action=9 ended=99999").reason, "?");
    }
}
