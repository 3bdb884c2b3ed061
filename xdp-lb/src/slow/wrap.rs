//! From a packet that was handed over to the frames that go out: fragments, each behind the tunnel's header
//! and the tags that the packet had.

use xdp_lb_common::{
    backend::{KIND_GUE_IPV4, KIND_GUE_IPV6, KIND_GUE1_IPV4, KIND_GUE1_IPV6, KIND_IPV4, KIND_IPV6, Template},
    cut::CutRequest,
    encap::{self, Inner, V4_HEADER, V6_HEADER},
    gue::{self, V4_GUE, V4_GUE1, V6_GUE, V6_GUE1},
    hash::FlowHash,
    parse::{self, Version},
};

use super::fragment::{self, Uncut};

/// Length of both MACs; VLAN tags come behind them.
const MACS: usize = 12;

/// Why there is nothing to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwrapped {
    /// No fragments.
    #[error(transparent)]
    Uncut(#[from] Uncut),
    /// The backend has no tunnel any more.
    #[error("the backend is gone")]
    NoTunnel,
}

/// The frames for `event`, a request and its frame as the packet path wrote them. The backend's template comes from
/// `template`, by its index; with it goes the interface.
///
/// # Errors
/// [`Unwrapped`].
pub fn frames(
    event: &[u8],
    template: impl FnOnce(u32) -> Option<Template>,
) -> Result<(u32, Vec<Vec<u8>>), Unwrapped> {
    let (head, rest) = event.split_at_checked(size_of::<CutRequest>()).ok_or(Uncut::Malformed)?;
    let request: CutRequest = bytemuck::pod_read_unaligned(head);
    // Perf buffers pad what they hold.
    let packet = rest.get(request.l3.into()..request.len.into()).ok_or(Uncut::Malformed)?;
    let tags = rest.get(MACS..request.l3.into()).and_then(|t| t.get(..t.len().checked_sub(2)?));
    let tags = tags.ok_or(Uncut::Malformed)?;
    let template = template(request.backend).filter(Template::is_tunnel).ok_or(Unwrapped::NoTunnel)?;
    let fragments = fragment::cut(packet, template.max_inner.into())?;
    let frames = fragments.into_iter().map(|inner| {
        let mut frame = wrap(&template, FlowHash(request.hash), &inner)?;
        frame.splice(MACS..MACS, tags.iter().copied());
        Some(frame)
    });
    Ok((template.ifindex, frames.collect::<Option<_>>().ok_or(Unwrapped::NoTunnel)?))
}

/// The tunnel's header and `inner`, as the kernel half does it, with the same code; `None` for a kind of tunnel that
/// is not known here.
fn wrap(template: &Template, hash: FlowHash, inner: &[u8]) -> Option<Vec<u8>> {
    let what = Inner { version: Version::V4, len: inner.len() as u16, tos: inner[1], hash };
    let header = match template.kind {
        KIND_IPV4 => header::<V4_HEADER>(|out| encap::write_v4(out, template, &what)),
        KIND_IPV6 => header::<V6_HEADER>(|out| encap::write_v6(out, template, &what)),
        KIND_GUE_IPV4 => header::<V4_GUE>(|out| gue::write_v4(out, template, &what)),
        KIND_GUE1_IPV4 => header::<V4_GUE1>(|out| gue::write_v4(out, template, &what)),
        KIND_GUE_IPV6 => header::<V6_GUE>(|out| gue::write_v6(out, template, &what, sum(inner))),
        KIND_GUE1_IPV6 => header::<V6_GUE1>(|out| gue::write_v6(out, template, &what, sum(inner))),
        _ => return None,
    };
    Some([&header, inner].concat())
}

fn header<const N: usize>(write: impl FnOnce(&mut [u8; N])) -> Vec<u8> {
    let mut out = [0; N];
    write(&mut out);
    out.to_vec()
}

/// What GUE's checksum over IPv6 is made from: nothing for fragments, but a packet may have become short enough to stay whole.
fn sum(inner: &[u8]) -> Option<u64> {
    let addresses = parse::addresses(inner, 0, Version::V4)?;
    gue::inner_sum(inner, &parse::ip(inner, addresses).ok()?)
}
