//! Fetches the key set of an identity provider, again and again, on a thread that is no shard.

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::{
    auth::KeySet,
    backend::in_words,
    limits::{KEY_SET_BYTES_MAX, KEY_SET_FETCH_PAUSE_S},
};

/// Where a key set is, and how often to look.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The URL, `http` or `https`; its answer to a `GET` is the set.
    pub url: String,
    /// Time for one answer, from the connection to the last byte.
    pub timeout: Duration,
    /// Time between a fetch that nobody asked for and the one before it.
    pub every: Duration,
    /// Time between any two fetches at least, and before the next try after one that failed.
    pub pause: Duration,
}

impl Endpoint {
    /// With times that suit providers: keys stay for an hour as in Centrifugo, an answer takes 5 s
    /// at most.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            timeout: Duration::from_secs(5),
            every: Duration::from_secs(60 * 60),
            pause: Duration::from_secs(KEY_SET_FETCH_PAUSE_S),
        }
    }
}

/// The thread that fetches. It ends when the last of these is dropped.
#[derive(Clone, Debug)]
pub struct Fetcher {
    asked: Sender<()>,
}

impl Fetcher {
    /// Fetches at once, and from then on as the endpoint says. Each set that was fetched goes to
    /// `on_keys`; when a fetch fails, that is logged and the keys before it stay valid.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(
        endpoint: Endpoint,
        on_keys: impl FnMut(Arc<KeySet>) + Send + 'static,
    ) -> io::Result<Self> {
        // One question is enough: what is fetched answers all that came before.
        let (asked, questions) = bounded(1);
        thread::Builder::new()
            .name("key-set".to_owned())
            .spawn(move || run(&endpoint, &questions, on_keys))?;
        Ok(Self { asked })
    }

    /// Asks for a newer set, because a token names a key that is unknown. Never waits; the fetch
    /// keeps its distance from the one before.
    pub fn ask(&self) {
        // Full: somebody has asked already. Disconnected: the thread has panicked, and said so.
        let _ = self.asked.try_send(());
    }
}

fn run(endpoint: &Endpoint, questions: &Receiver<()>, mut on_keys: impl FnMut(Arc<KeySet>)) {
    let agent = agent(endpoint);
    loop {
        // Whoever asks from here on may not have been told of what is fetched now.
        let _ = questions.try_recv();
        let fetched = fetch_with(&agent, endpoint);
        let ended = Instant::now();
        let next = match fetched {
            Ok(keys) => {
                tracing::debug!(url = endpoint.url, ?keys, "fetched the key set");
                on_keys(Arc::new(keys));
                endpoint.every
            }
            Err(error) => {
                tracing::warn!(url = endpoint.url, error, "could not fetch the key set");
                endpoint.pause
            }
        };
        match questions.recv_timeout(next) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let at = ended + endpoint.pause;
        while let Some(left) =
            at.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            match questions.recv_timeout(left) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

/// Fetches the set once.
///
/// # Errors
/// Why there is none: no answer in time, another answer than 200, or no key set.
pub fn fetch(endpoint: &Endpoint) -> Result<KeySet, String> {
    fetch_with(&agent(endpoint), endpoint)
}

fn agent(endpoint: &Endpoint) -> ureq::Agent {
    ureq::Agent::new_with_config(
        ureq::Agent::config_builder()
            .timeout_global(Some(endpoint.timeout))
            .http_status_as_error(false)
            // A redirect may not lead out of TLS: whoever gives the keys decides who is who.
            .https_only(endpoint.url.starts_with("https:"))
            .max_idle_connections(0)
            .proxy(None)
            .build(),
    )
}

fn fetch_with(agent: &ureq::Agent, endpoint: &Endpoint) -> Result<KeySet, String> {
    let request = agent.get(&endpoint.url).header("Accept", "application/json");
    let words = |error: ureq::Error| in_words(&error, endpoint.timeout);
    let mut response = request.call().map_err(words)?;
    let status = response.status().as_u16();
    if status != 200 {
        return Err(format!("it answered {status}"));
    }
    let body = response.body_mut().with_config().limit(KEY_SET_BYTES_MAX).read_to_vec();
    KeySet::parse(&body.map_err(words)?)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        sync::Mutex,
    };

    use super::*;

    /// After so long something hangs. Nothing is asserted to be faster than that.
    const DEADLINE: Duration = Duration::from_secs(60);

    /// A provider: answers each request with the next of its answers, and the last one for ever.
    struct Provider {
        url: String,
        asked: Receiver<()>,
        answers: Arc<Mutex<Vec<Vec<u8>>>>,
    }

    impl Provider {
        fn start(first: Vec<u8>) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}/keys", listener.local_addr().unwrap());
            let answers = Arc::new(Mutex::new(vec![first]));
            let (told, asked) = crossbeam_channel::unbounded();
            let from = Arc::clone(&answers);
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let mut byte = [0];
                        stream.read_exact(&mut byte).unwrap();
                        head.push(byte[0]);
                    }
                    assert!(head.starts_with(b"GET /keys HTTP/1.1\r\n"));
                    let answer = from.lock().unwrap().last().cloned().unwrap();
                    // The client may hang up on an answer that is too long.
                    let _ = stream.write_all(&answer);
                    if told.send(()).is_err() {
                        return;
                    }
                }
            });
            Self { url, asked, answers }
        }

        fn answer(&self, answer: Vec<u8>) {
            self.answers.lock().unwrap().push(answer);
        }

        fn was_asked(&self) {
            self.asked.recv_timeout(DEADLINE).unwrap();
        }
    }

    fn http(status: &str, body: &[u8]) -> Vec<u8> {
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        [head.as_bytes(), body].concat()
    }

    /// A set of one key with this id (RFC 8037 appendix A.2).
    fn set(id: &str) -> Vec<u8> {
        let key = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let body =
            format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"{id}","x":"{key}"}}]}}"#);
        http("200 OK", body.as_bytes())
    }

    fn endpoint(url: &str, every: Duration) -> Endpoint {
        let pause = Duration::from_millis(1);
        Endpoint { timeout: DEADLINE, every, pause, ..Endpoint::new(url) }
    }

    /// The ids of the keys of each set, as they come.
    fn start(endpoint: Endpoint) -> (Fetcher, Receiver<Vec<String>>) {
        let (sender, sets) = crossbeam_channel::unbounded();
        let on_keys = move |keys: Arc<KeySet>| {
            sender.send(keys.key_ids().map(str::to_owned).collect()).unwrap();
        };
        (Fetcher::start(endpoint, on_keys).unwrap(), sets)
    }

    #[test]
    fn keys_come_at_the_start_and_when_asked_for() {
        let provider = Provider::start(set("a"));
        let (fetcher, sets) = start(endpoint(&provider.url, DEADLINE * 2));
        assert_eq!(sets.recv_timeout(DEADLINE).unwrap(), ["a"]);
        provider.answer(set("b"));
        fetcher.ask();
        assert_eq!(sets.recv_timeout(DEADLINE).unwrap(), ["b"]);
    }

    #[test]
    fn keys_come_again_by_themselves() {
        let provider = Provider::start(set("a"));
        let (_fetcher, sets) = start(endpoint(&provider.url, Duration::from_millis(1)));
        for _ in 0..3 {
            assert_eq!(sets.recv_timeout(DEADLINE).unwrap(), ["a"]);
        }
        provider.answer(set("b"));
        let next = || sets.recv_timeout(DEADLINE).unwrap();
        while next() != ["b"] {}
    }

    #[test]
    fn what_is_no_key_set_changes_nothing_and_is_tried_again() {
        let large = vec![b' '; KEY_SET_BYTES_MAX as usize + 1];
        for wrong in [
            http("200 OK", b"<html>"),
            http("200 OK", br#"{"keys":[]}"#),
            http("200 OK", &large),
            http("500 Internal Server Error", b"{}"),
            http("404 Not Found", &set("a")),
            b"no HTTP at all\r\n\r\n".to_vec(),
        ] {
            let provider = Provider::start(wrong);
            let (_fetcher, sets) = start(endpoint(&provider.url, DEADLINE * 2));
            provider.was_asked();
            provider.was_asked();
            assert!(sets.is_empty());
            provider.answer(set("b"));
            assert_eq!(sets.recv_timeout(DEADLINE).unwrap(), ["b"]);
        }
    }

    #[test]
    fn a_provider_that_is_down_at_the_start_is_found_when_it_is_there() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let down = endpoint(&format!("http://{address}/"), DEADLINE);
        assert!(fetch(&down).unwrap_err().to_lowercase().contains("refused"));
        let (_fetcher, sets) = start(down);
        let listener = TcpListener::bind(address).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&set("a")).unwrap();
        assert_eq!(sets.recv_timeout(DEADLINE).unwrap(), ["a"]);
    }

    #[test]
    fn an_answer_that_does_not_come_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let endpoint = Endpoint { timeout: Duration::from_millis(20), ..Endpoint::new(url) };
        assert_eq!(fetch(&endpoint).unwrap_err(), "it did not answer within 20ms");
    }

    #[test]
    fn questions_do_not_shorten_the_pause() {
        let provider = Provider::start(set("a"));
        let endpoint = Endpoint { pause: DEADLINE * 2, ..endpoint(&provider.url, DEADLINE * 2) };
        let (fetcher, sets) = start(endpoint);
        assert_eq!(sets.recv_timeout(DEADLINE).unwrap(), ["a"]);
        for _ in 0..100 {
            fetcher.ask();
        }
        // The thread ends without having fetched again: its end of the callback is dropped.
        drop(fetcher);
        assert!(sets.recv_timeout(DEADLINE).is_err_and(|error| error.is_disconnected()));
    }
}
