//! Fragments for a VIP: which of them goes where.
//!
//! ```text
//!   all services of VIP and protocol keep a client at one backend ----> by the client's address: any fragment,
//!                                                                       in any order, on any edge node
//!   else  first one ---> its ports --> service --> backend, remembered
//!         later one ---> what the first one left
//! ```

use xdp_lb_common::{
    classify,
    fragment::{self, Entry, Fragment, NOBODY},
    parse::{Ip, Ports, RawSegment, TCP, UDP},
    reason::DropReason,
    service::{CLIENT_IP, DROP_FRAGMENTS},
    vip::{FRAGMENTS_REFUSED, VIP_PASS_UNMATCHED, VipSlot},
};

use crate::{
    inside,
    maps::{self, Tables},
    packet::Packet,
    pipeline,
    send::Target,
};

/// Where a fragment goes; `None` when no service wants its datagram.
#[inline(always)]
pub fn target(
    packet: &Packet,
    ip: &Ip,
    fragment: Fragment,
    vip: &VipSlot,
) -> Result<Option<Target>, DropReason> {
    let passes = vip.flags & VIP_PASS_UNMATCHED != 0;
    let ports = match fragment::ports(packet, ip, fragment) {
        Err(DropReason::Fragment) if passes => return Ok(None),
        ports => ports?,
    };
    let taker = match ip.protocol {
        TCP => vip.fragments[0],
        UDP => vip.fragments[1],
        _ => 0,
    };
    match taker {
        0 => {}
        FRAGMENTS_REFUSED => return Err(DropReason::FragmentRefused),
        service => return by_client(packet, ip, service).map(Some),
    }
    let key = fragment::key(maps::seed(), &ip.addresses, fragment, ip.protocol);
    let set = maps::fragment_set(key).ok_or(DropReason::TableInconsistent)?;
    let second = maps::second() as u8;
    let Some(ports) = ports else {
        let entry = fragment::find(&set, key, second)?;
        return match (entry.service(), entry.backend()) {
            (0, _) => Ok(None),
            (_, NOBODY) => Err(DropReason::FragmentRefused),
            (service, local) => {
                let config = maps::service(service).ok_or(DropReason::TableInconsistent)?.config();
                inside::admit(ip, service, config)?;
                if !maps::is_alive(config.backend_base + u32::from(local)) {
                    return Err(DropReason::FragmentOrphan);
                }
                Ok(Some(Target { service, config, local, hash: key }))
            }
        };
    };
    let service = classify::service(&Tables, vip, ip.protocol, ports.destination());
    // Id 0 is a service that is never used.
    let config = maps::service(service).ok_or(DropReason::TableInconsistent)?.config();
    let refuses = config.flags & DROP_FRAGMENTS != 0;
    if service == 0 || refuses {
        if passes || refuses {
            fragment::remember(&set, key, Entry::new(key, service, NOBODY, second), second);
        }
        return if refuses { Err(DropReason::FragmentRefused) } else { Ok(None) };
    }
    let target = pipeline::choose(packet, ip, &ports, service, config, config.flags & CLIENT_IP != 0)?;
    fragment::remember(&set, key, Entry::new(key, service, target.local, second), second);
    // One datagram, one way through the fabric: all of its fragments have the key's entropy.
    Ok(Some(Target { hash: key, ..target }))
}

/// Any fragment of a client whose datagrams all go to one backend. Fragments of TCP carry data, whatever their flags
/// say: those of one segment must all mean the same.
#[inline(always)]
fn by_client(packet: &Packet, ip: &Ip, service: u16) -> Result<Target, DropReason> {
    let config = maps::service(service).ok_or(DropReason::TableInconsistent)?.config();
    let segment = match ip.protocol {
        TCP => RawSegment::Tcp { flags: 0, data: 1 },
        _ => RawSegment::Datagram,
    };
    pipeline::choose(packet, ip, &Ports { pair: 0, segment }, service, config, true)
}
