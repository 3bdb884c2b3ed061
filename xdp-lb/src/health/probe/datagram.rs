//! A datagram and its answer.

use tokio::net::UdpSocket;

use super::fault::Fault;
use crate::health::{Failure, UdpCheck};

/// Longest answer that is looked at.
const LONGEST: usize = 64 << 10;

/// Asks; the first answer decides.
pub(super) async fn ask(socket: &UdpSocket, check: &UdpCheck) -> Result<(), Fault> {
    socket.send(&check.payload).await?;
    let mut answer = vec![0; LONGEST];
    let length = socket.recv(&mut answer).await?;
    let holds =
        |expected: &Vec<u8>| answer[..length].windows(expected.len()).any(|window| window == expected);
    if check.expect.as_ref().is_none_or(holds) { Ok(()) } else { Err(Failure::Unexpected.into()) }
}
