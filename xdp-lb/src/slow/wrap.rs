//! From a packet that was handed over to the frames that go out: fragments, each behind the tunnel's header.

use xdp_lb_common::{
    backend::{KIND_IPV4, KIND_IPV6, Template},
    cut::CutRequest,
    encap::{self, Inner, V4_HEADER, V6_HEADER},
    hash::FlowHash,
    parse::Version,
};

use super::fragment::{self, Uncut};

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
    let template = template(request.backend).filter(Template::is_tunnel).ok_or(Unwrapped::NoTunnel)?;
    let fragments = fragment::cut(packet, template.max_inner.into())?;
    let frames = fragments.into_iter().map(|inner| wrap(&template, FlowHash(request.hash), &inner));
    Ok((template.ifindex, frames.collect::<Option<_>>().ok_or(Unwrapped::NoTunnel)?))
}

/// As the kernel half does it, with the same code; `None` for a kind of tunnel that is not known here.
fn wrap(template: &Template, hash: FlowHash, inner: &[u8]) -> Option<Vec<u8>> {
    let what = Inner { version: Version::V4, len: inner.len() as u16, tos: inner[1], hash };
    let mut frame = match template.kind {
        KIND_IPV4 => {
            let mut out = [0; V4_HEADER];
            encap::write_v4(&mut out, template, &what);
            out.to_vec()
        }
        KIND_IPV6 => {
            let mut out = [0; V6_HEADER];
            encap::write_v6(&mut out, template, &what);
            out.to_vec()
        }
        _ => return None,
    };
    frame.extend_from_slice(inner);
    Some(frame)
}
