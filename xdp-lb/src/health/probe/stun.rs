//! A STUN Binding request (RFC 8489, 14) over UDP or TCP, where messages frame themselves (6.2.2).

use stun_types::message::{
    BINDING, Message, MessageClass, MessageHeader, MessageWrite as _, MessageWriteExt as _, MessageWriteVec,
    TransactionId,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use super::fault::Fault;
use crate::health::Failure;

/// The header's length, and the most that is read.
const HEADER: usize = 20;
const LONGEST: usize = 64 << 10;

/// Asks over UDP. Answers to other requests are passed over.
pub(super) async fn over_udp(socket: &UdpSocket) -> Result<(), Fault> {
    let (request, id) = request();
    socket.send(&request).await?;
    let mut answer = vec![0; LONGEST];
    loop {
        let length = socket.recv(&mut answer).await?;
        if let Some(verdict) = judge(&answer[..length], id) {
            return verdict;
        }
    }
}

/// Asks over TCP.
pub(super) async fn over_tcp(stream: &mut TcpStream) -> Result<(), Fault> {
    let (request, id) = request();
    stream.write_all(&request).await?;
    let mut answer = vec![0; HEADER];
    loop {
        answer.resize(HEADER, 0);
        stream.read_exact(&mut answer).await?;
        let header = MessageHeader::from_bytes(&answer).map_err(|_| not_stun())?;
        answer.resize(HEADER + usize::from(header.data_length()), 0);
        stream.read_exact(&mut answer[HEADER..]).await?;
        if let Some(verdict) = judge(&answer, id) {
            return verdict;
        }
    }
}

fn request() -> (Vec<u8>, TransactionId) {
    let request = Message::builder_request(BINDING, MessageWriteVec::new());
    let id = request.transaction_id();
    (request.finish(), id)
}

/// `None`: an answer to somebody else.
fn judge(answer: &[u8], id: TransactionId) -> Option<Result<(), Fault>> {
    let Ok(message) = Message::from_bytes(answer) else { return Some(Err(not_stun().into())) };
    if message.transaction_id() != id {
        return None;
    }
    match message.class() {
        MessageClass::Success => Some(Ok(())),
        MessageClass::Error => Some(Err(Failure::StunError.into())),
        MessageClass::Request | MessageClass::Indication => None,
    }
}

fn not_stun() -> Failure {
    Failure::NotTheProtocol { protocol: "STUN" }
}
