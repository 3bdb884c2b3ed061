//! What the packets met, so that nothing is compared by chance only.

use std::collections::BTreeMap;

use xdp_lb_common::reason::{DropReason, FlowEvent, PassReason, Reason as _};
use xdp_lb_tests::model::Prediction;
use xdp_lb_tests::prog::{Counted, XdpAction};

/// How often each reason was met.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    packets: usize,
    counted: BTreeMap<String, usize>,
}

/// Reasons that no packet of this test can have.
const IMPOSSIBLE: [&str; 10] = [
    // Golden rows have it: metadata in front of the packet.
    "drops.no_headroom",
    // A bug of the agent.
    "drops.table_inconsistent",
    // Nobody reads the buffers.
    "passes.handed_to_cutter",
    // A thousand answers in a second.
    "drops.too_big_unanswered",
    // No configuration here has pods: `golden/pods.rs` has rows for them, `lab_pods` traffic.
    "drops.pod_port",
    "drops.pod_protocol",
    "drops.pod_flow_taken",
    "drops.pod_flows_full",
    "passes.decap_pod",
    "passes.from_pod",
];

impl Seen {
    /// Counts a packet.
    pub fn note(&mut self, said: &Prediction) {
        self.packets += 1;
        for counted in &said.counted {
            let name = match counted {
                Counted::Forwarded(_) => "forwarded".to_owned(),
                other => other.to_string(),
            };
            *self.counted.entry(name).or_default() += 1;
        }
        if said.verdict == XdpAction::Redirect {
            *self.counted.entry("redirected".to_owned()).or_default() += 1;
        }
    }

    /// Adds what another part has met.
    pub fn add(&mut self, other: Self) {
        self.packets += other.packets;
        for (name, times) in other.counted {
            *self.counted.entry(name).or_default() += times;
        }
    }

    /// How many packets there were.
    pub fn packets(&self) -> usize {
        self.packets
    }

    /// Every reason was met at least a few times.
    ///
    /// # Panics
    /// When one was not.
    pub fn nothing_is_missing(&self) {
        let all = DropReason::ALL.iter().map(|reason| Counted::Drop(*reason).to_string());
        let all = all.chain(PassReason::ALL.iter().map(|reason| Counted::Pass(*reason).to_string()));
        let all = all.chain(FlowEvent::ALL.iter().map(|event| Counted::Flow(*event).to_string()));
        let rare: Vec<String> = all
            .chain(["forwarded".to_owned()])
            .filter(|name| !IMPOSSIBLE.contains(&name.as_str()))
            .filter(|name| self.counted.get(name).is_none_or(|times| *times < 5))
            .collect();
        println!("{} packets: {:#?}", self.packets, self.counted);
        assert!(rare.is_empty(), "hardly any packet met {rare:?}");
    }
}
