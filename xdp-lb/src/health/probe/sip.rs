//! A SIP OPTIONS request (RFC 3261, 11) over UDP or TCP. Any final response answers; provisional ones are passed over.

use std::net::{IpAddr, SocketAddr};

use ezk_sip_types::Name;
use ezk_sip_types::msg::{Line, MessageLine, PullParser};
use ezk_sip_types::parse::Parse as _;
use hyper::body::Bytes;
use stun_types::message::TransactionId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use super::fault::Fault;
use crate::health::{Failure, Statuses};

/// The most that is read of a response.
const LONGEST: usize = 64 << 10;

/// Asks over UDP.
pub(super) async fn over_udp(
    socket: &UdpSocket,
    to: SocketAddr,
    host: Option<&str>,
    expect: &Statuses,
) -> Result<(), Fault> {
    let (request, call) = request("UDP", socket.local_addr()?, to, host);
    socket.send(request.as_bytes()).await?;
    let mut answer = vec![0; LONGEST];
    loop {
        let length = socket.recv(&mut answer).await?;
        if let Some(verdict) = judge(&answer[..length], &call, expect) {
            return verdict;
        }
    }
}

/// Asks over TCP.
pub(super) async fn over_tcp(
    stream: &mut TcpStream,
    local: SocketAddr,
    to: SocketAddr,
    host: Option<&str>,
    expect: &Statuses,
) -> Result<(), Fault> {
    const END: &[u8] = b"\r\n\r\n";
    let (request, call) = request("TCP", local, to, host);
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    loop {
        // A response to OPTIONS may have a body, a provisional one has none: the next message begins behind the headers.
        while let Some(end) = answer.windows(END.len()).position(|window| window == END) {
            if let Some(verdict) = judge(&answer[..end + END.len()], &call, expect) {
                return verdict;
            }
            answer.drain(..end + END.len());
        }
        if answer.len() > LONGEST {
            return Err(not_sip().into());
        }
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(Failure::Broken { address: to.ip() }.into());
        }
    }
}

/// The request and its Call-ID.
fn request(transport: &str, local: SocketAddr, to: SocketAddr, host: Option<&str>) -> (String, String) {
    // 96 random bits each: neither may meet another of the backend's.
    let (branch, call) = (TransactionId::generate().to_string(), TransactionId::generate().to_string());
    let (branch, call) = (word(&branch), format!("{}@xdp-lb", word(&call)));
    let uri = match (host, to.ip()) {
        (Some(host), _) => format!("sip:{host}"),
        (None, IpAddr::V4(_) | IpAddr::V6(_)) => format!("sip:{to}"),
    };
    let request = format!(
        "OPTIONS {uri} SIP/2.0\r\n\
         Via: SIP/2.0/{transport} {local};branch=z9hG4bK{branch};rport\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:xdp-lb@{local}>;tag={branch}\r\n\
         To: <{uri}>\r\n\
         Call-ID: {call}\r\n\
         CSeq: 1 OPTIONS\r\n\
         Contact: <sip:xdp-lb@{local}>\r\n\
         Accept: application/sdp\r\n\
         User-Agent: xdp-lb\r\n\
         Content-Length: 0\r\n\r\n"
    );
    (request, call)
}

/// Letters and digits alone: a token of SIP's grammar.
fn word(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).collect()
}

/// `None`: not final, or to somebody else.
fn judge(answer: &[u8], call: &str, expected: &Statuses) -> Option<Result<(), Fault>> {
    match status(answer, call) {
        None => Some(Err(not_sip().into())),
        Some((_, false)) | Some((100..=199, _)) => None,
        Some((got, true)) if expected.has(got) => Some(Ok(())),
        Some((got, true)) => Some(Err(Failure::Status { got, expected: expected.clone() }.into())),
    }
}

/// Status code of a response, and whether it is to this call; `None` for what is no response.
fn status(answer: &[u8], call: &str) -> Option<(u16, bool)> {
    let bytes = Bytes::copy_from_slice(answer);
    let mut lines = PullParser::new(&bytes, 0);
    let first = std::str::from_utf8(lines.next()?.ok()?).ok()?;
    let (_, line) = MessageLine::parse(&bytes)(first).ok()?;
    let MessageLine::Response(response) = line else { return None };
    let is_ours = lines.map_while(Result::ok).any(|line| {
        let line = std::str::from_utf8(line).ok().and_then(|line| Line::parse(&bytes, line).ok());
        line.is_some_and(|(_, line)| line.name == Name::CALL_ID && line.value.trim() == call)
    });
    Some((response.code.into_u16(), is_ours))
}

fn not_sip() -> Failure {
    Failure::NotTheProtocol { protocol: "SIP" }
}
