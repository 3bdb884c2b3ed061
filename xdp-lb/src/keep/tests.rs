use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use super::*;
use crate::{drains::Terms, file::Texts, model::DrainMode};

fn keep(name: &str) -> Keep {
    let dir = std::env::temp_dir().join(format!("xdp-lb-keep-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    Keep::at(&dir)
}

fn entry(generation: u32, length: usize) -> Entry {
    let texts = Texts::one("edge.yaml", &"x".repeat(length));
    Entry { generation, applied: 7, origin: Origin::Rollback(3), texts }
}

#[test]
fn drains_are_read_as_they_were_written() {
    let keep = keep("drains");
    assert!(keep.drains().unwrap().is_empty(), "nothing is there yet");
    let backend: IpAddr = "2001:db8::1".parse().unwrap();
    let all = Written { backend, service: None, mode: None, max: None, since: 1 };
    let one = Written {
        service: Some("sip".into()),
        mode: Some(crate::drains::Mode::Shed),
        max: Some(60),
        ..all.clone()
    };
    let drains: Drains = [all, one].into_iter().collect();
    keep.set_drains(&drains).unwrap();
    assert_eq!(keep.drains().unwrap(), drains);
    let shed = Terms { mode: Some(DrainMode::Shed), max: Some(Duration::from_secs(60)), since: 1 };
    assert_eq!(drains.of("sip", backend), Some(&shed));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(keep.path()), mode(&keep.path().join(DRAINS))), (0o700, 0o600));
    fs::write(keep.path().join(DRAINS), "[{").unwrap();
    let said = keep.drains().unwrap_err().to_string();
    assert!(said.contains("drains.json"), "{said}");
    fs::remove_dir_all(keep.path()).unwrap();
}

#[test]
fn the_history_is_bounded_in_number_and_in_size() {
    let keep = keep("history");
    let history = keep.history();
    assert_eq!(history.generations().unwrap(), [0u32; 0]);
    for generation in 1..=60 {
        history.put(&entry(generation, 10)).unwrap();
    }
    assert_eq!(history.generations().unwrap(), (11..=60).collect::<Vec<u32>>());
    assert_eq!(history.get(60).unwrap(), Some(entry(60, 10)));
    assert_eq!(history.get(10).unwrap(), None);
    history.put(&entry(61, 63 << 20)).unwrap();
    history.put(&entry(62, 3 << 20)).unwrap();
    assert_eq!(history.generations().unwrap(), [61, 62], "the latest two are kept whatever their size");
    fs::remove_dir_all(keep.path()).unwrap();
}

#[test]
fn what_cannot_be_written_is_told_with_its_file() {
    let keep = keep("denied");
    fs::write(keep.path(), "in the way").unwrap();
    let said = keep.set_drains(&Drains::default()).unwrap_err().to_string();
    assert!(said.starts_with("write ") && said.contains("drains.json"), "{said}");
    fs::remove_file(keep.path()).unwrap();
}
