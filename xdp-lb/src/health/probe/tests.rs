//! Every kind of question against servers on loopback that answer well, badly and not at all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use stun_types::attribute::ErrorCode;
use stun_types::message::{Message, MessageWrite as _, MessageWriteExt as _, MessageWriteVec};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{ServerConfig, crypto::ring};

use super::{Network, Prober as _};
use crate::health::*;

const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
/// Long enough for a busy machine, and waited for only by what never answers.
const PATIENCE: Duration = Duration::from_secs(20);
const IMPATIENCE: Duration = Duration::from_millis(100);

fn target(kind: Kind, port: u16, over_tcp: bool, timeout: Duration) -> Arc<Target> {
    let check = Check { kind, port, interval: timeout, timeout, rise: 1, fall: 1, via: Via::Direct };
    Arc::new(Target { check, vips: Vec::new(), over_tcp, way: Way::Direct })
}

async fn ask(kind: Kind, to: SocketAddr, over_tcp: bool, timeout: Duration) -> Answer {
    Network::new().ask(target(kind, to.port(), over_tcp, timeout), to.ip(), to.ip()).await
}

#[track_caller]
fn bad(answer: Answer) -> Failure {
    let Answer::Bad(failure) = answer else { panic!("{answer:?}") };
    failure
}

/// What a TCP server does with the first connection, after reading up to `read` bytes of it.
enum Tcp {
    Reply(&'static [u8]),
    Hang,
    Close,
}

/// A server for one connection.
async fn tcp(ip: IpAddr, behaviour: Tcp) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        match behaviour {
            Tcp::Reply(bytes) => {
                let _ = stream.write_all(bytes).await;
                // Until the other side hangs up.
                let _ = stream.read(&mut request).await;
            }
            Tcp::Hang => std::future::pending().await,
            Tcp::Close => {}
        }
    });
    address
}

/// A server for one datagram.
async fn udp(ip: IpAddr, reply: impl FnOnce(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind((ip, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut request = [0; 4096];
        let (length, client) = socket.recv_from(&mut request).await.unwrap();
        for answer in reply(&request[..length]) {
            socket.send_to(&answer, client).await.unwrap();
        }
    });
    address
}

/// A port where nobody listens, for as long as the socket is held.
fn nobody(ip: IpAddr) -> (TcpSocket, SocketAddr) {
    let socket = if ip.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
    socket.bind((ip, 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn http() -> Kind {
    Kind::Http(HttpCheck { path: "/up".into(), host: None, expect: Statuses(200..=399) })
}

fn https() -> Kind {
    let host = Some("sip.example".into());
    Kind::Https(HttpCheck { path: "/".into(), host, expect: Statuses(200..=200) })
}

fn sip() -> Kind {
    Kind::SipOptions { host: None, expect: Statuses(200..=299) }
}

#[test]
fn tcp_is_a_connection_or_a_refusal() {
    Runtime::new().unwrap().block_on(async {
        for ip in LOOPBACKS {
            let to = tcp(ip, Tcp::Hang).await;
            assert!(matches!(ask(Kind::Tcp, to, true, PATIENCE).await, Answer::Good(_)));
            let (_held, to) = nobody(ip);
            let refused = Failure::Refused { address: ip, port: to.port() };
            assert_eq!(bad(ask(Kind::Tcp, to, true, PATIENCE).await), refused);
        }
    });
}

#[test]
fn http_is_judged_by_its_status() {
    Runtime::new().unwrap().block_on(async {
        for ip in LOOPBACKS {
            for (reply, expected) in [
                (&b"HTTP/1.1 204 No Content\r\n\r\n"[..], None),
                (b"HTTP/1.0 200 OK\r\n\r\nbody without end", None),
                (
                    b"HTTP/1.1 503 Gone fishing\r\nContent-Length: 0\r\n\r\n",
                    Some(Failure::Status { got: 503, expected: Statuses(200..=399) }),
                ),
                (b"SSH-2.0-OpenSSH_9.7\r\n", Some(Failure::NotTheProtocol { protocol: "HTTP" })),
            ] {
                let to = tcp(ip, Tcp::Reply(reply)).await;
                match (ask(http(), to, true, PATIENCE).await, expected) {
                    (Answer::Good(_), None) => {}
                    (Answer::Bad(got), Some(expected)) => assert_eq!(got, expected),
                    (got, expected) => panic!("{got:?}, expected {expected:?}"),
                }
            }
            let to = tcp(ip, Tcp::Hang).await;
            assert_eq!(bad(ask(http(), to, true, IMPATIENCE).await), Failure::Hangs { address: ip });
            let to = tcp(ip, Tcp::Close).await;
            assert_eq!(bad(ask(http(), to, true, PATIENCE).await), Failure::Broken { address: ip });
        }
    });
}

#[test]
fn an_http_request_says_what_the_file_says() {
    Runtime::new().unwrap().block_on(async {
        let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
        let to = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let request = head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            request
        });
        assert!(matches!(ask(http(), to, true, PATIENCE).await, Answer::Good(_)));
        let request = server.await.unwrap();
        assert!(request.starts_with("GET /up HTTP/1.1\r\n"), "{request}");
        assert!(request.contains(&format!("host: [::1]:{}\r\n", to.port())), "{request}");
    });
}

async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(request).unwrap()
}

/// A TLS server with a certificate that nobody has reason to trust.
async fn tls_server(ip: IpAddr, serve: bool) -> SocketAddr {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["someone.else".to_owned()]).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], signing_key.serialize_der().try_into().unwrap())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        assert_eq!(stream.get_ref().1.server_name(), Some("sip.example"));
        let request = head(&mut stream).await;
        assert!(request.contains("host: sip.example\r\n"), "{request}");
        if serve {
            answer(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        } else {
            std::future::pending::<()>().await;
        }
    });
    address
}

async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
    let _ = stream.read_u8().await;
}

#[test]
fn https_proves_the_handshake_and_trusts_anybody() {
    Runtime::new().unwrap().block_on(async {
        for ip in LOOPBACKS {
            let to = tls_server(ip, true).await;
            let answer = ask(https(), to, true, PATIENCE).await;
            assert!(matches!(answer, Answer::Good(_)), "{answer:?}");
            let to = tls_server(ip, false).await;
            let hangs = Failure::Hangs { address: ip };
            assert_eq!(bad(ask(https(), to, true, Duration::from_secs(1)).await), hangs);
            let to = tcp(ip, Tcp::Reply(b"HTTP/1.1 400 Bad Request\r\n\r\n")).await;
            assert_eq!(bad(ask(https(), to, true, PATIENCE).await), Failure::Tls(TlsFault::NotTls));
            // A fatal alert: handshake failure.
            let to = tcp(ip, Tcp::Reply(&[21, 3, 3, 0, 2, 2, 40])).await;
            assert_eq!(bad(ask(https(), to, true, PATIENCE).await), Failure::Tls(TlsFault::Refused));
        }
    });
}

#[test]
fn a_datagram_wants_an_answer_that_holds_what_is_expected() {
    Runtime::new().unwrap().block_on(async {
        let kind = |expect: Option<&[u8]>| {
            Kind::Udp(UdpCheck { payload: b"ping".to_vec(), expect: expect.map(<[u8]>::to_vec) })
        };
        for ip in LOOPBACKS {
            for (expect, good) in [(None, true), (Some(&b"ing!"[..]), true), (Some(b"pong"), false)] {
                let to = udp(ip, |request| vec![[request, b"!"].concat()]).await;
                match ask(kind(expect), to, false, PATIENCE).await {
                    Answer::Good(_) => assert!(good),
                    other => assert!(!good && bad(other) == Failure::Unexpected),
                }
            }
            let mute = UdpSocket::bind((ip, 0)).await.unwrap();
            let silent = Failure::Silent { address: ip, suspect: Suspect::Unknown };
            let to = mute.local_addr().unwrap();
            assert_eq!(bad(ask(kind(None), to, false, IMPATIENCE).await), silent);
            drop(mute);
            let refused = Failure::Refused { address: ip, port: to.port() };
            assert_eq!(bad(ask(kind(None), to, false, PATIENCE).await), refused);
        }
    });
}

fn stun_answer(request: &[u8], good: bool) -> Vec<u8> {
    let request = Message::from_bytes(request).unwrap();
    if good {
        return Message::builder_success(&request, MessageWriteVec::new()).finish();
    }
    let mut answer = Message::builder_error(&request, MessageWriteVec::new());
    answer.add_attribute(&ErrorCode::new(401, "who are you?").unwrap()).unwrap();
    answer.finish()
}

/// An answer to a request that we did not send.
fn stranger() -> Vec<u8> {
    let other = Message::builder_request(stun_types::message::BINDING, MessageWriteVec::new()).finish();
    stun_answer(&other, true)
}

#[test]
fn stun_wants_the_answer_to_its_own_request() {
    Runtime::new().unwrap().block_on(async {
        for ip in LOOPBACKS {
            let to = udp(ip, |request| vec![stranger(), stun_answer(request, true)]).await;
            assert!(matches!(ask(Kind::Stun, to, false, PATIENCE).await, Answer::Good(_)));
            let to = udp(ip, |request| vec![stun_answer(request, false)]).await;
            assert_eq!(bad(ask(Kind::Stun, to, false, PATIENCE).await), Failure::StunError);
            let to = udp(ip, |_| vec![b"hello".to_vec()]).await;
            let other = Failure::NotTheProtocol { protocol: "STUN" };
            assert_eq!(bad(ask(Kind::Stun, to, false, PATIENCE).await), other);

            let listener = TcpListener::bind((ip, 0)).await.unwrap();
            let to = listener.local_addr().unwrap();
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 1024];
                let length = stream.read(&mut request).await.unwrap();
                // In pieces, behind an answer to somebody else.
                let bytes = [stranger(), stun_answer(&request[..length], true)].concat();
                for part in bytes.chunks(7) {
                    stream.write_all(part).await.unwrap();
                }
                let _ = stream.read_u8().await;
            });
            assert!(matches!(ask(Kind::Stun, to, true, PATIENCE).await, Answer::Good(_)));
        }
    });
}

/// A response that copies what RFC 3261 (8.2.6.2) wants copied.
fn sip_response(request: &[u8], status: &str) -> Vec<u8> {
    let request = std::str::from_utf8(request).unwrap();
    let copied = request.split("\r\n").filter(|line| {
        ["Via:", "From:", "To:", "Call-ID:", "CSeq:"].iter().any(|name| line.starts_with(name))
    });
    let copied: String = copied.map(|line| format!("{line}\r\n")).collect();
    format!("SIP/2.0 {status}\r\n{copied}Content-Length: 0\r\n\r\n").into_bytes()
}

#[test]
fn sip_wants_a_final_response_to_its_own_call() {
    Runtime::new().unwrap().block_on(async {
        for ip in LOOPBACKS {
            let to = udp(ip, |request| {
                let other = sip_response(request, "503 Not you").replace_call();
                vec![other, sip_response(request, "100 Trying"), sip_response(request, "200 OK")]
            })
            .await;
            let answer = ask(sip(), to, false, PATIENCE).await;
            assert!(matches!(answer, Answer::Good(_)), "{answer:?}");
            let to = udp(ip, |request| vec![sip_response(request, "503 Service Unavailable")]).await;
            let status = Failure::Status { got: 503, expected: Statuses(200..=299) };
            assert_eq!(bad(ask(sip(), to, false, PATIENCE).await), status);
            let to = udp(ip, |_| vec![b"hello".to_vec()]).await;
            let other = Failure::NotTheProtocol { protocol: "SIP" };
            assert_eq!(bad(ask(sip(), to, false, PATIENCE).await), other);

            let listener = TcpListener::bind((ip, 0)).await.unwrap();
            let to = listener.local_addr().unwrap();
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let request = head(&mut stream).await;
                assert!(request.starts_with(&format!("OPTIONS sip:{to} SIP/2.0\r\n")), "{request}");
                let bytes = [
                    sip_response(request.as_bytes(), "100 Trying"),
                    sip_response(request.as_bytes(), "200 OK"),
                ];
                for part in bytes.concat().chunks(11) {
                    stream.write_all(part).await.unwrap();
                }
                let _ = stream.read_u8().await;
            });
            let answer = ask(sip(), to, true, PATIENCE).await;
            assert!(matches!(answer, Answer::Good(_)), "{answer:?}");
        }
    });
}

trait ReplaceCall {
    fn replace_call(self) -> Vec<u8>;
}

impl ReplaceCall for Vec<u8> {
    fn replace_call(self) -> Vec<u8> {
        String::from_utf8(self).unwrap().replace("Call-ID: ", "Call-ID: not").into_bytes()
    }
}

#[test]
fn a_nodes_silence_is_looked_into_by_its_own_address() {
    Runtime::new().unwrap().block_on(async {
        let network = Network::new();
        for ip in LOOPBACKS {
            let (_held, refusing) = nobody(ip);
            for to in [tcp(ip, Tcp::Hang).await, refusing] {
                let suspect = network.suspect(target(Kind::Tcp, to.port(), true, PATIENCE), ip).await;
                assert_eq!(suspect, Suspect::TunnelOrVip, "connected or refused, it lives");
            }
        }
    });
}

#[test]
fn without_tunnels_nothing_is_asked_and_nobody_is_down() {
    Runtime::new().unwrap().block_on(async {
        let address = LOOPBACKS[0];
        let through = |way: Way| Arc::new(Target { way, ..(*target(Kind::Tcp, 1, true, PATIENCE)).clone() });
        let tunnel = Way::Tunnel { mark: 1, trouble: None };
        let network = Network::new();
        let answer = network.ask(through(tunnel), address, address).await;
        assert_eq!(answer, Answer::Unable(Unable::NoTunnels));
        assert_eq!(
            network.ask(through(Way::NoMark), address, address).await,
            Answer::Unable(Unable::TooMany)
        );
        let reason = crate::nexthop::UnresolvedReason::NoRoute;
        let answer = network.ask(through(Way::None(reason.clone())), address, address).await;
        assert_eq!(answer, Answer::Bad(Failure::NoNextHop(reason)));
    });
}
