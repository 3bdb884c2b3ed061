//! Home tables, kept from plan to plan by their content.
//!
//! A table follows from addresses, weights, size and seed alone and takes a millisecond; services with equal ones are
//! many, and most plans change none. What is kept changes no plan: it is equal to what would be built. What no whole plan
//! asked for since the one before it is forgotten, and beyond [`MOST_SLOTS`] tables are built each time as they are needed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::{
    maglev::{MaglevTable, Member, TableError},
    model::{self, TableSize},
};

/// Slots of all tables that are kept, two bytes each: 64 MiB, 512 tables of 65537.
pub const MOST_SLOTS: u64 = 512 * 65_537;

/// Home tables by what they are made from. One for the agent's life, or a new one where a single plan is made.
#[derive(Debug, Default)]
pub struct Homes(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    tables: HashMap<Key, Entry>,
    slots: u64,
    built: u64,
}

/// Size, seed, and members sorted as the table sorts them: the file's order does not matter.
type Key = (TableSize, u64, Vec<Member>);

#[derive(Debug)]
struct Entry {
    table: Arc<MaglevTable>,
    /// Asked for since the last whole plan.
    used: bool,
}

impl Homes {
    /// The table over all configured backends of `service`.
    ///
    /// # Errors
    /// As [`MaglevTable::new`]; failures are not kept.
    pub fn of(&self, service: &model::Service, seed: u64) -> Result<Arc<MaglevTable>, TableError> {
        let member = |b: &model::Backend| Member { address: b.address, weight: b.weight };
        let mut members: Vec<Member> = service.backends.iter().map(member).collect();
        members.sort_unstable();
        let key = (service.table_size, seed, members);
        self.with(|kept| kept.of(key))
    }

    /// After a whole plan: forgets what it did not ask for.
    pub(super) fn forget_unused(&self) {
        self.with(|kept| {
            kept.tables.retain(|_, entry| std::mem::take(&mut entry.used));
            kept.slots = kept.tables.values().map(|entry| slots(&entry.table)).sum();
        });
    }

    /// Tables kept now.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.with(|kept| kept.tables.len())
    }

    /// Tables built so far.
    #[must_use]
    pub fn built(&self) -> u64 {
        self.with(|kept| kept.built)
    }

    fn with<T>(&self, work: impl FnOnce(&mut Kept) -> T) -> T {
        // Whatever a panic left is complete: a table is made before it is put in.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Kept {
    fn of(&mut self, key: Key) -> Result<Arc<MaglevTable>, TableError> {
        if let Some(entry) = self.tables.get_mut(&key) {
            entry.used = true;
            return Ok(Arc::clone(&entry.table));
        }
        let table = Arc::new(MaglevTable::new(key.2.iter().copied(), key.0, key.1)?);
        self.built += 1;
        if self.slots + slots(&table) <= MOST_SLOTS {
            self.slots += slots(&table);
            self.tables.insert(key, Entry { table: Arc::clone(&table), used: true });
        }
        Ok(table)
    }
}

/// A table without members has none.
fn slots(table: &MaglevTable) -> u64 {
    table.home().len() as u64
}
