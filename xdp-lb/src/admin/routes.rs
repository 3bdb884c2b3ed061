//! What can be asked and what can be told: one function a route, each with its part of the OpenAPI description.

#![expect(unused_qualifications, reason = "utoipa's macro writes them")]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::{
    Json, Router,
    extract::{
        DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, State, rejection::JsonRejection,
    },
    http::StatusCode,
    response::IntoResponse,
};
use serde::Deserialize;
use tokio::{sync::oneshot, task::spawn_blocking};
use utoipa::{IntoParams, OpenApi, openapi};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Asked, Command, Desk, Done, NotDone,
    api::{AgentStatus, Answer, Drain, DrainRequest, Fault, File, Generation, Left, RollbackRequest},
};
use crate::{
    drains::{Target, Terms, progress},
    keep::{Entry, KeepError, Origin},
    state::Maps as _,
    status,
};

/// Longest body.
const BODY: usize = 64 << 10;
/// A drain of more than thirty days is one that was forgotten.
const LONGEST: u64 = 720 * 3600;

#[derive(OpenApi)]
#[openapi(info(
    title = "xdp-lb admin API",
    description = "Of one edge node, on its Unix socket (`admin.socket`). Who may open the socket may do everything.",
    license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
))]
struct Description;

fn routed() -> (Router<Arc<Desk>>, openapi::OpenApi) {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(agent))
        .routes(routes!(drains, drain))
        .routes(routes!(undrain))
        .routes(routes!(super::flows::list, super::flows::forget))
        .routes(routes!(generations))
        .routes(routes!(generation))
        .routes(routes!(rollback))
        .split_for_parts()
}

/// The OpenAPI description.
#[must_use]
pub fn description() -> openapi::OpenApi {
    routed().1
}

/// All routes, and the description itself.
pub(super) fn router(desk: Arc<Desk>) -> Router {
    let (router, description) = routed();
    let description = axum::routing::get(move || async move { Json(description) });
    let nothing =
        || async { fault(StatusCode::NOT_FOUND, "no such thing; /v1/openapi.json lists what there is") };
    router
        .route("/v1/openapi.json", description)
        .fallback(nothing)
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(desk)
}

/// An answer that is no success.
pub(super) type Failed = (StatusCode, Json<Fault>);

pub(super) fn fault(status: StatusCode, error: impl ToString) -> Failed {
    (status, Json(Fault { error: error.to_string() }))
}

impl From<NotDone> for Failed {
    fn from(why: NotDone) -> Self {
        use crate::drains::Refused;
        let status = match &why {
            NotDone::NoGeneration(_) | NotDone::NoEarlier => StatusCode::NOT_FOUND,
            NotDone::Drain(Refused::InAll(_) | Refused::ByFile(_)) => StatusCode::CONFLICT,
            NotDone::Drain(_) => StatusCode::NOT_FOUND,
            NotDone::Refused { .. } => StatusCode::CONFLICT,
            NotDone::Flows(_) => StatusCode::NOT_FOUND,
            NotDone::History(_) | NotDone::Maps(_) => StatusCode::INTERNAL_SERVER_ERROR,
            NotDone::Ending => StatusCode::SERVICE_UNAVAILABLE,
        };
        fault(status, why)
    }
}

/// A JSON body; one that cannot be understood is answered in JSON as well.
struct Body<T>(T);

impl<S: Send + Sync, T> FromRequest<S> for Body<T>
where
    Json<T>: FromRequest<S, Rejection = JsonRejection>,
{
    type Rejection = Failed;

    async fn from_request(request: axum::extract::Request, state: &S) -> Result<Self, Failed> {
        let read = Json::<T>::from_request(request, state).await;
        read.map(|Json(body)| Self(body)).map_err(|e| fault(e.status(), e.body_text()))
    }
}

/// Gives a command to the daemon's loop and waits for what comes of it.
pub(super) async fn carried_out(desk: &Desk, command: Command) -> Result<Done, Failed> {
    let (answer, answered) = oneshot::channel();
    let ending = || Failed::from(NotDone::Ending);
    desk.commands.send(Asked { command, answer }).await.map_err(|_| ending())?;
    Ok(answered.await.map_err(|_| ending())??)
}

/// The same, and answers with what most commands answer.
async fn ask(desk: &Desk, command: Command) -> Result<Json<Answer>, Failed> {
    let done = carried_out(desk, command).await?;
    let generation = desk.view.borrow().generation;
    Ok(Json(Answer { generation, warnings: done.warnings }))
}

/// How the agent is
#[utoipa::path(get, path = "/v1/agent", responses(
    (status = OK, body = AgentStatus),
    (status = INTERNAL_SERVER_ERROR, body = Fault),
))]
async fn agent(State(desk): State<Arc<Desk>>) -> Result<Json<AgentStatus>, Failed> {
    let drains = draining(&desk).await?;
    let (condition, view) = ((desk.condition)(), desk.view.borrow().clone());
    Ok(Json(AgentStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        generation: view.generation,
        applied: condition.applied,
        services: view.desired.services.len(),
        degraded: condition.degraded(),
        refused: condition.refusal(),
        resources: condition.resources,
        rolled_back_to: view.rollback.map(|rollback| rollback.generation),
        peer_drains: view.peer_drains.iter().map(Into::into).collect(),
        drains,
    }))
}

/// Backends that drain by command, with what is left of them
#[utoipa::path(get, path = "/v1/drains", responses(
    (status = OK, body = Vec<Drain>),
    (status = INTERNAL_SERVER_ERROR, body = Fault),
))]
async fn drains(State(desk): State<Arc<Desk>>) -> Result<Json<Vec<Drain>>, Failed> {
    draining(&desk).await.map(Json)
}

async fn draining(desk: &Arc<Desk>) -> Result<Vec<Drain>, Failed> {
    let view = desk.view.borrow().clone();
    let left = if view.drains.is_empty() {
        Vec::new()
    } else {
        let held = Arc::clone(desk);
        // The whole flow table is read: not on the thread that answers others.
        let read = spawn_blocking(move || -> std::io::Result<_> {
            let tick = held.maps.tick()?;
            let flows = status::flows(held.maps.flow_sets().map(|(_, set)| set), tick);
            Ok(progress::left(&view.drains, &view.desired, &held.maps.observe(), &flows))
        });
        let failed = |e: &dyn std::fmt::Display| {
            fault(StatusCode::INTERNAL_SERVER_ERROR, format!("read the maps: {e}"))
        };
        read.await.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?
    };
    let view = desk.view.borrow().clone();
    let one = |(target, terms): (&Target, &Terms)| Drain {
        backend: target.backend,
        service: target.service.clone(),
        mode: terms.mode.map(Into::into),
        max: terms.max.map(|max| max.as_secs()),
        since: terms.since,
        left: left
            .iter()
            .filter(|l| l.backend == target.backend)
            // Each service by the drain that counts there.
            .filter(|l| view.drains.of(&l.service, l.backend) == Some(terms))
            .filter(|l| target.service.as_deref().is_none_or(|own| own == l.service))
            .cloned()
            .map(Left::from)
            .collect(),
    };
    Ok(view.drains.iter().map(one).collect())
}

/// Lets a backend drain on this node
///
/// It takes no new flows; what becomes of known ones, `mode` and `max` say, else the service's `drain`. Said again, the
/// new terms count.
#[utoipa::path(post, path = "/v1/drains", request_body = DrainRequest, responses(
    (status = OK, body = Answer),
    (status = NOT_FOUND, body = Fault, description = "Nobody has such a backend"),
    (status = UNPROCESSABLE_ENTITY, body = Fault, description = "Not understood"),
    (status = SERVICE_UNAVAILABLE, body = Fault, description = "The agent ends"),
))]
async fn drain(
    State(desk): State<Arc<Desk>>,
    Body(request): Body<DrainRequest>,
) -> Result<Json<Answer>, Failed> {
    let DrainRequest { backend, service, mode, max } = request;
    if max.is_some_and(|max| !(1..=LONGEST).contains(&max)) {
        let why = format!("max must be 1..={LONGEST} seconds");
        return Err(fault(StatusCode::UNPROCESSABLE_ENTITY, why));
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let terms = Terms { mode: mode.map(Into::into), max: max.map(Duration::from_secs), since };
    ask(&desk, Command::Drain(Target { backend, service }, terms)).await
}

/// Which drain.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Which {
    /// Only the drain of this service; absent: all drains of the backend.
    service: Option<String>,
}

/// Takes drains by command back
#[utoipa::path(delete, path = "/v1/drains/{backend}",
    params(("backend" = String, Path, description = "Address"), Which),
    responses(
        (status = OK, body = Answer),
        (status = BAD_REQUEST, body = Fault, description = "Not understood"),
        (status = NOT_FOUND, body = Fault, description = "No command drains it"),
        (status = CONFLICT, body = Fault, description = "Something else does: the file, or a drain in all services"),
        (status = SERVICE_UNAVAILABLE, body = Fault, description = "The agent ends"),
    ))]
async fn undrain(
    State(desk): State<Arc<Desk>>,
    Parts(Path(backend)): Parts<Path<IpAddr>>,
    Parts(Query(Which { service })): Parts<Query<Which>>,
) -> Result<Json<Answer>, Failed> {
    ask(&desk, Command::Undrain(Target { backend, service })).await
}

/// What a request's line says; one that cannot be understood is answered in JSON.
pub(super) struct Parts<T>(pub(super) T);

impl<S: Send + Sync, T: FromRequestParts<S>> FromRequestParts<S> for Parts<T> {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, state: &S) -> Result<Self, Failed> {
        let response = match T::from_request_parts(parts, state).await {
            Ok(value) => return Ok(Self(value)),
            Err(rejection) => rejection.into_response(),
        };
        let status = response.status();
        let text = axum::body::to_bytes(response.into_body(), BODY).await.unwrap_or_default();
        Err(fault(status, String::from_utf8_lossy(&text)))
    }
}

/// Configurations that were in force, the oldest first, without their texts
#[utoipa::path(get, path = "/v1/generations", responses(
    (status = OK, body = Vec<Generation>),
    (status = INTERNAL_SERVER_ERROR, body = Fault),
))]
async fn generations(State(desk): State<Arc<Desk>>) -> Result<Json<Vec<Generation>>, Failed> {
    let current = desk.view.borrow().generation;
    let history = desk.history.clone();
    let read = spawn_blocking(move || {
        let mut all = Vec::new();
        for generation in history.generations()? {
            all.extend(history.get(generation)?.map(|entry| told(&entry, current, false)));
        }
        Ok::<_, KeepError>(all)
    });
    match read.await {
        Ok(Ok(all)) => Ok(Json(all)),
        Ok(Err(e)) => Err(fault(StatusCode::INTERNAL_SERVER_ERROR, e)),
        Err(e) => Err(fault(StatusCode::INTERNAL_SERVER_ERROR, e)),
    }
}

/// One configuration that was in force, with its texts
#[utoipa::path(get, path = "/v1/generations/{generation}",
    params(("generation" = u32, Path, description = "Its number")),
    responses(
        (status = OK, body = Generation),
        (status = BAD_REQUEST, body = Fault, description = "No number"),
        (status = NOT_FOUND, body = Fault, description = "It is not kept"),
        (status = INTERNAL_SERVER_ERROR, body = Fault),
    ))]
async fn generation(
    State(desk): State<Arc<Desk>>,
    Parts(Path(generation)): Parts<Path<u32>>,
) -> Result<Json<Generation>, Failed> {
    let current = desk.view.borrow().generation;
    match desk.history.get(generation) {
        Ok(Some(entry)) => Ok(Json(told(&entry, current, true))),
        Ok(None) => Err(NotDone::NoGeneration(generation).into()),
        Err(e) => Err(fault(StatusCode::INTERNAL_SERVER_ERROR, e)),
    }
}

fn told(entry: &Entry, current: u32, with_texts: bool) -> Generation {
    let file = |(name, text): (&str, &str)| File {
        name: name.to_owned(),
        text: with_texts.then(|| text.to_owned()),
    };
    Generation {
        generation: entry.generation,
        applied: entry.applied,
        rollback_of: match entry.origin {
            Origin::File => None,
            Origin::Rollback(of) => Some(of),
        },
        current: entry.generation == current,
        files: entry.texts.files().map(file).collect(),
    }
}

/// Goes back to an earlier configuration
///
/// It gets a new generation. The file is followed as before: its next change is taken, and counts again.
#[utoipa::path(post, path = "/v1/rollback", request_body = RollbackRequest, responses(
    (status = OK, body = Answer),
    (status = NOT_FOUND, body = Fault, description = "It is not kept"),
    (status = CONFLICT, body = Fault, description = "It can no longer be carried out"),
    (status = UNPROCESSABLE_ENTITY, body = Fault, description = "Not understood"),
    (status = SERVICE_UNAVAILABLE, body = Fault, description = "The agent ends"),
))]
async fn rollback(
    State(desk): State<Arc<Desk>>,
    Body(request): Body<RollbackRequest>,
) -> Result<Json<Answer>, Failed> {
    ask(&desk, Command::Rollback(request.generation)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "../docs/openapi.json";

    /// The description that is read is the one that is served. `XDP_LB_BLESS=1` writes it down.
    #[test]
    fn the_description_in_the_documentation_is_ours() {
        let ours = description().to_pretty_json().unwrap() + "\n";
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
        if std::env::var_os("XDP_LB_BLESS").is_some() {
            std::fs::write(&path, &ours).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            ours == written,
            "docs/openapi.json differs: run this test with XDP_LB_BLESS=1 and look at the diff"
        );
    }

    /// Every reference leads somewhere, and every route says what a failure looks like.
    #[test]
    fn the_description_is_whole() {
        let ours = serde_json::to_value(description()).unwrap();
        let text = ours.to_string();
        let references = text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap());
        let mut count = 0;
        for pointer in references {
            assert!(ours.pointer(pointer).is_some(), "{pointer} leads nowhere");
            count += 1;
        }
        assert!(count > 10, "{count}");
        for (path, methods) in ours["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let responses = operation["responses"].as_object().unwrap();
                assert!(responses.contains_key("200"), "{method} {path}");
                assert!(responses.keys().any(|code| code.starts_with(['4', '5'])), "{method} {path}");
                assert!(operation["summary"].is_string(), "{method} {path}");
            }
        }
    }
}
