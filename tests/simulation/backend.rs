//! A backend that uses the HTTP API with pipelined requests.

use std::collections::VecDeque;

use serde_json::Value;

use super::{
    client::Peer,
    features::KEYS,
    oracle::{Oracle, name},
    random::Random,
    window::Window,
    wire::Said,
};

#[derive(Debug)]
enum Call {
    Publish(usize, u64),
    Broadcast(Vec<usize>, u64),
    Info,
    Health,
    Missing,
}

/// The client.
pub struct Backend {
    number: usize,
    channels: usize,
    outstanding: VecDeque<Call>,
    /// It asked for the end of the connection behind its last request.
    last_sent: bool,
    refused: bool,
}

impl Backend {
    pub fn new(number: usize, channels: usize) -> Self {
        let outstanding = VecDeque::new();
        Self { number, channels, outstanding, last_sent: false, refused: false }
    }

    fn request(&mut self, oracle: &mut Oracle, random: &mut Random) -> Vec<u8> {
        let (call, method, path, body) = match random.below(10) {
            0..=4 => {
                let channel = random.below(self.channels);
                let (id, data) = oracle.publish(self.number, &[channel], random.below(60));
                let tags = tags(oracle, id, &[channel], random);
                let channel_name = name(channel);
                let body = format!(r#"{{"channel":"{channel_name}","data":{data},"tags":{tags}}}"#);
                (Call::Publish(channel, id), "POST", "/api/publish", body)
            }
            5..=6 => {
                let first = random.below(self.channels);
                let channels: Vec<usize> = (first..self.channels).collect();
                let (id, data) = oracle.publish(self.number, &channels, random.below(60));
                let tags = tags(oracle, id, &channels, random);
                let names: Vec<String> = channels.iter().map(|channel| name(*channel)).collect();
                let names = serde_json::to_string(&names).unwrap();
                let body = format!(r#"{{"channels":{names},"data":{data},"tags":{tags}}}"#);
                (Call::Broadcast(channels, id), "POST", "/api/broadcast", body)
            }
            7 => (Call::Info, "POST", "/api/info", "{}".to_owned()),
            8 => (Call::Health, "GET", "/health", String::new()),
            _ => (Call::Missing, "POST", "/api/nothing", "{}".to_owned()),
        };
        self.outstanding.push_back(call);
        self.last_sent = random.chance(3);
        let close = if self.last_sent { "Connection: close\r\n" } else { "" };
        let length = body.len();
        format!(
            "{method} {path} HTTP/1.1\r\nHost: sim\r\n{close}Content-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

/// Any key for a publication, as JSON.
fn tags(oracle: &mut Oracle, id: u64, to: &[usize], random: &mut Random) -> String {
    let tags = oracle.keyed(id, to, random.pick::<&str>(&KEYS));
    serde_json::to_string(&tags).expect("texts are JSON")
}

fn outcome(oracle: &mut Oracle, channel: usize, id: u64, answer: &Value) {
    if answer["result"].is_object() {
        oracle.acknowledged(channel, id);
    } else {
        assert_eq!(answer["error"]["code"], 111, "{answer}");
        oracle.refused(channel, id);
    }
}

impl Peer for Backend {
    fn act(&mut self, oracle: &mut Oracle, random: &mut Random) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..random.below(5) {
            if !self.last_sent && !self.refused {
                out.extend(self.request(oracle, random));
            }
        }
        out
    }

    fn heard(&mut self, said: Said, oracle: &mut Oracle, _: &mut Random) -> Vec<u8> {
        let Said::Response { status, body } = said else { panic!("not HTTP: {said:?}") };
        let answer: Value = serde_json::from_slice(&body).expect("a body is JSON");
        let refused = status == 503 && answer["error"]["code"] == 503;
        if refused || status == 408 {
            self.refused = true;
            self.outstanding.clear();
            return Vec::new();
        }
        let call = self.outstanding.pop_front().expect("a response to a request");
        match (call, status) {
            (Call::Publish(channel, id), 200 | 503) => outcome(oracle, channel, id, &answer),
            (Call::Broadcast(channels, id), 503) => {
                channels.into_iter().for_each(|channel| outcome(oracle, channel, id, &answer));
            }
            (Call::Broadcast(channels, id), 200) => {
                let answers = answer["result"]["responses"].as_array().expect("an answer each");
                assert_eq!(answers.len(), channels.len());
                for (channel, answer) in channels.into_iter().zip(answers) {
                    outcome(oracle, channel, id, answer);
                }
            }
            (Call::Info, 200) => assert!(answer["result"]["nodes"][0]["shards"].is_array()),
            (Call::Info, 503) => assert_eq!(answer["error"]["code"], 111),
            (Call::Health, 200) => assert_eq!(answer, Value::Object(Default::default())),
            (Call::Missing, 404) => {}
            (call, status) => panic!("{call:?} was answered with {status} {answer}"),
        }
        Vec::new()
    }

    fn goodbye(&mut self, _: &mut Random) -> Vec<u8> {
        Vec::new()
    }

    fn settled(&self) {
        assert!(self.outstanding.is_empty(), "never answered: {:?}", self.outstanding);
    }

    fn windows(&self) -> Vec<(usize, &Window)> {
        Vec::new()
    }

    fn wanted_windows(&self) -> Vec<&Window> {
        Vec::new()
    }

    fn user(&self) -> Option<&str> {
        None
    }

    fn may_be_ended(&self) -> bool {
        self.refused || self.last_sent && self.outstanding.is_empty()
    }

    fn is_http(&self) -> bool {
        true
    }
}
