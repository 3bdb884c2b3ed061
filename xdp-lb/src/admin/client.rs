//! The other end of the socket, for the command line: one question a connection.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

use super::api::{AgentStatus, Answer, Drain, DrainRequest, Fault, Forgotten, Generation, RollbackRequest};

/// A plan of thousands of services takes seconds, and a command waits for the one under way.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no answer, or a refusal.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no agent answers at {}: is `xdp-lb run` running on this node? --socket names another socket",
        .0.display()
    )]
    NoAgent(PathBuf),
    /// It may not be opened.
    #[error("{} may not be opened: be root, or a member of `admin.group`", .0.display())]
    Denied(PathBuf),
    /// The agent says no.
    #[error("{}", .0.error)]
    Refused(Fault),
    /// The agent is busy, or hangs.
    #[error("the agent has not answered for {PATIENCE:?}; what was asked may still be done")]
    Late,
    /// The connection broke, or what came is no answer.
    #[error("ask the agent: {0}")]
    Broken(String),
}

/// Where the agent is asked.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// At this socket.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// How the agent is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn agent(&self) -> Result<AgentStatus, ClientError> {
        self.ask(Method::GET, "/v1/agent", &()).await
    }

    /// Backends that drain by command.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn drains(&self) -> Result<Vec<Drain>, ClientError> {
        self.ask(Method::GET, "/v1/drains", &()).await
    }

    /// Lets a backend drain.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn drain(&self, request: &DrainRequest) -> Result<Answer, ClientError> {
        self.ask(Method::POST, "/v1/drains", request).await
    }

    /// Takes that back.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn undrain(
        &self,
        backend: std::net::IpAddr,
        service: Option<&str>,
    ) -> Result<Answer, ClientError> {
        let query = service.map(|name| format!("?service={}", escaped(name))).unwrap_or_default();
        self.ask(Method::DELETE, &format!("/v1/drains/{backend}{query}"), &()).await
    }

    /// Configurations that were in force.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn generations(&self) -> Result<Vec<Generation>, ClientError> {
        self.ask(Method::GET, "/v1/generations", &()).await
    }

    /// One of them, with its texts.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn generation(&self, generation: u32) -> Result<Generation, ClientError> {
        self.ask(Method::GET, &format!("/v1/generations/{generation}"), &()).await
    }

    /// Goes back.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn rollback(&self, generation: Option<u32>) -> Result<Answer, ClientError> {
        self.ask(Method::POST, "/v1/rollback", &RollbackRequest { generation }).await
    }

    /// Has flows forgotten: of a service, at a backend, or both.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn forget(
        &self,
        service: Option<&str>,
        backend: Option<std::net::IpAddr>,
    ) -> Result<Forgotten, ClientError> {
        let service = service.map(|name| format!("service={}", escaped(name)));
        let backend = backend.map(|address| format!("backend={}", escaped(&address.to_string())));
        let query: Vec<String> = [service, backend].into_iter().flatten().collect();
        self.ask(Method::DELETE, &format!("/v1/flows?{}", query.join("&")), &()).await
    }

    async fn ask<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        match timeout(PATIENCE, self.answer(method, path, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Late),
        }
    }

    async fn answer<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| match e.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Denied(self.socket.clone()),
            _ => ClientError::NoAgent(self.socket.clone()),
        })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "xdp-lb")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::<Bytes>::from(serde_json::to_vec(body).map_err(broken)?))
            .map_err(broken)?;
        let asked = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status();
            Ok((status, response.into_body().collect().await.map_err(broken)?.to_bytes()))
        };
        // The connection is worked off beside the question; it ends after the answer.
        tokio::pin!(asked, connection);
        let (status, bytes): (StatusCode, Bytes) = tokio::select! {
            answered = &mut asked => answered?,
            ended = &mut connection => {
                ended.map_err(broken)?;
                asked.await?
            }
        };
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(broken);
        }
        let fault = serde_json::from_slice(&bytes).unwrap_or_else(|_| Fault {
            error: format!("{status}: {}", String::from_utf8_lossy(&bytes).trim()),
        });
        Err(ClientError::Refused(fault))
    }
}

fn broken(error: impl std::fmt::Display) -> ClientError {
    ClientError::Broken(error.to_string())
}

/// A query's value: everything but letters, digits and `-._~` as `%XX`.
fn escaped(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}
