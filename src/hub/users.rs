//! The users that live on this shard, and the connections of each.

use std::collections::HashMap;

use super::{ConnRef, HashKey, ShardId};
use crate::{
    mutations::{self, Mutation},
    protocol::Name,
};

/// Users with at least one connection anywhere.
#[derive(Debug)]
pub(super) struct Users {
    /// Connections in order, so that one is found without looking at all of a busy user's.
    connections: HashMap<Name, Vec<(ShardId, ConnRef)>, HashKey>,
}

impl Users {
    pub(super) fn new(key: HashKey) -> Self {
        Self { connections: HashMap::with_hasher(key) }
    }

    /// Takes note of a connection; false when the user has `max` already.
    pub(super) fn join(
        &mut self,
        user: Name,
        shard: ShardId,
        conn: ConnRef,
        max: Option<usize>,
    ) -> bool {
        let connections = self.connections.entry(user).or_default();
        let more = usize::from(mutations::is_on(Mutation::AdmitsConnection));
        if max.is_some_and(|max| connections.len() >= max + more) {
            return false;
        }
        if let Err(at) = connections.binary_search_by_key(&key(shard, conn), by_key) {
            connections.insert(at, (shard, conn));
        }
        true
    }

    /// Forgets a connection, if it is known.
    pub(super) fn leave(&mut self, user: &Name, shard: ShardId, conn: ConnRef) {
        let Some(connections) = self.connections.get_mut(user) else { return };
        if let Ok(at) = connections.binary_search_by_key(&key(shard, conn), by_key) {
            connections.remove(at);
        }
        if connections.is_empty() {
            self.connections.remove(user);
        }
    }

    /// A user's connections, in order.
    pub(super) fn of(&self, user: &str) -> &[(ShardId, ConnRef)] {
        self.connections.get(user).map_or(&[], Vec::as_slice)
    }

    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }
}

fn key(shard: ShardId, conn: ConnRef) -> (ShardId, u32, u32) {
    (shard, conn.slot, conn.generation)
}

fn by_key(&(shard, conn): &(ShardId, ConnRef)) -> (ShardId, u32, u32) {
    key(shard, conn)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conn(slot: u32, generation: u32) -> ConnRef {
        ConnRef { slot, generation }
    }

    #[test]
    fn connections_are_exact_and_in_order() {
        let mut users = Users::new(HashKey(1, 2));
        for (shard, conn) in [(1, conn(3, 0)), (0, conn(9, 1)), (0, conn(9, 0))] {
            assert!(users.join("u".into(), shard, conn, Some(3)));
        }
        assert!(!users.join("u".into(), 2, conn(1, 0), Some(3)), "three are the most");
        assert_eq!(users.of("u"), [(0, conn(9, 0)), (0, conn(9, 1)), (1, conn(3, 0))]);
        users.leave(&"u".into(), 2, conn(1, 0));
        users.leave(&"u".into(), 0, conn(9, 0));
        assert_eq!(users.of("u"), [(0, conn(9, 1)), (1, conn(3, 0))]);
        users.leave(&"u".into(), 0, conn(9, 1));
        users.leave(&"u".into(), 1, conn(3, 0));
        users.leave(&"u".into(), 1, conn(3, 0));
        assert_eq!((users.len(), users.of("u").len()), (0, 0));
    }

    #[test]
    fn a_refused_connection_leaves_nothing_behind() {
        let mut users = Users::new(HashKey(1, 2));
        assert!(!users.join("u".into(), 0, conn(1, 0), Some(0)));
        users.leave(&"u".into(), 0, conn(1, 0));
        assert_eq!(users.len(), 0);
    }
}
