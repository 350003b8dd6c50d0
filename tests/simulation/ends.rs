//! Scripts: subscriptions that end, or lose their place, while something of them is under way.

use std::sync::Arc;

use bytes::Bytes;
use tiderace::{
    api::Call,
    core::{LinkMessage, OutsideCall},
    hub::{ReplyTo, ToHome},
    limits::{COMMANDS_IN_FLIGHT_MAX, LINK_BACKLOG_BYTES_MAX},
    protocol::{Act, Name, Order, Payload},
};

use super::{
    features::{Features, History},
    letters::To,
    oracle::{Oracle, name, number},
    scene::Scene,
    settings::{self, Shape, User},
    wire,
};

/// How lines begin, of which some are megabytes.
fn brief(lines: &[String]) -> Vec<&str> {
    lines.iter().map(|line| &line[..line.floor_char_boundary(200)]).collect()
}

/// Two shards whose channels keep everything.
fn with_history() -> Scene {
    let features = Features { history: Some(History::LASTING), ..Features::default() };
    Scene::new(Shape { features, queue_bytes_max: 1 << 30, ..Shape::roomy(2) })
}

fn subscribe(id: usize, channel: &str) -> String {
    format!(r#"{{"id":{id},"subscribe":{{"channel":"{channel}","positioned":true}}}}"#)
}

fn unsubscribe(id: usize, channel: &str) -> String {
    format!(r#"{{"id":{id},"unsubscribe":{{"channel":"{channel}"}}}}"#)
}

/// A backend's will arrives at a client's shard.
fn order(scene: &mut Scene, client: usize, act: Act) {
    let (shard, conn) = scene.place_of(client);
    let order = Arc::new(Order { client: None, session: None, except: Default::default(), act });
    let order = ToHome::Order { conn, order, reply: ReplyTo::Nobody };
    let now = scene.world.node.now;
    scene.world.node.cores[shard].link(now, 0, LinkMessage::ToHome(order));
}

/// Publishes at a shard, from a thread that is none, so much that a link to another is full.
fn fill_links(scene: &mut Scene, shard: usize, channel: &str) {
    for _ in 0..10 {
        let of = number(channel);
        let (id, data) = scene.world.crowd.oracle.publish(0, &[of], LINK_BACKLOG_BYTES_MAX / 8);
        scene.world.crowd.outside.insert(id, To::Channel(of));
        let (channel, data) = (Name::from(channel), Bytes::from(data));
        let call =
            Call::Publish { channel, data, payload: Payload::Json, extra: Default::default() };
        let now = scene.world.node.now;
        scene.world.node.cores[shard].outside(now, id, OutsideCall::Call(call));
        scene.world.turn(shard, true);
    }
}

/// The one who comes with a channel, at the other shard than that channel's home, has sent its
/// connect command; its shard has asked both homes.
fn connecting() -> (Scene, usize, String) {
    let mut scene = Scene::new(Shape::roomy(2));
    let user = settings::users().iter().find(|user| !user.channels.is_empty()).expect("dan");
    let channel = name(user.channels[0]);
    let shard = 1 - scene.home_of(&channel);
    let client = scene.open(shard);
    scene.say(client, wire::upgrade("/connection/websocket"));
    scene.tell(client, &format!(r#"{{"id":1,"connect":{{"token":"{}"}}}}"#, user.token));
    // The first turn arms the receive.
    (0..2).for_each(|_| scene.world.turn(shard, true));
    (scene, client, channel)
}

#[test]
fn a_connect_does_not_wait_for_what_its_client_has_left() {
    let (mut scene, client, channel) = connecting();
    scene.tell(client, &unsubscribe(2, &channel));
    scene.rest();
    let heard = scene.hear(client);
    assert!(
        heard.len() == 3 && heard[1].starts_with(r#"{"id":1,"connect":{"client":"#),
        "{heard:?}"
    );
    assert!(!heard[1].contains("subs"), "{heard:?}");
    assert_eq!(heard[2], r#"{"id":2,"unsubscribe":{}}"#);
    assert_eq!(scene.world.node.cores[scene.home_of(&channel)].home().subscribers(&channel), 0);
}

#[test]
fn a_connect_does_not_wait_for_what_a_backend_has_ended() {
    let (mut scene, client, channel) = connecting();
    order(&mut scene, client, Act::Unsubscribe { channel: Name::from(channel.as_str()) });
    scene.rest();
    let heard = scene.hear(client);
    assert!(heard.len() == 2 && !heard[1].contains("subs"), "{heard:?}");
    assert_eq!(scene.world.node.cores[scene.home_of(&channel)].home().subscribers(&channel), 0);
}

#[test]
fn a_backend_ends_what_is_not_granted_yet() {
    let mut scene = with_history();
    let channel = scene.channel_of(1);
    let client = scene.client(0);
    scene.tell(client, &subscribe(2, &channel));
    scene.world.turn(0, true);
    order(&mut scene, client, Act::Unsubscribe { channel: Name::default() });
    scene.rest();
    let heard = scene.hear(client);
    assert_eq!(heard, [r#"{"id":2,"error":{"code":103,"message":"permission denied"}}"#]);
    assert_eq!(scene.world.node.cores[1].home().subscribers(&channel), 0);
}

/// A subscriber that comes while a gap lasts has not been told of it: what it misses of it is a gap
/// of its own.
#[test]
fn who_comes_in_a_gap_is_told_of_the_rest_of_it() {
    let mut scene = with_history();
    let channel = scene.channel_of(1);
    scene.world.crowd.oracle = Oracle::new(number(&channel) + 1);
    let (early, late) = (scene.client(0), scene.client(0));
    scene.tell(early, &subscribe(2, &channel));
    scene.rest();
    assert!(scene.hear(early)[0].contains(r#""positioned":true"#));

    scene.world.node.links.capacity = 0;
    fill_links(&mut scene, 1, &channel);
    scene.tell(late, &subscribe(2, &channel));
    scene.world.node.links.capacity = 1;
    scene.world.turn(0, true);
    scene.world.node.links.capacity = 0;
    scene.world.turn(1, true);
    fill_links(&mut scene, 1, &channel);

    scene.world.node.links.capacity = 64;
    scene.rest();
    let end = format!(r#"{{"push":{{"channel":"{channel}","unsubscribe":{{"code":2500,"#);
    for client in [early, late] {
        let heard = scene.hear(client);
        assert!(heard.last().is_some_and(|line| line.starts_with(&end)), "{:?}", brief(&heard));
    }
    assert_eq!(scene.world.node.cores[1].home().subscribers(&channel), 0);
}

/// A client whose shard has heard of a gap, of which it was not told itself yet.
fn in_an_untold_gap() -> (Scene, String, usize) {
    let (scene, channel, client, heard) = in_a_gap_after(|channel| subscribe(2, channel));
    assert!(heard.contains(r#""positioned":true"#));
    (scene, channel, client)
}

/// The same of one that subscribed with this command, and what it was told then.
fn in_a_gap_after(command: impl Fn(&str) -> String) -> (Scene, String, usize, String) {
    let mut scene = with_history();
    let channel = scene.channel_of(1);
    scene.world.crowd.oracle = Oracle::new(number(&channel) + 1);
    let client = scene.client(0);
    scene.tell(client, &command(&channel));
    scene.rest();
    let heard = scene.hear(client).remove(0);
    scene.world.node.links.capacity = 0;
    fill_links(&mut scene, 1, &channel);
    scene.world.node.links.capacity = 64;
    scene.world.turn(1, true);
    let now = scene.world.node.now;
    while let Some(message) = scene.world.node.links.take(1, 0) {
        scene.world.node.cores[0].link(now, 1, message);
    }
    (scene, channel, client, heard)
}

/// Clients subscribe again when they are told of a gap, also in a channel that they have left.
#[test]
fn who_has_left_is_not_told_of_a_gap() {
    let (mut scene, channel, client) = in_an_untold_gap();
    let (now, (_, conn)) = (scene.world.node.now, scene.place_of(client));
    let mut bytes = wire::text(&unsubscribe(3, &channel), &mut scene.world.node.random);
    scene.world.node.cores[0].received(now, conn, &mut bytes);
    scene.rest();
    let heard = scene.hear(client);
    assert_eq!(brief(&heard).last(), Some(&r#"{"id":3,"unsubscribe":{}}"#));
    assert_eq!(scene.world.node.cores[0].counts().counters.positions_lost, 1);
}

/// Who comes back before it is told of a gap, and is not let in, is told of it after all: its client
/// took itself to be there.
#[test]
fn who_comes_back_in_vain_is_told_of_the_gap() {
    let (mut scene, channel, client) = in_an_untold_gap();
    let (now, (_, conn)) = (scene.world.node.now, scene.place_of(client));
    let wish = r#""recover":true,"epoch":"another","offset":7,"flag":2"#;
    let again = format!(r#"{{"id":3,"subscribe":{{"channel":"{channel}",{wish}}}}}"#);
    let mut bytes = wire::text(&again, &mut scene.world.node.random);
    scene.world.node.cores[0].received(now, conn, &mut bytes);
    scene.rest();
    let heard = scene.hear(client);
    let told = [r#""id":3,"error":{"code":112"#, r#""unsubscribe":{"code":2500"#];
    let last = &heard[heard.len().saturating_sub(2)..];
    assert!(last.iter().zip(told).all(|(line, told)| line.contains(told)), "{:?}", brief(&heard));
    assert_eq!(scene.world.node.cores[1].home().subscribers(&channel), 0);
}

/// Whoever a backend ends the subscription of does not come back for a gap.
#[test]
fn who_is_unsubscribed_in_an_untold_gap_stays_away() {
    for all in [false, true] {
        let (mut scene, channel, client) = in_an_untold_gap();
        let ended = if all { "" } else { &*channel };
        order(&mut scene, client, Act::Unsubscribe { channel: Name::from(ended) });
        scene.rest();
        let heard = scene.hear(client);
        let told = Vec::from_iter(heard.iter().filter(|line| line.contains("unsubscribe")));
        assert!(matches!(&*told, [one] if one.contains(r#""code":2000"#)), "{:?}", brief(&heard));
        assert_eq!(scene.world.node.cores[1].home().subscribers(&channel), 0);
    }
}

/// A command with a token that lets somebody into a channel for some seconds.
fn for_seconds(command: &str, id: usize, user: &str, channel: &str, seconds: u64) -> String {
    let exp = settings::START_S + seconds;
    let token =
        settings::token(&serde_json::json!({ "sub": user, "channel": channel, "exp": exp }));
    format!(r#"{{"id":{id},"{command}":{{"channel":"{channel}","token":"{token}"}}}}"#)
}

/// Lets so much time pass that what lived for two seconds is over.
fn two_seconds_are_over(scene: &mut Scene) {
    scene.world.node.now.unix_s += 28;
    scene.world.node.now.monotonic_ms += 28_000;
    scene.rest();
}

/// Until when a subscription lives the grant says: who waits for it cannot refresh it.
#[test]
fn a_refresh_before_the_grant_changes_nothing() {
    let mut scene = Scene::new(Shape::roomy(2));
    let channel = scene.channel_of(1);
    let client = scene.client(0);
    scene.world.node.links.capacity = 0;
    let commands = ["subscribe", "sub_refresh"].into_iter().zip([2, 1_000]).enumerate();
    let commands = commands
        .map(|(at, (command, seconds))| for_seconds(command, 2 + at, "", &channel, seconds));
    scene.tell(client, &Vec::from_iter(commands).join("\n"));
    scene.rest();
    scene.world.node.links.capacity = 64;
    scene.rest();
    let granted = r#"{"id":2,"subscribe":{"expires":true,"ttl":2}}"#;
    let refused = r#"{"id":3,"error":{"code":103,"message":"permission denied"}}"#;
    assert_eq!(scene.hear(client), [granted, refused]);
    two_seconds_are_over(&mut scene);
    let heard = scene.hear(client);
    assert!(heard[0].contains(r#""code":2501"#), "{heard:?}");
    assert_eq!(scene.world.node.cores[1].home().subscribers(&channel), 0);
}

/// A client that is granted its first channel, and is not connected yet: its user's home is far.
fn granted_and_connecting() -> (Scene, usize, &'static User, String) {
    let user = settings::users().iter().find(|user| !user.channels.is_empty()).expect("dan");
    let channel = name(user.channels[0]);
    let mut scenes = (2..=7).map(|shards| Scene::new(Shape::roomy(shards)));
    let apart = |scene: &Scene| scene.home_of(&channel) != scene.home_of(&user.name);
    let mut scene = scenes.find(apart).expect("one of them");
    let client = scene.open(scene.home_of(&channel));
    scene.say(client, wire::upgrade("/connection/websocket"));
    scene.world.node.links.capacity = 0;
    scene.tell(client, &format!(r#"{{"id":1,"connect":{{"token":"{}"}}}}"#, user.token));
    scene.rest();
    (scene, client, user, channel)
}

/// Who is granted, and is connected later, may refresh: its answer comes behind that to the connect.
#[test]
fn a_refresh_before_the_connect_reply_holds() {
    let (mut scene, client, user, channel) = granted_and_connecting();
    scene.tell(client, &for_seconds("sub_refresh", 2, &user.name, &channel, 2));
    scene.rest();
    scene.world.node.links.capacity = 64;
    scene.rest();
    let heard = scene.hear(client);
    assert!(heard[1].contains(r#""connect":"#), "{heard:?}");
    assert_eq!(heard[2], r#"{"id":2,"sub_refresh":{"expires":true,"ttl":2}}"#);
    two_seconds_are_over(&mut scene);
    assert_eq!(scene.hear(client), ["close 3006"]);
}

/// Who leaves its first channel, and comes back before it is connected, is there as long as it was
/// granted last, whatever the answer to its connect says of the first time.
#[test]
fn who_comes_back_before_the_connect_reply_expires() {
    let (mut scene, client, user, channel) = granted_and_connecting();
    let again = for_seconds("subscribe", 3, &user.name, &channel, 2);
    scene.tell(client, &format!("{}\n{again}", unsubscribe(2, &channel)));
    scene.rest();
    scene.world.node.links.capacity = 64;
    scene.rest();
    let heard = scene.hear(client);
    let told = [r#""connect":"#, r#"{"id":2,"unsubscribe":{}}"#, r#""ttl":2"#];
    assert!(heard[1..].iter().zip(told).all(|(line, told)| line.contains(told)), "{heard:?}");
    two_seconds_are_over(&mut scene);
    let heard = scene.hear(client);
    assert!(heard[0].contains(r#""code":2501"#), "{heard:?}");
}

/// An unsubscribe that is refused leaves the subscription as it was, its expiry too.
#[test]
fn who_leaves_in_vain_expires_all_the_same() {
    let mut scene = Scene::new(Shape::roomy(2));
    let channel = scene.channel_of(1);
    let client = scene.client(0);
    scene.tell(client, &for_seconds("subscribe", 2, "", &channel, 2));
    scene.rest();
    assert!(scene.hear(client)[0].contains(r#""ttl":2"#));
    let publish = |id| format!(r#"{{"id":{id},"publish":{{"channel":"{channel}","data":7}}}}"#);
    let mut commands: Vec<String> = (3..3 + COMMANDS_IN_FLIGHT_MAX).map(publish).collect();
    commands.push(unsubscribe(2_000, &channel));
    scene.tell(client, &commands.join("\n"));
    scene.rest();
    let heard = scene.hear(client);
    assert!(heard.iter().any(|line| line.contains(r#"2000,"error":{"code":111"#)), "{heard:?}");
    two_seconds_are_over(&mut scene);
    let heard = scene.hear(client);
    assert!(heard[0].contains(r#""code":2501"#), "{heard:?}");
    assert_eq!(scene.world.node.cores[1].home().subscribers(&channel), 0);
}

/// How long a subscription was good for ends with it, however it ended.
#[test]
fn a_subscription_does_not_expire_for_the_one_before_it() {
    let (mut scene, channel, client, heard) = in_a_gap_after(|channel| {
        let command = for_seconds("subscribe", 2, "", channel, 2);
        command.replace("\"token\"", "\"positioned\":true,\"token\"")
    });
    assert!(heard.contains(r#""ttl":2"#));
    // The client's next attempt, before it has been told anything.
    let (now, (_, conn)) = (scene.world.node.now, scene.place_of(client));
    let again = format!(r#"{{"id":3,"subscribe":{{"channel":"{channel}"}}}}"#);
    let mut bytes = wire::text(&again, &mut scene.world.node.random);
    scene.world.node.cores[0].received(now, conn, &mut bytes);
    scene.rest();
    let heard = scene.hear(client);
    assert_eq!(heard.last().map(String::as_str), Some(r#"{"id":3,"subscribe":{}}"#), "{heard:?}");
    two_seconds_are_over(&mut scene);
    assert_eq!(scene.hear(client), ["{}"]);
    assert_eq!(scene.world.node.cores[1].home().subscribers(&channel), 1);
}

/// Only who subscribes by itself may want not to be subscribed.
#[test]
fn a_connect_is_answered_whatever_it_wishes_of_a_recovery() {
    let features = Features { history: Some(History::LASTING), ..Features::default() };
    let mut scene = Scene::new(Shape { features, ..Shape::roomy(2) });
    let user = settings::users().iter().find(|user| !user.channels.is_empty()).expect("dan");
    let channel = name(user.channels[0]);
    let client = scene.open(0);
    scene.say(client, wire::upgrade("/connection/websocket"));
    let wish = r#"{"recover":true,"epoch":"another","offset":7,"flag":2}"#;
    let token = &user.token;
    scene.tell(
        client,
        &format!(r#"{{"id":1,"connect":{{"token":"{token}","subs":{{"{channel}":{wish}}}}}}}"#),
    );
    scene.rest();
    let heard = scene.hear(client);
    assert!(heard.len() == 2 && heard[1].contains(r#""was_recovering":true"#), "{heard:?}");
}
