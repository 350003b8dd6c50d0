//! Who comes and goes in one channel, as one subscriber that asked for it is told.

use std::collections::BTreeMap;

/// What one subscription was told.
#[derive(Clone, Debug, Default)]
pub struct Members {
    /// Who was last told to have come, or gone.
    present: BTreeMap<String, bool>,
    /// Somebody came or went twice: an announcement is missing between.
    pub skipped: bool,
}

impl Members {
    /// Somebody came or went: a client, or a user where only its first and last count.
    pub fn told(&mut self, who: &str, came: bool) {
        let before = self.present.insert(who.to_owned(), came);
        self.skipped |= before == Some(came);
    }

    /// Nothing is under way any more: whether what was told is true. `there` are all that are
    /// there, `late` those of them that came when this was there already.
    pub fn is_true(&self, there: &[String], late: &[String]) -> bool {
        let told = |(who, came): (&String, &bool)| there.contains(who) == *came;
        !self.skipped
            && self.present.iter().all(told)
            && late.iter().all(|who| self.present.contains_key(who))
    }
}
