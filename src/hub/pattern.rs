//! Which channels a listing names: a glob as Centrifugo takes it, compiled once.

use regex::{Regex, RegexBuilder};

/// Bytes of a pattern.
const PATTERN_BYTES_MAX: usize = 1024;
/// Bytes of a compiled pattern, so that its 1,024 bytes cannot ask for megabytes.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// A glob over channel names, in the syntax of gobwas/glob without separators: `*` and `**` are any
/// characters, `?` is one, `[abc]`, `[a-z]` and `[!a-z]` are one of a set, `{a,b*}` is one of
/// several patterns, `\` takes away the meaning of what follows.
///
/// Matching takes time linear in the name. A clone shares the compiled pattern and has scratch
/// memory of its own, so every shard should have one.
#[derive(Clone, Debug)]
pub struct ChannelPattern(Regex);

impl ChannelPattern {
    /// Compiles a pattern of at most 1,024 bytes.
    ///
    /// # Errors
    /// What is wrong with it, for whoever sent it.
    pub fn new(glob: &str) -> Result<Self, &'static str> {
        if glob.len() > PATTERN_BYTES_MAX {
            return Err("the pattern is longer than 1024 bytes");
        }
        let mut builder = RegexBuilder::new(&to_regex(glob)?);
        builder.dot_matches_new_line(true).size_limit(COMPILED_BYTES_MAX);
        builder.build().map(Self).map_err(|_| "the pattern is nested too deeply or too large")
    }

    /// Whether it names `channel`.
    pub fn matches(&self, channel: &str) -> bool {
        self.0.is_match(channel)
    }
}

impl PartialEq for ChannelPattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for ChannelPattern {}

fn to_regex(glob: &str) -> Result<String, &'static str> {
    let mut regex = String::with_capacity(glob.len() + 16);
    regex.push_str(r"\A(?:");
    let mut open = 0_usize;
    let mut rest = glob.chars();
    while let Some(c) = rest.next() {
        match c {
            '*' => regex.push_str(".*"),
            '?' => regex.push('.'),
            '[' => set(&mut rest, &mut regex)?,
            '{' => {
                open += 1;
                regex.push_str("(?:");
            }
            ',' if open > 0 => regex.push('|'),
            '}' if open > 0 => {
                open -= 1;
                regex.push(')');
            }
            '\\' => literal(rest.next().ok_or("the pattern ends in a backslash")?, &mut regex),
            c => literal(c, &mut regex),
        }
    }
    if open > 0 {
        return Err("the pattern has a { without its }");
    }
    regex.push_str(r")\z");
    Ok(regex)
}

/// What stands behind `[`: one range, or a list of characters.
fn set(rest: &mut std::str::Chars<'_>, regex: &mut String) -> Result<(), &'static str> {
    const UNCLOSED: &str = "the pattern has a [ without its ]";
    regex.push('[');
    if rest.as_str().starts_with('!') {
        rest.next();
        regex.push('^');
    }
    let mut ahead = rest.clone();
    if let (Some(low), Some('-')) = (ahead.next(), ahead.next()) {
        let high = ahead.next().ok_or(UNCLOSED)?;
        if high < low || ahead.next() != Some(']') {
            return Err("the pattern has a range that is not of the form [a-z]");
        }
        literal(low, regex);
        regex.push('-');
        literal(high, regex);
        *rest = ahead;
    } else {
        let empty = regex.len();
        loop {
            match rest.next().ok_or(UNCLOSED)? {
                ']' => break,
                '\\' => literal(rest.next().ok_or(UNCLOSED)?, regex),
                c => literal(c, regex),
            }
        }
        if regex.len() == empty {
            return Err("the pattern has an empty []");
        }
    }
    regex.push(']');
    Ok(())
}

fn literal(c: char, regex: &mut String) {
    if c.is_ascii_punctuation() {
        regex.push('\\');
    }
    regex.push(c);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_match_as_centrifugos_do() {
        for (glob, yes, no) in [
            ("news", &["news"][..], &["newsx", "xnews", ""][..]),
            ("", &[""], &["a"]),
            ("*", &["", "a", "a:b/c\n"], &[]),
            ("chat:*", &["chat:", "chat:1:2"], &["chat", "xchat:1"]),
            ("chat:**:end", &["chat::end", "chat:a:b:end"], &["chat:end"]),
            ("?at", &["cat", "\u{e9}at"], &["at", "ccat"]),
            ("[abc]x", &["ax", "cx"], &["dx", "x", "abcx"]),
            ("[!abc]x", &["dx"], &["ax", "x"]),
            ("[a-c]", &["a", "b", "c"], &["d", "-"]),
            ("[!a-c]", &["d", "-"], &["a"]),
            ("[\\]^]", &["]", "^"], &["\\"]),
            ("{a,b*,[0-9]}-{x,}", &["a-x", "bcd-", "7-"], &["c-x", "a-y", "ab-x"]),
            ("{a{b,c},d}", &["ab", "ac", "d"], &["a", "b", "ad"]),
            ("a.b+(c)$^|", &["a.b+(c)$^|"], &["axb+(c)$^|"]),
            ("a,b}]", &["a,b}]"], &["a"]),
            ("\\*\\{\\\\", &["*{\\"], &["x{\\"]),
        ] {
            let pattern = ChannelPattern::new(glob).unwrap();
            yes.iter().for_each(|name| assert!(pattern.matches(name), "{glob} {name}"));
            no.iter().for_each(|name| assert!(!pattern.matches(name), "{glob} {name}"));
        }
    }

    #[test]
    fn what_is_wrong_with_a_pattern_is_said() {
        for (glob, part) in [
            ("a\\", "backslash"),
            ("{a", "{ without"),
            ("[a", "[ without"),
            ("[a-", "[ without"),
            ("[a\\", "[ without"),
            ("[]", "empty"),
            ("[!]", "empty"),
            ("[c-a]", "range"),
            ("[a-cx]", "range"),
            (&"{".repeat(500), "{ without"),
            (&("{".repeat(500) + &"}".repeat(500)), "nested"),
            (&"x".repeat(1025), "1024"),
        ] {
            let error = ChannelPattern::new(glob).unwrap_err();
            assert!(error.contains(part), "{glob}: {error}");
        }
        assert!(ChannelPattern::new(&"?*".repeat(512)).is_ok());
    }

    proptest! {
        #[test]
        fn any_pattern_is_taken_or_refused(glob in "[a*?\\[\\]{}!,\\\\^-]{0,12}") {
            let taken = ChannelPattern::new(&glob);
            if !glob.contains(['*', '?', '[', '{', '\\']) {
                prop_assert!(taken.unwrap().matches(&glob));
            }
        }
    }
}
