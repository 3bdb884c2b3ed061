//! `/metrics`, `/healthz` and `/readyz` over HTTP/1.1, one request a connection: bounded in size, in time and in number.

use std::convert::Infallible;
use std::net::{self, IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, watch},
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};
use tracing::{debug, error, warn};

use crate::metrics::CONTENT_TYPE;

/// Connections at a time; more wait to be accepted.
const CONNECTIONS: usize = 16;
/// How long a connection may last, waiting for another scrape included.
const TIME: Duration = Duration::from_secs(10);
/// Longest head of a request; the least that hyper has.
const HEAD: usize = 8 << 10;
/// Pause after a connection that could not be accepted: there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(200);

/// What is asked.
pub trait Scraped: Send + Sync + 'static {
    /// Whether the process does its work.
    ///
    /// # Errors
    /// Why not.
    fn alive(&self) -> Result<(), String>;
    /// Whether it may be relied on; may block.
    ///
    /// # Errors
    /// Why not, each reason a line; the outer error when it cannot be told.
    fn ready(&self) -> anyhow::Result<Result<(), Vec<String>>>;
    /// All metrics as text; may block.
    ///
    /// # Errors
    /// What cannot be read.
    fn scrape(&self) -> anyhow::Result<String>;
}

/// Listens at `address`; `[::]` means every address, also where the kernel has no IPv6.
///
/// # Errors
/// Says for which key or option nobody can listen there.
pub fn bind(what: &str, address: SocketAddr) -> anyhow::Result<net::TcpListener> {
    let bind = || {
        let listener = match net::TcpListener::bind(address) {
            Err(e) if has_no_family(&e) && address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
                net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))?
            }
            bound => bound?,
        };
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|e: std::io::Error| anyhow!("{what}: bind {address}: {e}"))
}

/// The kernel was started without IPv6.
fn has_no_family(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

/// Serves until `stop` says so, or nobody can any more.
pub async fn serve<S: Scraped>(listener: net::TcpListener, source: Arc<S>, mut stop: watch::Receiver<bool>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return error!(%error, "metrics cannot be scraped"),
    };
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let state = Arc::new(State { source, turn: Mutex::new(()) });
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next() => {}
            (stream, permit) = accept(&listener, &room) => {
                connections.spawn(connection(stream, permit, Arc::clone(&state)));
            }
        }
    }
    connections.shutdown().await;
    // A scrape that is under way holds the maps.
    drop(state.turn.lock().await);
}

struct State<S> {
    source: Arc<S>,
    /// One scrape at a time: a second would only take the CPU from packets.
    turn: Mutex<()>,
}

async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed.
    let permit = Arc::clone(room).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, permit),
            Err(error) => {
                warn!(%error, "metrics: accept a connection");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn connection<S: Scraped>(
    stream: TcpStream,
    _permit: Option<OwnedSemaphorePermit>,
    state: Arc<State<S>>,
) {
    let answer = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(answer(&request, &state).await) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), answer);
    match timeout(TIME, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "metrics: a connection failed"),
        Err(_) => debug!("metrics: a connection took longer than {TIME:?}"),
    }
}

async fn answer<S: Scraped>(request: &Request<Incoming>, state: &Arc<State<S>>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = said(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
        response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/metrics" => blocking(state, metrics).await,
        "/readyz" => blocking(state, ready).await,
        "/healthz" => match state.source.alive() {
            Ok(()) => said(StatusCode::OK, "ok\n"),
            Err(why) => said(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        _ => said(StatusCode::NOT_FOUND, "/metrics, /healthz, /readyz\n"),
    }
}

/// Maps and links are read without awaiting anything: not on a thread that others wait for.
async fn blocking<S: Scraped>(
    state: &Arc<State<S>>,
    read: fn(&S) -> anyhow::Result<Response<Full<Bytes>>>,
) -> Response<Full<Bytes>> {
    let held = Arc::clone(state);
    let task = spawn_blocking(move || {
        // Inside, for a client that hangs up does not end this closure.
        let _turn = held.turn.blocking_lock();
        read(&held.source)
    });
    let failed = |error: String| {
        warn!(%error, "metrics cannot be read");
        said(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))
    };
    match task.await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => failed(format!("{error:#}")),
        Err(error) => failed(error.to_string()),
    }
}

fn metrics<S: Scraped>(source: &S) -> anyhow::Result<Response<Full<Bytes>>> {
    let mut response = said(StatusCode::OK, source.scrape()?);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(CONTENT_TYPE));
    Ok(response)
}

fn ready<S: Scraped>(source: &S) -> anyhow::Result<Response<Full<Bytes>>> {
    Ok(match source.ready()? {
        Ok(()) => said(StatusCode::OK, "ready\n"),
        Err(reasons) => {
            let lines: String = reasons.iter().map(|why| format!("{why}\n")).collect();
            said(StatusCode::SERVICE_UNAVAILABLE, lines)
        }
    })
}

fn said(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
