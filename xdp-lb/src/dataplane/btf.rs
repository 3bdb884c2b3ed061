//! Types for the tables: what makes `bpftool map dump` print field names. Pure; [`super::load`] hands the bytes to the
//! kernel with each table that it makes.
//!
//! A table is a map with one value, an array as long as the configuration says: no compiler knows that type, so it is
//! written here, from the shared structures themselves.
//!
//! ```text
//!  | header 24 | types: INT u8 .. u64, STRUCT Service, ARRAY Service[n] | strings |       Documentation/bpf/btf.rst
//! ```

use std::{any::TypeId, collections::BTreeMap, mem::offset_of};

use bytemuck::Zeroable as _;
use xdp_lb_common::{
    backend::{Backend, Template},
    control::Control,
    quic::Config,
    reason::{DropCounts, DropReason, FlowCounts, FlowEvent, PassCounts, PassReason, Reason},
    server_id::Place,
    service::{Service, ServiceConfig},
    stats::{Counters, Traffic},
    vip::{PortRange, VipSlot},
};

/// BTF of one map: a 4-byte key and a value that is an array.
pub struct MapTypes {
    /// The blob.
    pub blob: Vec<u8>,
    /// Id of the key's type.
    pub key: u32,
    /// Id of the value's type.
    pub value: u32,
}

/// Of a table of `len` elements; `None` for a name that is no table's.
pub fn table(name: &str, len: u32) -> Option<MapTypes> {
    use xdp_lb_common::names;
    let mut types = Types::default();
    let key = u32::describe(&mut types);
    let element = match name {
        names::CONTROL => Control::describe(&mut types),
        names::VIPS => VipSlot::describe(&mut types),
        names::SERVICES => Service::describe(&mut types),
        names::BACKENDS => Backend::describe(&mut types),
        names::COUNTERS => Counters::describe(&mut types),
        names::SERVER_IDS => Place::describe(&mut types),
        names::SVC_STATS | names::BACKEND_STATS => Traffic::describe(&mut types),
        _ => return None,
    };
    let value = types.array(element, len);
    Some(MapTypes { blob: types.encode(), key, value })
}

const INT: u32 = 1 << 24;
const ARRAY: u32 = 3 << 24;
const STRUCT: u32 = 4 << 24;

/// The types so far. Ids count from 1.
#[derive(Default)]
struct Types {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
    arrays: BTreeMap<(u32, u32), u32>,
    named: BTreeMap<TypeId, u32>,
}

impl Types {
    fn add(&mut self, words: &[u32]) -> u32 {
        self.types.extend(words.iter().flat_map(|w| w.to_ne_bytes()));
        self.count += 1;
        self.count
    }

    /// Offset of a new string. Offset 0 is the empty one, which `encode` puts first.
    fn string(&mut self, text: &str) -> u32 {
        let at = self.strings.len() as u32 + 1;
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        at
    }

    fn int(&mut self, name: &str, bytes: u32) -> u32 {
        let name = self.string(name);
        self.add(&[name, INT, bytes, bytes * 8])
    }

    fn array(&mut self, element: u32, len: u32) -> u32 {
        if let Some(&id) = self.arrays.get(&(element, len)) {
            return id;
        }
        let index = u32::describe(self);
        let id = self.add(&[0, ARRAY, 0, element, index, len]);
        self.arrays.insert((element, len), id);
        id
    }

    fn structure(&mut self, name: &str, size: usize, fields: &[(&str, usize, u32)]) -> u32 {
        let mut words = vec![self.string(name), STRUCT | fields.len() as u32, size as u32];
        for &(field, offset, id) in fields {
            words.extend([self.string(field), id, 8 * offset as u32]);
        }
        self.add(&words)
    }

    fn encode(self) -> Vec<u8> {
        const MAGIC: u16 = 0xeb9f;
        const HEADER: u32 = 24;
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32 + 1);
        let mut blob = MAGIC.to_ne_bytes().to_vec();
        blob.extend([1, 0]);
        blob.extend([HEADER, 0, types, types, strings].iter().flat_map(|w| w.to_ne_bytes()));
        blob.extend(self.types);
        blob.push(0);
        blob.extend(self.strings);
        blob
    }
}

/// A type that can be told to the kernel.
trait Described: 'static {
    /// The type's id, added if it is new.
    fn describe(types: &mut Types) -> u32 {
        let id = TypeId::of::<Self>();
        if let Some(&known) = types.named.get(&id) {
            return known;
        }
        let new = Self::add(types);
        types.named.insert(id, new);
        new
    }

    fn add(types: &mut Types) -> u32;
}

macro_rules! integers {
    ($($type:ident)*) => { $(
        impl Described for $type {
            fn add(types: &mut Types) -> u32 {
                types.int(stringify!($type), size_of::<$type>() as u32)
            }
        }
    )* };
}

integers! { u8 u16 u32 u64 }

impl<T: Described, const N: usize> Described for [T; N] {
    fn add(types: &mut Types) -> u32 {
        let element = T::describe(types);
        types.array(element, N as u32)
    }
}

/// The type of a field, by the function that borrows it.
fn field<S, T: Described>(_: fn(&S) -> &T, types: &mut Types) -> u32 {
    T::describe(types)
}

macro_rules! structures {
    ($($name:ident { $($field:ident)* })*) => { $(
        impl Described for $name {
            fn add(types: &mut Types) -> u32 {
                // Does not compile when a field is missing.
                let $name { $($field: _),* } = $name::zeroed();
                let fields = [$((stringify!($field), offset_of!($name, $field), field(|s: &$name| &s.$field, types))),*];
                types.structure(stringify!($name), size_of::<$name>(), &fields)
            }
        }
    )* };
}

structures! {
    Control {
        vip_bank layout seed vip_mask flow_set_mask tick_shift second_shift hz generation decap_bank mss reserved
    }
    PortRange { first last service reserved }
    VipSlot { address tcp_root udp_root flags fragments ranges }
    ServiceConfig {
        slot_base table_size backend_base stats_base new_flow_limit flags flow_ttl closing_ttl unconfirmed_ttl
        id id_len move_after slices cid
    }
    Config { config_ids server_id_len cid_len flags }
    Place { id service local used }
    Service { live used configs name }
    Traffic { packets bytes }
    Counters { drops passes flows ended reserved }
    Template { bytes source_shift kind tos_keep tos_set max_inner ifindex }
    Backend { live state address since block_len reserved templates }
}

/// One counter for each reason, by the reason's name.
fn counts<R: Reason>(name: &str, types: &mut Types) -> u32 {
    let counter = u64::describe(types);
    let fields: Vec<_> =
        R::ALL.iter().map(|reason| (reason.name(), reason.index() * size_of::<u64>(), counter)).collect();
    types.structure(name, size_of::<R::Counts>(), &fields)
}

macro_rules! reasons {
    ($($counts:ident: $reason:ident,)*) => { $(
        impl Described for $counts {
            fn add(types: &mut Types) -> u32 {
                counts::<$reason>(stringify!($counts), types)
            }
        }
    )* };
}

reasons! { DropCounts: DropReason, PassCounts: PassReason, FlowCounts: FlowEvent, }

#[cfg(test)]
mod tests {
    use super::*;
    use xdp_lb_common::names;

    #[test]
    fn every_table_has_types_and_the_header_fits() {
        for name in names::TABLES {
            let types = table(name, 8).unwrap();
            let word = |at: usize| u32::from_ne_bytes(types.blob[at..at + 4].try_into().unwrap()) as usize;
            assert_eq!(types.blob.len(), 24 + word(12) + word(20), "{name}");
            assert!(types.key != types.value);
        }
        assert!(table(names::FLOWS, 8).is_none());
    }
}
