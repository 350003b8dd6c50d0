//! Scripts: subscriptions that end, or lose their place, while something of them is under way.

use std::sync::Arc;

use bytes::Bytes;
use tiderace::{
    api::Call,
    core::{LinkMessage, OutsideCall},
    hub::{ReplyTo, ToHome},
    limits::LINK_BACKLOG_BYTES_MAX,
    protocol::{Act, Name, Order, Payload},
};

use super::{
    features::{Features, History},
    letters::To,
    oracle::{Oracle, name, number},
    scene::Scene,
    settings::{self, Shape},
    wire,
};

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
        assert!(heard.last().is_some_and(|line| line.starts_with(&end)), "{heard:?}");
    }
    assert_eq!(scene.world.node.cores[1].home().subscribers(&channel), 0);
}

/// Clients subscribe again when they are told of a gap, also in a channel that they have left.
#[test]
fn who_has_left_is_not_told_of_a_gap() {
    let mut scene = with_history();
    let channel = scene.channel_of(1);
    scene.world.crowd.oracle = Oracle::new(number(&channel) + 1);
    let client = scene.client(0);
    scene.tell(client, &subscribe(2, &channel));
    scene.rest();
    scene.hear(client);
    scene.world.node.links.capacity = 0;
    fill_links(&mut scene, 1, &channel);
    scene.world.node.links.capacity = 64;
    scene.world.turn(1, true);
    // All of it arrives, then the client's unsubscribe, and nobody has been told anything yet.
    let (now, (_, conn)) = (scene.world.node.now, scene.place_of(client));
    while let Some(message) = scene.world.node.links.take(1, 0) {
        scene.world.node.cores[0].link(now, 1, message);
    }
    let mut bytes = wire::text(&unsubscribe(3, &channel), &mut scene.world.node.random);
    scene.world.node.cores[0].received(now, conn, &mut bytes);
    scene.rest();
    let heard = scene.hear(client);
    assert_eq!(heard.last().map(String::as_str), Some(r#"{"id":3,"unsubscribe":{}}"#), "{heard:?}");
    assert_eq!(scene.world.node.cores[0].counts().counters.positions_lost, 1);
}

/// What has expired before it was granted is refused: its place in the connection's order must not
/// stay open.
#[test]
fn a_subscription_that_expires_before_its_grant_is_answered() {
    let mut scene = Scene::new(Shape::roomy(2));
    let channel = scene.channel_of(1);
    let client = scene.client(0);
    let exp = settings::START_S + 2;
    let token = settings::token(&serde_json::json!({ "channel": channel, "exp": exp }));
    scene.world.node.links.capacity = 0;
    let refresh =
        format!(r#"{{"id":3,"sub_refresh":{{"channel":"{channel}","token":"{token}"}}}}"#);
    scene.tell(client, &format!("{}\n{refresh}", subscribe(2, &channel)));
    scene.rest();
    scene.world.node.now.unix_s += 28;
    scene.world.node.now.monotonic_ms += 28_000;
    scene.rest();
    scene.world.node.links.capacity = 64;
    scene.rest();
    let heard = scene.hear(client);
    assert_eq!(
        heard,
        [
            r#"{"id":2,"error":{"code":110,"message":"expired"}}"#,
            r#"{"id":3,"sub_refresh":{"expires":true,"ttl":2}}"#,
            "{}",
        ]
    );
    assert_eq!(scene.world.node.cores[1].home().subscribers(&channel), 0);
}

/// How long a subscription was good for ends with it, however it ended.
#[test]
fn a_subscription_does_not_expire_for_the_one_before_it() {
    let mut scene = with_history();
    let channel = scene.channel_of(1);
    scene.world.crowd.oracle = Oracle::new(number(&channel) + 1);
    let client = scene.client(0);
    let exp = settings::START_S + 2;
    let token = settings::token(&serde_json::json!({ "channel": channel, "exp": exp }));
    let command = subscribe(2, &channel);
    let command = command.replace("\"positioned\"", &format!(r#""token":"{token}","positioned""#));
    scene.tell(client, &command);
    scene.rest();
    assert!(scene.hear(client)[0].contains(r#""ttl":2"#));
    scene.world.node.links.capacity = 0;
    fill_links(&mut scene, 1, &channel);
    scene.world.node.links.capacity = 64;
    scene.world.turn(1, true);
    // The gap arrives, then the client's next attempt, and nobody has been told anything yet.
    let (now, (_, conn)) = (scene.world.node.now, scene.place_of(client));
    while let Some(message) = scene.world.node.links.take(1, 0) {
        scene.world.node.cores[0].link(now, 1, message);
    }
    let again = format!(r#"{{"id":3,"subscribe":{{"channel":"{channel}"}}}}"#);
    let mut bytes = wire::text(&again, &mut scene.world.node.random);
    scene.world.node.cores[0].received(now, conn, &mut bytes);
    scene.rest();
    let heard = scene.hear(client);
    assert_eq!(heard.last().map(String::as_str), Some(r#"{"id":3,"subscribe":{}}"#), "{heard:?}");
    scene.world.node.now.unix_s += 28;
    scene.world.node.now.monotonic_ms += 28_000;
    scene.rest();
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
