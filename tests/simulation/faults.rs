//! What a world may do wrong on purpose: the oracle must notice each, or it proves nothing.

/// A fault of the fake kernel or of the fake links that no real one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A link swaps two messages.
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
}

impl Mutation {
    pub const ALL: [Self; 7] = [
        Self::LinkReorders,
        Self::LinkDropsLeave,
        Self::LinkDropsPublication,
        Self::LinkDoublesPublication,
        Self::ReceiveDoubles,
        Self::SendOverstates,
        Self::LateCompletion,
    ];
}
