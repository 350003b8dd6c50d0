//! Asks the product's backend whose a device token is, on threads that are no shards.

use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::{
    auth::{Device, Verdict},
    core::{Lookup, OutsideCall},
    hub::ShardId,
    shard::{Command, Mailbox},
};

/// Requests to the backend at the same time.
const THREADS: usize = 16;
/// Bytes of the backend's answer.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// A question, the shard that asks, and since when.
pub(crate) type Question = (ShardId, Lookup, Instant);

/// Where to ask.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// The URL; its answer to a `GET` with the token is the device, in the words of `device-info`.
    pub(crate) url: String,
    /// Time for one answer, from the connection to the last byte.
    pub(crate) timeout: Duration,
}

/// Starts the threads. They end when the last shard has dropped its end of `lookups`.
///
/// # Errors
/// When the system has no threads left.
pub(crate) fn start(
    endpoint: &Endpoint,
    lookups: &Receiver<Question>,
    mailboxes: &[Mailbox],
) -> std::io::Result<()> {
    // A redirect is not followed: it could take the token elsewhere.
    let agent = ureq::Agent::new_with_config(
        ureq::Agent::config_builder()
            .timeout_global(Some(endpoint.timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections_per_host(THREADS)
            .proxy(None)
            .build(),
    );
    for number in 0..THREADS {
        let (agent, endpoint) = (agent.clone(), endpoint.clone());
        let (lookups, mailboxes) = (lookups.clone(), mailboxes.to_vec());
        std::thread::Builder::new().name(format!("backend-{number}")).spawn(move || {
            for (shard, Lookup { id, token }, since) in lookups {
                // Behind a backend that hangs nobody waits longer than for the backend itself.
                let answer = if since.elapsed() < endpoint.timeout {
                    ask(&agent, &endpoint.url, &token)
                } else {
                    Err("those before it took too long".into())
                };
                let verdict = answer.unwrap_or_else(|error| {
                    tracing::warn!(%error, "the backend did not say whose a device token is");
                    Verdict::Unavailable
                });
                let call = OutsideCall::Verified { id, verdict };
                mailboxes[usize::from(shard)].send_waiting(Command::Call { call, reply: None });
            }
        })?;
    }
    Ok(())
}

/// 200 names the device, 401 is the end of it; whatever else may be temporary.
fn ask(agent: &ureq::Agent, url: &str, token: &str) -> Result<Verdict, String> {
    let mut response = agent
        .get(url)
        .header("Authorization", format!("DeviceToken {token}"))
        .header("Accept", "application/json")
        .call()
        .map_err(|error| error.to_string())?;
    match response.status().as_u16() {
        200 => {
            let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
            let body = body.map_err(|error| error.to_string())?;
            Device::parse(&body).map(Verdict::Device)
        }
        401 => Ok(Verdict::Invalid),
        status => Err(format!("it answered {status}")),
    }
}
