//! Calls and notices over real HTTP: what is sent, what comes back, and what when nothing does.

mod server;

use std::{
    io::{BufReader, Write},
    net::TcpListener,
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use crossbeam_channel::{Receiver, unbounded};
use serde_json::{Value, json};

use self::server::{Server, answer, ok};
use super::*;
use crate::{
    auth::Verdict,
    protocol::Name,
    proxy::{
        Caller, HeaderRules, Headers,
        answers::{Refreshed, Refusal},
        notices::{Occupancy, WAITING_MAX},
    },
};

/// After so long something hangs. Nothing is ever asserted to be faster than that.
const DEADLINE: Duration = Duration::from_secs(60);
/// The first and only proxy of most tests.
const ONLY: ProxyId = ProxyId(0);

fn proxy_to(server: &Server) -> Proxy {
    Proxy {
        name: "test".into(),
        endpoint: format!("http://{}/centrifugo/call", server.address),
        timeout: DEADLINE,
        ..Proxy::default()
    }
}

/// A backend with running threads and what they deliver.
struct Asked {
    backend: Backend,
    answers: Receiver<(ShardId, u64, BackendAnswer)>,
}

impl Asked {
    fn start(proxies: &[Proxy], trust: &Trust, bounds: Bounds) -> Self {
        let (backend, workers) = Backend::new(proxies, trust, bounds).expect("proxies");
        let (sender, answers) = unbounded();
        let deliver = move |shard, id, answer| sender.send((shard, id, answer)).expect("the test");
        workers.start(deliver).expect("threads");
        Self { backend, answers }
    }

    fn new(proxy: Proxy) -> Self {
        Self::start(&[proxy], &Trust::System, Bounds::default())
    }

    fn send(&self, proxy: ProxyId, id: u64, call: BackendCall) -> bool {
        let question = Question { shard: 1, id, call, since: Instant::now() };
        self.backend.ask(proxy, question).is_ok()
    }

    fn next(&self) -> (u64, BackendAnswer) {
        let (shard, id, answer) = self.answers.recv_timeout(DEADLINE).expect("an answer");
        assert_eq!(shard, 1, "the answer goes to who asked");
        (id, answer)
    }

    fn ask(&self, call: BackendCall) -> BackendAnswer {
        assert!(self.send(ONLY, 7, call));
        let (id, answer) = self.next();
        assert_eq!(id, 7);
        answer
    }
}

fn caller() -> Caller {
    Caller {
        client: "9336a229-2400-4ebc-8c50-0a643d22e8a0".into(),
        transport: "websocket",
        user: "56".into(),
        meta: Some(Bytes::from_static(br#"{"org":1}"#)),
        headers: Arc::default(),
    }
}

fn connect() -> BackendCall {
    let (data, channels) = (None, Vec::new());
    BackendCall::Connect { caller: caller(), data, name: "".into(), version: "".into(), channels }
}

fn subscribe() -> BackendCall {
    let (token, data) = ("".into(), None);
    BackendCall::Subscribe { caller: caller(), channel: "chat:index".into(), token, data }
}

fn rpc() -> BackendCall {
    BackendCall::Rpc { caller: caller(), method: "m".into(), data: None }
}

fn refresh() -> BackendCall {
    BackendCall::Refresh { caller: caller() }
}

/// A gate that is closed until somebody opens it.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let open = self.0.0.lock().unwrap();
        let (open, _) = self.0.1.wait_timeout_while(open, DEADLINE, |open| !*open).unwrap();
        assert!(*open, "nobody opens the gate");
    }
}

/// Lets whoever waits go on, also when a test fails.
impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

#[test]
fn each_method_is_asked_and_answered() {
    let server = Server::start(|seen| {
        let method = seen.json().get("method").is_some();
        ok(match seen.json()["channel"].as_str() {
            _ if method => r#"{"result":{"data":{"answer":"2019"}}}"#,
            Some("chat:index") => r#"{"result":{}}"#,
            Some(_) => r#"{"result":{"expire_at":1565436268}}"#,
            None if seen.json().get("user").is_some() => r#"{"result":{"expired":true}}"#,
            None => r#"{"result":{"user":"56"}}"#,
        })
    });
    let asked = Asked::new(Proxy { include_connection_meta: true, ..proxy_to(&server) });
    let index: Name = "chat:index".into();
    let data = Bytes::from_static(br#"{"input":"hello"}"#);
    let publish = BackendCall::Publish { caller: caller(), channel: index, data };
    let sub_refresh = BackendCall::SubRefresh { caller: caller(), channel: "channel".into() };
    let connected = crate::proxy::answers::Connected { user: "56".into(), ..Default::default() };
    let until = Refreshed::Until { expire_at_unix_s: 1_565_436_268, info: None, meta: None };
    for (call, answer, more) in [
        (connect(), BackendAnswer::Connect(Some(Box::new(connected))), json!({})),
        (refresh(), BackendAnswer::Refresh(Refreshed::Expired), json!({"user": "56"})),
        (
            subscribe(),
            BackendAnswer::Subscribe(Box::default()),
            json!({"user": "56", "channel": "chat:index"}),
        ),
        (
            publish,
            BackendAnswer::Publish(Box::default()),
            json!({"user": "56", "channel": "chat:index", "data": {"input": "hello"}}),
        ),
        (
            sub_refresh,
            BackendAnswer::SubRefresh(until),
            json!({"user": "56", "channel": "channel"}),
        ),
        (
            rpc(),
            BackendAnswer::Rpc(Some(Bytes::from_static(br#"{"answer":"2019"}"#))),
            json!({"user": "56", "method": "m"}),
        ),
    ] {
        assert_eq!(asked.ask(call), answer);
        let seen = server.seen();
        assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/centrifugo/call"));
        assert_eq!(seen.header("content-type"), ["application/json"]);
        let mut expected = json!({
            "client": "9336a229-2400-4ebc-8c50-0a643d22e8a0",
            "transport": "websocket", "protocol": "json", "encoding": "json",
        });
        for (key, value) in more.as_object().unwrap() {
            expected[key] = value.clone();
        }
        if expected.get("user").is_some() {
            expected["meta"] = json!({"org": 1});
        }
        assert_eq!(seen.json(), expected);
        assert_eq!(seen.connection, 0, "one connection serves them all");
    }
    assert_eq!(server.unseen(), 0);
}

#[test]
fn refusals_arrive_as_the_backend_made_them() {
    let server = Server::start(|seen| {
        ok(match seen.number {
            0 => r#"{"error":{"code":1000,"message":"custom error"}}"#,
            1 => r#"{"disconnect":{"code":4500,"reason":"disconnect reason"}}"#,
            _ => r#"{"error":{"code":7,"message":"not its to use"}}"#,
        })
    });
    let asked = Asked::new(proxy_to(&server));
    let error = Refusal::error(1000, "custom error", false).unwrap();
    assert_eq!(asked.ask(subscribe()), BackendAnswer::Refused(error));
    let disconnect = Refusal::disconnect(4500, "disconnect reason").unwrap();
    assert_eq!(asked.ask(rpc()), BackendAnswer::Refused(disconnect));
    assert_eq!(asked.ask(connect()), BackendAnswer::Failed(Failure::Nonsense));
}

#[test]
fn what_is_no_answer_is_a_failure_of_its_kind() {
    let longer = "x".repeat((1 << 20) + 1);
    for (answer, failure) in [
        (answer("500 Internal Server Error", r#"{"result":{}}"#), Failure::Status(500)),
        (answer("404 Not Found", ""), Failure::Status(404)),
        (answer("302 Found\r\nLocation: /elsewhere", ""), Failure::Status(302)),
        (answer("500 Internal Server Error", &longer), Failure::Status(500)),
        (answer("201 Created", r#"{"result":{}}"#), Failure::Status(201)),
        (ok(&longer), Failure::TooLarge),
        (ok(""), Failure::Nonsense),
        (ok("<html>"), Failure::Nonsense),
        (ok(r#"{"result":{"data":1}"#), Failure::Nonsense),
        (Some("SSH-2.0-server\r\n\r\n".into()), Failure::Nonsense),
        (None, Failure::Unreachable),
    ] {
        let said = answer.clone();
        let server = Server::start(move |_| said.clone());
        let asked = Asked::new(proxy_to(&server));
        let head = answer.map(|answer| answer.chars().take(40).collect::<String>());
        assert_eq!(asked.ask(rpc()), BackendAnswer::Failed(failure), "{head:?}");
        server.seen();
        assert_eq!(server.unseen(), 0, "a call is made once: {head:?}");
    }
}

#[test]
fn a_backend_that_is_silent_or_not_there_is_not_waited_for() {
    let gate = Gate::default();
    let held = gate.clone();
    let server = Server::start(move |_| {
        held.pass();
        ok("{}")
    });
    let asked = Asked::new(Proxy { timeout: Duration::from_millis(100), ..proxy_to(&server) });
    assert_eq!(asked.ask(rpc()), BackendAnswer::Failed(Failure::Timeout));
    // A part of an answer is none either.
    let server = Server::start(|seen| {
        assert_eq!(seen.number, 0, "made once");
        Some("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"result\"".into())
    });
    let asked = Asked::new(Proxy { timeout: Duration::from_millis(100), ..proxy_to(&server) });
    assert_eq!(asked.ask(rpc()), BackendAnswer::Failed(Failure::Timeout));
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let asked = Asked::new(Proxy { endpoint: format!("http://{nobody}/"), ..proxy_to(&server) });
    assert_eq!(asked.ask(rpc()), BackendAnswer::Failed(Failure::Unreachable));
}

#[test]
fn why_there_is_no_answer_is_said_in_plain_words() {
    let told = |proxy: Proxy| {
        let agent = endpoint::agent(&[], &Trust::System, 1).expect("no TLS");
        let endpoint = Endpoint::new(&proxy, &agent).expect("a proxy");
        endpoint.notify(&[]).expect_err("it does not answer").1
    };
    let gate = Gate::default();
    let held = gate.clone();
    let server = Server::start(move |_| {
        held.pass();
        ok("{}")
    });
    let silent = told(Proxy { timeout: Duration::from_millis(100), ..proxy_to(&server) });
    assert_eq!(silent, "it did not answer within 100ms");
    gate.open();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gone = told(Proxy { endpoint: format!("http://{nobody}/"), ..proxy_to(&server) });
    assert!(gone.starts_with("Connection refused"), "{gone}");
    let server = Server::start(|_| ok(&" ".repeat((1 << 20) + 1)));
    assert_eq!(told(proxy_to(&server)), "its answer is above 1048576 bytes");
}

#[test]
fn who_asks_and_panics_fails_and_asks_on() {
    let proxy =
        Proxy { endpoint: "http://127.0.0.1:1/".into(), timeout: DEADLINE, ..Proxy::default() };
    let bounds = Bounds { per_proxy: 1, ..Bounds::default() };
    let (backend, workers) = Backend::new(&[proxy], &Trust::System, bounds).expect("a proxy");
    let (sender, answers) = unbounded();
    let deliver = move |shard, id, answer| sender.send((shard, id, answer)).expect("the test");
    let ask = |_: &Endpoint, call: &BackendCall| match call {
        BackendCall::Rpc { .. } => BackendAnswer::Rpc(None),
        _ => panic!("what cannot happen happened"),
    };
    workers.start_asking(ask, deliver).expect("threads");
    let asked = Asked { backend, answers };
    assert_eq!(asked.ask(connect()), BackendAnswer::Failed(Failure::Nonsense));
    assert_eq!(asked.ask(rpc()), BackendAnswer::Rpc(None), "its only thread is still there");
}

#[test]
fn a_status_may_stand_for_a_refusal() {
    let server = Server::start(|_| answer("404 Not Found", "nothing here"));
    let missing = Refusal::error(404, "not found", true).unwrap();
    let transforms = vec![(403, Refusal::disconnect(4903, "no").unwrap()), (404, missing.clone())];
    let asked = Asked::new(Proxy { status_to_code_transforms: transforms, ..proxy_to(&server) });
    assert_eq!(asked.ask(connect()), BackendAnswer::Refused(missing));
    assert_eq!(asked.ask(refresh()), BackendAnswer::Refresh(Refreshed::Expired));
}

#[test]
fn headers_are_static_forwarded_and_allowed() {
    let server = Server::start(|_| ok("{}"));
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let asked = Asked::new(Proxy {
        http_headers: names(&["Cookie", "User-Agent", "X-Tenant"]),
        emulated_headers: names(&["Authorization"]),
        static_headers: vec![
            pair("X-Custom-Header", "custom value"),
            pair("X-Tenant", "none"),
            pair("Content-Type", "text/plain"),
        ],
        ..proxy_to(&server)
    });
    let all = names(&["cookie", "user-agent", "x-tenant", "origin"]);
    let rules = HeaderRules::new(&all, &names(&["authorization", "x-tenant", "x-role"])).unwrap();
    let sent: &[(&str, &[u8])] = &[
        ("Cookie", b"a=1"),
        ("Cookie", b"b=\xc3\xa9"),
        ("Origin", b"o"),
        ("User-Agent", b"browser"),
    ];
    let said = [("Authorization", "Bearer t"), ("X-Tenant", "forged"), ("X-Role", "admin")];
    let mut headers = rules.keep(sent.iter().copied());
    headers.emulate(&rules, said).unwrap();
    let headers = Arc::new(headers);
    let call = |headers: &Arc<Headers>| BackendCall::Refresh {
        caller: Caller { headers: Arc::clone(headers), ..caller() },
    };
    asked.ask(call(&headers));
    let seen = server.seen();
    for (name, values) in [
        ("cookie", &["a=1", "b=é"][..]),
        ("user-agent", &["browser"]),
        ("authorization", &["Bearer t"]),
        ("x-custom-header", &["custom value"]),
        ("x-tenant", &["none"]),
        ("content-type", &["application/json"]),
        ("origin", &[]),
        ("x-role", &[]),
    ] {
        assert_eq!(seen.header(name), values, "{name}");
    }
    let sent: &[(&str, &[u8])] = &[("X-Tenant", b"t1")];
    asked.ask(call(&Arc::new(rules.keep(sent.iter().copied()))));
    let seen = server.seen();
    assert_eq!(seen.header("x-tenant"), ["t1"], "a static header yields to the client's");
    assert_eq!(seen.header("user-agent"), [concat!("tiderace/", env!("CARGO_PKG_VERSION"))]);
}

#[test]
fn whose_a_device_token_is_is_asked_in_the_head() {
    let server = Server::start(|seen| match seen.header("authorization")[0] {
        "DeviceToken known" => ok(r#"{"id":"d","name":"D","projectId":"p"}"#),
        "DeviceToken unknown" => answer("401 Unauthorized", "{}"),
        "DeviceToken nonsense" => ok("[]"),
        _ => answer("503 Service Unavailable", ""),
    });
    let asked = Asked::new(proxy_to(&server));
    let device = |token: &str| asked.ask(BackendCall::Device { token: token.into() });
    let BackendAnswer::Device(Verdict::Device(found)) = device("known") else { panic!() };
    assert_eq!(found.id, "d");
    let seen = server.seen();
    assert_eq!((seen.method.as_str(), seen.body.as_str()), ("GET", ""));
    assert_eq!(device("unknown"), BackendAnswer::Device(Verdict::Invalid));
    assert_eq!(device("nonsense"), BackendAnswer::Failed(Failure::Nonsense));
    assert_eq!(device("other"), BackendAnswer::Failed(Failure::Status(503)));
    assert_eq!(device("split\r\nX: y"), BackendAnswer::Failed(Failure::Nonsense), "not sent");
    let paths = (1..4).map(|_| server.seen().path).collect::<Vec<_>>();
    assert_eq!((paths.len(), server.unseen()), (3, 0));
}

/// A server that answers when so many calls are made at once, and the most that ever were.
fn crowd(calls: usize) -> (Server, Arc<Mutex<(usize, usize)>>) {
    let state = Arc::new((Mutex::new(false), Condvar::new()));
    let most = Arc::new(Mutex::new((0, 0)));
    let counts = Arc::clone(&most);
    let server = Server::start(move |_| {
        let (open, changed) = &*state;
        let now = {
            let mut counts = counts.lock().unwrap();
            counts.0 += 1;
            counts.1 = counts.1.max(counts.0);
            counts.0
        };
        let mut gate = open.lock().unwrap();
        if now >= calls {
            *gate = true;
            changed.notify_all();
        }
        let (gate, _) = changed.wait_timeout_while(gate, DEADLINE, |open| !*open).unwrap();
        assert!(*gate, "{calls} calls are never made at once");
        counts.lock().unwrap().0 -= 1;
        ok("{}")
    });
    (server, most)
}

#[test]
fn so_many_calls_are_made_at_once_and_no_more() {
    for (bounds, at_once) in [
        (Bounds { per_proxy: 4, in_all: 100, waiting: 64 }, 4),
        (Bounds { per_proxy: 100, in_all: 2, waiting: 64 }, 3),
    ] {
        let (server, most) = crowd(at_once);
        let asked = Asked::start(&[proxy_to(&server)], &Trust::System, bounds);
        for id in 0..32 {
            assert!(asked.send(ONLY, id, rpc()));
        }
        let mut ids: Vec<u64> = (0..32).map(|_| asked.next().0).collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..32).collect::<Vec<_>>(), "each is answered once");
        assert_eq!(most.lock().unwrap().1, at_once, "{bounds:?}");
    }
}

#[test]
fn a_full_queue_refuses_and_a_slow_proxy_stops_no_other() {
    let gate = Gate::default();
    let held = gate.clone();
    let slow = Server::start(move |_| {
        held.pass();
        ok("{}")
    });
    let quick = Server::start(|_| ok("{}"));
    let bounds = Bounds { per_proxy: 1, in_all: 100, waiting: 2 };
    let asked = Asked::start(&[proxy_to(&slow), proxy_to(&quick)], &Trust::System, bounds);
    assert!(asked.send(ONLY, 0, rpc()));
    slow.seen();
    assert!(asked.send(ONLY, 1, rpc()) && asked.send(ONLY, 2, rpc()));
    assert!(!asked.send(ONLY, 3, rpc()), "two wait already");
    assert!(!asked.send(ProxyId(2), 4, rpc()), "there is no such proxy");
    assert!(asked.send(ProxyId(1), 5, rpc()));
    assert_eq!(asked.next(), (5, BackendAnswer::Rpc(None)));
    gate.open();
    let ids: Vec<u64> = (0..3).map(|_| asked.next().0).collect();
    assert_eq!(ids, [0, 1, 2]);
}

#[test]
fn who_waited_as_long_as_a_call_takes_is_not_asked_for() {
    let server = Server::start(|_| ok("{}"));
    let asked = Asked::new(proxy_to(&server));
    let since = Instant::now().checked_sub(DEADLINE).expect("the machine is up");
    asked.backend.ask(ONLY, Question { shard: 1, id: 1, call: rpc(), since }).unwrap();
    assert_eq!(asked.next(), (1, BackendAnswer::Failed(Failure::Busy)));
    assert_eq!(asked.ask(rpc()), BackendAnswer::Rpc(None));
    server.seen();
    assert_eq!(server.unseen(), 0, "the first was never asked for");
}

#[test]
fn threads_end_with_the_last_who_could_ask() {
    let server = Server::start(|_| ok("{}"));
    let Asked { backend, answers } = Asked::new(proxy_to(&server));
    drop(backend);
    assert!(answers.recv_timeout(DEADLINE).is_err_and(|error| error.is_disconnected()));
}

#[test]
fn wrong_proxies_are_refused_by_name() {
    let proxy = Proxy {
        name: "client.proxy.connect".into(),
        endpoint: "http://b/".into(),
        ..Proxy::default()
    };
    let header = |name: &str, value: &str| Proxy {
        static_headers: vec![(name.into(), value.into())],
        ..proxy.clone()
    };
    for wrong in [
        Proxy { endpoint: "grpc://b:1".into(), ..proxy.clone() },
        Proxy { endpoint: "/path".into(), ..proxy.clone() },
        Proxy { endpoint: String::new(), ..proxy.clone() },
        Proxy { http_headers: vec!["content-length".into()], ..proxy.clone() },
        header("X Y", "v"),
        header("Host", "v"),
        header("X", "a\nb"),
    ] {
        let error = Backend::new(&[wrong], &Trust::System, Bounds::default()).unwrap_err();
        assert!(error.starts_with("client.proxy.connect: "), "{error}");
    }
    let secret = header("X-Key", "s3cret");
    assert_eq!(format!("{secret:?}"), "Proxy(client.proxy.connect)");
    assert!(Backend::new(&[secret], &Trust::System, Bounds::default()).is_ok());
}

#[test]
fn a_backend_with_tls_must_have_a_trusted_certificate() {
    let own = rcgen::generate_simple_self_signed([String::from("localhost")]).unwrap();
    let other = rcgen::generate_simple_self_signed([String::from("localhost")]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let session = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = BufReader::new(rustls::StreamOwned::new(session, stream));
            if server::read(&mut stream, 0).is_some() {
                let answer = ok(r#"{"result":{"data":1}}"#).unwrap();
                stream.get_mut().write_all(answer.as_bytes()).unwrap();
            }
        }
    });
    let proxy = Proxy { endpoint, timeout: DEADLINE, ..Proxy::default() };
    let ask = |certificate: &rcgen::Certificate| {
        let trust = Trust::Only(vec![certificate.der().to_vec()]);
        Asked::start(std::slice::from_ref(&proxy), &trust, Bounds::default()).ask(rpc())
    };
    assert_eq!(ask(&own.cert), BackendAnswer::Rpc(Some(Bytes::from_static(b"1"))));
    assert_eq!(ask(&other.cert), BackendAnswer::Failed(Failure::Unreachable));
}

/// Events of requests, as pairs of channel and type.
fn events(body: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let events = body["events"].as_array().expect("a list").iter();
    events
        .map(|event| {
            assert!(event["time_ms"].as_u64().is_some_and(|ms| ms > 1_600_000_000_000), "{event}");
            (text(&event["channel"]), text(&event["type"]))
        })
        .collect()
}

#[test]
fn notices_of_a_channel_arrive_in_order_and_again_until_they_are_taken() {
    let server = Server::start(|seen| match seen.number {
        0 => answer("500 Internal Server Error", ""),
        1 => ok(r#"{"error":{"code":1}}"#),
        _ => ok(r#"{"result":{}}"#),
    });
    let proxy = Proxy { static_headers: vec![("X-Key".into(), "k".into())], ..proxy_to(&server) };
    let notifier = Notifier::start(&proxy, &Trust::System, Duration::ZERO).unwrap();
    notifier.tell("a".into(), Occupancy::Occupied);
    let first = server.seen();
    assert_eq!(first.header("x-key"), ["k"]);
    // What was sent may have arrived, so this comes behind it.
    notifier.tell("a".into(), Occupancy::Vacated);
    let (second, third) = (server.seen(), server.seen());
    assert_eq!((&second.body, &third.body), (&first.body, &first.body), "the same again");
    let occupied = [("a".to_owned(), "occupied".to_owned())];
    assert_eq!(events(&first.json()), occupied);
    assert_eq!(events(&server.seen().json()), [("a".to_owned(), "vacated".to_owned())]);
    assert_eq!((server.unseen(), notifier.dropped()), (0, 0));
}

#[test]
fn a_channel_that_is_occupied_again_was_never_vacated_and_many_share_a_request() {
    let gate = Gate::default();
    let held = gate.clone();
    let server = Server::start(move |_| {
        held.pass();
        ok("{}")
    });
    let notifier = Notifier::start(&proxy_to(&server), &Trust::System, DEADLINE).unwrap();
    notifier.tell("first".into(), Occupancy::Occupied);
    assert_eq!(events(&server.seen().json()).len(), 1);
    notifier.tell("first".into(), Occupancy::Vacated);
    notifier.tell("first".into(), Occupancy::Occupied);
    let others = 100;
    for channel in 0..others {
        notifier.tell(channel.to_string().into(), Occupancy::Occupied);
    }
    gate.open();
    let mut told = Vec::new();
    let mut requests = 0;
    while told.len() < others {
        told.extend(events(&server.seen().json()));
        requests += 1;
    }
    told.sort();
    let mut expected: Vec<_> =
        (0..others).map(|channel| (channel.to_string(), "occupied".to_owned())).collect();
    expected.sort();
    assert_eq!(told, expected);
    assert!(requests < others, "{requests} requests");
    assert_eq!(notifier.dropped(), 0);
}

#[test]
fn notices_for_which_there_is_no_room_are_counted() {
    let gate = Gate::default();
    let held = gate.clone();
    let server = Server::start(move |_| {
        held.pass();
        ok("{}")
    });
    let notifier = Notifier::start(&proxy_to(&server), &Trust::System, DEADLINE).unwrap();
    notifier.tell("a".into(), Occupancy::Occupied);
    server.seen();
    let channel: Name = "a".into();
    let turns = [Occupancy::Vacated, Occupancy::Occupied].into_iter().cycle();
    for state in turns.take(WAITING_MAX) {
        notifier.tell(Name::clone(&channel), state);
    }
    assert_eq!(notifier.dropped(), 0, "they wait for the one request");
    notifier.tell(channel, Occupancy::Vacated);
    assert_eq!(notifier.dropped(), 1);
}
