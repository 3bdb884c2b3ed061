//! What happens when: the show as data. `show` carries it out.

use std::time::Duration;

/// Something that happens to the tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing: everything is up.
    Quiet,
    /// Backend N takes no new flows.
    Drain(u8),
    /// Backend N takes flows again.
    Return(u8),
    /// The cable of backend N is cut, and nobody says so.
    Die(u8),
    /// The operator says that backend N is down.
    MarkDown(u8),
    /// The router stops sending packets to edge node N.
    Withdraw(u8),
}

/// One step: something happens, and is then watched for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What happens.
    pub event: Event,
    /// How long it is watched.
    pub watch: Duration,
}

impl Event {
    /// What people read while it lasts.
    #[must_use]
    pub fn title(self) -> String {
        match self {
            Self::Quiet => "everything is up".into(),
            Self::Drain(n) => format!("backend{n} drains"),
            Self::Return(n) => format!("backend{n} takes flows again"),
            Self::Die(n) => format!("backend{n} has died, and nobody knows"),
            Self::MarkDown(n) => format!("backend{n} is marked down"),
            Self::Withdraw(n) => format!("edge{n} is away"),
        }
    }

    /// How it is done.
    #[must_use]
    pub fn how(self) -> String {
        match self {
            Self::Quiet => "new requests, open connections and streams, over IPv4 and IPv6".into(),
            Self::Drain(n) => format!("`state: drain` for backend{n} in the file, SIGHUP to both agents"),
            Self::Return(n) => {
                format!("backend{n}'s `state` is out of the file again, SIGHUP to both agents")
            }
            Self::Die(n) => format!("the cable of backend{n} is cut: no reset, no goodbye"),
            Self::MarkDown(n) => {
                format!(
                    "`state: down` for backend{n} in the file, SIGHUP to both agents (health checks come later)"
                )
            }
            Self::Withdraw(n) => format!("the router's routes to the VIPs leave edge{n} out"),
        }
    }
}

/// The show at its own pace, 34 s in all.
#[must_use]
pub fn steps() -> Vec<Step> {
    [
        (Event::Quiet, 6),
        (Event::Drain(2), 7),
        (Event::Return(2), 4),
        (Event::Die(3), 3),
        (Event::MarkDown(3), 7),
        (Event::Withdraw(2), 7),
    ]
    .map(|(event, seconds)| Step { event, watch: Duration::from_secs(seconds) })
    .to_vec()
}

/// Nobody waits longer than this before a dead backend is marked down, however long the show.
const LONGEST_DEATH: Duration = Duration::from_secs(5);

/// The same steps, together as long as `length`.
#[must_use]
pub fn scaled(steps: &[Step], length: Duration) -> Vec<Step> {
    let is_death = |step: &&Step| matches!(step.event, Event::Die(_));
    let whole: Duration = steps.iter().map(|step| step.watch).sum();
    let deaths: Duration = steps.iter().filter(is_death).map(|step| step.watch).sum();
    let factor = length.as_secs_f64() / whole.as_secs_f64().max(f64::EPSILON);
    let death = |watch: Duration| watch.mul_f64(factor).min(LONGEST_DEATH);
    let after: Duration = steps.iter().filter(is_death).map(|step| death(step.watch)).sum();
    let others =
        length.saturating_sub(after).as_secs_f64() / (whole - deaths).as_secs_f64().max(f64::EPSILON);
    let scale = |step: &Step| Step {
        watch: if is_death(&step) { death(step.watch) } else { step.watch.mul_f64(others) },
        ..*step
    };
    steps.iter().map(scale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::arguments::SHORTEST;
    use crate::demo::traffic::REQUEST_TIMEOUT;

    #[test]
    fn scaling_keeps_the_whole() {
        for length in [12, 30, 34, 1800].map(Duration::from_secs) {
            let steps = scaled(&steps(), length);
            let whole: Duration = steps.iter().map(|step| step.watch).sum();
            assert!(whole.abs_diff(length) < Duration::from_millis(1), "{whole:?}");
            let death = steps.iter().find(|step| matches!(step.event, Event::Die(_))).unwrap();
            assert!(death.watch <= LONGEST_DEATH);
        }
    }

    #[test]
    fn in_the_shortest_show_requests_still_fail_within_their_step() {
        assert!(scaled(&steps(), SHORTEST).iter().all(|step| step.watch > REQUEST_TIMEOUT));
    }
}
