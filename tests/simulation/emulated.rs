//! Scripts: clients whose stream is on one shard, and what they say on another.

use super::{
    scene::Scene,
    settings::{self, Shape},
};

/// Who speaks is on another shard than the stream.
const STREAM: usize = 0;
const SPEAKER: usize = 1;

fn post(path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: sim\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// What a stream's client says, on another connection.
fn speech(session: &str, commands: &str) -> Vec<u8> {
    let body = serde_json::json!({ "session": session, "node": "", "data": commands });
    post("/emulation", &body.to_string())
}

/// A stream of a user that is connected, and the name of its session.
fn open(scene: &mut Scene, path: &str) -> (usize, String) {
    let stream = scene.open(STREAM);
    let token = &settings::users()[1].token;
    scene.say(stream, post(path, &format!(r#"{{"id":1,"connect":{{"token":"{token}"}}}}"#)));
    scene.rest();
    let heard = scene.hear_bytes(stream);
    let (_, session) = heard.split_once(r#""session":""#).expect("a connect reply");
    let session = session.split('"').next().expect("a session").to_owned();
    (stream, session)
}

/// Subscribes, publishes, goes and comes back, in two channels with different homes.
fn speeches(scene: &Scene, session: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, shard) in [STREAM, SPEAKER].into_iter().enumerate() {
        let (channel, id) = (scene.channel_of(shard), 10 * at);
        let commands = [
            format!(r#"{{"id":{},"subscribe":{{"channel":"{channel}"}}}}"#, id + 2),
            format!(r#"{{"id":{},"publish":{{"channel":"{channel}","data":7}}}}"#, id + 3),
            format!(r#"{{"id":{},"unsubscribe":{{"channel":"{channel}"}}}}"#, id + 4),
            format!(r#"{{"id":{},"subscribe":{{"channel":"{channel}"}}}}"#, id + 5),
        ];
        out.extend(speech(session, &commands.join("\n")));
    }
    out
}

#[test]
fn a_stream_hears_the_answers_to_what_is_said_on_another_shard() {
    for path in ["/connection/http_stream", "/connection/sse"] {
        for link_capacity in [1, 64] {
            let mut scene = Scene::new(Shape { link_capacity, ..Shape::roomy(2) });
            let (stream, session) = open(&mut scene, path);
            let speaker = scene.open(SPEAKER);
            let said = speeches(&scene, &session);
            scene.say(speaker, said);
            scene.rest();
            assert_eq!(scene.hear(speaker), ["204 ", "204 "]);
            let heard = scene.hear_bytes(stream);
            let ids = [2, 3, 4, 5, 12, 13, 14, 15];
            let at = ids.map(|id| heard.find(&format!(r#"{{"id":{id},"#)).expect("an answer"));
            assert!(at.is_sorted(), "{heard}");
            let channel = scene.channel_of(SPEAKER);
            let publish =
                format!(r#"{{"id":22,"publish":{{"channel":"{channel}","data":{{"x":8}}}}}}"#);
            scene.say(speaker, speech(&session, &publish));
            scene.rest();
            let heard = scene.hear_bytes(stream);
            assert_eq!(heard.matches(r#""data":{"x":8}"#).count(), 1, "{heard}");
            let subscribers = |shard: usize| {
                let channel = scene.channel_of(shard);
                scene.world.node.cores[shard].home().subscribers(&channel)
            };
            assert_eq!([subscribers(STREAM), subscribers(SPEAKER)], [1, 1]);
        }
    }
}

/// The stream, or who speaks for it, whatever was said by then and however far it is on its way. The
/// stream's place may be another one's when it comes.
#[test]
fn a_stream_and_who_speaks_for_it_may_break_at_every_step() {
    let (mut subscribed, mut late) = (0, 0);
    for (breaks_stream, takes_place) in [(true, false), (true, true), (false, false)] {
        for turns in 0..40 {
            for steps in [17, 10_000] {
                let mut scene = Scene::new(Shape { link_capacity: 1, ..Shape::roomy(2) });
                let (stream, session) = open(&mut scene, "/connection/http_stream");
                let speaker = scene.open(SPEAKER);
                let said = speeches(&scene, &session);
                let mut said = said.chunks(steps);
                for turn in 0..turns {
                    said.next().into_iter().for_each(|some| scene.say(speaker, some.to_vec()));
                    scene.world.turn(turn % 2, turn % 3 == 0);
                }
                subscribed +=
                    (0..2).map(|at| scene.world.node.cores[at].counts().subscriptions).sum::<u64>();
                if !breaks_stream {
                    scene.reset(speaker);
                    scene.rest();
                    assert_eq!(scene.world.node.cores[STREAM].counts().clients, 1, "{turns}");
                    scene.reset(stream);
                    scene.rest();
                    check_empty(&scene, turns);
                    continue;
                }
                scene.reset(stream);
                (0..3).for_each(|_| scene.world.turn(STREAM, true));
                let next = takes_place.then(|| open(&mut scene, "/connection/http_stream").0);
                said.for_each(|some| scene.say(speaker, some.to_vec()));
                scene.rest();
                let answers = scene.hear(speaker);
                assert!(answers.iter().all(|answer| answer == "204 "), "{turns}: {answers:?}");
                if let Some(next) = next {
                    let same = scene.place_of(next).1.slot == scene.place_of(stream).1.slot;
                    late += u32::from(same);
                    assert_eq!(scene.hear_bytes(next), "", "{turns}: it said nothing");
                    scene.reset(next);
                }
                scene.reset(speaker);
                scene.rest();
                check_empty(&scene, turns);
            }
        }
    }
    assert!(subscribed > 0 && late > 0, "{subscribed} subscriptions, {late} places taken again");
}

fn check_empty(scene: &Scene, turns: usize) {
    for core in &scene.world.node.cores {
        assert!(core.is_empty(), "after {turns} turns: {:?}", core.counts());
    }
    assert_eq!(settings::connections(&scene.world.node.process), 0);
}

/// What is said for a stream whose shard is behind is refused, and said so.
#[test]
fn a_full_link_refuses_what_is_said_for_a_stream() {
    let mut scene = Scene::new(Shape::roomy(2));
    let (stream, session) = open(&mut scene, "/connection/http_stream");
    let speaker = scene.open(SPEAKER);
    scene.world.node.links.capacity = 0;
    let channel = scene.channel_of(STREAM);
    let padding = "x".repeat(30_000);
    let line = format!(r#"{{"id":2,"publish":{{"channel":"{channel}","data":"{padding}"}}}}"#);
    let mut answers = Vec::new();
    while !answers.iter().any(|answer: &String| answer.starts_with("503")) {
        assert!(answers.len() < 10_000, "it is never full");
        scene.say(speaker, speech(&session, &line));
        scene.rest();
        answers.extend(scene.hear(speaker));
    }
    let taken = answers.iter().filter(|answer| *answer == "204 ").count();
    scene.world.node.links.capacity = 64;
    scene.rest();
    let heard = scene.hear_bytes(stream);
    assert_eq!(heard.matches(r#"{"id":2,"#).count(), taken, "{heard}");
}
