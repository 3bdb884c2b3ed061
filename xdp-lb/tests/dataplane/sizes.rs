//! Other sizes: what is pinned moves to other maps, and every flow stays where it is.

use std::fs;

use aya::maps::{Array, Map, MapData};
use xdp_lb::dataplane::{Carried, KernelMaps, LoadError, Loaded, Setup, Shape, TooSmall, load};
use xdp_lb::model::{FlowTable, Limits};
use xdp_lb::state::{MapOp, Maps as _, SlotChange};
use xdp_lb_common::{
    backend::BACKEND_USED,
    control::{Control, LAYOUT},
    flow::FlowEntry,
    ring::Slot,
};

use crate::fill::{SERVICE, TABLE_SIZE, XDP_TX, fill, fill_vips, run, udp};
use crate::stand::{TempRoot, flow_table, limits, open, root, setup};

fn sized(limits: &Limits, entries: u32) -> Setup {
    let table = FlowTable { entries, ..flow_table() };
    Setup { shape: Shape::balancer(limits, &table, load::machine().unwrap()), ..setup() }
}

/// The services, a hundred flows, and then every slot given to the other backend: where flows go, only the flow table
/// knows. Returns what comes out for each.
fn busy(root: &TempRoot) -> Vec<Vec<u8>> {
    let mut loaded = open(root);
    let mut maps = loaded.maps().unwrap();
    fill(&mut maps);
    let first: Vec<Vec<u8>> = flows(&mut loaded);
    let ring = maps.observe().ring(SERVICE).unwrap().clone();
    let change = |slot: u32| {
        let now = ring.slots.now[slot as usize];
        SlotChange { slot, before: Some(now), now: Slot::dirty(1 - now).0 }
    };
    maps.apply(&MapOp::SetSlots { base: 4, changes: (0..TABLE_SIZE).map(change).collect() }).unwrap();
    assert_eq!(flows(&mut loaded), first, "they are remembered");
    first
}

fn flows(loaded: &mut Loaded) -> Vec<Vec<u8>> {
    let one = |port| {
        let (verdict, out) = run(loaded, &udp(port));
        assert_eq!(verdict, XDP_TX);
        out
    };
    (40_000..40_100).map(one).collect()
}

fn move_to(root: &TempRoot, setup: &Setup) -> Loaded {
    let loaded = Loaded::open_or_create(root, setup).unwrap_or_else(|e| panic!("{e}"));
    assert!(loaded.took_over());
    assert!(root.old_maps().exists() && !root.new_maps().exists());
    fill_vips(&mut loaded.maps().unwrap());
    loaded
}

#[test]
fn flows_stay_where_they_are_when_every_table_grows_and_shrinks() {
    let Some(root) = root() else { return };
    let at_first = busy(&root);
    let large = Limits {
        services: 100,
        vips: 20,
        backends: 300,
        ring_slots: 5000,
        port_pages: 99,
        backend_stats: 64,
        server_ids: 99,
        source_ranges: 99,
        fragments: 4096,
        ..Limits::default()
    };
    for (limits, entries) in [(large, 8192), (limits(), 256), (limits(), 1024)] {
        let mut loaded = move_to(&root, &sized(&limits, entries));
        let maps = loaded.maps().unwrap();
        assert_eq!(maps.capacity().flow_sets, entries / 8);
        assert_eq!(maps.control().generation, 1);
        assert_eq!(flows(&mut loaded), at_first, "{entries} entries");
        // Counters go on: this round and all before it.
        assert!(maps.service_traffic(SERVICE).unwrap().packets >= 300);
        let carried = loaded.leave_old_maps(&maps).unwrap().unwrap();
        assert_eq!(carried, Carried::default(), "all was there");
        assert!(!root.old_maps().exists());
        assert_eq!(loaded.leave_old_maps(&maps).unwrap(), None);
    }
}

#[test]
fn what_the_old_program_remembers_until_the_last_moment_is_carried_over_too() {
    let Some(root) = root() else { return };
    busy(&root);
    drop(move_to(&root, &sized(&Limits { backends: 99, ..limits() }, 1024)));
    // The agent died before the links ran the new program; in the meantime a flow was remembered in the old maps: here,
    // one that is missing from the new.
    let mut loaded =
        Loaded::open_or_create(&root, &sized(&Limits { backends: 99, ..limits() }, 1024)).unwrap();
    let maps = loaded.maps().unwrap();
    let (set, ways) = maps.flow_sets().find(|(_, ways)| ways.entries[0] != 0).unwrap();
    assert!(maps.sweep(set, 0, ways.entries[0]).unwrap());
    let carried = loaded.leave_old_maps(&maps).unwrap().unwrap();
    assert_eq!(carried, Carried { flows: 1, lost: 0 });
    let again = maps.flow_set(set).unwrap().entries;
    assert!(again.contains(&ways.entries[0]), "{:?} in {again:?}", FlowEntry(ways.entries[0]));
}

#[test]
fn what_finds_no_room_is_refused_and_nothing_changes() {
    let Some(root) = root() else { return };
    let at_first = busy(&root);
    for (limits, small) in [
        (Limits { services: 3, ..limits() }, TooSmall { map: "services", needed: 6, wanted: 4 }),
        (Limits { port_pages: 1, ..limits() }, TooSmall { map: "ports", needed: 3, wanted: 2 }),
        (Limits { ring_slots: 8, ..limits() }, TooSmall { map: "rings", needed: 11, wanted: 8 }),
    ] {
        let error = Loaded::open_or_create(&root, &sized(&limits, 1024)).unwrap_err();
        assert!(matches!(&error, LoadError::TooSmall { small: found, .. } if *found == small), "{error}");
        assert!(!root.new_maps().exists() && !root.old_maps().exists());
    }
    let mut loaded = open(&root);
    assert_eq!(flows(&mut loaded), at_first);
}

#[test]
fn an_agent_that_dies_between_the_two_renames_loses_nothing() {
    let Some(root) = root() else { return };
    let at_first = busy(&root);
    fs::rename(root.maps(), root.old_maps()).unwrap();
    let mut loaded = open(&root);
    assert!(loaded.took_over() && !root.old_maps().exists());
    assert_eq!(flows(&mut loaded), at_first);
}

/// Makes the maps look as if another release had made them.
fn set_layout(root: &TempRoot, layout: u32) {
    let map = Map::Array(MapData::from_pin(root.map("control")).unwrap());
    let mut control: Array<_, [u8; size_of::<Control>()]> = map.try_into().unwrap();
    let mut value = control.get(&0, 0).unwrap();
    value[std::mem::offset_of!(Control, layout)..][..4].copy_from_slice(&layout.to_ne_bytes());
    control.set(0, value, 0).unwrap();
}

#[test]
fn maps_of_a_newer_release_are_left_alone_and_those_of_an_older_one_replaced() {
    let Some(root) = root() else { return };
    busy(&root);
    set_layout(&root, LAYOUT + 1);
    let error = Loaded::open_or_create(&root, &setup()).unwrap_err();
    assert!(matches!(error, LoadError::Newer { found, .. } if found == LAYOUT + 1), "{error}");
    assert!(error.to_string().contains("use the release that made them"), "{error}");

    set_layout(&root, LAYOUT - 1);
    let loaded = open(&root);
    assert!(loaded.took_over() && !root.old_maps().exists());
    let maps = KernelMaps::open_read_only(&root).unwrap();
    assert!(maps.observe().services.is_empty(), "the next plan fills them");
    assert!(maps.backend(0).is_some_and(|backend| backend.state & BACKEND_USED == 0));
}
