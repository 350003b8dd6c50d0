//! Immutable bytes at a stable address, shared inside one shard by a count that is not atomic.

use std::ops::Deref;
use std::rc::Rc;

use bytes::Bytes;

/// Bytes that a shard sends to many connections. A clone costs one non-atomic increment, never a copy.
///
/// The bytes neither move nor change while a clone lives: [`super::ring::Ring::send`] relies on it, because the kernel
/// reads them after the call has returned.
#[derive(Clone, Debug)]
pub struct SharedBytes(Rc<Owner>);

#[derive(Debug)]
enum Owner {
    Vec(Vec<u8>),
    Bytes(Bytes),
}

impl SharedBytes {
    /// How many clones of these bytes live on this shard, this one included; a send in flight counts as one.
    #[must_use]
    pub fn holders(&self) -> usize {
        Rc::strong_count(&self.0)
    }
}

impl From<Vec<u8>> for SharedBytes {
    fn from(bytes: Vec<u8>) -> Self {
        SharedBytes(Rc::new(Owner::Vec(bytes)))
    }
}

impl From<Bytes> for SharedBytes {
    fn from(bytes: Bytes) -> Self {
        SharedBytes(Rc::new(Owner::Bytes(bytes)))
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &*self.0 {
            Owner::Vec(bytes) => bytes,
            Owner::Bytes(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_source_is_copied() {
        let vec = b"from a vector".to_vec();
        let address = vec.as_ptr();
        assert_eq!(SharedBytes::from(vec).as_ptr(), address);
        let bytes = Bytes::from(b"from bytes".to_vec());
        let shared = SharedBytes::from(bytes.clone());
        assert_eq!(shared.as_ptr(), bytes.as_ptr());
        assert_eq!(&*shared, b"from bytes");
    }

    #[test]
    fn a_clone_shares_and_is_counted() {
        let first = SharedBytes::from(vec![7; 100]);
        let second = first.clone();
        assert_eq!((first.as_ptr(), first.holders()), (second.as_ptr(), 2));
        drop(second);
        assert_eq!(first.holders(), 1);
    }
}
