//! The fuzz targets without a fuzzer: their committed seeds, and a fixed number of mutations of each, through the same
//! functions. `cargo xtask fuzz` looks further.

mod seeds;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use xdp_lb_tests::invariants::{TARGETS, check};

/// Writes the seeds anew instead of comparing them.
const WRITE: &str = "XDP_LB_WRITE_SEEDS";

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn the_committed_seeds_are_what_the_builder_makes() {
    for seed in seeds::all() {
        let folder = corpus().join(seed.target);
        let file = folder.join(seed.name);
        if std::env::var_os(WRITE).is_some() {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&file, &seed.bytes).unwrap();
        }
        let committed = fs::read(&file).unwrap_or_default();
        assert!(
            committed == seed.bytes,
            "{} is not what the builder makes; {WRITE}=1 writes it",
            file.display()
        );
    }
}

#[test]
fn every_target_has_a_binary_and_seeds() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let binaries = names(&corpus().join("../fuzz_targets"));
    assert_eq!(binaries, targets.iter().map(|name| format!("{name}.rs")).collect());
    assert_eq!(names(&corpus()), targets);
    let manifest = fs::read_to_string(corpus().join("../Cargo.toml")).unwrap();
    for target in &targets {
        assert!(manifest.contains(&format!("name = \"{target}\"")), "{target} is no binary of tests/fuzz");
        assert!(names(&corpus().join(target)).len() >= 5, "{target} has hardly a seed");
    }
}

/// A sequence of numbers that is the same on every run (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % n.max(1)
    }
}

/// One to four small wounds: a bit, a byte of those that parsers like least, a cut, a copied or a foreign piece.
fn mutated(seed: &[u8], other: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len());
        match numbers.below(6) {
            0 | 1 if !bytes.is_empty() => bytes[at] ^= 1 << numbers.below(8),
            2 if !bytes.is_empty() => {
                bytes[at] = [0, 1, 4, 6, 17, 41, 44, 0x3a, 0x45, 0x7f, 0x80, 0xff][numbers.below(12)]
            }
            3 => bytes.truncate(at),
            4 => {
                let piece = bytes[at..(at + numbers.below(24)).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let from = numbers.below(other.len());
                let piece = other[from..(from + numbers.below(40)).min(other.len())].to_vec();
                let end = (at + numbers.below(40)).min(bytes.len());
                bytes.splice(at..end, piece);
            }
        }
    }
    bytes
}

fn replay(target: &str, mutations: usize) {
    let folder = corpus().join(target);
    let seeds: Vec<Vec<u8>> =
        names(&folder).iter().map(|name| fs::read(folder.join(name)).unwrap()).collect();
    assert!(!seeds.is_empty());
    let mut numbers = Numbers(0x5eed_c0de_0bad_cafe);
    for (i, seed) in seeds.iter().enumerate() {
        check(target, seed);
        for _ in 0..mutations {
            let bytes = mutated(seed, &seeds[numbers.below(seeds.len())], &mut numbers);
            if std::panic::catch_unwind(|| check(target, &bytes)).is_err() {
                panic!("{target}: a mutation of seed {i} breaks an invariant: {bytes:02x?}");
            }
        }
    }
}

macro_rules! replays {
    ($($name:ident $mutations:literal,)*) => { $(
        #[test]
        fn $name() {
            replay(stringify!($name), $mutations);
        }
    )* };
}

replays! {
    bfd 10_000,
    bgp 2_000,
    config 60,
    decap 20_000,
    ice 10_000,
    icmp 10_000,
    parser 20_000,
    quic 20_000,
}
