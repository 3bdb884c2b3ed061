//! ICE's part of STUN with a well-kept implementation (stun-types): servers that answer Binding requests for their own
//! ufrag, and a client that checks and then sends media from the same socket.

use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use stun_types::attribute::{Username, XorMappedAddress};
use stun_types::message::{
    BINDING, IntegrityAlgorithm, Message, MessageClass, MessageIntegrityCredentials, MessageWrite as _,
    MessageWriteExt as _, MessageWriteVec, ShortTermCredentials,
};
use tokio::task::JoinSet;

use super::seen::{SEQUENCE, Seen};
use super::udp_socket;
use crate::lab::namespace::Namespace;
use crate::lab::worker::Worker;

/// How long binding may take.
const BIND_BOUND: Duration = Duration::from_secs(5);
/// The servers' ICE password; that of a session is a matter of its SDP.
const PASSWORD: &str = "the-password-of-this-lab";

fn credentials() -> MessageIntegrityCredentials {
    ShortTermCredentials::new(PASSWORD.to_owned()).into()
}

/// A running media server: answers Binding requests that name its ufrag, and any other datagram with [`Seen`].
#[derive(Debug)]
pub struct IceServer {
    worker: Worker,
}

impl IceServer {
    /// Starts one in `ns` that calls itself `name`; returns once it is bound.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub fn start(ns: &Namespace, name: &str, ufrag: &str, addresses: &[SocketAddr]) -> Result<Self> {
        let (bound, is_bound) = mpsc::channel();
        let (name, ufrag, addresses) = (name.to_owned(), ufrag.to_owned(), addresses.to_owned());
        let worker = ns.work(&format!("ICE server {name}"), move |stop| async move {
            let mut tasks = JoinSet::new();
            for address in addresses {
                let socket = udp_socket(address).await?;
                let (name, ufrag) = (name.clone(), ufrag.clone());
                tasks.spawn(async move {
                    let mut buffer = vec![0; 2048];
                    loop {
                        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
                        if let Some(answer) = answer(&buffer[..length], client, &name, &ufrag) {
                            // What cannot be sent is lost, and the client notices.
                            drop(socket.send_to(&answer, client).await);
                        }
                    }
                });
            }
            // The starter may have given up waiting; then it drops us and `stop` is given.
            let _ = bound.send(());
            stop.given().await;
            Ok(())
        })?;
        let mut server = Self { worker };
        if is_bound.recv_timeout(BIND_BOUND).is_err() {
            server.worker.stop()?;
            bail!("the ICE server was not bound within {BIND_BOUND:?}");
        }
        Ok(server)
    }
}

/// Nothing to a request for another's ufrag, or one whose integrity is wrong: as an agent does.
fn answer(datagram: &[u8], client: SocketAddr, name: &str, ufrag: &str) -> Option<Vec<u8>> {
    let Ok(request) = Message::from_bytes(datagram) else {
        let seen = Seen { server: name.to_owned(), client }.to_string();
        return Some([datagram.get(..SEQUENCE)?, seen.as_bytes()].concat());
    };
    let user = request.attribute::<Username>().ok()?;
    let (ours, _) = user.username().split_once(':')?;
    request.validate_integrity(&credentials()).ok()?;
    if !request.has_class(MessageClass::Request) || ours != ufrag {
        return None;
    }
    let mut success = Message::builder_success(&request, MessageWriteVec::new());
    success.add_attribute(&XorMappedAddress::new(client, request.transaction_id())).ok()?;
    success.add_message_integrity(&credentials(), IntegrityAlgorithm::Sha1).ok()?;
    success.add_fingerprint().ok()?;
    Some(success.finish())
}

/// A client's socket.
#[derive(Debug)]
pub struct IceClient {
    socket: UdpSocket,
    sent: u64,
}

impl IceClient {
    /// From a new port of `ns` to `target`.
    ///
    /// # Errors
    /// When there is no socket.
    pub fn new(ns: &Namespace, target: SocketAddr, bound: Duration) -> Result<Self> {
        let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = ns.enter(|| UdpSocket::bind(any))??;
        socket.connect(target)?;
        socket.set_read_timeout(Some(bound))?;
        Ok(Self { socket, sent: 0 })
    }

    /// A connectivity check to the session `ufrag`; true when it was answered, by who knows it.
    ///
    /// # Errors
    /// When the answer is no proof, or names another address than ours.
    pub fn check(&self, ufrag: &str) -> Result<bool> {
        let mut request = Message::builder_request(BINDING, MessageWriteVec::new());
        request.add_attribute(&Username::new(&format!("{ufrag}:labclient"))?)?;
        request.add_message_integrity(&credentials(), IntegrityAlgorithm::Sha1)?;
        request.add_fingerprint()?;
        let request = request.finish();
        self.socket.send(&request)?;
        let mut buffer = [0; 2048];
        let Ok(length) = self.socket.recv(&mut buffer) else { return Ok(false) };
        let answer = Message::from_bytes(&buffer[..length]).context("an answer")?;
        let asked = Message::from_bytes(&request)?.transaction_id();
        ensure!(answer.transaction_id() == asked, "the answer to another request");
        answer.validate_integrity(&credentials()).context("an answer's integrity")?;
        let mapped = answer.attribute::<XorMappedAddress>()?.addr(asked);
        let ours = self.socket.local_addr()?;
        ensure!(mapped.port() == ours.port(), "the server saw {mapped}, we are {ours}");
        Ok(true)
    }

    /// A datagram that is no STUN, and who answered it.
    ///
    /// # Errors
    /// When nobody does.
    pub fn media(&mut self) -> Result<Seen> {
        self.sent += 1;
        // SRTP begins with version 2.
        let sequence = (self.sent | 0x80 << 56).to_be_bytes();
        self.socket.send(&[&sequence[..], &[0x5a; 160]].concat())?;
        let mut buffer = [0; 2048];
        let length = self.socket.recv(&mut buffer).context("an answer to media")?;
        let (first, text) = buffer[..length].split_at_checked(SEQUENCE).context("a short answer")?;
        ensure!(first == sequence, "the answer to another datagram");
        Seen::parse(std::str::from_utf8(text)?).ok_or_else(|| anyhow!("an answer that is none"))
    }
}
