//! What a shard may have done by threads that are no shards, without waiting for it.

use std::{collections::BTreeMap, time::Instant};

use crate::{
    backend::{Backend, Notifier, Question},
    core,
    hub::ShardId,
    jwks::Fetcher,
    protocol::KeyUse,
    proxy::{BackendCall, ProxyId},
};

/// The ways to these threads, as far as the configuration wants them. They end with the last clone.
#[derive(Clone, Debug, Default)]
pub struct Threads {
    /// Who knows device tokens.
    pub devices: Option<(Backend, ProxyId)>,
    /// Who decides about connections and channels.
    pub backend: Option<Backend>,
    /// Who is told of channels.
    pub notifiers: BTreeMap<ProxyId, Notifier>,
    /// Who fetches the keys of connection tokens.
    pub connection_keys: Option<Fetcher>,
    /// Who fetches the keys of subscription tokens, where these have their own.
    pub subscription_keys: Option<Fetcher>,
}

impl Threads {
    /// Has a device token looked up; false when too many wait.
    pub(super) fn look_up(&self, shard: ShardId, lookup: core::Lookup) -> bool {
        let Some((backend, proxy)) = &self.devices else { return false };
        let core::Lookup { id, token } = lookup;
        let call = BackendCall::Device { token };
        backend.ask(*proxy, Question { shard, id, call, since: Instant::now() }).is_ok()
    }

    /// Has the backend asked; false when too many wait.
    pub(super) fn ask(&self, shard: ShardId, question: core::Question) -> bool {
        let Some(backend) = &self.backend else { return false };
        let core::Question { id, proxy, call } = question;
        backend.ask(proxy, Question { shard, id, call, since: Instant::now() }).is_ok()
    }

    /// Has the backend told.
    pub(super) fn notify(&self, notice: core::Notice) {
        if let Some(notifier) = self.notifiers.get(&notice.proxy) {
            notifier.tell(notice.channel, notice.state);
        }
    }

    /// Has keys fetched.
    pub(super) fn fetch_keys(&self, of: KeyUse) {
        let fetcher = match of {
            KeyUse::Connections => &self.connection_keys,
            KeyUse::Subscriptions => &self.subscription_keys,
        };
        if let Some(fetcher) = fetcher {
            fetcher.ask();
        }
    }
}
