//! The outer header: a stored template with length, TOS, source and checksum (or flow label) patched in.
//!
//! ```text
//!   0         12   14                                34            54
//!  | MACs     |type| outer IPv4: 20 bytes            | inner IP ....
//!  | MACs     |type| outer IPv6: 40 bytes                          | inner IP ....
//! ```
//!
//! IP-in-IP as in RFC 2003 (4 in 4), RFC 4213 (6 in 4) and RFC 2473 (4 and 6 in 6). [`crate::gue`] puts UDP behind it.

use crate::{
    backend::Template,
    checksum,
    hash::FlowHash,
    parse::{IPIP, IPV4_LEN, IPV6_IN_IP, IPV6_LEN, Version, be16, part},
};

/// Ethernet and IPv4.
pub const V4_HEADER: usize = 34;
/// Ethernet and IPv6.
pub const V6_HEADER: usize = 54;

/// What the outer header needs to know of the packet.
#[derive(Clone, Copy, Debug)]
pub struct Inner {
    /// Version of the inner packet.
    pub version: Version,
    /// Its length in bytes.
    pub len: u16,
    /// Its TOS or traffic class.
    pub tos: u8,
    /// The flow's hash: outer source and flow label come from it.
    pub hash: FlowHash,
}

impl Inner {
    /// Protocol number of the packet inside a tunnel.
    #[must_use]
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        match self.version {
            Version::V4 => IPIP,
            Version::V6 => IPV6_IN_IP,
        }
    }
}

/// True when the tunnel can hold the packet.
#[must_use]
#[inline(always)]
pub const fn fits(template: &Template, inner_len: usize) -> bool {
    inner_len <= template.max_inner as usize
}

/// Writes an Ethernet and an outer IPv4 header. The caller has checked [`fits`].
#[inline(always)]
pub fn write_v4(out: &mut [u8; V4_HEADER], template: &Template, inner: &Inner) {
    write_v4_with(out, template, inner, inner.len, inner.protocol());
}

/// Writes an Ethernet and an IPv4 header in front of `len` bytes of `protocol`.
#[inline(always)]
pub(crate) fn write_v4_with(
    out: &mut [u8; V4_HEADER],
    template: &Template,
    inner: &Inner,
    len: u16,
    protocol: u8,
) {
    *out = *head(template);
    let tos = inner.tos & template.tos_keep | template.tos_set;
    let len = len.wrapping_add(IPV4_LEN as u16);
    let bits = host_bits(template, inner);
    let source = u32::from_be_bytes(part::<26, 4, _>(&template.bytes)) | bits as u32;
    let constant = be16::<24, _>(&template.bytes) as u32 + protocol as u32;
    let sum = constant + tos as u32 + len as u32 + (bits >> 16) as u32 + (bits & 0xffff) as u32;
    out[15] = tos;
    out[16..18].copy_from_slice(&len.to_be_bytes());
    out[23] = protocol;
    out[24..26].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
    out[26..30].copy_from_slice(&source.to_be_bytes());
}

/// Writes an Ethernet and an outer IPv6 header. The flow label (RFC 6438) comes from the flow.
#[inline(always)]
pub fn write_v6(out: &mut [u8; V6_HEADER], template: &Template, inner: &Inner) {
    write_v6_with(out, template, inner, inner.len, inner.protocol());
}

/// Writes an Ethernet and an IPv6 header in front of `len` bytes of `protocol`.
#[inline(always)]
pub(crate) fn write_v6_with(
    out: &mut [u8; V6_HEADER],
    template: &Template,
    inner: &Inner,
    len: u16,
    protocol: u8,
) {
    *out = *head(template);
    let tos = inner.tos & template.tos_keep | template.tos_set;
    let label = (inner.hash.entropy() >> 44) as u32;
    let first = 6 << 28 | (tos as u32) << 20 | label & 0xf_ffff;
    let source = u64::from_be_bytes(part::<30, 8, _>(&template.bytes)) | host_bits(template, inner);
    out[14..18].copy_from_slice(&first.to_be_bytes());
    out[18..20].copy_from_slice(&len.to_be_bytes());
    out[20] = protocol;
    out[30..38].copy_from_slice(&source.to_be_bytes());
}

/// The constant part of an outer IPv4 header's checksum field: the folded sum, not complemented, of
/// version, flags, TTL, source prefix and destination.
#[must_use]
pub fn constant_sum(header: &[u8; IPV4_LEN]) -> u16 {
    let mut h = *header;
    h[10] = 0;
    h[11] = 0;
    checksum::fold(checksum::sum(&h))
}

/// The first `N` bytes of the template.
#[inline(always)]
fn head<const N: usize>(template: &Template) -> &[u8; N] {
    const { assert!(N <= crate::backend::HEADER_LEN) };
    match template.bytes.first_chunk::<N>() {
        Some(head) => head,
        None => &[0; N],
    }
}

/// The bits of the source address that come from the flow. In two steps: BPF takes shifts modulo 64.
#[inline(always)]
const fn host_bits(template: &Template, inner: &Inner) -> u64 {
    (inner.hash.entropy() >> 1) >> (template.source_shift & 63)
}

const _: () = assert!(V4_HEADER == crate::parse::ETHERNET_LEN + IPV4_LEN);
const _: () = assert!(V6_HEADER == crate::parse::ETHERNET_LEN + IPV6_LEN);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_of_every_length() {
        let inner = Inner { version: Version::V4, len: 0, tos: 0, hash: FlowHash(u64::MAX) };
        for bits in 0..=63u8 {
            let template = Template { source_shift: 63 - bits, ..bytemuck::Zeroable::zeroed() };
            assert_eq!(host_bits(&template, &inner), (1 << bits) - 1, "{bits}");
        }
    }
}
