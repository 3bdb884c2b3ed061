//! The decision. Called with everything, every time something changes.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use super::{Family, Given, Inputs, Kept, Outcome, Pool, Wish};
use crate::kube::Key;
use crate::model::Protocol;

/// Gives addresses to everybody who can have one.
#[must_use]
pub fn assign(inputs: &Inputs) -> Outcome {
    let mut table = Table::new(inputs);
    let mut wishes: Vec<&Wish> = inputs.wishes.iter().collect();
    wishes.sort_by_key(|wish| (wish.created, &wish.key));
    for wish in &wishes {
        table.keep(wish);
    }
    for wish in &wishes {
        table.fulfil(wish);
    }
    table.outcome
}

/// Who has an address.
#[derive(Default)]
struct Holders {
    /// What all of them said, with their namespace; `None`: one alone.
    sharing: Option<(Box<str>, String)>,
    ports: BTreeSet<(Protocol, u16)>,
}

struct Table<'a> {
    inputs: &'a Inputs,
    /// In the order in which they are asked.
    pools: Vec<&'a Pool>,
    holders: HashMap<IpAddr, Holders>,
    /// Addresses that are not free: held, or released lately.
    taken: BTreeSet<IpAddr>,
    /// Addresses of a namespace from a pool.
    quotas: HashMap<(&'a str, Box<str>), usize>,
    outcome: Outcome,
}

/// Why an address cannot be had.
enum No {
    Elsewhere(IpAddr),
    NotFor(String),
    NotOf(IpAddr, String),
    Held(IpAddr),
    NotShared(IpAddr, String),
    Quota(String, usize),
    Released(IpAddr, i64),
}

impl No {
    fn say(&self) -> String {
        match self {
            Self::Elsewhere(address) => format!("{address} is in no pool"),
            Self::NotFor(pool) => format!("pool {pool} is not for this Service: see its selectors"),
            Self::NotOf(address, pool) => {
                format!("{address} is not of pool {pool}, which xdp-lb.io/pool names")
            }
            Self::Held(address) => {
                format!(
                    "{address} is another Service's; to share it both must say the same xdp-lb.io/sharing-key, and their ports must differ"
                )
            }
            Self::NotShared(address, pool) => {
                format!(
                    "{address} is another Service's, and pool {pool} lets nobody share (`sharing: false`)"
                )
            }
            Self::Quota(pool, quota) => format!("the namespace has all its {quota} addresses of pool {pool}"),
            Self::Released(address, until) => {
                format!("{address} was released lately, and is free again {until} seconds after 1970")
            }
        }
    }
}

impl<'a> Table<'a> {
    fn new(inputs: &'a Inputs) -> Self {
        let mut pools: Vec<&Pool> = inputs.pools.iter().collect();
        pools.sort_by_key(|pool| (std::cmp::Reverse(pool.priority), &pool.name));
        let outcome =
            Outcome { used: pools.iter().map(|pool| (pool.name.clone(), 0)).collect(), ..Outcome::default() };
        let mut table = Self {
            inputs,
            pools,
            holders: HashMap::new(),
            taken: BTreeSet::new(),
            quotas: HashMap::new(),
            outcome,
        };
        table.taken =
            inputs.released.keys().copied().filter(|address| table.free_again(*address).is_some()).collect();
        table
    }

    /// When a released address may be had by anybody, if that is yet to come.
    fn free_again(&self, address: IpAddr) -> Option<i64> {
        let released = self.inputs.released.get(&address)?;
        let delay = i64::try_from(self.pool_of(address)?.release_delay.as_secs()).unwrap_or(i64::MAX);
        let until = released.at.saturating_add(delay);
        (until > self.inputs.now).then_some(until)
    }

    fn pool_of(&self, address: IpAddr) -> Option<&'a Pool> {
        self.pools.iter().copied().find(|pool| pool.ranges.iter().any(|range| range.contains(address)))
    }

    /// What somebody has stays, if it is as wished and nobody older has it.
    fn keep(&mut self, wish: &Wish) {
        for &address in &wish.has {
            let family = Family::of(address);
            let is_wished = wish.families.contains(&family) && !self.has(&wish.key, family);
            let is_asked =
                wish.addresses.iter().all(|asked| Family::of(*asked) != family || *asked == address);
            let named = wish.pool.as_ref().filter(|name| self.pools.iter().any(|pool| pool.name == **name));
            let is_pools =
                named.is_none_or(|name| self.pool_of(address).is_some_and(|pool| pool.name == *name));
            if !(is_wished && is_asked && is_pools) {
                continue;
            }
            match self.take(wish, address) {
                // Why not is said where another address cannot be had either.
                Ok(()) | Err(No::Held(_) | No::NotShared(..) | No::Released(..)) => {}
                Err(no @ (No::Elsewhere(_) | No::NotFor(_) | No::NotOf(..) | No::Quota(..))) => {
                    if let Some(pool) = self.pool_of(address).filter(|_| !self.holders.contains_key(&address))
                    {
                        *self.outcome.used.entry(pool.name.clone()).or_default() += 1;
                    }
                    self.hold(wish, address);
                    let kept = self.outcome.kept.entry(wish.key.clone()).or_default();
                    kept.push(Kept { address, why: no.say() });
                    kept.sort();
                }
            }
        }
    }

    fn has(&self, key: &Key, family: Family) -> bool {
        let given = self.outcome.given.get(key).into_iter().flatten().map(|given| given.address);
        let kept = self.outcome.kept.get(key).into_iter().flatten().map(|kept| kept.address);
        given.chain(kept).any(|address| Family::of(address) == family)
    }

    /// Puts an address down as this Service's.
    fn hold(&mut self, wish: &Wish, address: IpAddr) {
        self.taken.insert(address);
        let held = self.holders.entry(address).or_default();
        held.sharing = wish.sharing.clone().map(|sharing| (wish.key.namespace.clone(), sharing));
        held.ports.extend(&wish.ports);
    }

    fn fulfil(&mut self, wish: &Wish) {
        let mut refused = Vec::new();
        for &address in &wish.addresses {
            if !wish.families.contains(&Family::of(address)) {
                refused.push(format!("{address} is of a family that spec.ipFamilies does not name"));
            }
        }
        for &family in &wish.families {
            if self.has(&wish.key, family) {
                continue;
            }
            let asked: Vec<IpAddr> =
                wish.addresses.iter().copied().filter(|a| Family::of(*a) == family).collect();
            let outcome = if asked.is_empty() { self.any(wish, family) } else { self.one_of(wish, &asked) };
            if let Err(why) = outcome
                && !wish.optional.contains(&family)
            {
                refused.push(why);
            }
        }
        if !refused.is_empty() {
            self.outcome.refused.insert(wish.key.clone(), refused);
        }
    }

    fn one_of(&mut self, wish: &Wish, asked: &[IpAddr]) -> Result<(), String> {
        let mut why = Vec::new();
        for &address in asked {
            match self.take(wish, address) {
                Ok(()) => return Ok(()),
                Err(no) => why.push(no.say()),
            }
        }
        Err(why.join("; "))
    }

    /// An address that is shared already, else the first free one of the best pool.
    fn any(&mut self, wish: &Wish, family: Family) -> Result<(), String> {
        let named = |pool: &&&Pool| wish.pool.as_ref().map_or(pool.auto_assign, |name| *name == pool.name);
        let pools: Vec<&Pool> = self.pools.iter().filter(named).copied().collect();
        if pools.is_empty() {
            return Err(match &wish.pool {
                Some(name) => format!("there is no pool {name}"),
                None => "no pool gives addresses to who does not name it".to_owned(),
            });
        }
        if wish.sharing.is_some() {
            let own = wish.sharing.clone().map(|sharing| (wish.key.namespace.clone(), sharing));
            let shared = self
                .holders
                .iter()
                .filter(|(address, held)| held.sharing == own && Family::of(**address) == family);
            let mut shared: Vec<IpAddr> = shared.map(|(address, _)| *address).collect();
            shared.sort_unstable();
            let is_in = |address: &IpAddr| {
                self.pool_of(*address).is_some_and(|of| pools.iter().any(|pool| pool.name == of.name))
            };
            shared.retain(is_in);
            if shared.into_iter().any(|address| self.take(wish, address).is_ok()) {
                return Ok(());
            }
        }
        let mut why = Vec::new();
        for pool in pools {
            if let Err(no) = self.may(wish, pool) {
                why.push(no.say());
                continue;
            }
            // What it had and lost a moment ago it gets again.
            let own = self.inputs.released.iter().filter(|(address, released)| {
                released.by == wish.key
                    && Family::of(**address) == family
                    && !self.holders.contains_key(*address)
            });
            let own = own
                .map(|(address, _)| *address)
                .find(|address| pool.ranges.iter().any(|range| range.contains(*address)));
            let free = pool.ranges.iter().filter(|range| range.family() == family);
            let Some(address) = own.or_else(|| free.clone().find_map(|range| range.first_free(&self.taken)))
            else {
                why.push(self.exhausted(pool, family));
                continue;
            };
            match self.take(wish, address) {
                Ok(()) => return Ok(()),
                Err(no) => why.push(no.say()),
            }
        }
        Err(why.join("; "))
    }

    fn exhausted(&mut self, pool: &Pool, family: Family) -> String {
        let of_pool = |address: &&IpAddr| {
            Family::of(**address) == family && pool.ranges.iter().any(|range| range.contains(**address))
        };
        let soonest = self
            .taken
            .iter()
            .filter(of_pool)
            .filter(|a| !self.holders.contains_key(*a))
            .filter_map(|a| self.free_again(*a))
            .min();
        if let Some(at) = soonest {
            self.wake(at);
        }
        let family = if family == Family::V4 { "IPv4" } else { "IPv6" };
        let later = soonest.map_or("", |_| " until a released one may be given again");
        format!("pool {} has no free {family} address{later}", pool.name)
    }

    fn wake(&mut self, at: i64) {
        self.outcome.wake = Some(self.outcome.wake.map_or(at, |wake| wake.min(at)));
    }

    /// Whether a pool gives anything to a Service.
    fn may(&self, wish: &Wish, pool: &Pool) -> Result<(), No> {
        if !pool.namespaces.selects(&wish.namespace_labels) || !pool.services.selects(&wish.labels) {
            return Err(No::NotFor(pool.name.clone()));
        }
        Ok(())
    }

    fn take(&mut self, wish: &Wish, address: IpAddr) -> Result<(), No> {
        let is_new = !self.holders.contains_key(&address);
        if let Some(held) = self.holders.get(&address) {
            let sharing = wish.sharing.clone().map(|sharing| (wish.key.namespace.clone(), sharing));
            if held.sharing.is_none() || held.sharing != sharing || !held.ports.is_disjoint(&wish.ports) {
                return Err(No::Held(address));
            }
        }
        let pool = self.pool_of(address).ok_or(No::Elsewhere(address))?;
        if let Some(name) = wish.pool.as_ref().filter(|name| **name != pool.name) {
            return Err(No::NotOf(address, name.clone()));
        }
        self.may(wish, pool)?;
        if !is_new && !pool.sharing {
            return Err(No::NotShared(address, pool.name.clone()));
        }
        let is_his = self.inputs.released.get(&address).is_some_and(|released| released.by == wish.key)
            || wish.has.contains(&address);
        if let Some(until) = self.free_again(address).filter(|_| is_new && !is_his) {
            self.wake(until);
            return Err(No::Released(address, until));
        }
        let count = self.quotas.entry((&pool.name, wish.key.namespace.clone())).or_default();
        // Who shares an address is of one namespace, so it counts once.
        if is_new {
            if let Some(quota) = pool.quota.filter(|quota| *count >= *quota) {
                return Err(No::Quota(pool.name.clone(), quota));
            }
            *count += 1;
            *self.outcome.used.entry(pool.name.clone()).or_default() += 1;
        }
        self.hold(wish, address);
        let given = self.outcome.given.entry(wish.key.clone()).or_default();
        given.push(Given { address, pool: pool.name.clone() });
        given.sort();
        Ok(())
    }
}
