//! Messages to many connections: who may get each, who must, and of how many its sender is told.

use std::collections::{BTreeMap, BTreeSet};

use super::{oracle::name, random::Random, settings};

/// To whom one goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum To {
    All,
    User(String),
    Channel(usize),
}

impl To {
    /// Any, or this channel.
    pub fn any(channel: usize, random: &mut Random) -> Self {
        match random.below(3) {
            0 => Self::All,
            1 => Self::User(random.pick(settings::users()).name.clone()),
            _ => Self::Channel(channel),
        }
    }

    /// In one word.
    pub fn word(&self) -> String {
        match self {
            Self::All => "*".to_owned(),
            Self::User(user) => format!("@{user}"),
            Self::Channel(channel) => name(*channel),
        }
    }
}

/// What its sender was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing, or not yet.
    Nothing,
    Refused,
    /// Connections for which it was queued, and those that could not take it.
    Counted(u32, u32),
}

/// One of them.
#[derive(Debug)]
struct Letter {
    sender: usize,
    to: To,
    except: Option<usize>,
    sent_at: u64,
    told_at: u64,
    told: Told,
    got: BTreeSet<usize>,
    /// Nothing of it is under way any more.
    checked: bool,
}

/// A time for which a connection is a user's, or nobody's, by its own wish.
#[derive(Debug)]
struct Spell {
    tag: u32,
    user: String,
    /// When it was told so.
    since: Option<u64>,
    /// When it asked for another one.
    ends_at: Option<u64>,
    /// When it was told that it is over.
    over_at: Option<u64>,
}

/// What is known of a connection.
#[derive(Debug, Default)]
struct Receiver {
    /// When it asked to be somebody who takes messages.
    asked_at: Option<u64>,
    /// When it was told that it takes messages.
    open_at: Option<u64>,
    over_at: Option<u64>,
    spells: Vec<Spell>,
}

/// Somebody who is there, when nothing is under way.
#[derive(Debug)]
pub struct Present {
    pub client: usize,
    /// Its channels, and since when.
    pub channels: Vec<(usize, u64)>,
}

/// All of a world.
#[derive(Debug, Default)]
pub struct Letters {
    letters: BTreeMap<u64, Letter>,
    receivers: BTreeMap<usize, Receiver>,
    /// The last that a receiver got of a sender to the same.
    last: BTreeMap<(usize, usize, To), u64>,
    /// Who ever wanted to be in which channel.
    readers: BTreeSet<(usize, usize)>,
    /// When nothing was under way.
    rests: Vec<u64>,
    /// Those that somebody got.
    pub got: u64,
    /// Counts that were compared with the truth, and those that there was only one for.
    pub counted: u64,
    pub exact: u64,
    /// Users that connections got and did not get.
    pub users_set: u64,
    pub users_refused: u64,
}

impl Letters {
    /// A connection was accepted.
    pub fn came(&mut self, client: usize) {
        self.receivers.insert(client, Receiver::default());
    }

    /// A connection asks to be one that takes messages.
    pub fn asks(&mut self, client: usize, now: u64) {
        self.receiver(client).asked_at = Some(now);
    }

    /// A connection was told that it takes messages.
    pub fn opened(&mut self, client: usize, now: u64) {
        self.receiver(client).open_at = Some(now);
    }

    pub fn over(&mut self, client: usize, now: u64) {
        self.receiver(client).over_at.get_or_insert(now);
    }

    /// A connection wants to be in a channel, or a backend wants it to be.
    pub fn reads(&mut self, client: usize, channel: usize) {
        self.readers.insert((client, channel));
    }

    fn receiver(&mut self, client: usize) -> &mut Receiver {
        self.receivers.get_mut(&client).expect("it has come")
    }

    /// A connection wants to be a user's; the empty one is nobody.
    pub fn asks_for_user(&mut self, client: usize, tag: u32, user: &str, now: u64) {
        let spells = &mut self.receiver(client).spells;
        spells.iter_mut().for_each(|spell| _ = spell.ends_at.get_or_insert(now));
        let user = user.to_owned();
        spells.push(Spell { tag, user, since: None, ends_at: None, over_at: None });
    }

    /// What became of that.
    pub fn user_answered(&mut self, client: usize, tag: u32, is_set: bool, now: u64) {
        *(if is_set { &mut self.users_set } else { &mut self.users_refused }) += 1;
        let spells = &mut self.receiver(client).spells;
        let at = spells.iter().position(|spell| spell.tag == tag).expect("it asked");
        let over = if is_set { &mut spells[..at] } else { &mut spells[..=at] };
        over.iter_mut().for_each(|spell| _ = spell.over_at.get_or_insert(now));
        spells[at].since = is_set.then_some(now);
    }

    /// Whose a connection is when everything is answered.
    pub fn user_of(&self, client: usize) -> Option<&str> {
        let spell = self.receivers.get(&client)?.spells.last()?;
        spell.since.map(|_| &*spell.user).filter(|user| !user.is_empty())
    }

    /// Whether a connection ever wanted to be a user's.
    pub fn wanted_user(&self, client: usize, user: &str) -> bool {
        let receiver = self.receivers.get(&client);
        receiver.is_some_and(|receiver| receiver.spells.iter().any(|spell| spell.user == user))
    }

    pub fn sent(&mut self, id: u64, sender: usize, to: To, except: Option<usize>, sent_at: u64) {
        let (told_at, told, got, checked) = (0, Told::Nothing, BTreeSet::new(), false);
        let letter = Letter { sender, to, except, sent_at, told_at, told, got, checked };
        self.letters.insert(id, letter);
    }

    pub fn told(&mut self, id: u64, told: Told, now: u64) {
        let letter = self.letters.get_mut(&id).expect("it was sent");
        assert_eq!(letter.told, Told::Nothing, "{id} was answered twice");
        assert!(told != Told::Refused || letter.got.is_empty(), "{id} was refused and came");
        (letter.told, letter.told_at) = (told, now);
    }

    /// How many were refused, and how many counted.
    pub fn answers(&self) -> (usize, usize) {
        let told =
            |is: fn(Told) -> bool| self.letters.values().filter(|letter| is(letter.told)).count();
        (told(|told| told == Told::Refused), told(|told| matches!(told, Told::Counted(..))))
    }

    /// Whether it is for connections as such, and not for a channel.
    pub fn is_direct(&self, id: u64) -> bool {
        self.letters.get(&id).is_some_and(|letter| !matches!(letter.to, To::Channel(_)))
    }

    /// A client got one; of publications most are none.
    pub fn got(&mut self, id: u64, client: usize) {
        let Some(letter) = self.letters.get_mut(&id) else { return };
        self.got += 1;
        assert!(letter.got.insert(client), "{id} came twice to {client}: {letter:?}");
        assert!(!letter.checked, "{id} came to {client} when nothing was under way");
        assert_ne!(letter.except, Some(client), "{id} came to whom it is not for");
        assert_ne!(letter.told, Told::Refused, "{id} was refused and came to {client}");
        let Letter { sender, to, sent_at, .. } = letter;
        let key = (client, *sender, to.clone());
        let last = self.last.insert(key, id);
        let is_channel = matches!(to, To::Channel(_));
        assert!(is_channel || last.is_none_or(|last| last < id), "{id} came behind {last:?}");
        if let To::User(user) = to {
            let rest = rest_before(&self.rests, *sent_at);
            let receiver = &self.receivers[&client];
            assert!(receiver.may_be(user, rest), "{id} for {user} came to {client}: {receiver:?}");
        }
    }

    /// Nothing is under way, and these are there; `peace`: nobody came or went meanwhile.
    pub fn check(&mut self, present: &[Present], peace: bool, now: u64) {
        for (id, letter) in self.letters.iter_mut().filter(|(_, letter)| !letter.checked) {
            letter.checked = true;
            let Told::Counted(queued, failed) = letter.told else { continue };
            let must = present.iter().filter(|present| {
                letter.except != Some(present.client)
                    && self.receivers[&present.client].must_get(letter, &present.channels)
            });
            let must: BTreeSet<usize> = must.map(|present| present.client).collect();
            let all = match letter.to {
                To::All => true,
                To::User(_) => failed == 0,
                // Whether all is there of a channel's is known of the channel.
                To::Channel(_) => false,
            };
            assert!(!all || must.is_subset(&letter.got), "{id}: {letter:?}, not all of {must:?}");
            assert!(letter.got.len() <= queued as usize, "{id} came too often: {letter:?}");
            let rest = rest_before(&self.rests, letter.sent_at);
            let may = self.receivers.iter().filter(|(client, receiver)| {
                let reads = |channel| self.readers.contains(&(**client, channel));
                let is_reader = !matches!(letter.to, To::Channel(channel) if !reads(channel));
                // A home does not know where in a channel the one is that it is not for.
                let is_channel = matches!(letter.to, To::Channel(_));
                let is_excepted = letter.except == Some(**client);
                let is_meant = is_reader && (!is_excepted || is_channel && failed > 0);
                // In peace only what comes is too much for a connection or a subscription.
                let is_over = receiver.over_at.is_some_and(|over| over >= letter.sent_at);
                let all_got = letter.got.len() == (queued + failed) as usize;
                let is_lost = !all_got && is_channel;
                let was_there = letter.got.contains(client) || must.contains(client);
                let may_be = !peace || is_over || is_lost || was_there;
                is_meant && may_be && receiver.may_get(letter, rest)
            });
            let (least, most, count) = (must.len(), may.count(), (queued + failed) as usize);
            assert!((least..=most).contains(&count), "{least} to {most} are not {letter:?}");
            self.counted += 1;
            self.exact += u64::from(least == most && count > 0);
        }
        self.rests.push(now);
    }
}

/// The last time before this when nothing was under way.
fn rest_before(rests: &[u64], at: u64) -> u64 {
    rests.iter().rev().find(|rest| **rest <= at).copied().unwrap_or_default()
}

impl Receiver {
    /// Whether its user's home may know it as this one's.
    fn may_be(&self, user: &str, rest: u64) -> bool {
        let mut spells = self.spells.iter();
        spells.any(|spell| spell.user == user && spell.over_at.is_none_or(|over| over >= rest))
    }

    fn must_get(&self, letter: &Letter, channels: &[(usize, u64)]) -> bool {
        let was = |at: Option<u64>| at.is_some_and(|at| at < letter.sent_at);
        match &letter.to {
            To::All => was(self.open_at),
            To::User(user) if user.is_empty() => false,
            To::User(user) => self
                .spells
                .iter()
                .any(|spell| spell.user == *user && was(spell.since) && spell.ends_at.is_none()),
            To::Channel(channel) => {
                channels.iter().any(|(of, since)| of == channel && was(Some(*since)))
            }
        }
    }

    fn may_get(&self, letter: &Letter, rest: u64) -> bool {
        let is_there = |before: u64| self.over_at.is_none_or(|over| over >= before);
        let in_time = self.asked_at.is_some_and(|asked| asked < letter.told_at);
        in_time
            && match &letter.to {
                To::All => is_there(letter.sent_at),
                To::User(user) => !user.is_empty() && is_there(rest) && self.may_be(user, rest),
                To::Channel(_) => is_there(rest),
            }
    }
}
