//! Single elements of a pinned map, past the product's own view of it: for tests that look at what packets leave behind,
//! or age it.

use anyhow::{Context as _, Result};
use aya::maps::{Array, Map, MapData};
use xdp_lb::dataplane::BpffsRoot;

/// An array map whose elements are `N` words.
pub struct Memory<const N: usize>(Array<MapData, [u64; N]>);

impl<const N: usize> Memory<N> {
    /// Opens the map called `name`.
    ///
    /// # Errors
    /// That it is not there, or no array of such elements.
    pub fn open(root: &BpffsRoot, name: &str) -> Result<Self> {
        let data = MapData::from_pin(root.map(name)).with_context(|| format!("open {name}"))?;
        Ok(Self(Array::try_from(Map::Array(data)).with_context(|| format!("{name} as an array"))?))
    }

    /// How many elements it has.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.0.len()
    }

    /// Never.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One element.
    ///
    /// # Errors
    /// The kernel's.
    pub fn get(&self, index: u32) -> Result<[u64; N]> {
        Ok(self.0.get(&index, 0)?)
    }

    /// Replaces one element.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set(&mut self, index: u32, words: [u64; N]) -> Result<()> {
        Ok(self.0.set(index, words, 0)?)
    }
}
