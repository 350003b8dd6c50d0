//! `tiderace token` as its user meets it: what it makes, a server takes; what is wrong, it says.

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::json;
use support::{Server, program, run, websocket::Client};

const SECRET: (&str, &str) = ("TIDERACE_CLIENT_TOKEN_HMAC_SECRET_KEY", "token-secret");

fn token(arguments: &[&str]) -> Command {
    let mut command = program();
    command.arg("token").args(arguments);
    command
}

/// What the command prints; it succeeds.
fn made(mut command: Command) -> String {
    command.env(SECRET.0, SECRET.1);
    let (status, stdout, stderr) = run(command);
    assert!(status.success(), "{stdout}{stderr}");
    stdout.trim_end().to_owned()
}

/// What `check` prints; it succeeds or not.
fn checked(mut command: Command, valid: bool) -> String {
    command.env(SECRET.0, SECRET.1);
    let (status, stdout, stderr) = run(command);
    assert_eq!(status.code(), Some(if valid { 0 } else { 1 }), "{stdout}{stderr}");
    stdout
}

fn file(name: &str, text: &str) -> PathBuf {
    let name = format!("token-{}-{name}", std::process::id());
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_server_takes_the_tokens_that_are_made() {
    let server = Server::start(&["--shards", "1"], &[SECRET, ("TIDERACE_HTTP_API_KEY", "k")]);
    let made = made(token(&["connection", "--user", "ann", "--ttl", "5m", "--info", "{\"n\":1}"]));
    let reply = Client::open(server.address).command(&json!({"connect": {"token": made}}));
    let ttl = reply["connect"]["ttl"].as_u64();
    assert!(ttl.is_some_and(|ttl| (1..=300).contains(&ttl)), "{reply}");
    checked(token(&["check", &made]), true);
}

#[test]
fn what_is_made_is_what_was_asked_for() {
    let connection = made(token(&[
        "connection",
        "--user",
        "ann",
        "--meta",
        "{\"a\": 1e400}",
        "--channels",
        "a,b",
        "--ttl",
        "0",
    ]));
    let said = checked(token(&["check", &connection]), true);
    assert!(said.starts_with("connection token, HS256\n"), "{said}");
    for part in
        [r#""channels":["a","b"]"#, r#""meta":{"a": 1e400}"#, r#""sub":"ann""#, "never expires"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    let subscription = made(token(&[
        "subscription",
        "--user",
        "",
        "--channel",
        "news",
        "--client",
        "c1",
        "--info",
        "[1]",
    ]));
    let said = checked(token(&["check", &subscription]), true);
    assert!(said.starts_with("subscription token, HS256\n"), "{said}");
    for part in [r#""client":"c1""#, r#""info":[1]"#, "anonymous user in channel \"news\""] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn keys_and_wishes_come_from_the_configuration() {
    let config = file(
        "keys.json",
        r#"{"client":{"token":{"hmac_secret_key":"of-the-file","audience":"here","issuer":"us"}}}"#,
    );
    let with_config = |arguments: &[&str]| {
        let mut command = token(arguments);
        command.arg("--config").arg(&config);
        command
    };
    let (status, made, stderr) = run(with_config(&["connection", "--user", "ann"]));
    assert!(status.success(), "{stderr}");
    let made = made.trim_end();
    let (status, said, _) = run(with_config(&["check", made]));
    assert!(status.success() && said.contains(r#""aud":"here""#), "{said}");
    let said = checked(token(&["check", made]), false);
    assert!(said.contains("not valid: its signature is wrong"), "{said}");
    checked(token(&["check", made, "--secret", "of-the-file"]), true);
}

#[test]
fn subscriptions_have_keys_of_their_own() {
    let config = file(
        "subscription-keys.json",
        r#"{"client":{"token":{"hmac_secret_key":"one"},
            "subscription_token":{"enabled":true,"hmac_secret_key":"other"}}}"#,
    );
    let with_config = |arguments: &[&str]| {
        let mut command = token(arguments);
        command.arg("--config").arg(&config);
        command
    };
    let subscription = ["subscription", "--user", "ann", "--channel", "news"];
    let (status, subscription, stderr) = run(with_config(&subscription));
    assert!(status.success(), "{stderr}");
    let (_, connection, _) = run(with_config(&["connection", "--user", "ann"]));
    for (made, secret) in [(subscription.trim_end(), "other"), (connection.trim_end(), "one")] {
        let (status, said, _) = run(with_config(&["check", made]));
        assert!(status.success(), "{said}");
        checked(token(&["check", made, "--secret", secret]), true);
    }
}

/// Those of PS too, which the RSA key is for.
#[test]
fn public_keys_count_for_their_algorithms() {
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    let key = |file: &str| fs::read_to_string(format!("tests/keys/{file}.pem")).unwrap();
    type Read = fn(&[u8]) -> jsonwebtoken::errors::Result<EncodingKey>;
    let (rsa, ec, ed): (Read, Read, Read) =
        (EncodingKey::from_rsa_pem, EncodingKey::from_ec_pem, EncodingKey::from_ed_pem);
    for (option, file, read, algorithms) in [
        ("RSA", "rsa", rsa, &[Algorithm::RS256, Algorithm::PS256, Algorithm::PS512][..]),
        ("ECDSA", "p384", ec, &[Algorithm::ES384]),
        ("ED25519", "ed25519", ed, &[Algorithm::EdDSA]),
    ] {
        for algorithm in algorithms {
            let signer = read(key(file).as_bytes()).unwrap();
            let signed = encode(&Header::new(*algorithm), &json!({"sub": "ann"}), &signer).unwrap();
            let variable = format!("TIDERACE_CLIENT_TOKEN_{option}_PUBLIC_KEY");
            let mut command = token(&["check", &signed]);
            command.env(&variable, key(&format!("{file}.pub")));
            let said = checked(command, true);
            assert!(said.starts_with(&format!("connection token, {algorithm:?}\n")), "{said}");
            checked(token(&["check", &signed]), false);
        }
    }
}

#[test]
fn a_token_is_read_from_standard_input() {
    let made = made(token(&["connection", "--user", "ann"]));
    let mut child = token(&["check", "-"])
        .env(SECRET.0, SECRET.1)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{made}").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn keys_of_a_key_set_count() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let answers = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let key = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let set =
            json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": key}]}).to_string();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{set}", set.len()).unwrap();
    });
    // Signed with the secret: with a key set that does not count.
    let made = made(token(&["connection", "--user", "ann"]));
    let said = checked(token(&["check", &made, "--jwks", &url]), false);
    assert!(said.contains("not valid: its header names no key (kid)"), "{said}");
    answers.join().unwrap();
}

#[test]
fn what_cannot_be_done_is_explained() {
    for (arguments, said) in [
        (&["connection", "--user", "ann"][..], "no HMAC secret"),
        (&["subscription", "--user", "ann", "--channel", ""], "needs a channel"),
        (&["connection", "--user", "ann", "--info", "{"], "no JSON"),
        (&["connection", "--user", "ann", "--ttl", "5"], "with its unit"),
        (&["check", "x", "--jwks", "http://127.0.0.1:1/"], "could not fetch the key set"),
        (&["check", "x", "--config", "/nowhere.toml"], "/nowhere.toml"),
    ] {
        let (status, stdout, stderr) = run(token(arguments));
        assert!(!status.success() && stdout.is_empty(), "{arguments:?}: {stdout}");
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
    }
}
