//! The backends of a service: one list in memory for all services that have the same.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::{Backend, Service};

/// Backends, sorted by address. A clone is the same list until somebody changes one of them: ten thousand services
/// over a hundred lists are a hundred lists.
#[derive(Clone, Debug, Default)]
pub struct Backends(Arc<Vec<Backend>>);

impl Backends {
    /// True when both are one list in memory: what is a fast yes to whether they are equal.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The list's identity in memory, for as long as it lives.
    #[must_use]
    pub fn identity(&self) -> *const Vec<Backend> {
        Arc::as_ptr(&self.0)
    }
}

/// Equal lists of these services become one in memory.
pub fn share_lists(services: &mut [Service]) {
    let mut lists: HashSet<Backends> = HashSet::new();
    // Those that are one already are not compared again. Each keeps its list, so no other gets its place in memory.
    let mut known: HashMap<*const Vec<Backend>, (Backends, Backends)> = HashMap::new();
    for service in services {
        let own = service.backends.clone();
        if let Some((_, list)) = known.get(&own.identity()) {
            service.backends = list.clone();
            continue;
        }
        match lists.get(&own) {
            Some(list) => service.backends = list.clone(),
            None => _ = lists.insert(own.clone()),
        }
        known.insert(own.identity(), (own, service.backends.clone()));
    }
}

impl PartialEq for Backends {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other) || self.0 == other.0
    }
}

impl Eq for Backends {}

impl Hash for Backends {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl From<Vec<Backend>> for Backends {
    fn from(list: Vec<Backend>) -> Self {
        Self(Arc::new(list))
    }
}

impl FromIterator<Backend> for Backends {
    fn from_iter<I: IntoIterator<Item = Backend>>(backends: I) -> Self {
        Vec::from_iter(backends).into()
    }
}

impl Deref for Backends {
    type Target = Vec<Backend>;

    fn deref(&self) -> &Vec<Backend> {
        &self.0
    }
}

/// Whoever changes a list that others have too gets one of its own.
impl DerefMut for Backends {
    fn deref_mut(&mut self) -> &mut Vec<Backend> {
        Arc::make_mut(&mut self.0)
    }
}

impl<'a> IntoIterator for &'a Backends {
    type Item = &'a Backend;
    type IntoIter = std::slice::Iter<'a, Backend>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a mut Backends {
    type Item = &'a mut Backend;
    type IntoIter = std::slice::IterMut<'a, Backend>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}
