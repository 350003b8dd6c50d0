//! Scripts: what a world must do in cases that chance finds seldom, or found once.

use bytes::Bytes;
use tiderace::{
    api::Call,
    core::{LinkMessage, OutsideCall},
    limits::{COMMANDS_IN_FLIGHT_MAX, LINK_BACKLOG_BYTES_MAX, REQUESTS_IN_FLIGHT_MAX},
    protocol::{Audience, Name, Outgoing, Payload},
};

use super::{
    letters::To,
    oracle::{name, number},
    random::Random,
    scene::Scene,
    settings::{self, Shape},
    window::Promise,
    wire,
};

fn subscribe(id: usize, channel: &str) -> String {
    format!(r#"{{"id":{id},"subscribe":{{"channel":"{channel}"}}}}"#)
}

fn unsubscribe(id: usize, channel: &str) -> String {
    format!(r#"{{"id":{id},"unsubscribe":{{"channel":"{channel}"}}}}"#)
}

fn publish(id: usize, channel: &str, data: &str) -> String {
    format!(r#"{{"id":{id},"publish":{{"channel":"{channel}","data":{data}}}}}"#)
}

fn post(path: &str, body: &str, headers: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: sim\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

#[test]
fn an_unsubscribe_may_overtake_its_subscribes_grant() {
    for home in 0..2 {
        let mut scene = Scene::new(Shape::roomy(2));
        let channel = scene.channel_of(home);
        let client = scene.client(0);
        let commands = [subscribe(2, &channel), unsubscribe(3, &channel), subscribe(4, &channel)];
        scene.tell(client, &commands.join("\n"));
        scene.rest();
        let answers = [
            r#"{"id":2,"subscribe":{}}"#,
            r#"{"id":3,"unsubscribe":{}}"#,
            r#"{"id":4,"subscribe":{}}"#,
        ];
        assert_eq!(scene.hear(client), answers);
        assert_eq!(scene.world.node.cores[home].home().subscribers(&channel), 1);
    }
}

#[test]
fn nothing_of_a_channel_comes_behind_the_unsubscribe_reply() {
    let mut scene = Scene::new(Shape::roomy(1));
    let channel = scene.channel_of(0);
    let client = scene.subscriber(0, &channel);
    let (other, data) = (scene.client(0), "7");
    // Both in one turn: the publication waits in the channel's segment when its reader leaves.
    scene.tell(other, &publish(2, &channel, data));
    scene.tell(client, &unsubscribe(3, &channel));
    scene.rest();
    let heard = scene.hear(client);
    assert_eq!(heard.last().map(String::as_str), Some(r#"{"id":3,"unsubscribe":{}}"#), "{heard:?}");
}

#[test]
fn answers_count_against_the_queue_of_who_does_not_read() {
    let shape = Shape { queue_bytes_max: 1_000, ..Shape::roomy(2) };
    for home in 0..2 {
        let mut scene = Scene::new(shape);
        let channel = scene.channel_of(home);
        let client = scene.client(0);
        for id in 2..500 {
            scene.tell(client, &publish(id, &channel, "7"));
            scene.rest();
        }
        assert_eq!(scene.world.node.cores[0].counts().counters.slow_consumers_closed, 1, "{home}");
        assert_eq!(scene.hear(client).last().map(String::as_str), Some("close 3008"));

        let backend = scene.open(0);
        for _ in 0..500 {
            let body = format!(r#"{{"channel":"{channel}","data":7}}"#);
            scene.say(backend, post("/api/publish", &body, ""));
            scene.rest();
        }
        assert_eq!(scene.world.node.cores[0].counts().counters.slow_consumers_closed, 2, "{home}");
    }
}

#[test]
fn who_is_slow_hears_nothing_behind_what_it_missed() {
    let mut scene = Scene::new(Shape { queue_bytes_max: 500, ..Shape::roomy(1) });
    let backend = scene.open(0);
    let mut requests = Vec::new();
    (0..9).for_each(|_| requests.extend(post("/api/nothing", "{}", "")));
    requests.extend(post("/api/publish", r#"{"channel":"c0","data":7}"#, "Connection: close\r\n"));
    scene.say(backend, requests);
    scene.rest();
    let heard = scene.hear(backend);
    assert!(heard.iter().all(|answer| answer.starts_with("404")), "{heard:?}");
    assert_eq!(scene.world.node.cores[0].counts().counters.slow_consumers_closed, 1);
}

#[test]
fn a_last_request_is_answered_whatever_comes_behind_it() {
    let mut scene = Scene::new(Shape::roomy(2));
    let body = format!(r#"{{"channel":"{}","data":7}}"#, scene.channel_of(1));
    let backend = scene.open(0);
    scene.say(backend, post("/api/publish", &body, "Connection: close\r\n"));
    scene.say(backend, vec![b'x'; 100_000]);
    scene.rest();
    assert_eq!(scene.hear(backend), [r#"200 {"result":{}}"#]);
}

#[test]
fn a_flood_behind_a_last_request_ends_the_connection() {
    let mut scene = Scene::new(Shape::roomy(2));
    let body = format!(r#"{{"channel":"{}","data":7}}"#, scene.channel_of(1));
    let backend = scene.open(0);
    scene.say(backend, post("/api/publish", &body, "Connection: close\r\n"));
    scene.say(backend, vec![b'x'; 300_000]);
    scene.rest();
    assert!(scene.hear(backend).is_empty());
    scene.rest();
    assert_eq!(scene.world.node.cores[0].counts().connections, 0);
}

#[test]
fn a_peer_gets_error_111_beyond_the_commands_in_flight() {
    let mut scene = Scene::new(Shape::roomy(2));
    let channel = scene.channel_of(1);
    let client = scene.client(0);
    let count = COMMANDS_IN_FLIGHT_MAX + 5;
    let lines: Vec<String> = (0..count).map(|at| publish(2 + at, &channel, "7")).collect();
    scene.tell(client, &lines.join("\n"));
    scene.rest();
    let heard = scene.hear(client);
    let refused = heard.iter().filter(|line| line.contains("\"code\":111")).count();
    assert_eq!((heard.len(), refused), (count, 5));
}

/// Each in its order, whatever homes they are for, and neither waits for the
/// end of the other.
#[test]
fn batches_keep_their_order_and_go_on_side_by_side() {
    for home in 0..2 {
        let mut scene = Scene::new(Shape::roomy(2));
        let channel = scene.channel_of(home);
        let reader = scene.subscriber(1, &channel);
        let backends = [0, 100].map(|first| {
            let commands: Vec<_> = (first..first + 50)
                .map(|n| format!(r#"{{"publish":{{"channel":"{channel}","data":{n}}}}}"#))
                .collect();
            let body = format!(r#"{{"commands":[{}]}}"#, commands.join(","));
            let backend = scene.open(0);
            scene.say(backend, post("/api/batch", &body, ""));
            backend
        });
        scene.rest();
        let replies = vec![r#"{"publish":{}}"#; 50].join(",");
        for backend in backends {
            assert_eq!(scene.hear(backend), [format!(r#"200 {{"replies":[{replies}]}}"#)]);
        }
        let heard = scene.hear(reader);
        let numbers = heard.iter().map(|line| {
            let number = line.split("\"data\":").nth(1).and_then(|rest| rest.strip_suffix("}}}"));
            number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{line}"))
        });
        let (first, second): (Vec<(usize, u32)>, Vec<_>) =
            numbers.enumerate().partition(|(_, number)| *number < 100);
        let in_order = |all: &[(usize, u32)], from: u32| {
            assert!(all.iter().map(|(_, number)| *number).eq(from..from + 50), "{all:?}");
        };
        in_order(&first, 0);
        in_order(&second, 100);
        let (first_ends, second_begins) = (first[49].0, second[0].0);
        assert!(second_begins < first_ends, "one waited for the other");
    }
}

#[test]
fn a_publication_is_encoded_once_for_all_receivers_of_all_cores() {
    let mut scene = Scene::new(Shape::roomy(2));
    let channel = scene.channel_of(0);
    let readers: Vec<usize> = (0..20).map(|at| scene.subscriber(at % 2, &channel)).collect();
    let publisher = scene.client(1);
    scene.tell(publisher, &publish(2, &channel, r#"{"id":7}"#));
    scene.rest();
    for reader in readers {
        let heard = scene.hear(reader);
        assert!(heard.len() == 1 && heard[0].contains(r#"{"id":7}"#), "{heard:?}");
    }
    let encoded: u64 =
        scene.world.node.cores.iter().map(|core| core.counts().counters.frames_encoded).sum();
    assert_eq!(encoded, 1);
}

/// Payload bytes of the publications that fill a link.
const LETTERS: usize = LINK_BACKLOG_BYTES_MAX / 8;

/// Publishes from a thread that is no shard, at that shard, until it is refused.
fn publish_until_refused(scene: &mut Scene, shard: usize, channel: &str) -> u64 {
    for count in 0.. {
        let (id, data) = scene.world.crowd.oracle.publish(0, &[number(channel)], LETTERS);
        let call = Call::Publish {
            channel: Name::from(channel),
            data: Bytes::from(data),
            payload: Payload::Json,
            extra: Default::default(),
        };
        let now = scene.world.node.now;
        let refused = scene.world.node.cores[shard].counts().counters.publications_refused;
        scene.world.crowd.outside.insert(id, To::Channel(number(channel)));
        scene.world.node.cores[shard].outside(now, id, OutsideCall::Call(call));
        scene.world.turn(shard, true);
        if scene.world.node.cores[shard].counts().counters.publications_refused > refused {
            return count;
        }
        assert!(count as usize * LETTERS <= LINK_BACKLOG_BYTES_MAX, "a backlog without an end");
    }
    unreachable!()
}

/// Whatever was said by then, and however far it is on its way between the shards.
#[test]
fn a_connection_may_break_at_every_step() {
    let mut conversation = wire::upgrade("/connection/websocket");
    let token = &settings::users()[1].token;
    let connect = format!(r#"{{"id":1,"connect":{{"token":"{token}"}}}}"#);
    let mut random = Random::new(0);
    conversation.extend(wire::text(&connect, &mut random));
    for channel in 0..2 {
        let channel = name(channel);
        let commands = [
            subscribe(2, &channel),
            publish(3, &channel, "7"),
            unsubscribe(4, &channel),
            subscribe(5, &channel),
        ];
        conversation.extend(wire::text(&commands.join("\n"), &mut random));
    }
    let mut subscribed = 0;
    for said in (0..=conversation.len()).step_by(18) {
        for turns in 0..24 {
            let mut scene = Scene::new(Shape { link_capacity: 1, ..Shape::roomy(2) });
            let client = scene.open(0);
            scene.say(client, conversation[..said].to_vec());
            (0..turns).for_each(|turn| scene.world.turn(turn % 2, turn % 3 == 0));
            subscribed +=
                scene.world.node.cores.iter().map(|core| core.home().channels()).sum::<usize>();
            scene.reset(client);
            scene.rest();
            for core in &scene.world.node.cores {
                assert!(core.is_empty(), "{said} bytes, {turns} turns: {:?}", core.counts());
            }
        }
    }
    assert!(subscribed > 0, "none of them ever got so far");
}

/// The link to a home is full, or the link from it: publishers are told 111, state goes on, and
/// what was acknowledged comes once, in order, when there is room.
#[test]
fn a_full_link_refuses_publications_and_loses_none() {
    for publisher in 0..2 {
        let shape = Shape { queue_bytes_max: 1 << 30, ..Shape::roomy(2) };
        let mut scene = Scene::new(shape);
        let channel = scene.channel_of(1);
        scene.world.crowd.oracle = super::oracle::Oracle::new(number(&channel) + 1);
        let reader = scene.subscriber(0, &channel);
        let oracle = &mut scene.world.crowd.oracle;
        let mut window = oracle.open(number(&channel), 0, 0, Promise::Everything);

        scene.world.node.links.capacity = 0;
        let taken = publish_until_refused(&mut scene, publisher, &channel);
        assert!(taken as usize * LETTERS >= LINK_BACKLOG_BYTES_MAX - LETTERS, "{taken}");
        let late = scene.client(0);
        scene.tell(late, &subscribe(2, &channel));
        scene.rest();
        assert!(scene.hear(late).is_empty() && scene.hear(reader).is_empty());

        scene.world.node.links.capacity = 1;
        scene.rest();
        for line in scene.hear(reader) {
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            let data = line["push"]["pub"]["data"].to_string();
            scene.world.crowd.oracle.delivered(&mut window, &data, 0);
        }
        assert_eq!(scene.world.crowd.oracle.deliveries, taken);
        assert_eq!(scene.world.crowd.oracle.acknowledged, taken);
        scene.world.crowd.oracle.complete(&window);
        assert_eq!(scene.hear(late)[0], r#"{"id":2,"subscribe":{}}"#);
        assert_eq!(scene.world.node.cores[1].home().subscribers(&channel), 2);
    }
}

/// Messages to many of which the counts are awaited are bounded, in number and in bytes.
#[test]
fn messages_to_many_are_refused_while_too_many_are_not_counted() {
    for bytes in [1, LINK_BACKLOG_BYTES_MAX / 4] {
        let mut scene = Scene::new(Shape::roomy(2));
        let user = scene.channel_of(1);
        scene.world.node.links.capacity = 0;
        let now = scene.world.node.now;
        // One at least is pending before its bytes count, and each pins two encodings.
        let most = REQUESTS_IN_FLIGHT_MAX.min(LINK_BACKLOG_BYTES_MAX.div_ceil(2 * bytes));
        for _ in 0..=most {
            let to = To::User(user.clone());
            let (id, _) = scene.world.crowd.oracle.send(0, to.clone(), None, 1);
            scene.world.crowd.outside.insert(id, to);
            let audience = Audience::User(Name::from(user.as_str()));
            let outgoing = Outgoing::text("x".repeat(bytes));
            let call = OutsideCall::SendTo { audience, outgoing };
            scene.world.node.cores[0].outside(now, id, call);
        }
        scene.rest();
        let waiting = scene.world.crowd.outside.len();
        assert!((1..=most).contains(&waiting), "{waiting} of {most} wait, the others are refused");
        if bytes == 1 {
            assert_eq!(waiting, REQUESTS_IN_FLIGHT_MAX, "short ones are bounded by their number");
        } else {
            assert!(waiting * bytes <= LINK_BACKLOG_BYTES_MAX + bytes, "{waiting}");
        }
        scene.world.node.links.capacity = 64;
        scene.rest();
        assert!(scene.world.crowd.outside.is_empty() && scene.world.node.cores[0].is_empty());
        let (refused, counted) = scene.world.crowd.oracle.letters.answers();
        assert_eq!((refused, counted), (most + 1 - waiting, waiting));
    }
}

/// Whom a message is not for does not count as one that it did not reach.
#[test]
fn a_full_link_to_whom_a_message_is_not_for_is_no_failure() {
    let mut scene = Scene::new(Shape::roomy(2));
    let named = settings::users().iter().filter(|user| !user.name.is_empty());
    let mut names = named.map(|user| user.name.as_str());
    let user = names.find(|name| scene.home_of(name) == 0).expect("a user of shard 0");
    let relay = scene.open(1);
    scene.say(relay, wire::upgrade("/relay"));
    scene.tell(relay, &format!("user 1 {user}"));
    scene.rest();
    let heard = scene.hear(relay);
    assert_eq!(heard.last().map(String::as_str), Some("#1 0"), "{heard:?}");
    let channel = scene.channel_of(1);
    scene.world.crowd.oracle = super::oracle::Oracle::new(number(&channel) + 1);
    scene.world.node.links.capacity = 0;
    publish_until_refused(&mut scene, 0, &channel);

    let to = To::User(user.to_owned());
    let (id, data) = scene.world.crowd.oracle.send(0, to.clone(), Some(0), 1);
    scene.world.crowd.outside.insert(id, to);
    let outgoing = Outgoing::text(data).except(scene.world.handlers.known()[0]);
    let call = OutsideCall::SendTo { audience: Audience::User(Name::from(user)), outgoing };
    let now = scene.world.node.now;
    scene.world.node.cores[0].outside(now, id, call);
    scene.rest();
    let oracle = &mut scene.world.crowd.oracle;
    assert_eq!(oracle.letters.answers(), (0, 1));
    let now = oracle.tick();
    oracle.letters.check(&[], true, now);
    assert_eq!(oracle.letters.counted, 1, "it was for nobody, and reached nobody");
}

/// What backends publish in one turn beyond its share waits for the next ones; a drain waits for it.
#[test]
fn a_drain_publishes_what_waits_for_its_turn() {
    for publisher in 0..2 {
        let mut scene = Scene::new(Shape::roomy(2));
        let channel = scene.channel_of(1);
        scene.world.crowd.oracle = super::oracle::Oracle::new(number(&channel) + 1);
        let reader = scene.subscriber(0, &channel);
        let now = scene.world.node.now;
        for _ in 0..2_000 {
            let (id, data) = scene.world.crowd.oracle.publish(0, &[number(&channel)], 1);
            scene.world.crowd.outside.insert(id, To::Channel(number(&channel)));
            let (channel, data) = (Name::from(channel.as_str()), Bytes::from(data));
            let (payload, extra) = (Payload::Json, Default::default());
            let call = Call::Publish { channel, data, payload, extra };
            scene.world.node.cores[publisher].outside(now, id, OutsideCall::Call(call));
        }
        scene.world.node.cores.iter_mut().for_each(|core| core.drain_begin());
        scene.world.node.cores.iter_mut().for_each(|core| core.drain_mark());
        while !scene.world.node.cores.iter().all(|core| core.drain_is_quiet()) {
            (0..2).for_each(|shard| scene.world.turn(shard, false));
        }
        scene.world.node.cores.iter_mut().for_each(|core| core.drain_close());
        scene.rest();
        let heard = scene.hear(reader);
        let heard = heard.iter().filter(|line| line.contains("push")).count() as u64;
        assert_eq!(heard, scene.world.crowd.oracle.acknowledged);
        assert!(heard > 2, "{heard}");
    }
}

/// What waits for its turn is refused when the link has become full by then.
#[test]
fn a_link_that_fills_up_refuses_what_waits_for_its_turn() {
    let mut scene = Scene::new(Shape::roomy(2));
    let channel = scene.channel_of(1);
    scene.world.crowd.oracle = super::oracle::Oracle::new(number(&channel) + 1);
    scene.world.node.links.capacity = 0;
    let now = scene.world.node.now;
    let count = 20;
    for _ in 0..count {
        let (id, data) = scene.world.crowd.oracle.publish(0, &[number(&channel)], LETTERS);
        scene.world.crowd.outside.insert(id, To::Channel(number(&channel)));
        let (channel, data) = (Name::from(channel.as_str()), Bytes::from(data));
        let (payload, extra) = (Payload::Json, Default::default());
        let call = Call::Publish { channel, data, payload, extra };
        scene.world.node.cores[0].outside(now, id, OutsideCall::Call(call));
    }
    scene.rest();
    let waiting = scene.world.node.cores[0].waiting(1);
    let bytes: usize = waiting.map(LinkMessage::publication_bytes).sum();
    assert!(bytes < LINK_BACKLOG_BYTES_MAX + 2 * LETTERS, "{bytes} bytes wait");
    scene.world.node.links.capacity = 64;
    scene.rest();
    assert!(scene.world.crowd.outside.is_empty(), "everybody is answered");
    let refused = scene.world.node.cores[0].counts().counters.publications_refused;
    assert_eq!(scene.world.crowd.oracle.acknowledged + refused, count);
}

/// The grant of a subscribe may still be under way when the markers say that no publication is:
/// what stands behind the place of its answer goes out nevertheless.
#[test]
fn a_drain_delivers_what_stands_behind_an_unanswered_command() {
    let mut scene = Scene::new(Shape::roomy(2));
    let channel = scene.channel_of(1);
    let reader = scene.subscriber(0, &channel);
    let publisher = scene.client(1);
    scene.tell(publisher, &publish(2, &channel, "7"));
    scene.world.turn(1, true);
    assert_eq!(scene.hear(publisher), [r#"{"id":2,"publish":{}}"#]);
    scene.world.node.cores.iter_mut().for_each(|core| core.drain_begin());
    scene.world.node.cores.iter_mut().for_each(|core| core.drain_mark());
    scene.world.turn(1, true);
    let another = (number(&channel) + 1..).map(name).find(|name| scene.home_of(name) == 1);
    scene.tell(reader, &subscribe(3, &another.unwrap()));
    scene.world.turn(0, true);
    // The second marker goes through, the grant behind it does not.
    scene.world.node.links.capacity = 1;
    scene.world.turn(1, true);
    scene.world.turn(0, true);
    assert!(scene.world.node.cores.iter().all(|core| core.drain_is_quiet()));
    scene.world.node.cores.iter_mut().for_each(|core| core.drain_close());
    scene.world.turn(0, true);
    let heard = scene.hear(reader);
    assert!(heard.len() == 2 && heard[0].contains("\"data\":7"), "{heard:?}");
    assert_eq!(heard[1], "close 3001");
}

/// A handler that repeats what is refused at once keeps its shard busy, but not from working.
#[test]
fn a_handler_that_asks_again_and_again_starves_nobody() {
    let mut scene = Scene::new(Shape::roomy(1));
    let stubborn = scene.open(0);
    scene.say(stubborn, wire::upgrade("/stubborn"));
    scene.rest();
    scene.hear(stubborn);
    scene.world.node.cores[0].drain_begin();
    scene.tell(stubborn, "begin");
    for _ in 0..20 {
        scene.world.turn(0, false);
    }
    let refused = scene.world.node.cores[0].counts().counters.publications_refused;
    assert!((3..1_000).contains(&refused), "once a flush: {refused}");
    scene.world.node.cores[0].drain_close();
    for _ in 0..20 {
        scene.world.turn(0, false);
    }
    assert_eq!(scene.hear(stubborn), ["close 1001"]);
}

/// Connections of devices stay for a while in a drain: what else would begin on one is refused.
#[test]
fn who_upgrades_in_a_drain_is_told_503() {
    for path in ["/connection/websocket", "/relay"] {
        let mut scene = Scene::new(Shape::roomy(1));
        let client = scene.open(0);
        scene.rest();
        scene.world.node.cores[0].drain_begin();
        scene.say(client, wire::upgrade(path));
        scene.rest();
        let heard = scene.hear(client);
        assert!(heard.len() == 1 && heard[0].starts_with("503"), "{heard:?}");
    }
}
