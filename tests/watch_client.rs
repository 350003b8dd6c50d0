//! The watch client against a server whose every byte the test decides.

mod support;
#[path = "watch_server_script/mod.rs"]
mod watch_server_script;

use std::future::Future;
use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use tiderace::watch::{Client, Status, Stopped};
use watch_server_script::{Device, Server, TOKEN, WATCH, hello, wake};

const NOW: Duration = Duration::ZERO;
const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(30);

/// The interval of leases whose heartbeats a test does not want to see.
const QUIET_MS: u64 = 60_000;

use Status::{Connected, Connecting};

#[test]
fn a_device_introduces_itself_watches_and_is_woken() {
    let server = Server::start();
    let device = Device::start(&server);
    server.introduce();
    let mut watch = server.watch();
    assert_eq!(watch.query, "protocolVersion=2.3.0");
    for field in [
        &*format!("Authorization: DeviceToken {TOKEN}"),
        "Accept: text/event-stream",
        &*format!("Host: {}", server.address),
        concat!("User-Agent: tiderace/", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(watch.has_field(field), "{field} in {:?}", watch.fields);
    }
    watch.hello("l1", QUIET_MS);
    device.expect(&[Connecting, Connected]);
    watch.chunk("event: hello\ndata: another one is ignored\n\n: comment\nevent: new\ndata: x\n\n");
    watch.chunk(wake("ras 1"));
    device.expect_wake("ras 1");
    watch.wait_closed();

    // A fresh state: no lease to hand over; the session stays for the server's logs.
    let mut watch = server.watch();
    assert_eq!(watch.query, "protocolVersion=2.3.0&remoteAccessSessionId=ras%201");
    watch.hello("l2", QUIET_MS);
    watch.chunk("event: wake\ndata: {\"url\":\"wss://room\",\"token\":\"room-token\"}\n\n");
    device.expect(&[Connecting, Connected]);
    device.next();
    let watch = server.watch();
    assert_eq!(watch.query, "protocolVersion=2.3.0&remoteAccessSessionId=ras%201");
    device.expect(&[Connecting]);
    device.cancel();
}

#[test]
fn without_a_description_nothing_is_watched() {
    let server = Server::start();
    let device = Device::start(&server);
    server.next().answer(200, "application/json", r#"{"id":"d"}"#);
    device.expect(&[Connecting]);
    device.expect_retry(SECOND, "malformed device info");
    server.next().refuse(503);
    device.expect_retry(2 * SECOND, "503 for device info: no (NO)");
    server.introduce();
    server.watch();
    device.cancel();
}

#[test]
fn a_description_refused_by_401_is_the_end() {
    let server = Server::start();
    let device = Device::start(&server);
    server.next().refuse(401);
    device.expect(&[Connecting]);
    device.expect_stopped(Stopped::Unauthorized);
}

/// A device at its first watch.
fn watching() -> (Server, Device, watch_server_script::Request) {
    let server = Server::start();
    let device = Device::start(&server);
    server.introduce();
    let watch = server.watch();
    device.expect(&[Connecting]);
    (server, device, watch)
}

/// A device with the lease `l1`.
fn connected(interval_ms: u64) -> (Server, Device, watch_server_script::Request) {
    let (server, device, mut watch) = watching();
    watch.hello("l1", interval_ms);
    device.expect(&[Connected]);
    (server, device, watch)
}

const WITH_LEASE: &str = "protocolVersion=2.3.0&previousWatchLeaseId=l1";
const WITHOUT: &str = "protocolVersion=2.3.0";

#[test]
fn a_watch_refused_by_401_is_the_end() {
    let (_server, device, mut watch) = watching();
    watch.refuse(401);
    device.expect_stopped(Stopped::Unauthorized);
}

#[test]
fn a_status_counts_only_with_its_whole_body() {
    let (server, device, mut watch) = watching();
    let cut = "HTTP/1.1 401 X\r\nContent-Length: 30\r\n\r\n{\"error\":";
    watch.write(cut);
    watch.close();
    device.expect_retry(SECOND, "closed the connection early");
    let mut watch = server.watch();
    watch.write(cut.replace("401", "409"));
    watch.close();
    device.expect_retry(2 * SECOND, "closed the connection early");
    server.watch().refuse(409);
    device.expect_retry(LONG, "409: no (NO)");
    device.cancel();
}

#[test]
fn what_is_no_stream_is_asked_again_after_thirty_seconds() {
    for (answer, reason) in [
        ("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n", "text/html"),
        ("HTTP/1.1 204 No Content\r\n\r\n", "204 with no content type"),
        ("HTTP/1.1 304 Not Modified\r\n\r\n", "304 with no content type"),
        ("HTTP/1.1 307 X\r\nLocation: http://b/\r\nContent-Length: 0\r\n\r\n", "\"http://b/\""),
    ] {
        let (_server, device, mut watch) = watching();
        watch.write(answer);
        device.expect_retry(LONG, reason);
        device.cancel();
    }
}

#[test]
fn without_a_hello_the_backoff_grows() {
    let (server, device, mut watch) = watching();
    watch.write("HTTP/1.1 200 OK\r\nContent-Type: TEXT/event-stream\r\n\r\n: comment\n\n");
    watch.close();
    device.expect_retry(SECOND, "closed the connection early");
    let mut watch = server.watch();
    watch.hello("l\",", QUIET_MS);
    device.expect_retry(2 * SECOND, "hello is malformed");
    watch.wait_closed();
    let mut watch = server.watch();
    watch.write("SSH-2.0-OpenSSH_9\r\n");
    device.expect_retry(4 * SECOND, "no HTTP");
    device.cancel();
}

#[test]
fn a_stream_that_ends_in_order_is_resumed_on_the_same_connection() {
    let (server, device, mut watch) = connected(QUIET_MS);
    watch.end();
    device.expect_retry(NOW, "ended the stream");
    let mut again = server.watch();
    assert_eq!(again.query, WITH_LEASE);
    assert_eq!(again.connection, watch.connection);
    // An error that was read to its end keeps the connection too; the status 410 is no special one.
    again.refuse(410);
    device.expect(&[Connecting]);
    device.expect_retry(SECOND, "410");
    let mut again = server.watch();
    assert_eq!(again.query, WITH_LEASE, "a failure to connect keeps the lease");
    assert_eq!(again.connection, watch.connection);
    again.refuse(409);
    device.expect_retry(LONG, "409");
    device.cancel();
}

#[test]
fn a_connection_that_was_closed_behind_a_stream_is_replaced_without_a_backoff() {
    let (server, device, mut watch) = connected(QUIET_MS);
    watch.end();
    watch.close();
    device.expect_retry(NOW, "ended the stream");
    let mut again = server.watch();
    assert_eq!(again.query, WITH_LEASE);
    again.hello("l2", QUIET_MS);
    again.end();
    device.expect_retry(NOW, "ended the stream");
    // Here the connection lives until the request is on it.
    let mut kept = server.watch();
    assert_eq!(kept.connection, again.connection);
    kept.close();
    let fresh = server.watch();
    assert_ne!(fresh.connection, kept.connection);
    assert_eq!(fresh.query, "protocolVersion=2.3.0&previousWatchLeaseId=l2");
    device.cancel();
}

#[test]
fn an_unchunked_stream_ends_with_its_connection() {
    let (server, device, mut watch) = watching();
    watch.write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
    watch.write(hello("l1", QUIET_MS));
    device.expect(&[Connected]);
    watch.close();
    device.expect_retry(NOW, "ended the stream");
    let again = server.watch();
    assert_eq!(again.query, WITH_LEASE);
    assert_ne!(again.connection, watch.connection);
    device.cancel();
}

#[test]
fn a_stream_that_breaks_off_early_waits_and_keeps_its_lease() {
    for broken in
        ["10\r\n: cut", "x\r\n", "40\r\nevent: wake\ndata: {\"url\":5,\"token\":\"t\"}\n\n"]
    {
        let (server, device, mut watch) = connected(QUIET_MS);
        watch.write(broken);
        if broken.starts_with("10") {
            watch.close();
        }
        device.expect(&[Connecting]);
        device.expect_retry(SECOND, "");
        assert_eq!(server.watch().query, WITH_LEASE, "{broken}");
        device.cancel();
    }
}

#[test]
fn a_stream_that_breaks_off_after_an_interval_is_resumed_at_once() {
    let (server, device, mut watch) = connected(1_000);
    // The first heartbeat comes after one interval.
    let heartbeat = server.heartbeat("l1");
    watch.chunk("event: wake\ndata: {}\n\n");
    device.expect_retry(NOW, "wake is malformed");
    let again = server.watch();
    assert_eq!(again.query, WITH_LEASE);
    // It was not answered: it was taken back before the server was asked again.
    assert!(heartbeat.is_closed());
    device.cancel();
}

#[test]
fn an_event_above_the_bound_breaks_the_stream() {
    let server = Server::start();
    let device = Device::build(Client::builder(server.url(), TOKEN).event_bytes_max(1_000));
    server.introduce();
    let mut watch = server.watch();
    watch.hello("l1", QUIET_MS);
    device.expect(&[Connecting, Connected]);
    watch.chunk(format!("data: {}", "x".repeat(1_000)));
    device.expect(&[Connecting]);
    device.expect_retry(SECOND, "more than 1000 bytes");
    device.cancel();
}

#[test]
fn silence_ends_a_stream_after_two_and_a_half_intervals() {
    let (server, device, mut watch) = connected(1_000);
    // The third heartbeat comes after three intervals: comments are life.
    for _ in 0..3 {
        server.heartbeat("l1").ok();
        watch.chunk(":\n\n");
    }
    // These are not, so the heartbeats are few that come before the end.
    let mut heartbeats = 0;
    let again = loop {
        let mut request = server.next();
        if request.path == WATCH {
            break request;
        }
        request.ok();
        watch.chunk("retry: 1\nid: 1\n\n");
        heartbeats += 1;
        assert!(heartbeats < 10);
    };
    device.expect_retry(NOW, "silent for 2.5s");
    assert_eq!(again.query, WITH_LEASE);
    assert!(watch.is_closed());
    device.cancel();
}

#[test]
fn heartbeats_use_the_connection_of_the_description() {
    let server = Server::start();
    let device = Device::start(&server);
    let mut description = server.next();
    description.answer(200, "application/json", r#"{"id":"d","name":"n","projectId":"p"}"#);
    let mut watch = server.watch();
    watch.hello("l\\\"1", 1);
    let mut heartbeat = server.next();
    assert_eq!(heartbeat.body, r#"{"watchLeaseId":"l\"1"}"#);
    assert!(heartbeat.has_field(&format!("Authorization: DeviceToken {TOKEN}")));
    assert!(heartbeat.has_field("Content-Type: application/json"));
    assert_eq!(heartbeat.connection, description.connection);
    assert_ne!(heartbeat.connection, watch.connection);
    heartbeat.ok();
    assert_eq!(server.next().connection, heartbeat.connection);
    device.expect(&[Connecting, Connected]);
    device.cancel();
}

#[test]
fn a_lease_that_is_lost_is_told_by_its_heartbeat() {
    let (_server, device, _watch) = refused_heartbeat(401);
    device.expect_stopped(Stopped::Unauthorized);

    let (_server, device, mut watch) = refused_heartbeat(409);
    device.expect(&[Connecting]);
    device.expect_retry(LONG, "409");
    watch.wait_closed();
    device.cancel();

    let (server, device, watch) = refused_heartbeat(410);
    device.expect_retry(NOW, "410");
    assert_eq!(server.watch().query, WITHOUT);
    assert!(watch.is_closed());
    device.cancel();
}

fn refused_heartbeat(status: u16) -> (Server, Device, watch_server_script::Request) {
    let (server, device, watch) = connected(1_000);
    server.heartbeat("l1").refuse(status);
    (server, device, watch)
}

#[test]
fn heartbeats_that_fail_for_three_intervals_end_the_stream() {
    let (server, device, mut watch) = connected(1_000);
    let mut cut = server.heartbeat("l1");
    cut.write("HTTP/1.1 410 X\r\nContent-Length: 30\r\n\r\n");
    cut.close();
    let again = loop {
        watch.chunk(":\n\n");
        let mut request = server.next();
        if request.path == WATCH {
            break request;
        }
        request.refuse(503);
    };
    device.expect_retry(NOW, "no heartbeat succeeded");
    assert_eq!(again.query, WITH_LEASE);
    device.cancel();
}

#[test]
fn bytes_may_come_one_at_a_time() {
    let (_server, device, mut watch) = watching();
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\
                Content-Type: text/event-stream\r\n\r\n";
    let events = format!("{}:\r\n{}", hello("l1", QUIET_MS), wake("ras_1"));
    for byte in head.bytes() {
        watch.write([byte]);
    }
    for byte in events.bytes() {
        watch.write([b"1\r\n", &[byte][..], b"\r\n"].concat());
    }
    device.expect(&[Connected]);
    device.expect_wake("ras_1");
    device.cancel.cancel();
}

#[test]
fn a_wake_counts_although_the_stream_ends_with_it() {
    let (_server, device, mut watch) = connected(QUIET_MS);
    watch.chunk(wake("ras_1").trim_end());
    watch.chunk("\n");
    watch.end();
    device.expect_wake("ras_1");
    device.cancel.cancel();
}

#[test]
fn the_heartbeats_have_ended_when_a_wake_is_returned() {
    let (server, device, mut watch) = connected(1_000);
    let heartbeat = server.heartbeat("l1");
    watch.chunk(wake("ras_1"));
    device.expect_wake("ras_1");
    assert!(heartbeat.is_closed(), "the one that hung was taken back");
    assert!(watch.is_closed());
    device.cancel.cancel();
}

#[test]
fn cancelling_pre_empts_every_wait() {
    // For the answer to a request; for a hello; for a wake; for a backoff.
    let server = Server::start();
    let device = Device::start(&server);
    let request = server.next();
    device.expect(&[Connecting]);
    device.cancel();
    assert!(request.is_closed());

    let (_server, device, mut watch) = watching();
    watch.write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
    device.cancel();
    assert!(watch.is_closed());

    let (_server, device, watch) = connected(QUIET_MS);
    device.cancel();
    assert!(watch.is_closed());

    // For TLS with somebody who says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (certificate, _) = certificate();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let device = Device::build(Client::builder(url, TOKEN).certificates(certificate));
    device.expect(&[Connecting]);
    let _silent = listener.accept().unwrap();
    device.cancel();
}

#[test]
fn a_client_that_is_dropped_ends() {
    let server = Server::start();
    let mut client = Client::builder(server.url(), TOKEN).build().unwrap();
    assert!(poll_once(client.next_wake()).is_none());
    let mut request = server.next();
    drop(client);
    request.wait_closed();
}

/// What a future says when it is asked once, by somebody who does not listen any more.
fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

/// A server that sends two wakes, refuses the third watch, and hears no more.
fn script(server: &Server) {
    server.introduce();
    for session in ["ras_1", "ras_2"] {
        let mut watch = server.watch();
        watch.hello("l", QUIET_MS);
        watch.chunk(wake(session));
    }
    server.watch().refuse(401);
}

async fn follow_script(url: String) {
    let mut client = Client::builder(url, TOKEN).build().unwrap();
    assert!(client.device().is_none());
    // Giving up on a wake loses none.
    assert!(poll_once(client.next_wake()).is_none());
    for session in ["ras_1", "ras_2"] {
        let wake = client.next_wake().await.unwrap();
        assert_eq!(wake.session_id.as_deref(), Some(session));
    }
    assert_eq!(client.device().unwrap().project_id, "p");
    assert_eq!(client.next_wake().await, Err(Stopped::Unauthorized));
    assert_eq!(client.next_wake().await, Err(Stopped::Unauthorized), "for good");
    client.shutdown().await;
}

#[test]
fn it_runs_under_tokio() {
    let server = Server::start();
    let url = server.url();
    let program = thread::spawn(|| {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(follow_script(url));
    });
    script(&server);
    program.join().unwrap();
}

#[test]
fn it_runs_under_glommio() {
    let server = Server::start();
    let url = server.url();
    let program = glommio::LocalExecutorBuilder::default()
        .io_memory(64 << 10)
        .spawn(|| follow_script(url))
        .unwrap();
    script(&server);
    program.join().unwrap();
}

#[test]
fn a_panic_in_a_callback_is_told_and_leaves_nothing_behind() {
    let server = Server::start();
    let builder = Client::builder(server.url(), TOKEN);
    let mut client = builder
        .on_status(|status| assert_ne!(status, Connected, "as this test wants it"))
        .build()
        .unwrap();
    let device = thread::spawn(move || client.next_wake_blocking());
    server.introduce();
    let mut watch = server.watch();
    watch.hello("l1", QUIET_MS);
    assert_eq!(device.join().unwrap(), Err(Stopped::Panicked));
    watch.wait_closed();
}

#[test]
fn spacing_is_a_floor_under_immediate_retries() {
    let server = Server::start();
    let device = Device::build(Client::builder(server.url(), TOKEN).spacing(SECOND));
    server.introduce();
    let mut watch = server.watch();
    let began = Instant::now();
    watch.hello("l1", QUIET_MS);
    watch.end();
    device.expect(&[Connecting, Connected]);
    device.expect_retry(NOW, "ended the stream");
    server.watch();
    // The first one began a little before the server saw it.
    assert!(began.elapsed() > SECOND / 2, "{:?}", began.elapsed());
    device.cancel();
}

/// A certificate for localhost that signs itself, and its key: both PEM.
fn certificate() -> (String, rcgen::CertifiedKey<rcgen::KeyPair>) {
    let own = rcgen::generate_simple_self_signed([String::from("localhost")]).unwrap();
    (own.cert.pem(), own)
}

/// Passes the bytes inside of TLS on to `inner`, for one connection after the other.
fn serve_tls(listener: TcpListener, own: &rcgen::CertifiedKey<rcgen::KeyPair>, server: &Server) {
    let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let inner = server.address;
    thread::spawn(move || {
        for socket in listener.incoming() {
            let session = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut outside = rustls::StreamOwned::new(session, socket.unwrap());
            thread::spawn(move || {
                let mut inside = std::net::TcpStream::connect(inner).unwrap();
                relay(&mut outside, &mut inside);
            });
        }
    });
}

/// Passes bytes on in both directions until either side ends.
fn relay(
    outside: &mut rustls::StreamOwned<rustls::ServerConnection, std::net::TcpStream>,
    inside: &mut std::net::TcpStream,
) {
    use std::io::{ErrorKind, Read, Write};
    // Short read timeouts let one thread serve both directions; nothing depends on their length.
    outside.sock.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    inside.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    let mut bytes = [0; 4096];
    loop {
        for inwards in [true, false] {
            let read = if inwards { outside.read(&mut bytes) } else { inside.read(&mut bytes) };
            let passed = match read {
                Ok(0) => return,
                Ok(read) if inwards => inside.write_all(&bytes[..read]),
                Ok(read) => outside.write_all(&bytes[..read]).and_then(|()| outside.flush()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
                Err(_) => return,
            };
            if passed.is_err() {
                return;
            }
        }
    }
}

#[test]
fn it_speaks_tls_with_servers_whose_certificate_it_trusts() {
    let server = Server::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // A name: it is resolved too, to both families perhaps, of which one is refused.
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let (pem, own) = certificate();
    serve_tls(listener, &own, &server);

    let device = Device::build(Client::builder(&url, TOKEN).certificates(pem));
    server.introduce();
    let mut watch = server.watch();
    watch.hello("l1", QUIET_MS);
    watch.end();
    device.expect(&[Connecting, Connected]);
    device.expect_retry(NOW, "ended the stream");
    let mut again = server.watch();
    assert_eq!(again.connection, watch.connection);
    again.hello("l2", QUIET_MS);
    again.chunk(wake("ras_1"));
    device.expect_wake("ras_1");
    device.cancel.cancel();

    let (other, _) = certificate();
    let device = Device::build(Client::builder(&url, TOKEN).certificates(other));
    device.expect(&[Connecting]);
    device.expect_retry(SECOND, "no TLS with localhost");
    device.cancel();
}

#[test]
fn a_server_that_is_not_there_is_asked_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let device = Device::build(Client::builder(format!("http://{address}"), TOKEN));
    device.expect(&[Connecting]);
    device.expect_retry(SECOND, &format!("cannot connect to {address}"));
    device.cancel();
}

/// `tiderace watch` against `server`, with nothing else to do.
fn agent(server: &Server, arguments: &[&str]) -> std::process::Command {
    let mut command = support::program();
    command.args(["watch", "--url", &server.url()]).args(arguments);
    command.env("TIDERACE_WATCH_TOKEN", TOKEN);
    command
}

/// Runs the program on a thread: its exit code, stdout and stderr.
fn run(command: std::process::Command) -> thread::JoinHandle<(Option<i32>, String, String)> {
    thread::spawn(|| {
        let (status, stdout, stderr) = support::run(command);
        (status.code(), stdout, stderr)
    })
}

/// The members `event` of JSON lines.
fn events(stdout: &str) -> Vec<String> {
    let event = |line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["event"].as_str().unwrap().to_owned()
    };
    stdout.lines().map(event).collect()
}

#[test]
fn the_agent_runs_its_command_for_each_wake() {
    let server = Server::start();
    let exec = "echo \"$TIDERACE_WAKE_SESSION_ID $TIDERACE_WAKE_URL $TIDERACE_WAKE_TOKEN \
                $TIDERACE_WAKE_DEVICE_WAIT_MS <$TIDERACE_WATCH_TOKEN>\"";
    let program = run(agent(&server, &["--json", "--exec", exec]));
    script(&server);
    let (code, stdout, stderr) = program.join().unwrap();
    assert_eq!(code, Some(77), "{stdout}{stderr}");
    assert_eq!(
        stderr,
        "ras_1 wss://room room-token 300000 <>\nras_2 wss://room room-token 300000 <>\n\
         tiderace: the server does not accept the device's token (401)\n"
    );
    let session = ["connecting", "connected", "wake", "command_ended"];
    let end = ["connecting", "shutting_down", "shutdown"];
    assert_eq!(events(&stdout), [&session[..], &session[..], &end[..]].concat());
    assert!(!stdout.contains("room-token"), "the command has it: {stdout}");
}

#[test]
fn the_agent_tells_people_and_ends_after_one_wake_if_asked_to() {
    for (arguments, code) in [(&["--once"][..], 0), (&["--once", "--exec", "exit 5"], 1)] {
        let server = Server::start();
        let program = run(agent(&server, arguments));
        server.introduce();
        let mut watch = server.watch();
        watch.hello("l", QUIET_MS);
        watch.end();
        let mut watch = server.watch();
        watch.hello("l", QUIET_MS);
        watch.chunk(wake("ras_1"));
        let (ended, stdout, stderr) = program.join().unwrap();
        assert_eq!(ended, Some(code), "{stdout}{stderr}");
        let mut expected = vec![
            "connecting",
            "connected",
            "again now: the server ended the stream",
            "woken for session ras_1: wss://room",
            "command ended: exit status: 5",
            "shutting down",
            "shutdown",
        ];
        expected.retain(|line| code == 1 || !line.starts_with("command"));
        assert_eq!(stdout.lines().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_signal_ends_the_agent_and_its_command_in_order() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    use rustix::process::{Pid, Signal, kill_process};

    // While it watches, and while its command runs.
    for woken in [false, true] {
        let server = Server::start();
        let exec =
            "trap 'echo ended in order; exit 3' TERM; echo started; while :; do sleep 1; done";
        let mut command = agent(&server, &["--json", "--exec", exec]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        server.introduce();
        let mut watch = server.watch();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        if woken {
            watch.hello("l", QUIET_MS);
            watch.chunk(wake("ras_1"));
            let mut line = String::new();
            stderr.read_line(&mut line).unwrap();
            assert_eq!(line, "started\n");
        }
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let mut said = events(str::from_utf8(&output.stdout).unwrap());
        let rest = std::io::read_to_string(stderr).unwrap();
        if woken {
            assert!(rest.contains("ended in order"), "{rest}");
            assert!(said.iter().any(|event| event == "command_ended"), "{said:?}");
            said.retain(|event| event != "command_ended");
        }
        assert!(said.ends_with(&["shutting_down".into(), "shutdown".into()]), "{said:?}");
    }
}
