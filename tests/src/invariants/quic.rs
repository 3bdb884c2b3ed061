//! QUIC connection ids: the reader against the same rules written with slices, and blind to what is around the datagram.
//!
//! Input: four bytes of configuration as the map holds them (which need not be valid), then the UDP payload.

use xdp_lb_common::quic::{self, Config, LENGTH_IN_CID, Route, Unroutable};
use xdp_lb_common::server_id::ServerId;
use xdp_lb_common::udp::Payload;

pub fn check(data: &[u8]) {
    let Some((&[config_ids, server_id_len, cid_len, flags], payload)) = data.split_first_chunk::<4>() else {
        return;
    };
    let config = Config { config_ids, server_id_len, cid_len, flags };
    let found = route(payload, &config, 0, &[]);
    assert_eq!(route(payload, &config, 0xff, &[]), found);
    if found != route(payload, &Config { config_ids: config_ids & Config::ANY, ..config }, 0, &[]) {
        panic!("bit 7 of a table makes {found:?}");
    }
    // The rest holds for what `Config::new` lets through.
    let nonce = cid_len.wrapping_sub(1).wrapping_sub(server_id_len);
    if Config::new(config_ids, server_id_len, nonce, flags & LENGTH_IN_CID != 0)
        != Some(Config { flags: flags & LENGTH_IN_CID, ..config })
    {
        return;
    }
    assert_eq!(route(payload, &config, 0xff, &[0xff; 9]), found);
    let model = match plainly(payload, &config) {
        Ok(id) => Route::Server(id),
        Err(why) => Route::Fallback(why),
    };
    assert_eq!(found, model);
}

fn route(payload: &[u8], config: &Config, around: u8, behind: &[u8]) -> Route {
    let frame = [&[around; 42], payload, behind].concat();
    quic::route(&frame[..], Payload { start: 42, end: 42 + payload.len() }, config)
}

/// RFC 8999 and the draft once more.
fn plainly(payload: &[u8], config: &Config) -> Result<ServerId, Unroutable> {
    let least = usize::from(config.cid_len);
    let (first, rest) = payload.split_first().ok_or(Unroutable::Truncated)?;
    let (cid, exact) = if first & 0x80 == 0 {
        (rest, false)
    } else {
        let (version, rest) = rest.split_first_chunk::<4>().ok_or(Unroutable::Truncated)?;
        let (&len, rest) = rest.split_first().ok_or(Unroutable::Truncated)?;
        if *version == [0; 4] {
            return Err(Unroutable::VersionNegotiation);
        }
        let cid = rest.get(..usize::from(len)).ok_or(Unroutable::Truncated)?;
        if cid.len() < least {
            return Err(Unroutable::CidTooShort);
        }
        (cid, true)
    };
    if cid.len() < least {
        return Err(Unroutable::Truncated);
    }
    let id = cid[0] >> 5;
    if id == 7 || config.config_ids & 1 << id == 0 {
        return Err(Unroutable::ConfigId);
    }
    if config.flags & LENGTH_IN_CID != 0 {
        let said = usize::from(cid[0] & 0x1f) + 1;
        if (exact && said != cid.len()) || said < least || said > cid.len() {
            return Err(Unroutable::CidLength);
        }
    }
    Ok(ServerId::new(&cid[1..=usize::from(config.server_id_len)]).expect("1 to 8 bytes"))
}
