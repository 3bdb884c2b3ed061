//! Two nodes on loopback.

use super::*;
use std::net::{IpAddr, Ipv4Addr};

fn settings(listen: SocketAddr, nodes: &[SocketAddr], secret: u8) -> Settings {
    let key = Key::new(&[secret; 32]).expect("long enough");
    Settings { listen, key, nodes: nodes.to_vec(), name: format!("edge-{}", listen.port()) }
}

/// An address that nobody listens on.
fn free() -> SocketAddr {
    let socket = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    socket.local_addr().expect("bound")
}

fn look(hashes: impl IntoIterator<Item = u64>) -> Look {
    let backend = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    let left = Duration::from_secs(300);
    let exception = |hash| Exception { service: "sip".into(), hash, backend, left };
    let hashing = Hashing { seed: 1, client_ip: false, set_bits: 4 };
    Look {
        exceptions: hashes.into_iter().map(exception).collect(),
        hashing: [("sip".to_owned(), hashing)].into(),
        drains: Vec::new(),
    }
}

/// The flows of the next message, which is answered.
async fn hear(peers: &mut Peers) -> Vec<u64> {
    let told = timeout(Duration::from_secs(20), peers.told()).await.expect("in time").expect("a message");
    let flows = told.flows.expect("flows").flows;
    let taken = flows.len() as u32;
    told.answer.send(Answer { taken, refused: 0 }).expect("waited for");
    flows.iter().map(|f| f.0).collect()
}

async fn reached(peers: &Peers, sent: u64) {
    let mut counted = peers.sent.clone();
    let reached = timeout(Duration::from_secs(20), counted.wait_for(|&n| n == sent)).await;
    reached.expect("in time").expect("still counting");
}

#[tokio::test]
async fn a_flow_is_told_once_over_all_looks_and_again_to_a_peer_that_started_anew() {
    let (a, b) = (free(), free());
    let mut there = Peers::start(settings(b, &[], 1));
    let here = Peers::start(settings(a, &[b], 1));
    // The listener may not be there yet: each look is a try.
    let mut first = loop {
        here.tell(look([7]));
        if let Ok(told) = timeout(Duration::from_millis(200), there.told()).await {
            break told.expect("a message");
        }
    };
    assert_eq!(first.node, format!("edge-{}", a.port()));
    assert_eq!(first.flows.take().expect("flows").unpack(), look([7]).exceptions);
    std::mem::replace(&mut first.answer, oneshot::channel().0).send(Answer::default()).expect("waited for");
    reached(&here, 1).await;
    here.tell(look([7, 8]));
    assert_eq!(hear(&mut there).await, [8], "7 is known");
    reached(&here, 2).await;

    drop(there);
    let mut anew = Peers::start(settings(b, &[], 1));
    let heard = loop {
        here.tell(look([7, 8, 9]));
        if let Ok(told) = timeout(Duration::from_millis(200), anew.told()).await {
            break told.expect("a message");
        }
    };
    assert_eq!(heard.flows.expect("flows").flows.len(), 3, "whoever starts anew may have forgotten");
}

#[tokio::test]
async fn what_was_learned_is_not_told_and_who_has_another_key_hears_nothing() {
    let (a, b, c) = (free(), free(), free());
    let mut there = Peers::start(settings(b, &[], 1));
    let mut stranger = Peers::start(settings(c, &[], 2));
    let here = Peers::start(settings(a, &[b, c], 1));
    here.learned(&look([7]).exceptions);
    let heard = loop {
        here.tell(look([7, 8]));
        if let Ok(told) = timeout(Duration::from_millis(200), there.told()).await {
            break told.expect("a message");
        }
    };
    let heard = heard.flows.expect("flows").flows;
    assert_eq!(heard.iter().map(|f| f.0).collect::<Vec<_>>(), [8]);
    assert!(stranger.told.try_recv().is_err());
}

#[tokio::test]
async fn many_flows_come_in_several_messages() {
    let (a, b) = (free(), free());
    let mut there = Peers::start(settings(b, &[], 1));
    let here = Peers::start(settings(a, &[b], 1));
    let all: Vec<u64> = (0..2500).collect();
    let mut heard = Vec::new();
    while heard.len() < all.len() {
        if heard.is_empty() {
            here.tell(look(all.clone()));
        }
        if let Ok(told) = timeout(Duration::from_millis(200), there.told()).await {
            let told = told.expect("a message");
            heard.extend(told.flows.expect("flows").flows.iter().map(|f| f.0));
            told.answer.send(Answer::default()).expect("waited for");
        }
    }
    assert_eq!(heard, all);
    reached(&here, 2500).await;
}

#[tokio::test]
async fn drains_are_told_when_they_change_before_any_flow_and_when_they_are_taken_back() {
    let (a, b) = (free(), free());
    let mut there = Peers::start(settings(b, &[], 1));
    let here = Peers::start(settings(a, &[b], 1));
    let drain = Written {
        backend: Ipv4Addr::new(10, 0, 0, 1).into(),
        service: None,
        mode: None,
        max: None,
        since: 7,
    };
    let with =
        |drains: &[Written], hashes: &[u64]| Look { drains: drains.to_vec(), ..look(hashes.iter().copied()) };
    // Answers until there has been nothing to answer for a while, and tells again what there is to tell.
    let mut says = async |look: &dyn Fn() -> Look| {
        let mut all = Vec::new();
        loop {
            here.tell(look());
            match timeout(Duration::from_millis(300), there.told()).await {
                Ok(told) => {
                    let told = told.expect("a message");
                    told.answer.send(Answer::default()).expect("waited for");
                    all.push((told.drains.map(|d| d.len()), told.flows.map(|f| f.flows.len())));
                }
                Err(_) if all.is_empty() => {}
                Err(_) => return all,
            }
        }
    };
    assert_eq!(says(&|| with(std::slice::from_ref(&drain), &[7])).await, [(Some(1), None), (None, Some(1))]);
    assert_eq!(says(&|| with(std::slice::from_ref(&drain), &[8])).await, [(None, Some(1))], "once");
    assert_eq!(says(&|| with(&[], &[])).await, [(Some(0), None)], "taken back");
}
