//! Who is in one channel: those who want to be seen, and how many connections each user has there.

use std::sync::Arc;

use super::{ShardId, SubRef, few::Few};
use crate::protocol::{MemberInfo, Name, Wants};

/// The members of a channel that want presence, or to be announced.
///
/// They are shown with the info that they came with. Of a refresh with another one their publications
/// tell at once, and this when they come again. (centrifuge writes presence anew every 25 seconds.)
///
/// Every entry comes with a join and goes with the leave that names the same attempt, so that
/// nobody stays who is gone.
#[derive(Debug, Default)]
pub(super) struct Roster {
    members: Few<(ShardId, u32), Entry>,
    /// Of every user that has members; all anonymous ones are one user.
    users: Few<Name, Connections>,
    visible: u32,
    visible_users: u32,
}

/// Connections of one user, by what they want.
#[derive(Debug, Default)]
struct Connections {
    visible: u32,
    announced: u32,
}

#[derive(Debug)]
struct Entry {
    generation: u32,
    wants: Wants,
    info: Arc<MemberInfo>,
}

/// Somebody came or went.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// Who.
    pub(super) info: Arc<MemberInfo>,
    /// It was the user's first connection to come, or its last to go.
    pub(super) of_user: bool,
}

impl Roster {
    /// Takes note of an attempt that was granted; what is to be announced, if it is.
    pub(super) fn join(
        &mut self,
        shard: ShardId,
        sub: SubRef,
        wants: Wants,
        info: &Arc<MemberInfo>,
    ) -> Option<Change> {
        let entry = self.members.entry((shard, sub.index), || Entry {
            generation: sub.generation,
            wants,
            info: Arc::clone(info),
        });
        debug_assert!(
            Arc::ptr_eq(&entry.info, info),
            "the leave of the last tenant stands before this"
        );
        let connections = self.users.entry(Name::clone(&info.user), Connections::default);
        if wants.presence {
            self.visible += 1;
            connections.visible += 1;
            self.visible_users += u32::from(connections.visible == 1);
        }
        wants.join_leave.then(|| {
            connections.announced += 1;
            Change { info: Arc::clone(info), of_user: connections.announced == 1 }
        })
    }

    /// Forgets an attempt; what is to be announced, if it was there and is.
    pub(super) fn leave(&mut self, shard: ShardId, sub: SubRef) -> Option<Change> {
        let key = (shard, sub.index);
        if self.members.get_mut(&key)?.generation != sub.generation {
            return None;
        }
        let Entry { wants, info, .. } = self.members.remove(&key)?;
        let connections = self.users.get_mut(&info.user)?;
        if wants.presence {
            self.visible -= 1;
            connections.visible -= 1;
            self.visible_users -= u32::from(connections.visible == 0);
        }
        connections.announced -= u32::from(wants.join_leave);
        let of_user = connections.announced == 0;
        if of_user && connections.visible == 0 {
            self.users.remove(&info.user);
        }
        wants.join_leave.then_some(Change { info, of_user })
    }

    /// Who is there, in an order that does not change by itself.
    pub(super) fn present(&self) -> Vec<Arc<MemberInfo>> {
        let visible = self.members.values().filter(|entry| entry.wants.presence);
        visible.map(|entry| Arc::clone(&entry.info)).collect()
    }

    /// Connections and users that are there.
    pub(super) fn stats(&self) -> (u32, u32) {
        (self.visible, self.visible_users)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const BOTH: Wants =
        Wants { presence: true, join_leave: true, position: false, recovery: false, cache: false };

    fn info(client: &str, user: &str) -> Arc<MemberInfo> {
        let json = Bytes::from_static(b"{}");
        Arc::new(MemberInfo { client: client.into(), user: user.into(), json })
    }

    fn sub(index: u32, generation: u32) -> SubRef {
        SubRef { index, generation }
    }

    #[test]
    fn a_users_first_and_last_connection_are_known() {
        let mut roster = Roster::default();
        let of_user = |change: Option<Change>| change.map(|change| change.of_user);
        assert_eq!(of_user(roster.join(0, sub(1, 0), BOTH, &info("a", "u"))), Some(true));
        assert_eq!(of_user(roster.join(1, sub(1, 0), BOTH, &info("b", "u"))), Some(false));
        assert_eq!(of_user(roster.join(1, sub(2, 0), BOTH, &info("c", ""))), Some(true));
        assert_eq!(roster.stats(), (3, 2));
        let clients: Vec<_> = roster.present().iter().map(|info| info.client.clone()).collect();
        assert_eq!(clients, ["a", "b", "c"]);
        assert_eq!(of_user(roster.leave(0, sub(1, 0))), Some(false));
        assert_eq!(of_user(roster.leave(1, sub(1, 0))), Some(true));
        assert_eq!(of_user(roster.leave(1, sub(2, 0))), Some(true));
        assert!(roster.is_empty() && roster.users.is_empty());
        assert_eq!(roster.stats(), (0, 0));
    }

    #[test]
    fn a_late_leave_does_not_take_the_next_tenant() {
        let mut roster = Roster::default();
        roster.join(0, sub(1, 5), BOTH, &info("a", "u"));
        assert_eq!(roster.leave(0, sub(1, 4)), None);
        assert_eq!(roster.leave(2, sub(1, 5)), None);
        assert_eq!(roster.stats(), (1, 1));
    }

    #[test]
    fn who_wants_one_thing_gets_that_alone() {
        let mut roster = Roster::default();
        let seen = Wants { presence: true, ..Wants::default() };
        let announced = Wants { join_leave: true, ..Wants::default() };
        assert_eq!(roster.join(0, sub(1, 0), seen, &info("a", "u")), None);
        assert!(roster.join(0, sub(2, 0), announced, &info("b", "u")).is_some_and(|c| c.of_user));
        assert_eq!((roster.stats(), roster.present().len()), ((1, 1), 1));
        assert_eq!(roster.leave(0, sub(1, 0)), None);
        assert!(roster.leave(0, sub(2, 0)).is_some_and(|change| change.of_user));
    }
}
