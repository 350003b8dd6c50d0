//! What a world may do wrong on purpose: the oracle must notice each, or it proves nothing.

use tiderace::mutations;

/// A fault of the fake kernel or of the fake links that no real one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A message overtakes all others on its link.
    LinkReorders,
    /// A link loses a leave.
    LinkDropsLeave,
    /// A link loses a publication on its way from its home.
    LinkDropsPublication,
    /// A link brings a publication twice.
    LinkDoublesPublication,
    /// A receive brings the same bytes twice.
    ReceiveDoubles,
    /// A short send says that it took more than it did.
    SendOverstates,
    /// A completion of a slot's former tenant names the next one.
    LateCompletion,
    /// The end of a stream is confirmed before its shard has heard of it: a grant does not wait.
    ConfirmsUnheard,
    /// The confirmation of a stream's end is lost.
    LosesStreamEnd,
}

impl Mutation {
    /// Those that worlds of channels must notice.
    pub const OF_CHANNELS: [Self; 7] = [
        Self::LinkReorders,
        Self::LinkDropsLeave,
        Self::LinkDropsPublication,
        Self::LinkDoublesPublication,
        Self::ReceiveDoubles,
        Self::SendOverstates,
        Self::LateCompletion,
    ];
    /// Those that worlds of devices must notice.
    pub const OF_LEASES: [Self; 3] =
        [Self::LinkReorders, Self::ConfirmsUnheard, Self::LosesStreamEnd];
}

/// What is wrong in a world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wrong {
    /// In what stands in for the kernel and the links.
    pub fake: Option<Mutation>,
    /// In the product itself.
    pub product: Option<mutations::Mutation>,
}

impl Wrong {
    /// Nothing: all that fails is a fault of the product.
    pub const NOTHING: Self = Self { fake: None, product: None };

    pub fn fake(mutation: Mutation) -> Self {
        Self { fake: Some(mutation), product: None }
    }

    pub fn is_something(self) -> bool {
        self != Self::NOTHING
    }
}

/// The product is wrong on this thread until this is dropped.
pub struct Switched;

impl Switched {
    #[cfg(feature = "simulation")]
    pub fn on(wrong: Wrong) -> Self {
        mutations::switch(wrong.product);
        Self
    }

    #[cfg(not(feature = "simulation"))]
    pub fn on(wrong: Wrong) -> Self {
        assert!(wrong.product.is_none(), "the product was built without its mutations");
        Self
    }
}

impl Drop for Switched {
    fn drop(&mut self) {
        #[cfg(feature = "simulation")]
        mutations::switch(None);
    }
}
