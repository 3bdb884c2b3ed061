//! Asks the kernel for the route to one address (RTM_GETROUTE) and says it in the words of `nexthop`.
//!
//! The lookup is the one the kernel would do for a packet of this node's own, without a source address:
//! rules that select by source, mark or incoming interface do not match. Of a multipath route the kernel
//! picks one way by hashing the destination, so backends spread over the uplinks and each keeps its own.

use std::net::IpAddr;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteNextHop, RouteType, RouteVia,
};

use super::{NetlinkError, Requests, requests};
use crate::nexthop::{Route, UnresolvedReason};

/// The kernel's route to `address`. A refusal is an answer, not an error.
///
/// # Errors
/// [`NetlinkError::Silent`] or [`NetlinkError::Unexpected`].
pub(super) async fn lookup(requests: &Requests, address: IpAddr) -> Result<Route, NetlinkError> {
    let answers = requests.handle().route().get(question(address)).execute();
    match requests::all(|| format!("look up the route to {address}"), answers).await {
        Ok(messages) => Ok(messages.first().map_or(Route::Refused(UnresolvedReason::NoRoute), decode)),
        Err(error) => match error.errno() {
            Some(errno) => Ok(Route::Refused(refusal(errno))),
            None => Err(error),
        },
    }
}

fn question(address: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    (message.header.address_family, message.header.destination_prefix_length) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.attributes.push(RouteAttribute::Destination(address.into()));
    message
}

/// IPv4 answers a lookup that ends in no unicast route with the error a sender would get
/// (`fib_props` in net/ipv4/fib_semantics.c); IPv6 does so for "no route" alone.
fn refusal(errno: i32) -> UnresolvedReason {
    match errno {
        libc::ENETUNREACH => UnresolvedReason::NoRoute,
        libc::EHOSTUNREACH => UnresolvedReason::Unreachable,
        libc::EINVAL => UnresolvedReason::Blackhole,
        libc::EACCES => UnresolvedReason::Prohibited,
        other => UnresolvedReason::LookupFailed(other),
    }
}

fn decode(message: &RouteMessage) -> Route {
    match message.header.kind {
        RouteType::Unicast => via(&message.attributes),
        RouteType::Local | RouteType::Anycast => Route::Local,
        RouteType::Unreachable => Route::Refused(UnresolvedReason::Unreachable),
        RouteType::BlackHole => Route::Refused(UnresolvedReason::Blackhole),
        RouteType::Prohibit => Route::Refused(UnresolvedReason::Prohibited),
        RouteType::Broadcast | RouteType::Multicast => Route::Refused(UnresolvedReason::NotUnicast),
        _ => Route::Refused(UnresolvedReason::NoRoute),
    }
}

fn via(attributes: &[RouteAttribute]) -> Route {
    let (mut interface, mut gateway, mut mtu) = (None, None, None);
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::EncapType(_) => return Route::Refused(UnresolvedReason::RouteEncapsulates),
            // The kernel picks before it answers; this is for one that would not.
            RouteAttribute::MultiPath(hops) if interface.is_none() => {
                if let Some(RouteNextHop { interface_index, attributes, .. }) = hops.first() {
                    interface = Some(*interface_index);
                    gateway = attributes.iter().find_map(gateway_of);
                }
            }
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                    _ => None,
                });
            }
            other => gateway = gateway_of(other).or(gateway),
        }
    }
    match interface {
        Some(interface) => Route::Via { interface, gateway, mtu },
        None => Route::Refused(UnresolvedReason::NoRoute),
    }
}

fn gateway_of(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => address_of(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

pub(super) fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: RouteType, attributes: Vec<RouteAttribute>) -> Route {
        let mut message = RouteMessage::default();
        message.header.kind = kind;
        message.attributes = attributes;
        decode(&message)
    }

    #[test]
    fn unicast_with_and_without_a_gateway_of_either_family() {
        let gateway: IpAddr = "fe80::1".parse().unwrap();
        assert_eq!(
            answer(RouteType::Unicast, vec![RouteAttribute::Oif(3)]),
            Route::Via { interface: 3, gateway: None, mtu: None }
        );
        assert_eq!(
            answer(
                RouteType::Unicast,
                vec![RouteAttribute::Via(RouteVia::from(gateway)), RouteAttribute::Oif(3)]
            ),
            Route::Via { interface: 3, gateway: Some(gateway), mtu: None }
        );
        let metrics = RouteAttribute::Metrics(vec![RouteMetric::Advmss(1200), RouteMetric::Mtu(1400)]);
        assert_eq!(
            answer(RouteType::Unicast, vec![RouteAttribute::Oif(3), metrics]),
            Route::Via { interface: 3, gateway: None, mtu: Some(1400) }
        );
    }

    #[test]
    fn refusals_keep_their_reason_in_both_forms() {
        assert_eq!(
            answer(RouteType::BlackHole, vec![RouteAttribute::Oif(1)]),
            Route::Refused(UnresolvedReason::Blackhole)
        );
        assert_eq!(refusal(libc::EINVAL), UnresolvedReason::Blackhole);
        assert_eq!(refusal(libc::ENETUNREACH), UnresolvedReason::NoRoute);
        assert_eq!(refusal(libc::ENOMEM), UnresolvedReason::LookupFailed(libc::ENOMEM));
    }
}
