//! QUIC with a well-kept implementation (quinn): servers whose connection ids carry their server id in plain text
//! (draft-ietf-quic-load-balancers), and clients that change their address under a connection.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use quinn::{
    ClientConfig, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, Incoming, ServerConfig,
    TokioRuntime,
};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::task::JoinSet;

use super::seen::Seen;
use crate::lab::namespace::Namespace;
use crate::lab::worker::Worker;

/// What the certificate is for.
const NAME: &str = "lab";
/// How long binding may take.
const BIND_BOUND: Duration = Duration::from_secs(5);
/// Bytes behind the server id.
const NONCE: usize = 5;

/// The certificate of all servers of a lab, which its clients trust.
#[derive(Debug)]
pub struct Trust {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Trust {
    /// A new one.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new() -> Result<Self> {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed([NAME.to_owned()])?;
        Ok(Self { certificate: cert.der().clone(), key: signing_key.serialize_der() })
    }

    fn server(&self) -> Result<ServerConfig> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()));
        Ok(ServerConfig::with_single_cert(vec![self.certificate.clone()], key)?)
    }

    fn client(&self) -> Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        Ok(ClientConfig::with_root_certificates(Arc::new(roots))?)
    }
}

/// Makes `cfg:3 len:5 | server id | nonce`, configuration 0.
struct PlaintextIds {
    id: Vec<u8>,
    made: u64,
}

impl ConnectionIdGenerator for PlaintextIds {
    fn generate_cid(&mut self) -> ConnectionId {
        self.made += 1;
        // What another server or another time made must not come again.
        let nonce = xdp_lb_common::hash::mix(self.made ^ u64::from(std::process::id()) << 40);
        let rest = self.id.len() + NONCE;
        let id = [&[rest as u8][..], &self.id, &nonce.to_le_bytes()[..NONCE]].concat();
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        1 + self.id.len() + NONCE
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// A running QUIC server. It answers every stream with [`Seen`].
#[derive(Debug)]
pub struct QuicServer {
    worker: Worker,
}

impl QuicServer {
    /// Starts one in `ns` that calls itself `name` and writes `id` into its connection ids; returns once it is bound.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub fn start(
        ns: &Namespace,
        name: &str,
        id: &[u8],
        addresses: &[SocketAddr],
        trust: &Trust,
    ) -> Result<Self> {
        let (bound, is_bound) = mpsc::channel();
        let (name, id, addresses) = (name.to_owned(), id.to_owned(), addresses.to_owned());
        let config = trust.server()?;
        let worker = ns.work(&format!("QUIC server {name}"), move |stop| async move {
            let mut tasks = JoinSet::new();
            for address in addresses {
                let socket =
                    std::net::UdpSocket::bind(address).with_context(|| format!("bind UDP {address}"))?;
                let mut endpoint = EndpointConfig::default();
                let id = id.clone();
                endpoint.cid_generator(move || Box::new(PlaintextIds { id: id.clone(), made: 0 }));
                let endpoint = Endpoint::new(endpoint, Some(config.clone()), socket, Arc::new(TokioRuntime))?;
                tasks.spawn(accept(endpoint, name.clone()));
            }
            // The starter may have given up waiting; then it drops us and `stop` is given.
            let _ = bound.send(());
            stop.given().await;
            Ok(())
        })?;
        let mut server = Self { worker };
        if is_bound.recv_timeout(BIND_BOUND).is_err() {
            server.worker.stop()?;
            bail!("the QUIC server was not bound within {BIND_BOUND:?}");
        }
        Ok(server)
    }
}

async fn accept(endpoint: Endpoint, name: String) {
    let mut connections = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        connections.spawn(serve(incoming, name.clone()));
    }
}

/// Serves one connection; its errors are its client's to report.
async fn serve(incoming: Incoming, name: String) -> Result<()> {
    let connection = incoming.await?;
    loop {
        let (mut answer, mut question) = connection.accept_bi().await?;
        question.read_to_end(64).await?;
        let seen = Seen { server: name.clone(), client: connection.remote_address() };
        answer.write_all(seen.to_string().as_bytes()).await?;
        answer.finish()?;
    }
}

/// Opens a connection from `ns`, asks once, and once more from each of `moves` new ports; gives the answers in order.
///
/// # Errors
/// When an answer does not come within `bound`: with what had come.
pub fn migrate(
    ns: &Namespace,
    target: SocketAddr,
    trust: &Trust,
    moves: usize,
    bound: Duration,
) -> Result<Vec<Seen>> {
    let config = trust.client()?;
    ns.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut seen = Vec::new();
            let end = moving(target, config, moves, bound, &mut seen).await;
            end.with_context(|| format!("after {seen:?}"))?;
            Ok(seen)
        })
    })?
}

async fn moving(
    target: SocketAddr,
    config: ClientConfig,
    moves: usize,
    bound: Duration,
    seen: &mut Vec<Seen>,
) -> Result<()> {
    let any: SocketAddr = match target.ip() {
        IpAddr::V4(_) => "0.0.0.0:0".parse()?,
        IpAddr::V6(_) => "[::]:0".parse()?,
    };
    let mut endpoint = Endpoint::client(any)?;
    endpoint.set_default_client_config(config);
    let connecting = endpoint.connect(target, NAME)?;
    let connection = tokio::time::timeout(bound, connecting).await.context("the handshake")??;
    for moved in 0..=moves {
        if moved > 0 {
            endpoint.rebind(std::net::UdpSocket::bind(any)?)?;
        }
        let answer = tokio::time::timeout(bound, async {
            let (mut question, mut answer) = connection.open_bi().await?;
            question.write_all(b"who").await?;
            question.finish()?;
            anyhow::Ok(answer.read_to_end(256).await?)
        });
        let answer = answer.await.with_context(|| format!("an answer after {moved} moves"))??;
        let text = std::str::from_utf8(&answer)?;
        seen.push(Seen::parse(text).ok_or_else(|| anyhow!("an answer of {text:?}"))?);
    }
    connection.close(0u32.into(), b"done");
    endpoint.wait_idle().await;
    Ok(())
}
