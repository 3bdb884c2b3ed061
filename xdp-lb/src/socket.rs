//! What std and tokio do not offer and BGP and BFD need: socket options, a receive that tells the TTL, and a thread that
//! goes before others.

use std::io;
use std::mem::{size_of, size_of_val};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use bytemuck::{Pod, Zeroable};

/// Longest TCP-MD5 key, bytes (`TCP_MD5SIG_MAXKEYLEN`).
pub const MD5_KEY: usize = 80;
/// `IPV6_MINHOPCOUNT` of linux/in6.h, which libc lacks.
const IPV6_MINHOPCOUNT: libc::c_int = 73;

/// `struct tcp_md5sig` of linux/tcp.h, which no crate has: the one definition.
///
/// ```text
///   0    sockaddr_storage: family 2 (host order) | port 2 | v4: address 4 / v6: flow 4, address 16, scope 4 | to 128
///   128  flags 1 | prefix length 1 | key length 2 | interface 4 | key 80
/// ```
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct TcpMd5Sig {
    family: u16,
    port: [u8; 2],
    address: [u8; 124],
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: i32,
    key: [u8; MD5_KEY],
}

const _: () = assert!(size_of::<TcpMd5Sig>() == 216);
const _: () = assert!(size_of::<libc::sockaddr_storage>() == 128);

/// Signs every segment to and from `peer` (RFC 2385). Before `connect`, or the SYN goes out unsigned.
///
/// # Errors
/// A key that is empty or longer than [`MD5_KEY`], or a kernel without `CONFIG_TCP_MD5SIG`.
pub fn set_md5(socket: &impl AsFd, peer: IpAddr, key: &[u8]) -> io::Result<()> {
    if key.is_empty() || key.len() > MD5_KEY {
        let what = format!("a TCP-MD5 key has 1 to {MD5_KEY} bytes, this one has {}", key.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let mut sig = TcpMd5Sig::zeroed();
    match peer {
        IpAddr::V4(a) => {
            sig.family = libc::AF_INET as u16;
            sig.address[..4].copy_from_slice(&a.octets());
        }
        IpAddr::V6(a) => {
            sig.family = libc::AF_INET6 as u16;
            sig.address[4..20].copy_from_slice(&a.octets());
        }
    }
    sig.key_length = key.len() as u16;
    sig.key[..key.len()].copy_from_slice(key);
    set(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_MD5SIG, &sig)
}

/// TTL or hop limit of what is sent.
///
/// # Errors
/// What the kernel says.
pub fn set_ttl(socket: &impl AsFd, v6: bool, ttl: u8) -> io::Result<()> {
    let (level, name) =
        if v6 { (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS) } else { (libc::IPPROTO_IP, libc::IP_TTL) };
    set(socket.as_fd(), level, name, &i32::from(ttl))
}

/// Least TTL or hop limit of what is accepted on a TCP socket (RFC 5082).
///
/// # Errors
/// What the kernel says.
pub fn set_min_ttl(socket: &impl AsFd, v6: bool, ttl: u8) -> io::Result<()> {
    let (level, name) =
        if v6 { (libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT) } else { (libc::IPPROTO_IP, libc::IP_MINTTL) };
    set(socket.as_fd(), level, name, &i32::from(ttl))
}

/// Has [`receive`] tell the TTL.
///
/// # Errors
/// What the kernel says.
pub fn want_ttl(socket: &impl AsFd, v6: bool) -> io::Result<()> {
    let (level, name) =
        if v6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT) } else { (libc::IPPROTO_IP, libc::IP_RECVTTL) };
    set(socket.as_fd(), level, name, &1i32)
}

/// A UDP socket on a port of every IPv6 address and of no IPv4 address; std's would take both.
///
/// # Errors
/// What the kernel says, as when somebody has the port.
pub fn udp_v6_only(port: u16) -> io::Result<std::net::UdpSocket> {
    // SAFETY: takes integers, touches no memory.
    let fd = unsafe { libc::socket(libc::AF_INET6, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &1i32)?;
    // SAFETY: an all-zero `sockaddr_in6` is the unspecified address.
    let mut address: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
    (address.sin6_family, address.sin6_port) = (libc::AF_INET6 as u16, port.to_be());
    // SAFETY: the pointer and the length describe a live address, which the kernel only reads.
    let done = unsafe {
        let length = size_of_val(&address) as libc::socklen_t;
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length)
    };
    if done == 0 { Ok(socket.into()) } else { Err(io::Error::last_os_error()) }
}

/// Network control, as routers mark BGP and BFD (DSCP CS6): not dropped with the crowd.
///
/// # Errors
/// What the kernel says.
pub fn set_network_control(socket: &impl AsFd, v6: bool) -> io::Result<()> {
    let (level, name) =
        if v6 { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) } else { (libc::IPPROTO_IP, libc::IP_TOS) };
    set(socket.as_fd(), level, name, &(48i32 << 2))
}

/// Keeps the socket to an interface.
///
/// # Errors
/// When there is none of that name.
pub fn bind_device(socket: &impl AsFd, interface: &str) -> io::Result<()> {
    set_bytes(socket.as_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, interface.as_bytes())
}

fn set<T: Pod>(socket: BorrowedFd<'_>, level: i32, name: i32, value: &T) -> io::Result<()> {
    set_bytes(socket, level, name, bytemuck::bytes_of(value))
}

fn set_bytes(socket: BorrowedFd<'_>, level: i32, name: i32, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: the pointer and the length describe a live slice, which the kernel only reads.
    let done = unsafe {
        let length = size_of_val(bytes) as libc::socklen_t;
        libc::setsockopt(socket.as_raw_fd(), level, name, bytes.as_ptr().cast(), length)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets the calling thread go before others when the CPUs are busy, as far as that is allowed: timers of a few hundred
/// milliseconds end at the other side whatever this machine is doing.
///
/// # Errors
/// Without `CAP_SYS_NICE`.
pub fn go_first() -> io::Result<()> {
    const NICE: libc::c_int = -15;
    // SAFETY: takes integers, touches no memory; 0 is the calling thread.
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A datagram's length, sender and TTL, once [`want_ttl`] asked for it. Never blocks on a non-blocking socket.
///
/// # Errors
/// What the kernel says; `WouldBlock` when there is none.
pub fn receive(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Option<SocketAddr>, Option<u8>)> {
    // Aligned for `cmsghdr`; two small messages fit.
    let mut control = [0u64; 16];
    let mut sender = Sender { bytes: [0; 28], padding: 0 };
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: an all-zero `msghdr` is a valid one without any buffer.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = std::ptr::from_mut(&mut sender).cast();
    message.msg_namelen = sender.bytes.len() as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: every pointer of `message` leads to a live, writable buffer of the length beside it.
    let length = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, 0) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    let mut ttl = None;
    // SAFETY: `message` is as recvmsg has left it, so the macros' walk stays inside `control`.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: the walk yields headers inside `control`, and both kinds read here carry an int.
        unsafe {
            let kind = ((*header).cmsg_level, (*header).cmsg_type);
            if matches!(kind, (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT)) {
                let value: libc::c_int = std::ptr::read_unaligned(libc::CMSG_DATA(header).cast());
                ttl = u8::try_from(value).ok();
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok((length, sender.address(), ttl))
}

/// Room for `sockaddr_in` and `sockaddr_in6`, whose first field has the alignment of a `u32` at most.
#[repr(C, align(8))]
struct Sender {
    bytes: [u8; 28],
    padding: u32,
}

impl Sender {
    fn address(&self) -> Option<SocketAddr> {
        let family = i32::from(u16::from_ne_bytes([self.bytes[0], self.bytes[1]]));
        let port = u16::from_be_bytes([self.bytes[2], self.bytes[3]]);
        let ip = match family {
            libc::AF_INET => IpAddr::from(*self.bytes[4..].first_chunk::<4>()?),
            libc::AF_INET6 => IpAddr::from(*self.bytes[8..].first_chunk::<16>()?),
            _ => return None,
        };
        Some(SocketAddr::new(ip, port))
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_datagram_tells_its_ttl_and_sender() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let v6 = local.starts_with('[');
            let (to, from) = (UdpSocket::bind(local).unwrap(), UdpSocket::bind(local).unwrap());
            want_ttl(&to, v6).unwrap();
            set_ttl(&from, v6, 255).unwrap();
            set_network_control(&from, v6).unwrap();
            to.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
            from.send_to(b"hello", to.local_addr().unwrap()).unwrap();
            let mut buffer = [0; 64];
            let (length, sender, ttl) = receive(&to, &mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"hello");
            assert_eq!((sender, ttl), (Some(from.local_addr().unwrap()), Some(255)));
        }
    }

    #[test]
    fn keys_have_a_length() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = "192.0.2.1".parse().unwrap();
        for wrong in [0, MD5_KEY + 1] {
            assert_eq!(
                set_md5(&socket, peer, &vec![7; wrong]).unwrap_err().kind(),
                io::ErrorKind::InvalidInput
            );
        }
        // Where the kernel has it at all it takes the longest.
        match set_md5(&socket, peer, &[7; MD5_KEY]) {
            Ok(()) => {}
            Err(e) => assert_eq!(e.raw_os_error(), Some(libc::ENOPROTOOPT), "{e}"),
        }
    }
}
