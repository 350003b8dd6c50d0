//! Mistakes that the simulation makes the product commit, to see that it notices each of them.
//!
//! Compiled in with the feature `simulation` alone; without it `is_on` is a constant `false`.

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
    /// Who recovers gets all that it missed but for the oldest of it.
    RecoversTooLittle,
    /// A grant says that the subscription begins one publication earlier than it does.
    DatesGrantBack,
    /// A stream that has no room loses its newest publication.
    EvictsNewest,
    /// The streams of a shard have one epoch.
    RepeatsEpoch,
    /// A full link loses publications, and nobody is told.
    HidesGap,
    /// A full link loses publications, and who came after the first of them is not told.
    TellsGapOnce,
    /// Who has lost its position stays where it is until it is told.
    DeliversBehindGap,
    /// Who left a channel stays present.
    KeepsGonePresent,
    /// Who is refreshed is shown as before.
    KeepsFormerInfo,
    /// Nobody is told who leaves.
    HidesLeaves,
    /// A user's home forgets no connection.
    KeepsGoneUser,
    /// A client is told that it is connected before its user's home knows.
    ConnectsBeforeHome,
    /// A connect command waits for the grant of a subscription that has ended.
    WaitsForEnded,
    /// A user has one connection more than it may.
    AdmitsConnection,
    /// A channel has one subscriber more than it may.
    AdmitsSubscriber,
    /// A message to many comes to the one that it is not for.
    SendsToExcepted,
    /// Of a user's connections those whose shard is behind are not counted.
    HidesUnsent,
    /// A message to all connections forgets where it was when its turn was over.
    EndsWalkWithTurn,
    /// A connection that is another user's stays the former one's too.
    KeepsFormerUser,
    /// Of all who miss something in a gap the first alone is counted.
    FreezesMissed,
    /// Of all publications that others overtake those of the first time alone are counted.
    FreezesOvertaken,
    /// Of all that waits for a slow one the newest is kept, of whatever key.
    OvertakesEveryKey,
    /// Histories never lack room.
    KeepsBeyondBytes,
    /// A history is as long as it comes.
    KeepsBeyondSize,
    /// A history is kept a thousand times as long as it should be.
    KeepsBeyondTtl,
    /// A link is never full of publications.
    FillsFullLink,
    /// A subscription that was not refreshed goes on.
    KeepsExpired,
    /// Who waits for a grant is told that it lives as long as its client wants.
    ProlongsPending,
    /// A subscription does not expire any more once its client has asked for its end in vain.
    ForgetsExpiry,
}

impl Mutation {
    /// Every mistake.
    pub const ALL: [Self; 39] = [
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
        Self::RecoversTooLittle,
        Self::DatesGrantBack,
        Self::EvictsNewest,
        Self::RepeatsEpoch,
        Self::HidesGap,
        Self::TellsGapOnce,
        Self::DeliversBehindGap,
        Self::KeepsGonePresent,
        Self::KeepsFormerInfo,
        Self::HidesLeaves,
        Self::KeepsGoneUser,
        Self::ConnectsBeforeHome,
        Self::WaitsForEnded,
        Self::AdmitsConnection,
        Self::AdmitsSubscriber,
        Self::SendsToExcepted,
        Self::HidesUnsent,
        Self::EndsWalkWithTurn,
        Self::KeepsFormerUser,
        Self::FreezesMissed,
        Self::FreezesOvertaken,
        Self::OvertakesEveryKey,
        Self::KeepsBeyondBytes,
        Self::KeepsBeyondSize,
        Self::KeepsBeyondTtl,
        Self::FillsFullLink,
        Self::KeepsExpired,
        Self::ProlongsPending,
        Self::ForgetsExpiry,
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
