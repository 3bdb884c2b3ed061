//! Links of different width: real TCP stacks find out what fits, errors reach the backend they are about, and what may be
//! cut is cut.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use xdp_lb::dataplane::{BpffsRoot, KernelMaps, cuts::CutTables};
use xdp_lb_common::reason::{DropCounts, PassCounts};
use xdp_lb_tests::lab::files::{self, MEDIA, MEDIA6, VIP};
use xdp_lb_tests::lab::{EdgeFile, Host, Lab, Leaks, Mode, Node, Options, Tier, plan, skip, wait_until};

const BOUND: Duration = Duration::from_secs(20);
/// How long a server waits for the next byte before it looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);
const MEGABYTE: usize = 1 << 20;

/// A server thread with its sockets in a host's namespace; ends when dropped.
struct Serving {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// On every TCP address of the VIP: the first eight bytes say how many follow, the next eight how many are wanted back.
/// On every UDP address: a datagram's length goes back in a datagram as long as its first two bytes say.
fn serve(host: &Host) -> Result<Serving> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for address in files::tcp() {
        let listener = host.ns.enter(|| TcpListener::bind(address))?.context("listen")?;
        listener.set_nonblocking(true)?;
        let stop = Arc::clone(&stop);
        threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    // A client that gives up is the client's failure.
                    Ok((stream, _)) => drop(exchange(stream)),
                    Err(_) => std::thread::park_timeout(Duration::from_millis(5)),
                }
            }
        }));
    }
    for address in files::udp() {
        let socket = host.ns.enter(|| UdpSocket::bind(address))?.context("bind")?;
        socket.set_read_timeout(Some(LOOK))?;
        let stop = Arc::clone(&stop);
        threads.push(std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                let Ok((len, client)) = socket.recv_from(&mut buffer) else { continue };
                let wanted = usize::from(u16::from_be_bytes([buffer[0], buffer[1]])).max(2);
                let mut answer = vec![0; wanted];
                answer[..2].copy_from_slice(&(len as u16).to_be_bytes());
                // The first one that does not fit is the kernel's to refuse.
                let _ = socket.send_to(&answer, client);
            }
        }));
    }
    Ok(Serving { stop, threads })
}

fn exchange(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(BOUND))?;
    stream.set_write_timeout(Some(BOUND))?;
    let mut head = [0; 16];
    stream.read_exact(&mut head)?;
    let number = |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().unwrap_or_default()) as usize;
    let mut data = vec![0; number(0)];
    stream.read_exact(&mut data)?;
    stream.write_all(&vec![0x5a; number(8)])?;
    stream.shutdown(Shutdown::Write)
}

/// Sends `up` bytes to the VIP and wants `down` back.
fn transfer(client: &Host, to: SocketAddr, up: usize, down: usize) -> Result<()> {
    client.ns.enter(|| -> Result<()> {
        let mut stream = TcpStream::connect_timeout(&to, BOUND)?;
        stream.set_read_timeout(Some(BOUND))?;
        stream.set_write_timeout(Some(BOUND))?;
        let head = [(up as u64).to_be_bytes(), (down as u64).to_be_bytes()].concat();
        stream.write_all(&head)?;
        stream.write_all(&vec![0xa5; up])?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        ensure!(answer.len() == down, "{} bytes came back, not {down}", answer.len());
        Ok(())
    })?
}

/// Counters of some edge nodes, summed.
fn counters(edges: &[Node<'_>]) -> Result<(DropCounts, PassCounts)> {
    let (mut drops, mut passes) = (DropCounts::default(), PassCounts::default());
    for edge in edges {
        let all = KernelMaps::open_read_only(&BpffsRoot::new(&edge.bpffs))?.counters()?;
        add(&mut drops, &all.drops);
        add(&mut passes, &all.passes);
    }
    Ok((drops, passes))
}

fn add<T: bytemuck::Pod>(sum: &mut T, more: &T) {
    let words: &mut [u64] = bytemuck::cast_slice_mut(std::slice::from_mut(sum));
    for (word, more) in words.iter_mut().zip(bytemuck::cast_slice::<T, u64>(std::slice::from_ref(more))) {
        *word += more;
    }
}

/// Everything 1500 bytes wide, as most fabrics are.
fn narrow_fabric() -> Options {
    Options { fabric_mtu: 1500, edges: 1, backends: 2, ..Options::default() }
}

/// A megabyte each way of every pair of families: the client's stack learns from the edge node what fits. With
/// `mss: auto` it need not learn.
#[test]
fn a_megabyte_goes_up_through_a_fabric_of_1500() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&narrow_fabric())?;
    let id = lab.id();
    {
        let file = EdgeFile::new(2);
        let silent = files::decap_file(Mode::Native).replace("decap:\n", "decap:\n  mss: off\n");
        let mut tier = Tier::start_with(&lab, &silent, |n| file.text(n))?;
        let _servers = lab.backends().iter().map(serve).collect::<Result<Vec<_>>>()?;
        let client = lab.client(1);
        for to in files::tcp() {
            let (_, was) = counters(&tier.edges)?;
            transfer(client, to, MEGABYTE, 1000).with_context(|| format!("up to {to}"))?;
            let (drops, passes) = counters(&tier.edges)?;
            let answered = passes.too_big_answered - was.too_big_answered;
            // The stack remembers what it learnt of an address: the second port has nothing to learn.
            ensure!(answered > 0 || to.port() != files::WEB, "{to}: nobody was told");
            ensure!(answered < 100, "{to}: {answered} answers for one upload");
            ensure!(drops.too_big + drops.too_big_unanswered + drops.cut_unavailable == 0, "{to}: {drops:?}");
            transfer(client, to, 1000, MEGABYTE).with_context(|| format!("down from {to}"))?;
        }
        // The backends say what fits from the start, to a client that knows nothing yet.
        for node in &mut tier.decaps {
            let mark = node.product.process().mark();
            node.reload(&files::decap_file(Mode::Native))?;
            node.product.process().wait_line(mark, "servers offer this MSS", BOUND)?;
        }
        flush_learnt(client)?;
        let (_, was) = counters(&tier.edges)?;
        for to in files::tcp() {
            transfer(client, to, MEGABYTE, 1000).with_context(|| format!("up to {to} with mss: auto"))?;
        }
        let (_, passes) = counters(&tier.edges)?;
        ensure!(passes.too_big_answered == was.too_big_answered, "segments that do not fit, despite the MSS");
    }
    drop(lab);
    before.check(id)
}

/// Has the client's stack forget every path.
fn flush_learnt(client: &Host) -> Result<()> {
    client.ns.sysctl("net/ipv4/route/flush", "1")?;
    client.ns.sysctl("net/ipv6/route/flush", "1")
}

/// The router's link to the client is narrower than both ends know. The router tells the VIP, and only the backend that
/// the flow belongs to can do something about it.
#[test]
fn a_routers_complaint_reaches_the_backend_of_the_flow() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options::default())?;
    let client = lab.client(1);
    lab.router().netlink().set_mtu(&client.router_interface(), 1300)?;
    let file = EdgeFile::new(3);
    let tier = Tier::start(&lab, Mode::Native, |n| file.text(n))?;
    let _servers = lab.backends().iter().map(serve).collect::<Result<Vec<_>>>()?;
    for to in files::tcp() {
        // Ten connections, so that each of three backends has to learn for itself.
        for _ in 0..10 {
            transfer(client, to, 100, 100_000).with_context(|| format!("down from {to}"))?;
        }
    }
    for to in files::udp() {
        for flow in 0..6 {
            datagrams_until_answered(client, to, 1400).with_context(|| format!("flow {flow} to {to}"))?;
        }
    }
    let (drops, _) = counters(&tier.edges)?;
    ensure!(
        drops.icmp_unhandled + drops.icmp_quote + drops.icmp_embedded + drops.no_service == 0,
        "{drops:?}"
    );
    Ok(())
}

/// Asks for answers of `len` bytes until one comes: the first is too big for the way back, and its sender learns.
fn datagrams_until_answered(client: &Host, to: SocketAddr, len: u16) -> Result<()> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = client.ns.enter(|| UdpSocket::bind(any))??;
    client.ns.enter(|| socket.connect(to))??;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut buffer = [0; 2048];
    wait_until("an answer", BOUND, || {
        let _ = socket.send(&len.to_be_bytes());
        socket.recv(&mut buffer).is_ok_and(|got| got == usize::from(len))
    })
}

/// A link between router and backend is narrower than the edge node knows: its tunnels are complained about, and it
/// sends shorter ones.
#[test]
fn a_complaint_about_our_own_tunnels_makes_them_shorter() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options { edges: 1, backends: 1, ..Options::default() })?;
    let file = EdgeFile::new(1);
    let tier = Tier::start(&lab, Mode::Native, |n| file.text(n))?;
    let _servers = lab.backends().iter().map(serve).collect::<Result<Vec<_>>>()?;
    // Router and neighbours are known; then the link gets narrow.
    for to in files::tcp() {
        transfer(lab.client(1), to, 1000, 1000)?;
    }
    lab.router().netlink().set_mtu(&lab.backend(1).router_interface(), 1400)?;
    for to in files::tcp() {
        transfer(lab.client(1), to, MEGABYTE, 1000).with_context(|| format!("up to {to}"))?;
    }
    let (_, passes) = counters(&tier.edges)?;
    ensure!(passes.tunnel_too_big > 0 && passes.too_big_answered > 0, "{passes:?}");
    let maps = KernelMaps::open_read_only(&BpffsRoot::new(&tier.edges[0].bpffs))?;
    let inner: Vec<u16> = (0..maps.capacity().backends)
        .filter_map(|index| maps.backend(index))
        .map(|backend| *backend.template())
        .filter(xdp_lb_common::backend::Template::is_tunnel)
        .map(|template| template.max_inner)
        .collect();
    ensure!(inner.iter().all(|len| [1380, 1360].contains(len)) && !inner.is_empty(), "{inner:?}");
    Ok(())
}

/// Datagrams of exactly 1500 bytes without DF, as phones send their INVITEs, over a fabric of 1500: whole at the
/// backend while the agent runs, counted while it does not.
#[test]
fn what_may_be_cut_is_cut() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&narrow_fabric())?;
    let id = lab.id();
    {
        let client = lab.client(1);
        // No DF on anything that the client sends from now on.
        client.ns.sysctl("net/ipv4/ip_no_pmtu_disc", "1")?;
        let file = EdgeFile::new(2);
        let mut tier = Tier::start(&lab, Mode::Native, |n| file.text(n))?;
        let _servers = lab.backends().iter().map(serve).collect::<Result<Vec<_>>>()?;
        let [vip, _] = plan::vip(VIP).both();
        for port in [MEDIA, MEDIA6] {
            let to = SocketAddr::new(vip, port);
            let (drops, passes) = counters(&tier.edges)?;
            let cut = cut_counts(&tier.edges[0])?;
            ensure!(full_frames(client, to, 200)? == 200, "{to}: not all arrived");
            let (now_drops, now) = counters(&tier.edges)?;
            ensure!(now.handed_to_cutter - passes.handed_to_cutter == 200, "{now:?}");
            ensure!(now_drops.cut_unavailable == drops.cut_unavailable, "{now_drops:?}");
            wait_until("the cutter's own count", BOUND, || {
                cut_counts(&tier.edges[0]).is_ok_and(|now| {
                    (now.packets - cut.packets, now.fragments - cut.fragments) == (200, 400)
                        && (now.malformed, now.unsent) == (0, 0)
                })
            })?;
        }
        // Killed, not ended: nobody tidies up.
        tier.edges[0].product.kill();
        let to = SocketAddr::new(vip, MEDIA);
        let (was, _) = counters(&tier.edges)?;
        ensure!(full_frames(client, to, 20)? == 0, "{to}: without an agent?");
        let (drops, _) = counters(&tier.edges)?;
        ensure!(drops.cut_unavailable - was.cut_unavailable == 20, "{drops:?}");
        datagrams_until_answered(client, to, 100).context("what fits needs no agent")?;
        tier.edges[0].restart()?;
        ensure!(full_frames(client, to, 20)? == 20, "{to}: with an agent again");
    }
    drop(lab);
    before.check(id)
}

fn cut_counts(edge: &Node<'_>) -> Result<xdp_lb_common::cut::CutCounts> {
    Ok(CutTables::open(&BpffsRoot::new(&edge.bpffs))?.counts())
}

/// Sends so many datagrams of 1500 bytes, each from another port, and says how many were answered.
fn full_frames(client: &Host, to: SocketAddr, count: usize) -> Result<usize> {
    const PAYLOAD: usize = 1500 - 28;
    let mut answered = 0;
    for _ in 0..count {
        let socket = client.ns.enter(|| UdpSocket::bind("0.0.0.0:0"))??;
        client.ns.enter(|| socket.connect(to))??;
        // Where none are expected, the last one's wait is the test's.
        socket.set_read_timeout(Some(Duration::from_millis(if answered > 0 || count > 100 {
            5000
        } else {
            100
        })))?;
        let mut data = [0x33; PAYLOAD];
        data[..2].copy_from_slice(&100u16.to_be_bytes());
        socket.send(&data)?;
        let mut answer = [0; 2048];
        if let Ok(len) = socket.recv(&mut answer) {
            ensure!(
                len == 100 && answer[..2] == (PAYLOAD as u16).to_be_bytes(),
                "the server saw something else"
            );
            answered += 1;
        }
    }
    Ok(answered)
}
