//! Links: one bounded queue for every ordered pair of shards, each with one pusher and one taker.
//!
//! A link is FIFO. It never waits: a full one gives the message back, and what then happens is
//! decided above. Pushing wakes nobody; see [`super::sleep`].

use rtrb::{Consumer, Producer, RingBuffer};

/// The ends that one shard has: towards every other shard, and from every other. Made together by
/// [`mesh`], then moved to the shards.
pub struct Ports<T> {
    /// By receiving shard; none at the own index.
    outward: Vec<Option<Producer<T>>>,
    /// By sending shard; none at the own index.
    inward: Vec<Option<Consumer<T>>>,
}

/// Links all `shards` with each other, `entries` messages per link. The ports are in the order of
/// the shards. A shard has no link to itself.
#[must_use]
pub fn mesh<T: Send>(shards: usize, entries: usize) -> Vec<Ports<T>> {
    let mut ports: Vec<Ports<T>> =
        (0..shards).map(|_| Ports { outward: Vec::new(), inward: Vec::new() }).collect();
    for from in 0..shards {
        for to in 0..shards {
            let ends = (from != to).then(|| RingBuffer::new(entries));
            let (producer, consumer) = ends.unzip();
            ports[from].outward.push(producer);
            ports[to].inward.push(consumer);
        }
    }
    ports
}

impl<T> Ports<T> {
    /// Puts a message at the end of the link to shard `to`.
    ///
    /// # Errors
    /// The link is full, or its shard has ended: the message comes back.
    ///
    /// # Panics
    /// `to` is this shard or does not exist.
    pub fn push(&mut self, to: usize, message: T) -> Result<(), T> {
        let link = self.outward[to].as_mut().expect("a shard has no link to itself");
        if link.is_abandoned() {
            return Err(message);
        }
        link.push(message).map_err(|rtrb::PushError::Full(message)| message)
    }

    /// Takes the oldest message of the link from shard `from`; none if there is none, or `from` is
    /// this shard.
    pub fn take(&mut self, from: usize) -> Option<T> {
        self.inward[from].as_mut()?.pop().ok()
    }

    /// Whether the link from shard `from` has nothing now. True for this shard itself.
    #[must_use]
    pub fn is_empty(&self, from: usize) -> bool {
        self.inward[from].as_ref().is_none_or(Consumer::is_empty)
    }

    /// Whether no link has anything for this shard now.
    #[must_use]
    pub fn all_empty(&self) -> bool {
        (0..self.inward.len()).all(|from| self.is_empty(from))
    }

    /// How many shards the mesh has, this one included.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.inward.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_in_order_and_at_the_right_shard() {
        let mut ports = mesh::<(usize, u32)>(3, 8);
        for (from, ports) in ports.iter_mut().enumerate() {
            for to in (0..3).filter(|&to| to != from) {
                for number in 0..4 {
                    ports.push(to, (from * 10 + to, number)).unwrap();
                }
            }
        }
        for (to, ports) in ports.iter_mut().enumerate() {
            assert!(ports.is_empty(to) && ports.take(to).is_none());
            for from in (0..3).filter(|&from| from != to) {
                assert!(!ports.is_empty(from));
                let taken: Vec<_> = std::iter::from_fn(|| ports.take(from)).collect();
                assert_eq!(
                    taken,
                    (0..4).map(|number| (from * 10 + to, number)).collect::<Vec<_>>()
                );
            }
            assert!(ports.all_empty());
        }
    }

    #[test]
    fn a_full_link_gives_the_message_back_and_accepts_again_later() {
        let mut ports = mesh::<u32>(2, 2);
        assert_eq!((ports[0].push(1, 1), ports[0].push(1, 2)), (Ok(()), Ok(())));
        assert_eq!(ports[0].push(1, 3), Err(3));
        assert_eq!(ports[1].push(0, 9), Ok(()), "the other direction is another link");
        assert_eq!(ports[1].take(0), Some(1));
        assert_eq!(ports[0].push(1, 3), Ok(()));
        assert_eq!(
            (ports[1].take(0), ports[1].take(0), ports[1].take(0)),
            (Some(2), Some(3), None)
        );
    }

    #[test]
    fn the_link_to_an_ended_shard_takes_nothing() {
        let mut ports = mesh::<u32>(2, 2);
        ports.pop();
        assert_eq!(ports[0].push(1, 1), Err(1));
    }

    #[test]
    fn one_shard_has_no_links() {
        let mut ports = mesh::<u32>(1, 2);
        assert!(ports[0].all_empty());
        assert_eq!((ports[0].shards(), ports[0].take(0)), (1, None));
    }
}
