//! Asks the kernel for the route to one address (RTM_GETROUTE) and says it in the words of `nexthop`.
//!
//! The lookup is the one the kernel would do for a packet of this node's own, without a source address:
//! rules that select by source, mark or incoming interface do not match. Of a multipath route it names one way, whether
//! that one's neighbour lives or not; so a second question asks for the route itself (`RTM_F_FIB_MATCH`) with all its
//! ways, and `nexthop` chooses. A route by nexthop object hides them where `nexthop_compat_mode` is off: the kernel's
//! choice stands then.

use std::net::IpAddr;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
    RouteType, RouteVia,
};

use super::{NetlinkError, Requests, requests};
use crate::nexthop::{Route, UnresolvedReason, Way};

/// The kernel's route to `address`. A refusal is an answer, not an error.
///
/// # Errors
/// [`NetlinkError::Silent`] or [`NetlinkError::Unexpected`].
pub async fn lookup(requests: &Requests, address: IpAddr) -> Result<Route, NetlinkError> {
    let picked = match ask(requests, question(address)).await? {
        Ok(Some(answer)) => decode(&answer),
        Ok(None) => Route::Refused(UnresolvedReason::NoRoute),
        Err(errno) => Route::Refused(refusal(errno)),
    };
    let Route::Via { mtu, .. } = &picked else { return Ok(picked) };
    let mut whole = question(address);
    whole.header.flags |= RouteFlags::FibMatch;
    // The route may have changed between the questions, and then its notification asks again.
    let Ok(Some(whole)) = ask(requests, whole).await? else { return Ok(picked) };
    Ok(match multipath(&whole) {
        Ok(ways) if ways.is_empty() => picked,
        Ok(ways) => Route::Via { ways, mtu: *mtu },
        Err(reason) => Route::Refused(reason),
    })
}

/// The first answer, or the kernel's refusal.
async fn ask(
    requests: &Requests,
    question: RouteMessage,
) -> Result<Result<Option<RouteMessage>, i32>, NetlinkError> {
    let what = format!("look up the route to {}", destination(&question));
    let answers = requests.handle().route().get(question).execute();
    match requests::all(|| what, answers).await {
        Ok(messages) => Ok(Ok(messages.into_iter().next())),
        Err(error) => error.errno().map(Err).ok_or(error),
    }
}

fn destination(question: &RouteMessage) -> String {
    let told = question.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => address_of(address),
        _ => None,
    });
    told.map_or_else(String::new, |address| address.to_string())
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

/// One way: what the kernel picked.
fn via(attributes: &[RouteAttribute]) -> Route {
    let (mut interface, mut gateway, mut mtu) = (None, None, None);
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::EncapType(_) => return Route::Refused(UnresolvedReason::RouteEncapsulates),
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
        Some(interface) => Route::Via { ways: vec![Way::only(interface, gateway)], mtu },
        None => Route::Refused(UnresolvedReason::NoRoute),
    }
}

/// The ways of a multipath route, without those that the kernel calls dead; none for another route.
fn multipath(route: &RouteMessage) -> Result<Vec<Way>, UnresolvedReason> {
    let hops = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops.as_slice()),
        _ => None,
    });
    let alive = |hop: &&RouteNextHop| !hop.flags.contains(RouteNextHopFlags::Dead);
    hops.unwrap_or_default().iter().filter(alive).map(way).collect()
}

fn way(hop: &RouteNextHop) -> Result<Way, UnresolvedReason> {
    if hop.attributes.iter().any(|attribute| matches!(attribute, RouteAttribute::EncapType(_))) {
        return Err(UnresolvedReason::RouteEncapsulates);
    }
    Ok(Way {
        interface: hop.interface_index,
        gateway: hop.attributes.iter().find_map(gateway_of),
        // The kernel tells the weight less one.
        weight: u32::from(hop.hops) + 1,
    })
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
    use rtnetlink::packet_route::route::RouteLwEnCapType;

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
            Route::Via { ways: vec![Way::only(3, None)], mtu: None }
        );
        assert_eq!(
            answer(
                RouteType::Unicast,
                vec![RouteAttribute::Via(RouteVia::from(gateway)), RouteAttribute::Oif(3)]
            ),
            Route::Via { ways: vec![Way::only(3, Some(gateway))], mtu: None }
        );
        let metrics = RouteAttribute::Metrics(vec![RouteMetric::Advmss(1200), RouteMetric::Mtu(1400)]);
        assert_eq!(
            answer(RouteType::Unicast, vec![RouteAttribute::Oif(3), metrics]),
            Route::Via { ways: vec![Way::only(3, None)], mtu: Some(1400) }
        );
    }

    #[test]
    fn a_multipath_route_has_its_living_ways_with_their_weights() {
        let gateway: IpAddr = "10.0.0.2".parse().unwrap();
        let hop = |interface, hops, flags, attributes| {
            let mut hop = RouteNextHop::default();
            (hop.interface_index, hop.hops, hop.flags, hop.attributes) = (interface, hops, flags, attributes);
            hop
        };
        let via = || vec![RouteAttribute::Gateway(gateway.into())];
        let none = RouteNextHopFlags::empty();
        let mut route = RouteMessage::default();
        assert_eq!(multipath(&route), Ok(vec![]));
        let alive = [hop(3, 0, none, via()), hop(4, 2, RouteNextHopFlags::Linkdown, vec![])];
        let dead = hop(5, 0, RouteNextHopFlags::Dead, via());
        route.attributes = vec![RouteAttribute::MultiPath([&alive[..], &[dead]].concat())];
        let wanted = vec![Way::only(3, Some(gateway)), Way { interface: 4, gateway: None, weight: 3 }];
        assert_eq!(multipath(&route), Ok(wanted));
        let encap = RouteAttribute::EncapType(RouteLwEnCapType::Mpls);
        route.attributes =
            vec![RouteAttribute::MultiPath(vec![alive[0].clone(), hop(4, 0, none, vec![encap])])];
        assert_eq!(multipath(&route), Err(UnresolvedReason::RouteEncapsulates));
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
