//! The whole chain against real API servers with our own roles: a Service, its address, the maps, packets, and what a user of
//! kubectl is told of it.
//!
//! `XDP_LB_KUBE_API` names a folder with the scripts `start DIR` and `stop DIR` of such a server; without it these tests say
//! so and do nothing.
//!
//! | file | what |
//! |---|---|
//! | `servers`, `api` | the API servers, and how they are asked |
//! | `scene` | all that runs, and what the maps hold |
//! | `life` | a Service comes, scales, rolls, drains and goes; how long an endpoint takes to the maps |
//! | `outage` | nobody reaches the API server for a while, and etcd forgets what happened meanwhile |

mod api;
mod life;
mod outage;
mod scene;
mod servers;
