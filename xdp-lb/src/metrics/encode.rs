//! A [`Sample`] as text.

use std::fmt::{self, Error};
use std::sync::Arc;

pub use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet, prometheus_text},
    metrics::MetricType,
    registry::Registry,
};
use xdp_lb_common::reason::{DropReason, FlowEvent, PassReason, Reason};
use xdp_lb_common::stats::Traffic;

use super::families::{self, Family, Kind, PREFIX};
use super::tally::Answers;
use super::{Member, Sample};
use crate::{bgp::status::PeerStatus, forecast::moves, health::BUCKETS};

/// The answer to `/metrics`.
#[must_use]
pub fn text(sample: Sample) -> String {
    let sample = Arc::new(sample);
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Arc::clone(&sample)));
    let mut text = String::new();
    // A String takes everything.
    _ = prometheus_text::encode(&mut text, &registry);
    text
}

impl Collector for Sample {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut out = Out { encoder };
        self.agent(&mut out)?;
        self.traffic(&mut out)?;
        self.members(&mut out)?;
        out.family(&families::DIRTY_SLOTS, self.each(|s| u64::from(s.dirty_slots)))?;
        out.family(&families::DROPS, counts::<DropReason>(&self.counters.drops))?;
        out.family(&families::PASSES, counts::<PassReason>(&self.counters.passes))?;
        self.flow_table(&mut out)?;
        self.peers(&mut out)?;
        self.health(&mut out)?;
        self.bgp(&mut out)
    }
}

type One<'a> = [(&'static str, &'a str); 1];
type Two<'a> = [(&'static str, &'a str); 2];

const NONE: [(&str, &str); 0] = [];

impl Sample {
    fn agent(&self, out: &mut Out<'_>) -> fmt::Result {
        let condition = &self.condition;
        out.family(&families::BUILD_INFO, [([("version", env!("CARGO_PKG_VERSION"))], 1)])?;
        out.one(&families::CONFIG_GENERATION, self.generation.into())?;
        out.one(&families::CONFIG_APPLIED, condition.applied)?;
        let success = condition.applied > 0 && condition.failure.is_none() && condition.refusal().is_none();
        out.one(&families::CONFIG_SUCCESS, success.into())?;
        let modes = self.interfaces.iter();
        let modes = modes.map(|(name, mode)| ([("interface", name.as_str()), ("mode", mode.as_str())], 1));
        out.family(&families::XDP_MODE, modes)
    }

    fn traffic(&self, out: &mut Out<'_>) -> fmt::Result {
        out.family(&families::PACKETS, self.each(|s| s.traffic.packets))?;
        out.family(&families::BYTES, self.each(|s| s.traffic.bytes))
    }

    fn members(&self, out: &mut Out<'_>) -> fmt::Result {
        // Once for five families: writing an address takes longer than all the rest.
        let addresses: Vec<String> =
            self.services.iter().flat_map(|s| &s.members).map(|m| m.address.to_string()).collect();
        let rows = || {
            let members =
                self.services.iter().flat_map(|s| s.members.iter().map(move |m| (s.name.as_str(), m)));
            members.zip(&addresses).map(|((service, member), address)| {
                let labels: Two<'_> = [("service", service), ("backend", address)];
                (labels, member)
            })
        };
        let traffic = |of: fn(&Traffic) -> u64| rows().map(move |(labels, m)| (labels, of(&m.traffic)));
        out.family(&families::BACKEND_PACKETS, traffic(|t| t.packets))?;
        out.family(&families::BACKEND_BYTES, traffic(|t| t.bytes))?;
        out.family(&families::BACKEND_UP, rows().map(|(labels, m)| (labels, m.up.into())))?;
        let flows = |(labels, m): (_, &Member)| Some((labels, u64::from(m.flows?)));
        out.family(&families::BACKEND_FLOWS, rows().filter_map(flows))?;
        out.one(&families::OMITTED, self.services.iter().map(|s| u64::from(s.omitted)).sum())
    }

    fn flow_table(&self, out: &mut Out<'_>) -> fmt::Result {
        let events = &self.counters.flows;
        let live = self.condition.flows.as_ref().map(|flows| (NONE, flows.live));
        out.family(&families::FLOW_ENTRIES, live)?;
        out.one(&families::FLOW_CAPACITY, self.flow_entries)?;
        out.one(&families::FLOW_HITS, events.hit)?;
        out.one(&families::FLOW_MISSES, events.miss)?;
        out.one(&families::FLOW_REMEMBERED, events.remembered)?;
        let event = |event: FlowEvent, n: u64| ([("reason", event.name())], n);
        out.family(
            &families::FLOW_UNREMEMBERED,
            [event(FlowEvent::SetFull, events.set_full), event(FlowEvent::OverLimit, events.over_limit)],
        )?;
        out.one(&families::FLOW_EXPIRED, self.condition.cleared)?;
        let moved = moves::Reason::ALL.into_iter().zip(self.condition.moved);
        let moved = moved.map(|(reason, n)| ([("reason", reason.name())], n));
        let forgotten = ([("reason", "forgotten")], self.condition.forgotten);
        out.family(&families::FLOWS_MOVED, moved.chain([forgotten]))?;
        out.one(&families::FLOW_STALE, events.stale)?;
        let inside = [
            event(FlowEvent::CidKnown, events.cid_known),
            event(FlowEvent::CidUnknown, events.cid_unknown),
            event(FlowEvent::IceUnknown, events.ice_unknown),
            event(FlowEvent::IceConflict, events.ice_conflict),
        ];
        out.family(&families::AFFINITY, inside)
    }

    fn peers(&self, out: &mut Out<'_>) -> fmt::Result {
        let Some(counts) = self.condition.peers else { return Ok(()) };
        let row = |result, n| ([("result", result)], n);
        let rows =
            [row("sent", counts.sent), row("received", counts.received), row("refused", counts.refused)];
        out.family(&families::PEER_SYNC, rows)
    }

    fn health(&self, out: &mut Out<'_>) -> fmt::Result {
        let results = |(kind, answers): (&&'static str, &Answers)| {
            let row = |result, n| ([("kind", *kind), ("result", result)], n);
            [row("good", answers.good), row("bad", answers.bad)]
        };
        out.family(&families::HEALTH_CHECKS, self.checks.iter().flat_map(results))?;
        let mut family = out.open(&families::HEALTH_DURATION)?;
        for (kind, answers) in &self.checks {
            let bounds = BUCKETS.iter().map(|ms| *ms as f64 / 1000.0);
            let buckets: Vec<(f64, u64)> = bounds.zip(answers.took).collect();
            let (sum, count) = (answers.took_sum.as_secs_f64(), answers.took.iter().sum());
            family
                .encode_family(&[("kind", *kind)])?
                .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }

    fn bgp(&self, out: &mut Out<'_>) -> fmt::Result {
        let peers: Vec<(String, &PeerStatus)> =
            self.bgp.iter().flat_map(|bgp| &bgp.peers).map(|peer| (peer.address.to_string(), peer)).collect();
        let rows = || peers.iter().map(|(address, peer)| ([("peer", address.as_str())], *peer));
        out.family(&families::BGP_UP, rows().map(|(labels, peer)| (labels, peer.is_up().into())))?;
        let bfd = |(labels, peer): (_, &PeerStatus)| Some((labels, u64::from(peer.bfd.as_ref()?.is_up())));
        out.family(&families::BFD_UP, rows().filter_map(bfd))?;
        out.family(
            &families::BGP_ADVERTISED,
            rows().map(|(labels, peer)| (labels, peer.routes.len() as u64)),
        )?;
        out.family(
            &families::BGP_RECEIVED,
            rows().map(|(labels, peer)| (labels, peer.prefixes_received as u64)),
        )
    }

    fn each(&self, value: impl Fn(&super::Service) -> u64) -> impl Iterator<Item = (One<'_>, u64)> {
        self.services.iter().map(move |s| ([("service", s.name.as_str())], value(s)))
    }
}

/// Every reason with its counter.
fn counts<R: Reason>(counts: &R::Counts) -> impl Iterator<Item = (One<'static>, u64)> {
    let values: &[u64] = bytemuck::cast_slice(bytemuck::bytes_of(counts));
    R::ALL.iter().zip(values).map(|(reason, &packets)| ([("reason", reason.name())], packets))
}

struct Out<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Out<'_> {
    /// HELP and TYPE.
    fn open(&mut self, family: &'static Family) -> Result<MetricEncoder<'_>, Error> {
        let (name, kind) = match family.kind {
            // The encoder writes the suffix of counters itself.
            Kind::Counter => (family.name.strip_suffix("_total").unwrap_or(family.name), MetricType::Counter),
            Kind::Gauge => (family.name, MetricType::Gauge),
            Kind::Histogram => (family.name, MetricType::Histogram),
        };
        self.encoder.encode_descriptor(name, family.help, None, kind)
    }

    fn family<L: EncodeLabelSet>(
        &mut self,
        family: &'static Family,
        rows: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut encoder = self.open(family)?;
        for (labels, value) in rows {
            let mut row = encoder.encode_family(&labels)?;
            match family.kind {
                Kind::Counter => row.encode_counter::<NoLabelSet, u64, u64>(&value, None)?,
                Kind::Gauge | Kind::Histogram => row.encode_gauge(&value)?,
            }
        }
        Ok(())
    }

    fn one(&mut self, family: &'static Family, value: u64) -> fmt::Result {
        self.family(family, [(NONE, value)])
    }
}
