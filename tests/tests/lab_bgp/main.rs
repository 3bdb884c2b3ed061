//! BGP and BFD against real routers, each in its namespace.
//!
//! | file | against |
//! |---|---|
//! | `frr` | FRR: attributes, health, faults, keys, TTL, restarts, limits |
//! | `bird` | BIRD, a route reflector, and a router that misbehaves |
//! | `bfd` | FRR's bfdd: single hop, multihop, silence at either end, flaps |
//! | `recipes` | docs/bgp.md, word for word |
//! | `tier` | the whole product: ECMP, traffic while things die, the four measured cases |

mod bfd;
mod bird;
mod common;
mod frr;
mod recipes;
mod tier;
