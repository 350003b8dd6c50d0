//! What the HTTP request of a connection says of it, as far as somebody wants to know.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use super::Policy;
use crate::{channels::Name, codec::http::Request, proxy::Headers};

/// What is kept of a connection's request.
#[derive(Clone, Debug, Default)]
pub struct Arrival {
    /// What proxies may forward.
    pub(super) headers: Arc<Headers>,
    /// The user that `client.user_id_http_header` names; empty: none.
    pub(super) user: Name,
}

impl Policy {
    /// What is to be kept of a request. A header for the user that stands there twice says nothing:
    /// one of them may be the client's own.
    pub fn arrival(&self, request: &Request<'_>) -> Option<Box<Arrival>> {
        let mut arrival = Arrival::default();
        if let Some(name) = &self.user_id_header {
            let mut values = request.headers_named(name);
            if let (Some(value), None) = (values.next(), values.next())
                && let Ok(user) = str::from_utf8(value)
            {
                arrival.user = Name::from(user);
            }
        }
        arrival.headers = Arc::new(self.proxies.headers.keep(request.headers()));
        let nothing = arrival.user.is_empty() && arrival.headers.is_empty();
        (!nothing).then(|| Box::new(arrival))
    }
}

impl Arrival {
    /// Adds what the client says are headers, in its connect command.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn emulate(
        &mut self,
        policy: &Policy,
        emulated: &BTreeMap<Cow<'_, str>, Cow<'_, str>>,
    ) -> Result<(), &'static str> {
        let emulated = emulated.iter().map(|(name, value)| (&**name, &**value));
        Arc::make_mut(&mut self.headers).emulate(&policy.proxies.headers, emulated)
    }
}
