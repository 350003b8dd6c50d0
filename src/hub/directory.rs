//! The channels with subscribers that live on this shard, by name and by number.

use std::{collections::HashMap, sync::Arc};

use super::{HashKey, channel::Channel};
use crate::{channels::ChannelOptions, protocol::Name};

/// A table whose places do not move, so that a walk over it can go on in a later turn.
#[derive(Debug)]
pub(super) struct Directory {
    numbers: HashMap<Name, u32, HashKey>,
    places: Vec<Option<Channel>>,
    free: Vec<u32>,
}

impl Directory {
    pub(super) fn new(key: HashKey) -> Self {
        Self { numbers: HashMap::with_hasher(key), places: Vec::new(), free: Vec::new() }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Channel> {
        self.places[*self.numbers.get(name)? as usize].as_ref()
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Channel> {
        self.places[*self.numbers.get(name)? as usize].as_mut()
    }

    /// The channel, made if need be.
    pub(super) fn enter(&mut self, name: &Name, options: &Arc<ChannelOptions>) -> &mut Channel {
        let number = match self.numbers.get(name) {
            Some(&number) => number,
            None => {
                let number = self.free.pop().unwrap_or_else(|| {
                    self.places.push(None);
                    (self.places.len() - 1) as u32
                });
                self.numbers.insert(Name::clone(name), number);
                number
            }
        };
        let place = &mut self.places[number as usize];
        place.get_or_insert_with(|| Channel::new(Name::clone(name), Arc::clone(options)))
    }

    pub(super) fn remove(&mut self, name: &Name) {
        if let Some(number) = self.numbers.remove(name) {
            self.places[number as usize] = None;
            self.free.push(number);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// The channels of a stretch of places, and where the next stretch begins, if there is one.
    pub(super) fn stretch(
        &self,
        from: usize,
        places: usize,
    ) -> (impl Iterator<Item = &Channel>, Option<usize>) {
        let to = self.places.len().min(from.saturating_add(places));
        let stretch = self.places.get(from..to).unwrap_or_default();
        (stretch.iter().flatten(), (to < self.places.len()).then_some(to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_reused_and_walked_in_stretches() {
        let mut directory = Directory::new(HashKey(1, 2));
        let options = Arc::default();
        for name in ["a", "b", "c"] {
            directory.enter(&name.into(), &options);
        }
        directory.remove(&"b".into());
        directory.enter(&"d".into(), &options);
        directory.enter(&"a".into(), &options).sequence = 7;
        assert_eq!((directory.len(), directory.get("a").unwrap().sequence), (3, 7));
        assert!(directory.get("b").is_none());
        let names = |from, places| {
            let (channels, next) = directory.stretch(from, places);
            (channels.map(|channel| channel.name.to_string()).collect::<Vec<_>>(), next)
        };
        assert_eq!(names(0, 2), (vec!["a".into(), "d".into()], Some(2)));
        assert_eq!(names(2, 2), (vec!["c".into()], None));
        assert_eq!(names(9, 2), (vec![], None));
    }
}
