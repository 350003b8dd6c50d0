//! Messages of an embedder to many connections: everybody's, a user's, a room's.

mod support;

use serde_json::json;
use support::embedded::{SECRET, Told, World, config, counts, hears_nothing, say, until, who};
use support::websocket::{BINARY, Client, Raw};
use tiderace::auth::tokens::sign_connection;
use tiderace::close::CloseReason;
use tiderace::config::Config;
use tiderace::protocol::centrifuge::Terms;
use tiderace::protocol::{Answer, Delivery, ErrorCode, Outgoing};
use tiderace::shard::Refused;

/// To everybody, to a user's every device, as text, JSON and binary, with counts; and to all but
/// the sender. Centrifuge clients get the same as `message` pushes.
#[test]
fn messages_reach_everybody_or_a_user_whatever_the_client_speaks() {
    let mut world = World::new(config());
    let (mut phone, phone_id) = world.client("phone");
    let (mut laptop, _) = world.client("laptop");
    assert_eq!(world.ask("phone", &mut phone, "user ann"), Answer::UserSet);
    let token = sign_connection(SECRET, "ann", None, None);
    let (mut browser, _) = Client::connect_as(world.address(), &token);
    let message = |browser: &mut Client| browser.push()["message"]["data"].take();

    let handle = &world.server.handle();
    let json = Outgoing::json(&json!({"a": [1]})).expect("it is JSON");
    assert_eq!(counts(handle.send_to_all(json)), (3, 0));
    assert_eq!((phone.text(), laptop.text()), (r#"{"a":[1]}"#.into(), r#"{"a":[1]}"#.into()));
    assert_eq!(message(&mut browser), json!({"a": [1]}));
    let binary = Outgoing::binary(&[0xff, 0][..]);
    assert_eq!(counts(handle.send_to_user("ann", binary)), (2, 0));
    let got = phone.frame().expect("it is open");
    assert_eq!((got.opcode, got.payload), (BINARY, vec![0xff, 0]));
    assert_eq!(message(&mut browser), "/wA=");
    let text = Outgoing::text("line\nline").except(phone_id);
    assert_eq!(counts(handle.send_to_user("ann", text)), (1, 0), "the sender is none of either");
    assert_eq!(message(&mut browser), "line\nline");

    // From within a handler, without waiting.
    let delivered = |queued| Answer::Delivered(Delivery { queued, failed: 0 });
    assert_eq!(world.ask("phone", &mut phone, "all others hello"), delivered(2));
    assert_eq!((laptop.text(), message(&mut browser)), ("hello".into(), json!("hello")));
    assert_eq!(world.ask("laptop", &mut laptop, "tell ann hi"), delivered(2));
    assert_eq!((phone.text(), message(&mut browser)), ("hi".into(), json!("hi")));
    assert_eq!(world.ask("laptop", &mut laptop, "tell nobody hi"), delivered(0));
    hears_nothing(&mut phone);
    hears_nothing(&mut laptop);

    // A backend's disconnect of the user is for every device, too.
    handle.disconnect("ann", CloseReason { code: 4002, reason: "go" }).expect("it is carried out");
    assert_eq!((phone.closed(), browser.closed().0), (4002, 4002));
    assert_eq!(world.next("phone"), Told::Closed(4002));
}

/// A room gets text with counts, or all but the sender do; one order for all; who left
/// gets nothing and a room without anybody is gone.
#[test]
fn a_room_hears_its_members_in_one_order() {
    let mut world = World::new(config());
    let names = ["one", "two", "three"];
    let mut clients = names.map(|name| world.client(name).0);
    for (name, client) in names.iter().zip(&mut clients) {
        assert_eq!(world.ask(name, client, "join r"), Answer::Subscribed(None));
    }
    let mut browser =
        Client::connect_as(world.address(), &sign_connection(SECRET, "b", None, None)).0;
    let terms = Terms::default();
    world.handle.subscribe("b", "r", terms).expect("it is subscribed");
    assert_eq!(browser.push()["channel"], "r");

    say(&mut clients[0], "others r 1\npublish r 2\nothers r 3\npublish r 4");
    assert_eq!([(); 4].map(|()| world.answer("one")), [(); 4].map(|()| Answer::Published));
    assert_eq!([(); 2].map(|()| clients[0].text()), ["2", "4"], "not what was for others");
    for other in &mut clients[1..] {
        assert_eq!([(); 4].map(|()| other.text()), ["1", "2", "3", "4"]);
    }
    assert_eq!([(); 4].map(|()| browser.data()), ["1", "2", "3", "4"]);
    let (handle, [one, two, three]) = (&world.server.handle(), &mut clients);
    assert_eq!(counts(handle.send_to_channel("r", Outgoing::text("all"))), (4, 0));
    assert_eq!([one.text(), two.text(), three.text()], ["all"; 3]);
    assert_eq!(browser.data(), "all");

    assert_eq!(who(three)["rooms"], json!(["r"]));
    assert_eq!(world.ask("three", three, "leave r"), Answer::Unsubscribed);
    assert_eq!(who(three)["rooms"], json!([]));
    assert_eq!(world.ask("two", two, "others r late"), Answer::Published);
    assert_eq!((one.text(), browser.data()), ("late".into(), json!("late")));
    hears_nothing(two);
    hears_nothing(three);

    let unknown = Err(Refused::Failed(ErrorCode::UNKNOWN_CHANNEL));
    assert_eq!(handle.send_to_channel("x:y", Outgoing::text("?")), unknown);
    assert_eq!(handle.send_to_channel("", Outgoing::text("?")), Err(Refused::Invalid));
    assert_eq!(counts(handle.send_to_channel("nobody's", Outgoing::text("?"))), (0, 0));
    browser.close();
    drop(clients);
    until("the end of the room", || handle.info().expect("a node").num_channels == 0);
}

/// More connections than one turn looks at are all reached, once each.
#[test]
fn a_message_to_more_connections_than_a_turn_looks_at_reaches_each_once() {
    const CONNECTIONS: u32 = 1_500;
    support::raise_open_files(4 * u64::from(CONNECTIONS));
    let mut world = World::new(Config { shards: 1.try_into().ok(), ..config() });
    let mut clients: Vec<Raw> =
        (0..CONNECTIONS).map(|_| Raw::open_at(world.address(), "/room")).collect();
    let mut last = None;
    for _ in 0..CONNECTIONS {
        let Told::Opened(connection) = world.next("") else { panic!("all were opened") };
        last = Some(connection);
    }
    let handle = &world.handle;
    assert_eq!(counts(handle.send_to_all(Outgoing::text("1"))), (CONNECTIONS, 0));
    let others = Outgoing::text("2").except(last.expect("there are many"));
    assert_eq!(counts(handle.send_to_all(others)), (CONNECTIONS - 1, 0));
    assert_eq!(counts(handle.send_to_all(Outgoing::text("3"))), (CONNECTIONS, 0));
    let mut without = 0;
    for client in &mut clients {
        let second = (client.text(), client.text()).1;
        match &*second {
            "2" => assert_eq!(client.text(), "3"),
            _ => without += 1,
        }
    }
    assert_eq!(without, 1, "all but one got the second");
    let _ = world;
}
