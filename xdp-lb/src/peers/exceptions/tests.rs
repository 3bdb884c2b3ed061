//! Small tables by hand; whole nodes are in `tests/flows/peers.rs`.

use super::*;

fn entry(service: u16, tag: u64, expiry: u16) -> FlowEntry {
    FlowEntry::new(FlowKey::new(service, FlowHash(tag)), 3, expiry, false)
}

#[test]
fn a_free_way_is_taken_and_a_known_flow_left_alone() {
    let tick = 100;
    let ours = entry(1, 7, 200);
    let mut set = FlowSet::default();
    assert_eq!(way(&set, ours, tick), Ok(0));
    set.entries = [entry(2, 7, 200).0; 8];
    assert_eq!(way(&set, ours, tick), Err(Refusal::Full));
    set.entries[5] = entry(2, 8, 99).0;
    assert_eq!(way(&set, ours, tick), Ok(5), "an expired one makes room");
    set.entries[7] = entry(1, 7, 99).0;
    assert_eq!(way(&set, ours, tick), Ok(7), "expired, but its flow would still find it");
    set.entries[7] = entry(1, 7, 150).0;
    assert_eq!(way(&set, ours, tick), Ok(7), "it lives on");
    set.entries[7] = ours.0;
    assert_eq!(way(&set, ours, tick), Err(Refusal::Known), "for as long");
    set.entries[7] = FlowEntry::new(FlowKey::new(1, FlowHash(7)), 4, 150, false).0;
    assert_eq!(way(&set, ours, tick), Err(Refusal::Known), "elsewhere: what we saw is newer");
}

#[test]
fn entries_of_one_flow_are_told_from_others() {
    assert!(is_same(entry(1, 7, 5), entry(1, 7, 9)));
    assert!(!is_same(entry(1, 7, 5), entry(2, 7, 5)) && !is_same(entry(1, 7, 5), entry(1, 8, 5)));
    assert!(!is_same(FlowEntry(0), FlowEntry(0)));
}
