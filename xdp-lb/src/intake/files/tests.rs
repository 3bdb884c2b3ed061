//! Files that change under our eyes, without an agent.

use std::{fs, io::Write as _, os::unix::fs::symlink};

use tokio::time::timeout;

use super::*;

const BOUND: Duration = Duration::from_secs(15);
/// Longer than a burst may last.
const NOTHING: Duration = Duration::from_millis(700);

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("xdp-lb-intake-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn replace(&self, name: &str, text: &str) {
        self.write(".new", text);
        fs::rename(self.path(".new"), self.path(name)).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn text(zone: &str) -> String {
    format!("version: 1\nnode: {{ zone: {zone} }}\ninterfaces: [{{ name: eth0 }}]\nservices: []\n")
}

fn zone(offer: Option<anyhow::Result<Offer>>) -> String {
    match offer {
        None => "the same".to_owned(),
        Some(Err(e)) => format!("{:.20}", format!("{e:#}")),
        Some(Ok(offer)) => offer.checked.desired.node.zone.unwrap_or_default(),
    }
}

/// Watches what has been read.
fn watch(path: &Path) -> Files {
    Files::watch(path, &file::texts(path).unwrap())
}

/// What a change brings.
async fn next(files: &mut Files) -> String {
    timeout(BOUND, files.changed()).await.expect("a change went unnoticed");
    zone(files.fresh())
}

async fn nothing(files: &mut Files) {
    if timeout(NOTHING, files.changed()).await.is_ok() {
        assert_eq!(zone(files.fresh()), "the same");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn edits_of_a_file_by_every_editor() {
    let scratch = Scratch::new("edits");
    scratch.write("edge.yaml", &text("a"));
    let mut files = watch(&scratch.path("edge.yaml"));
    assert_eq!(files.read().unwrap().checked.desired.node.zone.as_deref(), Some("a"));
    nothing(&mut files).await;
    scratch.replace("edge.yaml", &text("b"));
    assert_eq!(next(&mut files).await, "b");
    scratch.write("edge.yaml", &text("c"));
    assert_eq!(next(&mut files).await, "c");
    fs::remove_file(scratch.path("edge.yaml")).unwrap();
    assert!(next(&mut files).await.starts_with("cannot read"));
    scratch.write("edge.yaml", &text("c"));
    assert_eq!(next(&mut files).await, "c");
    // What is not ours, and our own reading, is no change.
    scratch.write("other.yaml", &text("d"));
    nothing(&mut files).await;
    // A bad file is told once, and the good one after it.
    scratch.replace("edge.yaml", "version: 2\n");
    timeout(BOUND, files.changed()).await.unwrap();
    let refused = files.fresh().unwrap().unwrap_err();
    assert!(refused.is::<file::Refused>(), "{refused:#}");
    fs::File::open(scratch.path("edge.yaml")).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    nothing(&mut files).await;
    scratch.replace("edge.yaml", &text("c"));
    assert_eq!(next(&mut files).await, "c");
}

#[tokio::test(flavor = "current_thread")]
async fn a_file_that_is_being_written_is_read_when_it_is_whole() {
    let scratch = Scratch::new("writing");
    scratch.write("edge.yaml", &text("a"));
    let mut files = watch(&scratch.path("edge.yaml"));
    files.read().unwrap();
    let mut file = fs::File::create(scratch.path("edge.yaml")).unwrap();
    // A good file already, and not what its writer wants.
    file.write_all(text("b").as_bytes()).unwrap();
    assert!(timeout(NOTHING, files.changed()).await.is_err(), "read while it was being written");
    file.write_all(b"log: { level: debug }\n").unwrap();
    drop(file);
    timeout(BOUND, files.changed()).await.unwrap();
    let offer = files.fresh().unwrap().unwrap();
    assert_eq!(offer.checked.desired.log.level, crate::model::LogLevel::Debug);
}

#[tokio::test(flavor = "current_thread")]
async fn a_burst_is_one_change() {
    let scratch = Scratch::new("burst");
    scratch.write("edge.yaml", &text("a"));
    let mut files = watch(&scratch.path("edge.yaml"));
    files.read().unwrap();
    for n in 0..50 {
        scratch.replace("edge.yaml", &text(&format!("z{n}")));
    }
    assert_eq!(next(&mut files).await, "z49");
    nothing(&mut files).await;
}

#[tokio::test(flavor = "current_thread")]
async fn config_maps_and_releases_are_followed() {
    let scratch = Scratch::new("links");
    for (version, zone) in [("..1", "a"), ("..2", "b"), ("..3", "c")] {
        fs::create_dir(scratch.path(version)).unwrap();
        scratch.write(&format!("{version}/edge.yaml"), &text(zone));
    }
    let swap = |name: &str, target: &str| {
        symlink(target, scratch.path("..tmp")).unwrap();
        fs::rename(scratch.path("..tmp"), scratch.path(name)).unwrap();
    };
    swap("..data", "..1");
    swap("edge.yaml", "..data/edge.yaml");
    for path in [scratch.path("edge.yaml"), scratch.0.clone()] {
        swap("..data", "..1");
        let mut files = watch(&path);
        assert_eq!(files.read().unwrap().checked.desired.node.zone.as_deref(), Some("a"));
        for (version, zone) in [("..2", "b"), ("..3", "c"), ("..1", "a")] {
            swap("..data", version);
            assert_eq!(next(&mut files).await, zone, "{}", path.display());
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn files_come_and_go_in_a_directory() {
    let scratch = Scratch::new("directory");
    scratch.write("10.yaml", "version: 1\ninterfaces: [{ name: eth0 }]\nservices: []\n");
    let mut files = watch(&scratch.0);
    files.read().unwrap();
    scratch.write("20.yaml", "version: 1\nnode: { zone: b }\n");
    assert_eq!(next(&mut files).await, "b");
    scratch.replace("20.yaml", "version: 1\nnode: { zone: c }\n");
    assert_eq!(next(&mut files).await, "c");
    fs::remove_file(scratch.path("20.yaml")).unwrap();
    assert_eq!(next(&mut files).await, "");
}

#[tokio::test(flavor = "current_thread")]
async fn what_nobody_tells_is_found_by_the_times() {
    let scratch = Scratch::new("times");
    fs::create_dir(scratch.path("conf")).unwrap();
    fs::create_dir(scratch.path("next")).unwrap();
    scratch.write("conf/edge.yaml", &text("a"));
    scratch.write("next/edge.yaml", &text("b"));
    let mut files = watch(&scratch.path("conf/edge.yaml"));
    files.read().unwrap();
    files.watcher = None;
    files.look = interval(Duration::from_millis(50));
    fs::rename(scratch.path("conf"), scratch.path("old")).unwrap();
    fs::rename(scratch.path("next"), scratch.path("conf")).unwrap();
    assert_eq!(next(&mut files).await, "b");
}
