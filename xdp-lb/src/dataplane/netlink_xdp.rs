//! Which XDP program an interface runs, its MTU, and taking a program away that no link holds, over rtnetlink.
//!
//! `attach` calls it: short questions to the kernel, answered at once, so this needs no runtime.

use std::io;

use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

/// Answers to other requests that are skipped before giving up: there should be none.
const MAX_MESSAGES: usize = 64;

/// How an interface runs a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the stack.
    Generic,
    /// In the hardware.
    Offload,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offload => "offload",
        })
    }
}

/// The program of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its id.
    pub program: u32,
    /// Where it runs.
    pub mode: Mode,
}

/// What runs on the interface; `None` when nothing does.
///
/// # Errors
/// What the kernel or the socket says.
pub fn running(ifindex: u32) -> io::Result<Option<Running>> {
    Ok(describe(ifindex)?.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Xdp(parts) => decode(parts),
        _ => None,
    }))
}

/// Largest IP packet of the interface, bytes.
///
/// # Errors
/// What the kernel or the socket says.
pub fn mtu(ifindex: u32) -> io::Result<u32> {
    let told = describe(ifindex)?.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    told.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "rtnetlink did not tell the MTU"))
}

fn describe(ifindex: u32) -> io::Result<LinkMessage> {
    match ask(RouteNetlinkMessage::GetLink(link(ifindex)), NLM_F_REQUEST)? {
        Some(RouteNetlinkMessage::NewLink(link)) => Ok(link),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "rtnetlink did not describe the interface")),
    }
}

/// Takes away a program that was attached over netlink, without a link.
///
/// # Errors
/// What the kernel or the socket says: `EBUSY` when a link holds the program.
pub fn remove(ifindex: u32) -> io::Result<()> {
    let mut message = link(ifindex);
    message.attributes.push(LinkAttribute::Xdp(vec![LinkXdp::Fd(-1)]));
    ask(RouteNetlinkMessage::SetLink(message), NLM_F_REQUEST | NLM_F_ACK).map(drop)
}

/// Several at once (driver and hardware) are told apart by their own attributes; the driver's sees the packets.
fn decode(parts: &[LinkXdp]) -> Option<Running> {
    let attached = parts.iter().find_map(|part| match part {
        LinkXdp::Attached(attached) => Some(*attached),
        _ => None,
    })?;
    let mode = match attached {
        XdpAttached::Driver | XdpAttached::Multiple => Mode::Native,
        XdpAttached::SocketBuffer => Mode::Generic,
        XdpAttached::Hardware => Mode::Offload,
        _ => return None,
    };
    let program = parts.iter().find_map(|part| match part {
        LinkXdp::ProgId(id) if attached != XdpAttached::Multiple => Some(*id),
        LinkXdp::DrvProgId(id) => Some(*id),
        _ => None,
    })?;
    Some(Running { program, mode })
}

fn link(ifindex: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message
}

/// Sends one request and reads the answer; an acknowledgement is `None`.
fn ask(request: RouteNetlinkMessage, flags: u16) -> io::Result<Option<RouteNetlinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut message = NetlinkMessage::from(request);
    message.header.flags = flags;
    message.header.sequence_number = 1;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    for _ in 0..MAX_MESSAGES {
        let (bytes, _) = socket.recv_from_full()?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
        if answer.header.sequence_number != 1 {
            continue;
        }
        return match answer.payload {
            NetlinkPayload::Error(e) if e.code.is_some() => Err(e.to_io()),
            NetlinkPayload::InnerMessage(inner) => Ok(Some(inner)),
            _ => Ok(None),
        };
    }
    Err(io::Error::other("rtnetlink answered something else"))
}
