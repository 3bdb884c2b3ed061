//! Remembered flows: told from the pinned maps, and forgotten by the daemon's loop.

#![expect(unused_qualifications, reason = "utoipa's macro writes them")]

use std::net::IpAddr;
use std::sync::Arc;

use axum::{
    Json,
    extract::{Query, State},
    http::StatusCode,
};
use serde::Deserialize;
use tokio::task::spawn_blocking;
use utoipa::IntoParams;

use super::{
    Command, Desk,
    api::{Fault, Flows, Forgotten},
    routes::{Failed, Parts, carried_out, fault},
};
use crate::{
    flows::{self, Filter},
    state::Maps as _,
};

/// Most flows that are told one by one.
const MOST: usize = 10_000;

/// Which flows.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Only of this service.
    service: Option<String>,
    /// Only at this backend.
    #[param(value_type = Option<String>)]
    backend: Option<IpAddr>,
}

impl From<Which> for Filter {
    fn from(Which { service, backend }: Which) -> Self {
        Self { service, backend }
    }
}

/// Which flows, and how many of them one by one.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Listed {
    /// Only of this service.
    service: Option<String>,
    /// Only at this backend.
    #[param(value_type = Option<String>)]
    backend: Option<IpAddr>,
    /// So many one by one, 0 to 10000; absent: none.
    #[serde(default)]
    limit: usize,
}

/// Flows that are remembered, by service and backend
#[utoipa::path(get, path = "/v1/flows", params(Listed), responses(
    (status = OK, body = Flows),
    (status = BAD_REQUEST, body = Fault, description = "Not understood"),
    (status = NOT_FOUND, body = Fault, description = "No such service, or nobody has such a backend"),
    (status = INTERNAL_SERVER_ERROR, body = Fault),
))]
pub(super) async fn list(
    State(desk): State<Arc<Desk>>,
    Parts(Query(listed)): Parts<Query<Listed>>,
) -> Result<Json<Flows>, Failed> {
    let Listed { service, backend, limit } = listed;
    if limit > MOST {
        return Err(fault(StatusCode::BAD_REQUEST, format!("limit must be 0..={MOST}")));
    }
    let failed =
        |e: &dyn std::fmt::Display| fault(StatusCode::INTERNAL_SERVER_ERROR, format!("read the maps: {e}"));
    // The whole flow table is read: not on the thread that answers others.
    let read = spawn_blocking(move || {
        let tick = desk.maps.tick()?;
        let filter = Filter { service, backend };
        let (observed, sets) = (desk.maps.observe(), desk.maps.flow_sets());
        Ok::<_, std::io::Error>(flows::list(&observed, sets, tick, &filter, limit))
    });
    match read.await.map_err(|e| failed(&e))?.map_err(|e| failed(&e))? {
        Ok(listing) => Ok(Json(listing.into())),
        Err(unknown) => Err(fault(StatusCode::NOT_FOUND, unknown)),
    }
}

/// Forgets flows
///
/// The next packet of each goes where its slot says, which for a flow that is not at home is another backend. Wants a
/// service or a backend.
#[utoipa::path(delete, path = "/v1/flows", params(Which), responses(
    (status = OK, body = Forgotten),
    (status = BAD_REQUEST, body = Fault, description = "Not understood, or neither service nor backend"),
    (status = NOT_FOUND, body = Fault, description = "No such service, or nobody has such a backend"),
    (status = INTERNAL_SERVER_ERROR, body = Fault),
    (status = SERVICE_UNAVAILABLE, body = Fault, description = "The agent ends"),
))]
pub(super) async fn forget(
    State(desk): State<Arc<Desk>>,
    Parts(Query(which)): Parts<Query<Which>>,
) -> Result<Json<Forgotten>, Failed> {
    let filter = Filter::from(which);
    if filter == Filter::default() {
        return Err(fault(StatusCode::BAD_REQUEST, "say of which service, or at which backend"));
    }
    let done = carried_out(&desk, Command::Forget(filter)).await?;
    Ok(Json(Forgotten { flows: done.forgotten }))
}
