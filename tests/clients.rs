//! Clients as their makers publish them, unmodified: `centrifuge` (npm), `cent` (PyPI), Chromium.
//!
//! `tests/run` installs them.

mod support;

use std::fs;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use support::{
    DEADLINE, Server,
    clients::{SECRET, TRANSPORTS, browser, node, python, target},
    lines, run,
    websocket::Client,
};
use tiderace::auth::tokens::sign_connection;

/// The line of JSON that a script prints when all went well.
fn outcome(command: Command) -> Value {
    let (status, stdout, stderr) = run(command);
    assert!(status.success(), "{status}\n{stdout}{stderr}");
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
}

/// The events that a session reports, one line each.
fn session(address: &str, scenario: &str, transport: &str) -> Vec<Value> {
    let arguments = [address, scenario, SECRET, transport];
    let (status, stdout, stderr) = run(node("session.mjs", &arguments));
    assert!(status.success(), "{status}\n{stdout}{stderr}");
    stdout.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// What an event says, without what differs from run to run.
fn event(events: &[Value], name: &str) -> Value {
    let found = events.iter().find(|event| event["event"] == name);
    found.unwrap_or_else(|| panic!("no {name}: {events:?}")).clone()
}

/// A server outside development: tokens decide, and users may use channels.
fn configured() -> (Server, PathBuf) {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("clients-{}.toml", std::process::id()));
    let text = format!(
        "shards = 2\n[client]\nallow_anonymous_connect_without_token = true\n\
         [client.token]\nhmac_secret_key = \"{SECRET}\"\n\
         [channel.without_namespace]\nallow_subscribe_for_client = true\n\
         allow_publish_for_subscriber = true\n[http_api]\nkey = \"k\"\n\
         [sse]\nenabled = true\n[http_stream]\nenabled = true\n"
    );
    fs::write(&path, text).expect("the directory of the tests is there");
    let name = path.to_str().expect("UTF-8");
    let mut server = Server::start(&["--config", name], &[]);
    server.api_key = "k".into();
    (server, path)
}

#[test]
fn node_clients_see_one_order_and_miss_nothing() {
    let server = Server::dev(&[]);
    let address = server.address.to_string();
    let found = outcome(node("order.mjs", &[&address, &server.api_key, "3", "500"]));
    assert_eq!(found["publications"], 3000);
    let shards: Vec<_> = found["shards"].as_array().expect("shards").iter().collect();
    assert!(shards.len() == 2 && shards.iter().all(|n| n.as_u64() > Some(0)), "{found}");
    let items = &server.info()["metrics"]["items"];
    assert_eq!(items["frames_encoded"], 3000.0, "{items}");
    let deliveries = 3000 * found["clients"].as_u64().expect("a number");
    assert_eq!(items["deliveries"].as_f64(), Some(deliveries as f64), "{items}");
}

#[test]
fn a_node_client_in_development() {
    let server = Server::dev(&[]);
    for transport in TRANSPORTS {
        let events = session(&server.address.to_string(), "anonymous", transport);
        let connected = event(&events, "connected");
        assert_eq!(connected["transport"], transport);
        let publication = event(&events, "publication");
        assert_eq!(publication["data"], json!({"text": "from node"}));
        assert_eq!(publication["info"]["client"], connected["client"]);
        assert_eq!(
            event(&events, "rpc"),
            json!({"event": "rpc", "code": 108, "message": "not available"})
        );
        assert_eq!(event(&events, "unsubscribed")["code"], 0, "by the client itself");
        assert_eq!(event(&events, "disconnected")["code"], 0, "by the client itself");
        assert!(events.iter().all(|event| event["event"] != "error"), "{events:?}");
        server.wait_until("the end of the client", |info| {
            info["num_clients"] == 0 && info["num_channels"] == 0
        });
    }
}

#[test]
fn node_clients_with_tokens_and_without() {
    let (server, path) = configured();
    let address = server.address.to_string();

    for transport in TRANSPORTS {
        let events = session(&address, "token", transport);
        let publication = event(&events, "publication");
        assert_eq!(publication["data"], json!({"text": "signed"}));
        assert_eq!(publication["info"]["user"], "ann");
        assert_eq!(publication["info"]["connInfo"], json!({"role": "admin"}));

        let events = session(&address, "expired", transport);
        let error = event(&events, "error");
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("connect"), &json!(109)),
            "{events:?}"
        );
        event(&events, "asked for a token");
        event(&events, "connected");

        let events = session(&address, "forged", transport);
        let closed = event(&events, "disconnected");
        assert_eq!((&closed["code"], &closed["reason"]), (&json!(3500), &json!("invalid token")));

        let events = session(&address, "denied", transport);
        let denied = event(&events, "unsubscribed");
        assert_eq!(
            (&denied["code"], &denied["reason"]),
            (&json!(103), &json!("permission denied"))
        );
        assert_eq!(event(&events, "publish")["code"], 103);
    }

    drop(server);
    fs::remove_file(path).expect("it was written");
}

/// A session that goes on while the test does something to its server.
struct Running {
    child: Child,
    events: Receiver<String>,
}

impl Running {
    fn start(address: &str, scenario: &str, transport: &str) -> Self {
        Self::run(node("session.mjs", &[address, scenario, SECRET, transport]))
    }

    fn run(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("node is installed");
        let events = lines(BufReader::new(child.stdout.take().expect("it is piped")));
        Self { child, events }
    }

    /// The next event of this name; others are passed over.
    fn next(&self, name: &str) -> Value {
        loop {
            let line = self.events.recv_timeout(DEADLINE).expect(name);
            let event: Value = serde_json::from_str(&line).expect("a line of JSON");
            if event["event"] == name {
                return event;
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_bare_event_source_needs_no_library() {
    let mut server = Server::dev(&[]);
    let address = server.address.to_string();
    let source = Running::run(node("events.mjs", &[&format!("http://{address}/events/room")]));
    source.next("open");
    server.wait_until("its subscription", |info| info["num_subs"] == 1);
    server.publish("room", &json!({"text": "before"}));
    assert_eq!(source.next("message")["message"], json!({"text": "before"}));
    let (status, stderr) = server.stop();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert_eq!(source.next("disconnect")["code"], 3001);
    server = Server::start(&["--dev", "--shards", "2", "--listen", &address], &[]);
    source.next("open");
    server.wait_until("its subscription", |info| info["num_subs"] == 1);
    server.publish("room", &json!("end"));
    assert_eq!(source.next("message")["message"], "end");
    server.wait_until("its end", |info| info["num_clients"] == 0);

    let connect = "%7B%22subs%22:%7B%22room%22:%7B%7D%7D%7D";
    let url = format!("http://{address}/connection/uni_sse?cf_connect={connect}");
    let source = Running::run(node("events.mjs", &[&url]));
    assert!(source.next("message")["message"]["connect"]["client"].is_string());
    server.wait_until("its subscription", |info| info["num_subs"] == 1);
    server.publish("room", &json!("end"));
    let push = json!({"channel": "room", "pub": {"data": "end"}});
    assert_eq!(source.next("message")["message"], push);
    drop((server, source));

    // Who is refused does not come back.
    let anonymous = [
        ("TIDERACE_CLIENT_ALLOW_ANONYMOUS_CONNECT_WITHOUT_TOKEN", "true"),
        ("TIDERACE_EVENTS_ENABLED", "true"),
    ];
    let server = Server::start(&["--shards", "2"], &anonymous);
    let url = format!("http://{}/events/room", server.address);
    let source = Running::run(node("events.mjs", &[&url]));
    assert_eq!(source.next("error")["code"], 403);
    source.next("closed");
}

#[test]
fn a_node_client_reconnects_after_a_restart() {
    let mut server = Server::dev(&[]);
    let address = server.address.to_string();
    for transport in TRANSPORTS {
        let session = Running::start(&address, "stay", transport);
        session.next("subscribed");
        server.publish("room", &json!("before"));
        assert_eq!(session.next("publication")["data"], "before");
        let (status, stderr) = server.stop();
        assert_eq!(status.code(), Some(0), "{stderr}");
        let lost = session.next("connecting");
        assert_eq!((&lost["code"], &lost["reason"]), (&json!(3001), &json!("shutdown")));

        server = Server::start(&["--dev", "--shards", "2", "--listen", &address], &[]);
        session.next("connected");
        session.next("subscribed");
        server.publish("room", &json!("after"));
        assert_eq!(session.next("publication")["data"], "after");
        server.publish("room", &json!("end"));
        assert_eq!(session.next("disconnected")["code"], 0);
    }
}

#[test]
fn a_python_backend_publishes_broadcasts_and_asks() {
    let server = Server::dev(&[]);
    let mut reader = Client::subscribed(server.address, "news");
    let mut other = Client::subscribed(server.address, "news");
    other.subscribe("sport");
    let command = python("backend.py", &[&server.address.to_string(), &server.api_key]);
    let found = outcome(command);
    assert_eq!(
        found,
        json!({
            "broadcast": [null, null, null],
            "num_clients": 2,
            "num_users": 1,
            "num_subs": 3,
            "num_channels": 2,
            "version": env!("CARGO_PKG_VERSION"),
            "wrong_key": "CentUnauthorizedError",
            "unavailable": 108,
        })
    );
    let published = json!({"text": "published", "n": [1, 2.5, null]});
    assert_eq!(reader.publication(), ("news".into(), json!({"data": published})));
    assert_eq!(reader.data(), json!({"text": "broadcast"}));
    let mut reached: Vec<_> = (0..3).map(|_| other.publication().0).collect();
    reached.sort();
    assert_eq!(reached, ["news", "news", "sport"]);
}

/// By the client that backends of Centrifugo have.
#[test]
fn a_python_backend_calls_every_method() {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("calls-{}.toml", std::process::id()));
    let text = format!(
        "shards = 2\n[client.token]\nhmac_secret_key = \"{SECRET}\"\n[http_api]\nkey = \"k\"\n\
         [[channel.namespaces]]\nname = \"room\"\npresence = true\nforce_recovery = true\n\
         history_size = 5\nhistory_ttl = \"300s\"\n"
    );
    fs::write(&path, text).expect("the directory of the tests is there");
    let server = Server::start(&["--config", path.to_str().expect("UTF-8")], &[]);
    fs::remove_file(path).expect("it was written");
    let token = sign_connection(SECRET, "ann", None, None);
    let (mut first, first_id) = Client::connect_as(server.address, &token);
    let (mut second, second_id) = Client::connect_as(server.address, &token);
    let expire_at = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let expire_at = (expire_at + 1_000).to_string();
    let address = server.address.to_string();
    let arguments = [&*address, "k", &first_id, &second_id, &expire_at];
    let found = outcome(python("methods.py", &arguments));
    assert_eq!(
        found,
        json!({
            "repeated": true,
            "offset": 1,
            "presence": [["ann", {"seat": 1}]],
            "present": true,
            "stats": [2, 1],
            "broadcast": [2, 102],
            "history": [[1, {"n": 1}, {"kind": "one"}], [2, {"n": 2}, null]],
            "epoch": true,
            "newest": [{"n": 2}],
            "removed": [0, 2],
            "channels": {"room:a": 2},
            "connections": {
                "all": true,
                "of": [["ann", "websocket", "json"]],
                "channels": [["room:a"], ["room:a"]],
            },
            "batch": [3, 1, 4, ["room:a"], 2],
            "unknown": 102,
        })
    );
    let told = first.push()["subscribe"].take();
    assert_eq!(told["data"], json!({"hello": "there"}), "{told}");
    assert_eq!([first.data(), first.data()], [json!({"n": 1}), json!({"n": 2})]);
    assert_eq!(first.push()["refresh"]["expires"], true);
    assert_eq!(first.push()["unsubscribe"]["code"], 2000);
    assert_eq!(first.closed(), (4500, "enough".into()));
    assert!(second.push()["subscribe"].is_object());
    let heard = [second.data(), second.data(), second.data()];
    assert_eq!(heard, [json!({"n": 2}), json!({"n": 3}), json!({"n": 4})]);
    assert_eq!(second.closed(), (3503, "force disconnect".into()));
}

#[test]
fn the_page_works_in_a_browser() {
    let browser = browser();
    let pictures = target().join("screenshots");
    fs::create_dir_all(&pictures).expect("the target folder is ours");
    let picture = pictures.join("page.png");
    let server = Server::dev(&[]);
    let address = server.address.to_string();
    let arguments = [
        browser.to_str().expect("UTF-8"),
        &address,
        &server.api_key,
        picture.to_str().expect("UTF-8"),
    ];
    let found = outcome(node("page.mjs", &arguments));
    assert_eq!(found["errors"], json!([]), "{found}");
    assert_eq!(found["answer"], json!({"result": {}}));
    assert_eq!(found["state"], "connected");
    assert_eq!(found["client"].as_str().map(str::len), Some(36), "a UUID");
    let newest_first = ["and once more", "and again", "from the page", "from the backend <b>"];
    assert_eq!(found["messages"], json!(newest_first));
    let latency = found["latency"].as_str().and_then(|text| text.strip_suffix(" ms"));
    assert!(latency.is_some_and(|ms| ms.parse::<f64>().is_ok()), "{found}");
    assert!(found["curl"].as_str().is_some_and(|text| text.contains(&server.api_key)), "{found}");
    assert_eq!(found["narrow"], 400, "nothing stands out at the width of a phone");
    assert!(fs::metadata(&picture).is_ok_and(|picture| picture.len() > 10_000));
}
