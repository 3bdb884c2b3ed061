//! Making the pins, taking them over, and refusing those that do not fit.

use std::fs;
use std::process::Command;

use xdp_lb::dataplane::{BpffsRoot, KernelMaps, LoadError, Loaded, OpenError, Program, Setup, Shape, load};
use xdp_lb::state::Maps as _;

use crate::fill::{SERVICE, XDP_TX, fill, run, same, udp};
use crate::stand::{SEED, limits, open, root, setup, skip};

#[test]
fn what_was_written_is_observed_again_after_a_takeover() {
    let Some(root) = root() else { return };
    let before = {
        let loaded = open(&root);
        let mut maps = loaded.maps().unwrap();
        fill(&mut maps);
        maps.observe()
    };
    assert_eq!(before.services.keys().copied().collect::<Vec<_>>(), [SERVICE]);
    assert_eq!(before.ring(SERVICE).unwrap().slots.now, [0, 1, 0, 1, 0, 1, 0]);
    let ring = before.ring(SERVICE).unwrap();
    assert_eq!(ring.slots.before, ring.slots.now);
    assert_eq!((ring.block, ring.members.len()), (2, 2));
    assert_eq!(before.pages.keys().copied().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(before.control.generation, 1);
    assert_eq!(before.sources.v4_count, 1);

    let mut loaded = open(&root);
    assert!(loaded.took_over());
    same(&before, &loaded.maps().unwrap().observe());
    same(&before, &KernelMaps::open_read_only(&root).unwrap().observe());
    assert_eq!(run(&mut loaded, &udp(40_000)).0, XDP_TX, "the new program runs on the old maps");
}

#[test]
fn another_seed_and_a_second_agent_are_refused() {
    let Some(root) = root() else { return };
    drop(open(&root));
    let error = Loaded::open_or_create(&root, &Setup { seed: 1, ..setup() }).unwrap_err();
    assert!(matches!(error, LoadError::SeedMismatch { found: SEED, wanted: 1, .. }), "{error}");
    assert!(error.to_string().contains("xdp-lb detach"), "{error}");

    let held = open(&root);
    assert!(matches!(Loaded::open_or_create(&root, &setup()), Err(LoadError::Busy(_))));
    drop(held);
    assert!(open(&root).took_over(), "refusals changed nothing");
}

#[test]
fn a_half_made_root_is_made_anew() {
    let Some(root) = root() else { return };
    // A crash while gathering the maps, and one of an older kind: no `control` that says what it is.
    drop(open(&root));
    fs::rename(root.maps(), root.new_maps()).unwrap();
    assert!(!open(&root).took_over());
    assert!(!root.new_maps().exists());
    fs::remove_file(root.map("control")).unwrap();
    assert!(!open(&root).took_over());
    assert!(open(&root).took_over());
}

#[test]
fn nothing_pinned_and_no_bpffs_say_so() {
    let Some(root) = root() else { return };
    let error = KernelMaps::open_read_only(&root).err().unwrap();
    assert!(matches!(error, OpenError::NothingPinned(_)), "{error}");
    let elsewhere = BpffsRoot::new(std::env::temp_dir().join(format!("xlb-{}", std::process::id())));
    let error = Loaded::open_or_create(&elsewhere, &setup()).unwrap_err();
    fs::remove_dir(elsewhere.path()).unwrap();
    assert!(matches!(error, LoadError::NotBpffs(_)), "{error}");
}

#[test]
fn the_backend_side_loads_with_small_maps() {
    let Some(root) = root() else { return };
    let shape = Shape::decap_only(&limits(), load::machine().unwrap());
    let setup = Setup { shape, seed: 0, program: Program::Decap, trace: false, frags: false };
    let mut loaded = Loaded::open_or_create(&root, &setup).unwrap();
    assert_eq!(loaded.program().unwrap().info().unwrap().name_as_str(), Some("xdp_decap"));
    let maps = loaded.maps().unwrap();
    assert!(maps.observe().services.is_empty());
}

#[test]
fn bpftool_prints_field_names() {
    let Some(root) = root() else { return };
    let loaded = open(&root);
    fill(&mut loaded.maps().unwrap());
    let path = root.map("backends");
    let Ok(dump) = Command::new("bpftool").args(["map", "dump", "pinned"]).arg(&path).output() else {
        return skip("bpftool is not installed");
    };
    let text = String::from_utf8_lossy(&dump.stdout);
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    for field in ["live", "state", "address", "templates", "ifindex"] {
        assert!(text.contains(field), "{field} is missing:\n{}", text.lines().take(40).collect::<String>());
    }
}
