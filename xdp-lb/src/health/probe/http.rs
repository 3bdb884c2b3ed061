//! `GET` over HTTP/1.1 on a connection that stands; the status line and headers are read, the body is not.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;

use futures::future::{Either, select};
use http_body_util::Empty;
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::fault::Fault;
use crate::health::{Failure, HttpCheck};

/// Asks, and judges the status.
pub(super) async fn ask<S>(stream: &mut S, to: SocketAddr, check: &HttpCheck) -> Result<(), Fault>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let host = check.host.clone().unwrap_or_else(|| authority(to));
    let request = Request::get(&*check.path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, "xdp-lb")
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| Failure::NotTheProtocol { protocol: "HTTP request: path or host" })?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| fault(&error, to.ip()))?;
    let (connection, response) = (pin!(connection), pin!(sender.send_request(request)));
    // The connection may end in the moment that the answer is complete.
    let response = match select(response, connection).await {
        Either::Left((response, _)) => response,
        Either::Right((_, response)) => response.await,
    };
    judge(response.map_err(|error| fault(&error, to.ip()))?.status(), check)
}

fn judge(status: StatusCode, check: &HttpCheck) -> Result<(), Fault> {
    let (got, expected) = (status.as_u16(), check.expect.clone());
    if expected.has(got) { Ok(()) } else { Err(Failure::Status { got, expected }.into()) }
}

fn fault(error: &hyper::Error, address: IpAddr) -> Fault {
    if error.is_parse() {
        return Failure::NotTheProtocol { protocol: "HTTP" }.into();
    }
    Failure::Broken { address }.into()
}

/// `203.0.113.10`, `[2001:db8::10]:8080`.
fn authority(to: SocketAddr) -> String {
    match (to.port(), to.ip()) {
        (80 | 443, IpAddr::V4(ip)) => ip.to_string(),
        (80 | 443, IpAddr::V6(ip)) => format!("[{ip}]"),
        _ => to.to_string(),
    }
}
