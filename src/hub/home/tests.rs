//! What a home does with each message, one at a time.

use bytes::Bytes;

use super::*;
use crate::{
    hub::{LocalId, SubRef},
    limits::SHARDS_MAX,
    protocol::{MemberInfo, Wants},
};

const LOCAL: LocalId = LocalId { index: 3, generation: 1 };

/// Without a namespace nothing is kept; in `h` all is, and everybody is seen.
fn home() -> Home {
    let all = ChannelOptions {
        history_size: 10,
        history_ttl: std::time::Duration::from_secs(60),
        presence: true,
        join_leave: true,
        state_proxy_enabled: true,
        ..ChannelOptions::default()
    };
    let few = ChannelOptions {
        max_subscribers: std::num::NonZeroUsize::new(1),
        slow_consumer: SlowConsumer::Latest,
        conflation_tag: "of".into(),
        ..ChannelOptions::default()
    };
    let namespaces = [("h".into(), Arc::new(all)), ("few".into(), Arc::new(few))].into();
    let settings = HomeSettings {
        channels: Arc::new(Channels { namespaces, ..Channels::default() }),
        user_connections_max: Some(2),
        history_bytes_max: 1 << 20,
        recovery: RecoveryBounds { count_max: 100, bytes_max: 1 << 20 },
        epoch_prefix: "e".into(),
        notices: true,
    };
    Home::new(HashKey(1, 2), 0, settings)
}

fn apply(home: &mut Home, from: ShardId, message: ToHome) -> Vec<(ShardId, FromHome)> {
    let mut out = Vec::new();
    home.apply(0, from, message, &Congestion::NONE, &mut out);
    out
}

fn join(index: u32, format: Format) -> ToHome {
    join_as("c", index, format, Wants::default(), None)
}

fn join_as(
    channel: &str,
    index: u32,
    format: Format,
    wants: Wants,
    recover: Option<StreamPosition>,
) -> ToHome {
    let member = Arc::new(MemberInfo {
        client: format!("client-{index}"),
        user: "u".into(),
        json: Bytes::from(format!("{{\"client\":{index}}}")),
    });
    let sub = SubRef { index, generation: 0 };
    let (channel, member) = (channel.into(), Some(member));
    ToHome::Join(Box::new(Join { sub, channel, local: LOCAL, format, wants, recover, member }))
}

fn leave(format: Format) -> ToHome {
    ToHome::Leave { channel: "c".into(), sub: SubRef { index: 1, generation: 0 }, format }
}

fn publish(channel: &str, reply: ReplyTo) -> ToHome {
    let (data, payload) = (Bytes::from_static(b"7"), Payload::Json);
    let publication =
        Publication { channel: channel.into(), data, payload, info: None, extra: None };
    ToHome::Publish { publication: Box::new(publication), reply }
}

fn gather(part: u32) -> ReplyTo {
    ReplyTo::Gather { index: 0, generation: 0, part }
}

/// What was said to whom, in short.
fn said(out: &[(ShardId, FromHome)]) -> Vec<String> {
    let short = |(to, message): &(ShardId, FromHome)| match message {
        FromHome::Granted { sub, begin: None } => format!("{to} granted {}", sub.index),
        FromHome::Granted { sub, begin: Some(begin) } => {
            let Begin { position, recovered } = &**begin;
            format!("{to} granted {} at {} {recovered:?}", sub.index, position.offset)
        }
        FromHome::Refused { sub, error } => format!("{to} refused {} {}", sub.index, error.code),
        FromHome::Gap { local } => format!("{to} gap in {}", local.index),
        FromHome::Published { local, published } if published.kind == Kind::Membership => {
            let frame = published.frames[0].as_ref().expect("for Centrifuge clients");
            let text = String::from_utf8_lossy(frame.payload());
            format!("{to} told in {}: {text}", local.index)
        }
        FromHome::Published { local, published } => {
            let formats = published.frames.each_ref().map(Option::is_some);
            format!("{to} published {} in {} as {formats:?}", published.sequence, local.index)
        }
        FromHome::Answer { reply: ReplyTo::Gather { part, .. }, answer } => {
            format!("{to} answer {part} {answer:?}")
        }
        FromHome::Answer { answer, .. } => format!("{to} answer {answer:?}"),
        FromHome::Lease(answer) => unreachable!("leases are elsewhere: {answer:?}"),
    };
    out.iter().map(short).collect()
}

#[test]
fn publications_go_to_interested_shards_once_and_before_the_answer() {
    let mut home = home();
    assert_eq!(said(&apply(&mut home, 1, join(5, Format::Centrifuge))), ["1 granted 5"]);
    apply(&mut home, 2, join(6, Format::Centrifuge));
    apply(&mut home, 2, join(7, Format::Centrifuge));
    assert_eq!(home.subscribers("c"), 3);
    let out = apply(&mut home, 0, publish("c", gather(4)));
    assert_eq!(
        said(&out),
        [
            "1 published 1 in 3 as [true, false]",
            "2 published 1 in 3 as [true, false]",
            "0 answer 4 Published(None)"
        ]
    );
    assert_eq!(home.frames_encoded(), 1, "one encoding for three subscribers on two shards");
    let silent = apply(&mut home, 0, publish("c", ReplyTo::Nobody));
    assert_eq!(said(&silent).len(), 2);
    apply(&mut home, 1, leave(Format::Centrifuge));
    let out = apply(&mut home, 0, publish("c", ReplyTo::Nobody));
    assert_eq!(said(&out), ["2 published 3 in 3 as [true, false]"]);
}

#[test]
fn each_format_that_somebody_wants_is_encoded() {
    let mut home = home();
    apply(&mut home, 0, join(1, Format::Plain));
    apply(&mut home, 1, join(1, Format::Centrifuge));
    let out = apply(&mut home, 0, publish("c", ReplyTo::Nobody));
    let FromHome::Published { published, .. } = &out[0].1 else { panic!("{out:?}") };
    let [centrifuge, plain] = published.frames.each_ref().map(|frame| {
        String::from_utf8(frame.as_ref().expect("both are wanted").payload().to_vec()).unwrap()
    });
    assert_eq!(centrifuge, r#"{"push":{"channel":"c","pub":{"data":7}}}"#);
    assert_eq!(plain, "7");
    assert_eq!(home.frames_encoded(), 2);
}

#[test]
fn what_is_no_json_becomes_a_json_string_for_centrifuge_clients() {
    let encoded = |payload, data: &'static [u8]| {
        let data = Bytes::from_static(data);
        let publication =
            Publication { channel: "c".into(), data, payload, info: None, extra: None };
        let (frame, _) = encode::centrifuge(&publication, None);
        String::from_utf8(frame.payload().to_vec()).unwrap()
    };
    assert!(encoded(Payload::Text, b"a\"\n").contains(r#""data":"a\"\n""#));
    assert!(encoded(Payload::Binary, &[0, 255]).contains(r#""data":"AP8=""#));
}

#[test]
fn a_channel_vanishes_with_its_last_leave_and_unknown_leaves_do_nothing() {
    let mut home = home();
    apply(&mut home, 0, leave(Format::Plain));
    apply(&mut home, 0, join(1, Format::Centrifuge));
    apply(&mut home, 1, leave(Format::Centrifuge));
    apply(&mut home, 0, leave(Format::Plain));
    assert_eq!((home.channels(), home.subscribers("c")), (1, 1));
    apply(&mut home, 0, leave(Format::Centrifuge));
    assert_eq!((home.channels(), home.subscribers("c")), (0, 0));
    let out = apply(&mut home, 0, publish("c", gather(0)));
    assert_eq!(said(&out), ["0 answer 0 Published(None)"], "nobody is there to get it");
    assert_eq!(home.channels(), 0, "publishing makes no channel");
}

#[test]
fn one_full_link_refuses_the_publication_for_all() {
    let mut home = home();
    apply(&mut home, 0, join(1, Format::Centrifuge));
    apply(&mut home, 1, join(1, Format::Centrifuge));
    let mut congestion = Congestion::NONE;
    congestion.set(1, true);
    let mut out = Vec::new();
    home.apply(0, 0, publish("c", gather(0)), &congestion, &mut out);
    assert!(
        matches!(&out[..], [(0, FromHome::Answer { answer: HomeAnswer::Failed(error), .. })]
            if *error == ErrorCode::TOO_MANY_REQUESTS),
        "{out:?}"
    );
    assert_eq!(home.frames_encoded(), 0);
    congestion.set(1, false);
    out.clear();
    home.apply(0, 0, publish("c", gather(0)), &congestion, &mut out);
    assert_eq!(said(&out)[0], "0 published 1 in 3 as [true, false]", "no number was lost");
}

#[test]
fn every_part_of_a_broadcast_is_answered() {
    let mut home = home();
    apply(&mut home, 1, join(1, Format::Centrifuge));
    let channels = vec![(0, "x".into()), (4, "c".into())];
    let broadcast = Box::new(Broadcast { channels, data: Bytes::from_static(b"7"), extra: None });
    let out = apply(&mut home, 0, ToHome::Broadcast { broadcast, reply: gather(0) });
    assert_eq!(
        said(&out),
        [
            "0 answer 0 Published(None)",
            "1 published 1 in 3 as [true, false]",
            "0 answer 4 Published(None)"
        ]
    );
}

#[test]
fn a_user_is_there_while_one_connection_is() {
    let mut home = home();
    let user = |slot| (Name::from("u"), ConnRef { slot, generation: 0 });
    for (shard, slot) in [(0, 1), (1, 1)] {
        let (user, conn) = user(slot);
        let reply = ReplyTo::Command { conn, place: 0, command: 1 };
        let out = apply(&mut home, shard, ToHome::UserJoin { user, conn, reply });
        assert_eq!(said(&out), [format!("{shard} answer Registered")]);
    }
    let mut leave = |shard, slot| {
        let (user, conn) = user(slot);
        assert!(apply(&mut home, shard, ToHome::UserLeave { user, conn }).is_empty());
        home.users()
    };
    assert_eq!([leave(0, 2), leave(0, 1), leave(0, 1), leave(1, 1)], [1, 1, 1, 0]);
}

#[test]
fn congestion_knows_every_shard_apart() {
    let mut congestion = Congestion::NONE;
    let last = (SHARDS_MAX - 1) as ShardId;
    congestion.set(last, true);
    congestion.set(63, true);
    congestion.set(63, false);
    let full: Vec<ShardId> = (0..=last).filter(|&shard| congestion.is_full(shard)).collect();
    assert_eq!(full, [last]);
}

const POSITIONED: Wants =
    Wants { presence: false, join_leave: false, position: true, recovery: true, cache: false };

fn since(offset: u64) -> Option<StreamPosition> {
    Some(StreamPosition { offset, epoch: Name::default() })
}

#[test]
fn what_is_kept_has_offsets_and_is_recovered_whole_or_not_at_all() {
    let mut home = home();
    let epoch = "e0";
    for offset in 1..=12 {
        let out = apply(&mut home, 0, publish("h:a", gather(0)));
        let [(_, FromHome::Answer { answer: HomeAnswer::Published(Some(position)), .. })] =
            &out[..]
        else {
            panic!("{out:?}")
        };
        assert_eq!(**position, StreamPosition { offset, epoch: epoch.into() });
    }
    let join = |offset| join_as("h:a", 1, Format::Centrifuge, POSITIONED, since(offset));
    let recovered = said(&apply(&mut home, 1, join(10)));
    assert_eq!(
        recovered,
        [
            r#"1 granted 1 at 12 All([b"{\"data\":7,\"offset\":11}", b"{\"data\":7,\"offset\":12}"])"#
        ]
    );
    assert_eq!(said(&apply(&mut home, 2, join(1))), ["2 granted 1 at 12 Not"]);
    assert_eq!(said(&apply(&mut home, 3, join(12))), ["3 granted 1 at 12 All([])"]);
    let fresh = join_as("h:b", 1, Format::Centrifuge, POSITIONED, None);
    assert_eq!(said(&apply(&mut home, 3, fresh)), ["3 granted 1 at 0 NotAsked"]);
    let out = apply(&mut home, 0, publish("h:b", ReplyTo::Nobody));
    let FromHome::Published { published, .. } = &out[0].1 else { panic!("{out:?}") };
    let first = published.frames[0].as_ref().unwrap().payload();
    let expected = r#"{"push":{"channel":"h:b","pub":{"data":7,"offset":1,"epoch":"e74"}}}"#;
    assert_eq!(std::str::from_utf8(first).unwrap(), expected);
}

#[test]
fn a_full_link_loses_no_kept_publication_and_is_told_of_one_gap() {
    let mut home = home();
    apply(&mut home, 1, join_as("h:a", 1, Format::Centrifuge, POSITIONED, None));
    let mut congestion = Congestion::NONE;
    congestion.set(1, true);
    let mut publish_while = |congestion: &Congestion| {
        let mut out = Vec::new();
        home.apply(0, 0, publish("h:a", ReplyTo::Nobody), congestion, &mut out);
        said(&out)
    };
    assert_eq!(publish_while(&congestion), ["1 gap in 3"]);
    assert!(publish_while(&congestion).is_empty(), "told once");
    congestion.set(1, false);
    assert_eq!(publish_while(&congestion), ["1 published 3 in 3 as [true, false]"]);
    congestion.set(1, true);
    assert_eq!(publish_while(&congestion), ["1 gap in 3"], "the next one");
}

#[test]
fn who_comes_is_announced_behind_its_own_grant_and_seen_until_it_leaves() {
    let mut home = home();
    let seen = Wants { presence: true, join_leave: true, ..Wants::default() };
    let join = |index| join_as("h:a", index, Format::Centrifuge, seen, None);
    let out = said(&apply(&mut home, 0, join(1)));
    let told = r#"0 told in 3: {"push":{"channel":"h:a","join":{"info":{"client":1}}}}"#;
    assert_eq!(out, ["0 granted 1", told]);
    apply(&mut home, 1, join(2));
    let read =
        |query| ToHome::Read(Box::new(Read { channel: "h:a".into(), query, reply: gather(0) }));
    let stats = said(&apply(&mut home, 0, read(Query::PresenceStats)));
    assert_eq!(stats, ["0 answer 0 PresenceStats { clients: 2, users: 1 }"]);
    let leave = |index| ToHome::Leave {
        channel: "h:a".into(),
        sub: SubRef { index, generation: 0 },
        format: Format::Centrifuge,
    };
    let out = said(&apply(&mut home, 1, leave(2)));
    assert_eq!(out, [r#"0 told in 3: {"push":{"channel":"h:a","leave":{"info":{"client":2}}}}"#]);
    let out = apply(&mut home, 0, read(Query::Presence));
    let [(_, FromHome::Answer { answer: HomeAnswer::Presence(present), .. })] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!(present.iter().map(|member| &member.client[..]).collect::<Vec<_>>(), ["client-1"]);
    assert!(apply(&mut home, 0, leave(1)).is_empty(), "nobody is left to be told");
    assert_eq!(home.channels(), 0);
    let notices: Vec<_> = home.take_notices().iter().map(|notice| notice.occupied).collect();
    assert_eq!(notices, [true, false]);
}

#[test]
fn who_is_renewed_is_seen_so_until_it_leaves_and_nobody_is_told() {
    let mut home = home();
    let seen = Wants { presence: true, join_leave: true, ..Wants::default() };
    let renew = |channel: &str, index, json| ToHome::Renew {
        channel: channel.into(),
        sub: SubRef { index, generation: 0 },
        member: Arc::new(MemberInfo {
            client: format!("client-{index}"),
            user: "u".into(),
            json: Bytes::from_static(json),
        }),
    };
    let present = |home: &Home| {
        let present = home.present("h:a");
        let texts = present.iter().map(|info| String::from_utf8_lossy(&info.json).into_owned());
        texts.collect::<Vec<_>>()
    };
    for index in [1, 2] {
        apply(&mut home, 0, join_as("h:a", index, Format::Centrifuge, seen, None));
    }
    assert!(apply(&mut home, 0, renew("h:a", 1, b"new")).is_empty());
    assert_eq!(present(&home), ["new", r#"{"client":2}"#]);
    let leave = |index| ToHome::Leave {
        channel: "h:a".into(),
        sub: SubRef { index, generation: 0 },
        format: Format::Centrifuge,
    };
    let out = said(&apply(&mut home, 0, leave(1)));
    assert_eq!(out, [r#"0 told in 3: {"push":{"channel":"h:a","leave":{"info":new}}}"#]);
    for message in [renew("h:a", 1, b"late"), renew("h:b", 2, b"elsewhere")] {
        assert!(apply(&mut home, 0, message).is_empty());
        assert_eq!(present(&home), [r#"{"client":2}"#]);
    }
    apply(&mut home, 0, leave(2));
    assert!(apply(&mut home, 0, renew("h:a", 2, b"late")).is_empty());
    assert_eq!((home.channels(), home.present("h:a").len()), (0, 0));
}

#[test]
fn a_channel_that_is_full_or_unknown_refuses() {
    let mut home = home();
    let join = |channel, index| join_as(channel, index, Format::Plain, Wants::default(), None);
    assert_eq!(said(&apply(&mut home, 0, join("few:a", 1))), ["0 granted 1"]);
    assert_eq!(said(&apply(&mut home, 0, join("few:a", 2))), ["0 refused 2 106"]);
    let leave = |index| ToHome::Leave {
        channel: "few:a".into(),
        sub: SubRef { index, generation: 0 },
        format: Format::Plain,
    };
    apply(&mut home, 0, leave(2));
    assert_eq!(said(&apply(&mut home, 0, join("few:a", 3))), ["0 refused 3 106"], "still full");
    apply(&mut home, 0, leave(3));
    apply(&mut home, 0, leave(1));
    assert_eq!((home.channels(), home.subscribers("few:a")), (0, 0));
    assert_eq!(said(&apply(&mut home, 0, join("none:a", 1))), ["0 refused 1 102"]);
    let failed = said(&apply(&mut home, 0, publish("none:a", gather(0))));
    assert!(failed[0].contains("unknown channel"), "{failed:?}");
}

#[test]
fn a_repeated_publication_is_answered_like_the_first() {
    let mut home = home();
    apply(&mut home, 0, join_as("h:a", 1, Format::Centrifuge, POSITIONED, None));
    let publish = |key: &str, version| {
        let extra = PublicationExtra {
            idempotency_key: (!key.is_empty()).then(|| key.into()),
            version,
            tags: [("of".to_owned(), "x".to_owned())].into(),
            ..PublicationExtra::default()
        };
        let publication = Publication {
            channel: "h:a".into(),
            data: Bytes::from_static(b"7"),
            payload: Payload::Json,
            info: None,
            extra: Some(Box::new(extra)),
        };
        ToHome::Publish { publication: Box::new(publication), reply: gather(0) }
    };
    let first = said(&apply(&mut home, 0, publish("k", 0)));
    assert_eq!(first.len(), 2);
    assert_eq!(said(&apply(&mut home, 0, publish("k", 0))), [first[1].clone()]);
    assert_eq!(said(&apply(&mut home, 0, publish("", 5))).len(), 2);
    assert_eq!(said(&apply(&mut home, 0, publish("", 5))).len(), 1, "not above the last version");
    let out = apply(&mut home, 0, publish("", 6));
    let FromHome::Published { published, .. } = &out[0].1 else { panic!("{out:?}") };
    assert_eq!(published.position.map(|position| position.offset), Some(3));
    let text =
        String::from_utf8_lossy(published.frames[0].as_ref().unwrap().payload()).into_owned();
    assert!(text.contains(r#""offset":3,"tags":{"of":"x"}"#), "{text}");
}

#[test]
fn a_user_has_so_many_connections_and_no_more() {
    let mut home = home();
    for (slot, answer) in [(1, "Registered"), (2, "Registered"), (3, "Failed")] {
        let conn = ConnRef { slot, generation: 0 };
        let reply = ReplyTo::Command { conn, place: 0, command: 1 };
        let out = apply(&mut home, 0, ToHome::UserJoin { user: "u".into(), conn, reply });
        assert!(said(&out)[0].starts_with(&format!("0 answer {answer}")), "{out:?}");
    }
    assert_eq!(home.connections_of("u").len(), 2);
}
