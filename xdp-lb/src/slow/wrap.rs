//! From a packet that was handed over to the frames that go out: fragments, each behind the tunnel's header
//! and the tags that the packet had.

use xdp_lb_common::{
    backend::{
        KIND_GUE_IPV4, KIND_GUE_IPV6, KIND_GUE1_IPV4, KIND_GUE1_IPV6, KIND_IPV4, KIND_IPV6, NO_TAG, Template,
    },
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
    let own = template.tag();
    let tags = match &own {
        Some(tag) if *tag == NO_TAG => &[],
        Some(tag) => tag.as_slice(),
        None => tags,
    };
    let fragments = fragment::cut(packet, template.max_inner.into())?;
    let frames = fragments.into_iter().map(|inner| {
        let mut frame = wrap(&template, FlowHash(request.hash), &inner)?;
        frame.splice(MACS..MACS, tags.iter().copied());
        Some(frame)
    });
    Ok((template.leaves_by(), frames.collect::<Option<_>>().ok_or(Unwrapped::NoTunnel)?))
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

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;

    /// An IPv4 packet of 60 bytes without DF in one tag, to a backend whose template is `template`.
    fn sent(template: Template) -> (u32, Vec<Vec<u8>>) {
        let mut packet = [0; 60];
        packet[..4].copy_from_slice(&[0x45, 0, 0, 60]);
        (packet[8], packet[9]) = (64, 17);
        let sum = u32::from(u16::from_be_bytes([0x45, 0])) + 60 + 0x4011;
        packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        let frame = [&[2; 12][..], &[0x81, 0, 0, 7], &[8, 0], &packet].concat();
        let request = CutRequest { hash: 1, backend: 0, l3: 18, len: frame.len() as u16 };
        let event = [bytemuck::bytes_of(&request), &frame].concat();
        frames(&event, |_| Some(template)).unwrap()
    }

    #[test]
    fn fragments_leave_in_the_vlan_of_their_next_hop() {
        let mut template = Template { kind: KIND_IPV4, max_inner: 44, ifindex: 5, ..Template::zeroed() };
        template.bytes[12..15].copy_from_slice(&[8, 0, 0x45]);
        for (template, tags) in [
            (template, &[0x81, 0, 0, 7][..]),
            (template.with_tag([0x88, 0xa8, 0, 9]), &[0x88, 0xa8, 0, 9]),
            (template.with_tag(NO_TAG), &[]),
        ] {
            let (ifindex, frames) = sent(template);
            assert_eq!((ifindex, frames.len()), (5, 2));
            assert!(frames.iter().all(|frame| frame[12..].starts_with(&[tags, &[8, 0, 0x45]].concat()[..])));
        }
    }
}
