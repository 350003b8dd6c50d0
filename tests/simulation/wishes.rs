//! What a client asks of a subscription beyond publications, and whether it got that.

use std::collections::BTreeMap;

use super::{
    expiry::{self, Expiry},
    features::Features,
    lines::Subscribed,
    members::Members,
    oracle::{Oracle, name},
    positions::Position,
    random::Random,
    window::{Promise, Window},
};

/// Where a client was in each channel when it saw something of it last; outlives its connection.
pub type Memory = BTreeMap<usize, Position>;

/// One subscribe of one client.
#[derive(Debug)]
pub struct Wish {
    pub channel: usize,
    /// When it was asked for.
    asked_at: u64,
    asked_unix_s: u64,
    /// A token, and until when what it allows lives; 0: for ever.
    token: Option<(String, u64)>,
    /// It was the client's.
    asked: bool,
    positioned: bool,
    recoverable: bool,
    join_leave: bool,
    /// Where it says that it was.
    since: Option<Position>,
    /// No publication was ever there.
    invented: bool,
    /// Rather not at all than without what it missed.
    rejects: bool,
}

impl Wish {
    /// Anything, in the channels of a world with these features.
    pub fn any(
        channel: usize,
        memory: &Memory,
        features: Features,
        oracle: &mut Oracle,
        random: &mut Random,
    ) -> Self {
        let mut wish = Self {
            channel,
            asked_at: oracle.tick(),
            asked_unix_s: oracle.clocks.unix_s(),
            token: None,
            asked: true,
            positioned: features.history.is_some() && random.chance(60),
            recoverable: features.history.is_some() && random.chance(50),
            join_leave: features.join_leave && random.chance(70),
            since: None,
            invented: false,
            rejects: false,
        };
        if features.history.is_none() {
            return wish;
        }
        if random.chance(3) {
            let epoch = random.pick(&["", "nothing"]).to_string();
            wish.since = Some(Position { epoch, offset: 1_000_000 });
            wish.invented = true;
        } else if random.chance(70) {
            wish.since = memory.get(&channel).cloned();
            if let Some(since) = wish.since.as_mut().filter(|_| random.chance(5)) {
                since.epoch.clear();
            }
        }
        wish.rejects = random.chance(15);
        wish
    }

    /// What the server's own subscribe has.
    pub fn none(channel: usize) -> Self {
        Self {
            channel,
            asked_at: 0,
            asked_unix_s: 0,
            token: None,
            asked: false,
            positioned: false,
            recoverable: false,
            join_leave: false,
            since: None,
            invented: false,
            rejects: false,
        }
    }

    /// With a token of the user's for the channel.
    pub fn allowed(&mut self, user: &str, random: &mut Random) {
        let until = expiry::any(self.asked_unix_s, random);
        self.token = Some((expiry::token(user, self.channel, until, random), until));
    }

    /// Whether its token was over already.
    pub fn is_late(&self, unix_s: u64) -> bool {
        self.token.as_ref().is_some_and(|(_, until)| *until != 0 && *until <= unix_s)
    }

    /// As fields of a subscribe request, without the channel.
    pub fn fields(&self) -> Vec<String> {
        let flags = [
            ("positioned", self.positioned),
            ("recoverable", self.recoverable),
            ("join_leave", self.join_leave),
            ("recover", self.since.is_some()),
        ];
        let flags = flags.into_iter().filter(|(_, is)| *is);
        let mut fields: Vec<String> = flags.map(|(flag, _)| format!(r#""{flag}":true"#)).collect();
        if let Some(Position { epoch, offset }) = &self.since {
            fields.push(format!(r#""epoch":"{epoch}","offset":{offset}"#));
        }
        if let Some((token, _)) = &self.token {
            fields.push(format!(r#""token":"{token}""#));
        }
        if self.rejects {
            fields.push(r#""flag":2"#.to_owned());
        }
        fields
    }

    /// As a whole subscribe request.
    pub fn request(&self) -> String {
        let mut fields = vec![format!(r#""channel":"{}""#, name(self.channel))];
        fields.extend(self.fields());
        format!("{{{}}}", fields.join(","))
    }

    /// It could not recover, and wanted nothing else.
    pub fn rejected(&self, oracle: &mut Oracle) {
        assert!(self.rejects && self.since.is_some(), "{self:?}");
        oracle.unrecovered += 1;
    }

    /// The client saw the grant: what it sees from here on. `ending`: it has asked for its end.
    pub fn granted(
        &self,
        client: usize,
        grant: &Subscribed<'_>,
        features: Features,
        ending: bool,
        oracle: &mut Oracle,
    ) -> Window {
        let wanted = self.positioned || self.recoverable || self.since.is_some();
        let forced = features.history.is_some_and(|history| history.forced);
        let positioned = features.history.is_some() && (wanted || forced);
        let expires = self.token.as_ref().is_some_and(|(_, until)| *until != 0);
        if ending && (grant.positioned != positioned || expires && !grant.expires) {
            // It ended before its home had granted it.
            return oracle.open(self.channel, client, self.asked_at, Promise::Everything);
        }
        assert_eq!(grant.positioned, positioned, "{self:?}");
        let promise = grant.position().map_or_else(|| features.promise(), Promise::From);
        let mut window = oracle.open(self.channel, client, self.asked_at, promise);
        window.members = self.join_leave.then(Members::default);
        window.expiry = self.expires(grant, oracle);
        self.recovers(&mut window, grant, features, oracle);
        window
    }

    /// Until when it lives, which is what its token says, or the backend.
    fn expires(&self, grant: &Subscribed<'_>, oracle: &Oracle) -> Option<Expiry> {
        let until = grant.data.unwrap_or(0);
        assert!(
            self.token.as_ref().is_none_or(|(_, wanted)| *wanted == until),
            "{self:?}, {until}"
        );
        let is_told = grant.expires == (until != 0)
            && oracle.clocks.is_true(until, grant.ttl, self.asked_unix_s);
        // A client does not refresh what it did not ask for.
        assert!(is_told || !self.asked && !grant.expires, "{} s of {self:?}", grant.ttl);
        (until != 0).then(|| oracle.clocks.expiry(until))
    }

    /// All that was missed, and nothing else; or nothing.
    fn recovers(
        &self,
        window: &mut Window,
        grant: &Subscribed<'_>,
        features: Features,
        oracle: &mut Oracle,
    ) {
        let Some((since, history)) = self.since.as_ref().zip(features.history) else {
            assert!(!grant.was_recovering && grant.publications.is_empty(), "nobody asked");
            return;
        };
        let top = window.position().expect("who recovers has a position").clone();
        assert!(grant.was_recovering, "it asked to recover");
        let same = since.epoch.is_empty() || since.epoch == top.epoch;
        if !grant.recovered {
            oracle.unrecovered += 1;
            assert!(grant.publications.is_empty(), "it recovered nothing, and something");
            let lost = history.is_lasting() && !history.cache && same && !self.invented;
            let many = top.offset.saturating_sub(since.offset) > oracle.recovered_max;
            assert!(!lost || many, "{since:?} is there up to {top:?}, and was not recovered");
            return;
        }
        oracle.recovered += 1;
        let first = if history.cache && *since != top {
            top.offset
        } else {
            assert!(same && !self.invented || history.cache, "recovered from {since:?} to {top:?}");
            since.offset + 1
        };
        let got: Vec<u64> =
            grant.publications.iter().map(|publication| publication.offset).collect();
        let expected: Vec<u64> = (first..=top.offset).collect();
        assert_eq!(got, expected, "missed from {since:?} to {top:?}");
        for publication in &grant.publications {
            oracle.recovered(window, &publication.payload(), publication.offset);
        }
    }
}
