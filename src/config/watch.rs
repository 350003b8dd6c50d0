//! `watch`: leases and wakes of dormant devices.

use std::time::Duration;

use super::Secret;
use super::check::Fault;
use super::section::section;
use super::value::{duration, path, secret, switch, text, url};

section! {
    /// `watch`: leases and wakes of dormant devices.
    Watch {
        /// Devices may watch. Needs one source of tokens.
        enabled: bool = false, switch;
        /// Streams are at `/watch` below it, heartbeats at `/watch/heartbeat`.
        base_path: String = "/internal/platform/v1/remote-sessions".into(), path;
        /// Where agents learn who they are.
        device_info_path: String = "/internal/platform/v1/device-info".into(), path;
        /// How long a lease lasts without a heartbeat, at least three times `heartbeat_interval`;
        /// the interval and 30s more is wise, because one request of an agent may hang for that
        /// long.
        lease_ttl: Duration = Duration::from_secs(120), duration;
        /// Pause between an agent's heartbeats, at least 1s.
        heartbeat_interval: Duration = Duration::from_secs(30), duration;
        /// How long a woken device waits for a viewer.
        device_wait_for_viewer: Duration = Duration::from_secs(300), duration;
    }
    sections {
        /// Whose device tokens are whose: one of the first three where watching is enabled.
        token: WatchToken;
    }
}

section! {
    /// `watch.token`: whose device tokens are whose.
    WatchToken {
        /// The key of JSON Web Tokens whose claims are the device.
        hmac_secret_key: Option<Secret> = None, secret;
        /// A JSON file of tokens and devices, read at the start and on SIGHUP.
        table_file: Option<String> = None, text;
        /// The URL at which the backend answers for a token.
        proxy_endpoint: Option<String> = None, url;
        /// Time for such an answer.
        proxy_timeout: Duration = Duration::from_secs(5), duration;
    }
}

/// How long a request of an agent may hang before it gives up.
const AGENT_REQUEST: Duration = Duration::from_secs(30);

/// Checks the options of enabled watching against each other; returns warnings.
pub(super) fn check(watch: &Watch) -> Result<Option<String>, Fault> {
    if !watch.enabled {
        return Ok(None);
    }
    let refuse = |key, message: String| Err(Fault::new(key, message));
    let token = &watch.token;
    let sources = [
        token.hmac_secret_key.is_some(),
        token.table_file.is_some(),
        token.proxy_endpoint.is_some(),
    ];
    if sources.iter().filter(|set| **set).count() != 1 {
        let message = |what| {
            format!(
                "{what} exactly one of hmac_secret_key, table_file and proxy_endpoint, to know \
                 whose device tokens are whose"
            )
        };
        return Err(Fault::new("watch.token", message("watch.enabled needs"))
            .or("watch.enabled", message("needs in watch.token")));
    }
    let (ttl, interval) = (watch.lease_ttl, watch.heartbeat_interval);
    if interval < Duration::from_secs(1) {
        let message = format!("{interval:?} is below 1s, the shortest that agents keep to");
        return refuse("watch.heartbeat_interval", message);
    }
    if ttl < 3 * interval {
        let message = format!(
            "{ttl:?} must be at least three times watch.heartbeat_interval, which is {interval:?}"
        );
        let other =
            format!("{interval:?} must be at most a third of watch.lease_ttl, which is {ttl:?}");
        return Err(Fault::new("watch.lease_ttl", message).or("watch.heartbeat_interval", other));
    }
    if [&watch.base_path, &format!("{}/watch", watch.base_path)].contains(&&watch.device_info_path)
    {
        let message = "is a path below watch.base_path that means something else";
        let other = "has watch.device_info_path below it, at a path that means something else";
        return Err(Fault::new("watch.device_info_path", message).or("watch.base_path", other));
    }
    Ok((ttl < interval + AGENT_REQUEST).then(|| {
        format!(
            "watch.lease_ttl is {ttl:?}, below watch.heartbeat_interval and 30s: leases expire \
             when one heartbeat of an agent hangs"
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(ttl_ms: u64, interval_ms: u64) -> Watch {
        let key = Some(Secret::new("k"));
        Watch {
            enabled: true,
            lease_ttl: Duration::from_millis(ttl_ms),
            heartbeat_interval: Duration::from_millis(interval_ms),
            token: WatchToken { hmac_secret_key: key, ..WatchToken::default() },
            ..Watch::default()
        }
    }

    #[test]
    fn the_ttl_leaves_room_for_lost_heartbeats() {
        for (ttl_ms, interval_ms, fits, warns) in [
            (3_000, 1_000, true, true),
            (2_999, 1_000, false, false),
            (90_000, 30_000, true, false),
            (89_999, 30_000, false, false),
            (34_999, 5_000, true, true),
            (35_000, 5_000, true, false),
            (120_000, 999, false, false),
        ] {
            let checked = check(&watch(ttl_ms, interval_ms));
            assert_eq!(checked.is_ok(), fits, "{ttl_ms} {interval_ms}: {checked:?}");
            assert_eq!(matches!(checked, Ok(Some(_))), warns, "{ttl_ms} {interval_ms}");
        }
        let off = Watch { enabled: false, ..watch(1, 1) };
        assert_eq!(check(&off), Ok(None), "what is not used need not fit");
    }

    #[test]
    fn exactly_one_source_of_tokens_is_needed() {
        let mut none = watch(120_000, 30_000);
        none.token.hmac_secret_key = None;
        assert!(check(&none).unwrap_err().message.contains("exactly one"));
        let mut two = watch(120_000, 30_000);
        two.token.table_file = Some("devices.json".into());
        assert!(check(&two).is_err());
    }

    #[test]
    fn paths_do_not_shadow_each_other() {
        let mut same = watch(120_000, 30_000);
        same.device_info_path = format!("{}/watch", same.base_path);
        assert!(check(&same).is_err());
    }
}
