//! A map that costs little while it is small: most channels have few members, and there are many channels.

use std::collections::BTreeMap;

/// So many entries stand in a list; more of them in a tree, whose first entry takes the room of eleven.
const FEW: usize = 8;

/// A map in the order of its keys.
#[derive(Debug)]
pub(super) enum Few<K, V> {
    /// In the order of their keys.
    List(Vec<(K, V)>),
    /// Once there were more than [`FEW`], until it is empty.
    Tree(BTreeMap<K, V>),
}

impl<K, V> Default for Few<K, V> {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

impl<K: Ord, V> Few<K, V> {
    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match self {
            Self::List(list) => {
                let at = list.binary_search_by(|(known, _)| known.cmp(key)).ok()?;
                Some(&mut list[at].1)
            }
            Self::Tree(tree) => tree.get_mut(key),
        }
    }

    /// The value of a key, made by `make` if there is none.
    pub(super) fn entry(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        if let Self::List(list) = self
            && list.len() == FEW
            && list.binary_search_by(|(known, _)| known.cmp(&key)).is_err()
        {
            *self = Self::Tree(std::mem::take(list).into_iter().collect());
        }
        match self {
            Self::List(list) => {
                let at = match list.binary_search_by(|(known, _)| known.cmp(&key)) {
                    Ok(at) => at,
                    Err(at) => {
                        // Four places at once would be most of the memory of one.
                        if list.is_empty() {
                            list.reserve_exact(1);
                        }
                        list.insert(at, (key, make()));
                        at
                    }
                };
                &mut list[at].1
            }
            Self::Tree(tree) => tree.entry(key).or_insert_with(make),
        }
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        match self {
            Self::List(list) => {
                let at = list.binary_search_by(|(known, _)| known.cmp(key)).ok()?;
                Some(list.remove(at).1)
            }
            Self::Tree(tree) => {
                let removed = tree.remove(key);
                if tree.is_empty() {
                    *self = Self::default();
                }
                removed
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::List(list) => list.is_empty(),
            Self::Tree(tree) => tree.is_empty(),
        }
    }

    /// In the order of the keys.
    pub(super) fn values(&self) -> Box<dyn Iterator<Item = &V> + '_> {
        match self {
            Self::List(list) => Box::new(list.iter().map(|(_, value)| value)),
            Self::Tree(tree) => Box::new(tree.values()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map_small_or_large(steps in prop::collection::vec((any::<bool>(), 0_u8..24, any::<u8>()), 0..200)) {
            let (mut few, mut model) = (Few::default(), BTreeMap::new());
            for (insert, key, value) in steps {
                if insert {
                    prop_assert_eq!(few.entry(key, || value), model.entry(key).or_insert(value));
                } else {
                    prop_assert_eq!(few.remove(&key), model.remove(&key));
                }
                prop_assert_eq!(few.get_mut(&key), model.get_mut(&key));
                prop_assert!(few.values().eq(model.values()));
                prop_assert_eq!(few.is_empty(), model.is_empty());
            }
        }
    }

    #[test]
    fn what_was_large_and_is_empty_is_small_again() {
        let mut few = Few::default();
        (0..=FEW).for_each(|key| *few.entry(key, || 0) += key);
        assert!(matches!(few, Few::Tree(_)));
        (0..=FEW).for_each(|key| assert_eq!(few.remove(&key), Some(key)));
        assert!(matches!(few, Few::List(_)));
    }
}
