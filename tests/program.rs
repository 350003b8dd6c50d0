//! The program as its operator meets it: what it says when it cannot start, and how it ends.

mod support;

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use support::{Server, run, serve, websocket::Client};
use tiderace::config::Config;

/// Runs a server that must refuse to start: what it says.
fn refusal(command: Command) -> String {
    let (status, stdout, stderr) = run(command);
    assert_eq!(status.code(), Some(1), "{stdout}{stderr}");
    assert_eq!(stdout, "", "stdout is for servers that listen");
    stderr
}

fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is missing: {text}");
    }
}

/// A file of this test process's own.
fn file(name: &str, text: &str) -> PathBuf {
    let path =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", std::process::id()));
    fs::write(&path, text).expect("the directory of the tests is there");
    path
}

/// The command in a shell that first does `limits`.
fn limited(limits: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{limits} && exec \"$0\" serve --listen 127.0.0.1:0 \"$@\"")]);
    command.arg(env!("CARGO_BIN_EXE_tiderace")).args(arguments);
    command
}

#[test]
fn without_secrets_it_says_what_to_set() {
    let said = refusal(serve(&[], &[]));
    assert_says(
        &said,
        &[
            "nobody could use this server",
            "TIDERACE_CLIENT_TOKEN_HMAC_SECRET_KEY=",
            "TIDERACE_HTTP_API_KEY=",
            "tiderace serve --dev",
        ],
    );
}

#[test]
fn a_port_in_use_is_named() {
    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = other.local_addr().expect("it is bound").port();
    let said = refusal(serve(&["--dev", "--listen", &format!("127.0.0.1:{port}")], &[]));
    assert_says(
        &said,
        &[&format!("cannot listen on 127.0.0.1:{port}: another process"), "ss -ltnp"],
    );
    // A server of ours is another process too: its port is not shared.
    let server = Server::dev(&[]);
    let address = server.address.to_string();
    let said = refusal(serve(&["--dev", "--listen", &address], &[]));
    assert_says(&said, &[&format!("cannot listen on {address}")]);
}

#[test]
fn a_wrong_setting_is_named_with_its_place() {
    let path = file("wrong.toml", "[client]\nping_interval = \"25s\"\npong_timeout = 8\n");
    let name = path.to_str().expect("UTF-8");
    let said = refusal(serve(&["--dev", "--config", name], &[]));
    assert_says(&said, &[&format!("{name}:3:"), "client.pong_timeout", "\"25s\""]);
    let misspelt = file("misspelt.yaml", "client:\n  ping_intervall: 25s\n");
    let name = misspelt.to_str().expect("UTF-8");
    let said = refusal(serve(&["--dev", "--config", name], &[]));
    assert_says(&said, &[&format!("{name}:2:"), "ping_intervall", "ping_interval"]);
    let said = refusal(serve(&["--dev"], &[("TIDERACE_CLIENT_CHANNEL_LIMIT", "many")]));
    assert_says(
        &said,
        &["TIDERACE_CLIENT_CHANNEL_LIMIT", "a whole number from 1 to 65536", "many"],
    );
    for path in [path, misspelt] {
        fs::remove_file(path).expect("it was written");
    }
}

/// What `tiderace config` says to these arguments: its exit code, stdout and stderr.
fn config(arguments: &[&str]) -> (Option<i32>, String, String) {
    config_with(arguments, &[])
}

fn config_with(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = support::program();
    command.arg("config").args(arguments).envs(environment.iter().copied());
    let (status, stdout, stderr) = run(command);
    (status.code(), stdout, stderr)
}

/// With these a server can be used.
const SECRETS: &[(&str, &str)] =
    &[("TIDERACE_CLIENT_TOKEN_HMAC_SECRET_KEY", "s"), ("TIDERACE_HTTP_API_KEY", "k")];

/// What a file for Centrifugo asks for that is not here.
const LACKS: &[&str] = &[
    "admin ",
    "client.presence_update_interval ",
    "client.connection_rate_limit ",
    "channel.namespaces[0].delta_publish ",
    "websocket.compression ",
    "websocket.write_timeout ",
];

#[test]
fn a_file_for_centrifugo_is_served_with() {
    let mut loaded = Vec::new();
    for extension in ["toml", "json", "yaml"] {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/config/centrifugo");
        let path = path.with_extension(extension);
        let name = path.to_str().expect("UTF-8");
        let (code, stdout, stderr) = config(&["check", name]);
        assert_eq!(
            (code, &*stdout),
            (Some(0), &*format!("{name} can be served with, 6 warnings\n"))
        );
        for lack in LACKS {
            let warning = format!("warning: {lack}is an option of Centrifugo: ignored");
            assert!(stderr.lines().any(|line| line == warning), "{warning} in {stderr}");
        }
        assert_eq!(stderr.lines().count(), LACKS.len(), "{stderr}");

        let server = Server::start(&["--config", name], &[]);
        let (status, stderr) = server.stop();
        assert_eq!(status.code(), Some(0), "{stderr}");
        assert_says(&stderr, LACKS);
        let of_file = tiderace::config::load(Config::default(), Some(&path), [], &[]);
        loaded.push(of_file.expect("it was served with").config);
    }
    assert!(loaded[0] == loaded[1] && loaded[0] == loaded[2], "the formats say the same");
    let channels = loaded[0].channel.channels();
    let names: Vec<_> = channels.namespaces.keys().map(String::as_str).collect();
    assert_eq!(names, ["chat", "personal", "private", "ticker"]);
    assert!(channels.options("chat:a").is_some_and(|options| options.force_recovery));
    let connect = &loaded[0].client.proxy.connect.proxy;
    assert_eq!(connect.http_headers, ["cookie", "x-real-ip"]);
    assert_eq!(connect.http.static_headers["authorization"].expose(), "Bearer proxy-secret");
}

#[test]
fn a_file_that_is_checked_is_found_wrong_where_it_is() {
    let path = file(
        "checked.yaml",
        "channel:\n  namespaces:\n  - name: chat\n    presence: true\n    force_recovery: true\n",
    );
    let name = path.to_str().expect("UTF-8");
    let (code, stdout, stderr) = config(&["check", name]);
    assert_eq!((code, &*stdout), (Some(1), ""));
    let start = format!("{name}:5:21: channel.namespaces[0].force_recovery: needs a history");
    assert!(stderr.starts_with(&start), "{stderr}");
    fs::write(&path, "client:\n  insecure: true\n").expect("it can be written again");
    let (code, _, stderr) = config(&["check", name]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_says(
        &stderr,
        &[
            "the HTTP API refuses every request: http_api.key is not set",
            "client.insecure: whoever",
        ],
    );
    for (text, wrong) in [
        (
            "rpc:\n  without_namespace: {proxy_enabled: true}\n  proxy:\n    \
             endpoint: http://b.example\n    http_headers: [Host]\n",
            "host belongs to the connection",
        ),
        (
            "client:\n  token:\n    issuer: a\n    issuer_regex: b\n    hmac_secret_key: k\n",
            "issuer",
        ),
        (
            "client:\n  token:\n    hmac_secret_key: k\n    audience: a\n    audience_regex: b\n",
            "aud",
        ),
    ] {
        fs::write(&path, text).expect("it can be written again");
        let (code, stdout, stderr) = config(&["check", name]);
        assert_eq!((code, &*stdout), (Some(1), ""), "{stderr}");
        assert_says(&stderr, &[name, wrong]);
    }
    fs::remove_file(&path).expect("it was written");
    let (code, _, stderr) = config(&["check", name]);
    assert_eq!(code, Some(1));
    assert_says(&stderr, &[name, "cannot be read"]);
}

/// What is wrong is found before the server starts, and by who asks beforehand: in the same words,
/// which name the line and the option.
#[test]
fn a_check_judges_as_the_server_does() {
    let broken = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
    let pem = |option: &str| format!("[client.token]\n{option} = '''\n{broken}'''\n");
    let proxy = |option: &str| {
        format!(
            "[rpc.without_namespace]\nproxy_enabled = true\n[rpc.proxy]\n\
             endpoint = \"http://b.example\"\n{option}\n"
        )
    };
    let named = "[rpc.without_namespace]\nproxy_enabled = true\nproxy_name = \"mine\"\n\
                 [[proxies]]\nname = \"mine\"\nendpoint = \"http://b.example/ /\"\n";
    for (text, found) in [
        (pem("rsa_public_key"), ":2:18: client.token.rsa_public_key: expected an RSA public key"),
        (pem("ecdsa_public_key"), ":2:20: client.token.ecdsa_public_key: expected an ECDSA"),
        (pem("ed25519_public_key"), ":2:22: client.token.ed25519_public_key: expected an Ed25519"),
        (
            format!("[client.subscription_token]\nenabled = true\nrsa_public_key = '''{broken}'''"),
            ":3:18: client.subscription_token.rsa_public_key: expected an RSA public key",
        ),
        (proxy("http_headers = [\"Host\"]"), ":5:16: rpc.proxy.http_headers: host belongs to"),
        (proxy("emulated_headers = [\"te\"]"), ":5:20: rpc.proxy.emulated_headers: te belongs"),
        (
            proxy("http = { static_headers = { Host = \"x\" } }"),
            ":5:27: rpc.proxy.http.static_headers: host belongs to",
        ),
        (named.into(), ":6:12: proxies[0].endpoint: endpoint is no URL"),
        (
            "[watch]\nenabled = true\n[watch.token]\ntable_file = \"/nowhere/at-all\"\n".into(),
            ":4:14: watch.token.table_file: /nowhere/at-all: ",
        ),
        (
            "[watch]\nenabled = true\n[watch.token]\nproxy_endpoint = \"http://\"\n".into(),
            ":4:18: watch.token.proxy_endpoint: ",
        ),
    ] {
        let path = file("judged.toml", &text);
        let name = path.to_str().expect("UTF-8");
        let (code, _, checked) = config_with(&["check", name], SECRETS);
        assert_eq!(code, Some(1), "{text}{checked}");
        assert!(checked.starts_with(&format!("{name}{found}")), "{checked}");
        let served = refusal(serve(&["--config", name], SECRETS));
        assert_eq!(served, format!("tiderace: {checked}"));
        fs::remove_file(path).expect("it was written");
    }
    let path = file("unusable.toml", "[client]\nchannel_limit = 7\n");
    let name = path.to_str().expect("UTF-8");
    let (code, stdout, checked) = config(&["check", name]);
    assert_eq!((code, &*stdout), (Some(1), ""), "{checked}");
    let served = refusal(serve(&["--config", name], &[]));
    assert_eq!(served, format!("tiderace: {checked}"));
    assert_says(&served, &[name, "nobody could use this server"]);
    fs::remove_file(path).expect("it was written");
}

#[test]
fn the_defaults_are_a_file_that_can_be_served_with() {
    for format in ["toml", "json", "yaml"] {
        let (code, text, stderr) = config(&["default", "--format", format]);
        assert_eq!((code, &*stderr), (Some(0), ""));
        assert_says(&text, &["hmac_secret_key", "namespaces", "history_bytes_max", "268435456"]);
        let path = file(&format!("defaults.{format}"), &text);
        let (code, _, stderr) = config(&["check", path.to_str().expect("UTF-8")]);
        assert_eq!(code, Some(1), "{stderr}");
        assert_says(&stderr, &["defaults.", ": nobody could use this server"]);
        let (code, _, stderr) = config_with(&["check", path.to_str().expect("UTF-8")], SECRETS);
        assert_eq!((code, &*stderr), (Some(0), ""));
        fs::remove_file(path).expect("it was written");
    }
}

#[test]
fn the_files_of_the_readme_can_be_served_with() {
    let readme = include_str!("../README.md");
    let blocks: Vec<&str> = readme.split("```toml\n").skip(1).collect();
    assert!(blocks.len() >= 3, "its files are fenced as toml");
    for block in blocks {
        let text = block.split("```").next().expect("text before the fence");
        let path = file("readme.toml", text);
        let (code, _, stderr) = config_with(&["check", path.to_str().expect("UTF-8")], SECRETS);
        assert_eq!((code, &*stderr), (Some(0), ""), "{text}");
        fs::remove_file(path).expect("it was written");
    }
}

#[test]
fn every_code_is_explained() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tiderace"));
    command.arg("codes");
    let (status, said, _) = run(command);
    assert_eq!(status.code(), Some(0));
    for (kind, code, then) in [
        ("error", "102", "fails the request"),
        ("unsubscribe", "2500", "subscribes again"),
        ("close", "3008", "reconnects"),
        ("close", "3501", "stays away"),
    ] {
        let line = said.lines().find(|line| line.contains(code)).expect(code);
        assert!(line.starts_with(kind) && line.contains(then) && line.ends_with('.'), "{line}");
        assert!(!line.contains("Never told"), "{line}");
    }
    for code in ["113", "2502", "3011", "3509"] {
        let line = said.lines().find(|line| line.contains(code)).expect(code);
        assert!(line.ends_with(" Never told by the server itself."), "{line}");
    }
}

#[test]
fn development_mode_stays_on_this_machine() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let said = refusal(serve(&["--dev", "--listen", address], &[]));
        assert_says(&said, &["--dev", "this machine only", "127.0.0.1"]);
    }
}

#[test]
fn too_small_limits_are_explained() {
    let said = refusal(limited("ulimit -n 64", &["--dev", "--shards", "2"]));
    assert_says(&said, &["open files", "64 are allowed", "ulimit -Hn", "LimitNOFILE="]);
    // Enough to start, and for nobody to connect.
    let said = refusal(limited("ulimit -n 600", &["--dev", "--shards", "2"]));
    assert_says(&said, &["600 are allowed", "not enough for a single connection"]);
    // Locked memory is limited for those only who lack the right to lock any amount.
    let mut unprivileged = Command::new("setpriv");
    unprivileged.args(["--bounding-set", "-ipc_lock", "--inh-caps", "-ipc_lock"]);
    let limits = limited("ulimit -l 64", &["--dev", "--shards", "2"]);
    if rustix::process::geteuid().is_root() {
        unprivileged.arg(limits.get_program()).args(limits.get_args());
    } else {
        unprivileged = limits;
    }
    let said = refusal(unprivileged);
    assert_says(&said, &["2 shards", "locked memory", "64 KiB are allowed", "LimitMEMLOCK="]);
}

#[test]
fn all_open_files_that_are_allowed_are_for_connections() {
    let server =
        Server::spawn(limited("ulimit -Sn 80 && ulimit -Hn 900", &["--dev", "--shards", "2"]));
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).expect("it runs");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    let numbers: Vec<_> =
        files.split_whitespace().filter(|word| word.parse::<u32>().is_ok()).collect();
    assert_eq!(numbers, ["900", "900"], "{files}");
    let _client = Client::connect(server.address);
}

#[test]
fn a_terminated_server_closes_its_clients_and_succeeds() {
    let server = Server::dev(&[]);
    let clients: Vec<_> = (0..10).map(|_| Client::subscribed(server.address, "c")).collect();
    server.publish("c", &json!("last"));
    server.terminate();
    for mut client in clients {
        assert_eq!(client.data(), "last", "what was acknowledged is delivered");
        assert_eq!(client.closed(), (3001, "shutdown".into()));
    }
    let (status, stderr) = server.wait();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("shutting down"), "{stderr}");
    let (status, _) = Server::start(&["--dev"], &[]).stop();
    assert_eq!(status.code(), Some(0), "one shard per CPU and nobody connected");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let server = Server::dev(&[]);
    let client = Client::connect(server.address);
    server.terminate();
    // The close frame came, so the first signal was seen; the stream stays open, so the server waits.
    let (code, stream) = client.closed_unanswered();
    assert_eq!(code, 3001);
    server.terminate();
    let (status, stderr) = server.wait();
    assert_eq!(status.code(), Some(130), "{stderr}");
    drop(stream);
}

/// A process that was stopped for a while goes on: its watchdog does not take the pause for a stall.
#[test]
fn a_stopped_process_goes_on() {
    let server = Server::dev(&[]);
    let signal = |name: &str| {
        let status =
            std::process::Command::new("kill").args([name, &server.pid().to_string()]).status();
        assert!(status.unwrap().success());
    };
    signal("-STOP");
    // Longer than what counts as a stall; there is nothing to wait for in a stopped process.
    std::thread::sleep(std::time::Duration::from_secs(11));
    signal("-CONT");
    server.publish("c", &json!(1));
    server.publish("d", &json!(1));
}

#[test]
fn a_hangup_ends_no_server() {
    let server = Server::dev(&[]);
    let pid = Pid::from_raw(server.pid().try_into().expect("a process id")).expect("not 0");
    kill_process(pid, Signal::HUP).expect("it runs");
    let (status, stderr) = server.stop();
    assert_eq!(status.code(), Some(0), "{stderr}");
}
