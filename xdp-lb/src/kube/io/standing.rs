//! How a controller stands: what its probes and its metrics say.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::steer::KINDS;
use crate::metrics::families::PREFIX;
use crate::scrape::Scraped;

/// How it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// It is the one that writes.
    pub leads: bool,
    /// Kinds of objects that have never been listed.
    pub unlisted: Vec<&'static str>,
    /// Plans whose writes were all carried out.
    pub carried_out: u64,
    /// Plans of which a write failed; each is made anew.
    pub failed: u64,
}

impl Default for Standing {
    /// Nothing has been listed.
    fn default() -> Self {
        Self { leads: false, unlisted: KINDS.to_vec(), carried_out: 0, failed: 0 }
    }
}

impl Standing {
    /// The metrics, with names as docs/controller.md has them.
    #[must_use]
    pub fn text(self) -> String {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        // A String takes everything.
        _ = prometheus_text::encode(&mut text, &registry);
        text
    }
}

impl Collector for Standing {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let leads = encoder.encode_descriptor(
            "controller_leader",
            "1 while this controller is the one that writes.",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(i64::from(self.leads)).encode(leads)?;
        let mut plans = encoder.encode_descriptor(
            "controller_plans",
            "Plans that this controller has carried out, or tried to.",
            None,
            MetricType::Counter,
        )?;
        for (result, count) in [("done", self.carried_out), ("failed", self.failed)] {
            ConstCounter::new(count).encode(plans.encode_family(&[("result", result)])?)?;
        }
        Ok(())
    }
}

impl Scraped for watch::Receiver<Standing> {
    fn alive(&self) -> Result<(), String> {
        // The sender goes with the task.
        self.has_changed().map(drop).map_err(|_| "the task that follows the cluster has ended".to_owned())
    }

    fn ready(&self) -> anyhow::Result<Result<(), Vec<String>>> {
        let unlisted = &self.borrow().unlisted;
        let why = |kind: &&str| format!("{kind} have not been listed yet");
        Ok(if unlisted.is_empty() { Ok(()) } else { Err(unlisted.iter().map(why).collect()) })
    }

    fn scrape(&self) -> anyhow::Result<String> {
        Ok(self.borrow().clone().text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_says_follows_how_it_stands() {
        let (told, standing) = watch::channel(Standing::default());
        assert_eq!(standing.alive(), Ok(()));
        assert_eq!(standing.ready().unwrap().unwrap_err()[2], "VipPools have not been listed yet");
        told.send_replace(Standing { leads: true, unlisted: Vec::new(), carried_out: 3, failed: 1 });
        assert_eq!(standing.ready().unwrap(), Ok(()));
        let text = standing.scrape().unwrap();
        for line in [
            "# TYPE xdp_lb_controller_leader gauge",
            "xdp_lb_controller_leader 1",
            "xdp_lb_controller_plans_total{result=\"done\"} 3",
            "xdp_lb_controller_plans_total{result=\"failed\"} 1",
        ] {
            assert!(text.lines().any(|said| said == line), "no {line} in\n{text}");
        }
        let documented = include_str!("../../../../docs/controller.md");
        for name in text.lines().filter_map(|line| line.strip_prefix("xdp_lb_")?.split([' ', '{']).next()) {
            assert!(documented.contains(&format!("| `xdp_lb_{name}` |")), "{name} is not documented");
        }
        drop(told);
        assert!(standing.alive().unwrap_err().contains("ended"));
    }
}
