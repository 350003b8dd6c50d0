//! Mistakes that the simulation makes the product commit, to see that it notices each of them.
//!
//! Compiled in with the feature `simulation` alone; without it [`is_on`] is a constant `false`.

/// One mistake, in the terms of the design that it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A grant is taken for whatever attempt has the place now.
    SkipsSubscriptionGeneration,
    /// A message is taken for whatever connection has the slot now.
    SkipsConnectionGeneration,
    /// Generations of slots come round after four tenants.
    NarrowsGenerations,
    /// A subscription is active from its request on, not from its grant.
    ActivatesAtRequest,
    /// The home joins publications to the end of its turn: what else it says overtakes them.
    HomeJoins,
    /// What a turn brought to a channel before a grant goes to the new subscriber too.
    SkipsSealAtGrant,
    /// A connection's descriptor is closed although the kernel still works for it.
    FreesSlotAtClose,
    /// A leave that finds a full link is forgotten.
    DropsLeaveOnFullLink,
    /// An answer takes the end of the queue instead of the place that its request reserved.
    AnswersOutOfPlace,
    /// The second round of a drain's markers does not wait for the first.
    MarksOnce,
}

impl Mutation {
    /// Every mistake.
    pub const ALL: [Self; 10] = [
        Self::SkipsSubscriptionGeneration,
        Self::SkipsConnectionGeneration,
        Self::NarrowsGenerations,
        Self::ActivatesAtRequest,
        Self::HomeJoins,
        Self::SkipsSealAtGrant,
        Self::FreesSlotAtClose,
        Self::DropsLeaveOnFullLink,
        Self::AnswersOutOfPlace,
        Self::MarksOnce,
    ];
}

#[cfg(feature = "simulation")]
mod switch {
    use std::cell::Cell;

    use super::Mutation;

    thread_local! {
        /// A world lives on one thread, so that worlds of other threads stay sound.
        static ON: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// What everything on this thread does wrong from here on.
    pub fn switch(mutation: Option<Mutation>) {
        ON.set(mutation);
    }

    pub(crate) fn is_on(mutation: Mutation) -> bool {
        ON.get() == Some(mutation)
    }
}

#[cfg(feature = "simulation")]
pub(crate) use switch::is_on;
#[cfg(feature = "simulation")]
pub use switch::switch;

/// Whether the code around it is to be wrong.
#[cfg(not(feature = "simulation"))]
#[inline(always)]
pub(crate) const fn is_on(_: Mutation) -> bool {
    false
}
