//! A chat of an embedder's own: rooms, users, a cookie or a token that says who is there, and an
//! announcement from another thread.
//!
//! `cargo run --example chat -- --listen 127.0.0.1:9002`, then with any WebSocket client
//! `ws://127.0.0.1:9002/chat?token=ann`. Each message is JSON: `{"join": "lobby"}`,
//! `{"leave": "lobby"}`, `{"room": ["lobby", "hello"]}` to all others there, `{"user": ["bob", "psst"]}`
//! to every device of a user, `"who"`. Lines of the terminal go to everybody.

use std::{io::BufRead, net::SocketAddr};

use clap::Parser;
use serde::Deserialize;
use serde_json::json;
use tiderace::{
    close::CloseReason,
    codec::websocket::Message,
    config::Config,
    protocol::{
        Answer, Audience, Outgoing, Payload, Refusal, Upgrade,
        handler::{Context, Handler},
    },
    server::Server,
};

#[derive(Parser)]
struct Arguments {
    /// Address and port; port 0 lets the system choose.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

/// What a client may say.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Said {
    Join(String),
    Leave(String),
    Room(String, String),
    User(String, String),
    Who,
}

struct Chat {
    user: String,
}

/// Who it is, of the cookie `user` or the parameter `token`. A real one would verify a signature here.
fn admit(upgrade: &Upgrade<'_>) -> Result<Chat, Refusal> {
    let cookie = upgrade.cookie("user").map(String::from);
    let user = cookie.map_or_else(|| upgrade.parameter("token"), |user| Ok(Some(user)))?;
    match user.filter(|user| !user.is_empty()) {
        Some(user) => Ok(Chat { user }),
        None => Err(Refusal::new(401, "say who you are: a cookie `user` or a parameter `token`")),
    }
}

impl Chat {
    /// What others see of something that this user said.
    fn line(&self, text: &str) -> String {
        json!({"from": self.user, "text": text}).to_string()
    }
}

impl Handler for Chat {
    fn opened(&mut self, connection: &mut Context<'_>) {
        connection.set_user(Some(&self.user));
    }

    fn message(&mut self, message: Message<'_>, connection: &mut Context<'_>) {
        let Message::Text(text) = message else { return };
        match serde_json::from_str(text) {
            Ok(Said::Join(room)) => drop(connection.subscribe(&room)),
            Ok(Said::Leave(room)) => drop(connection.unsubscribe(&room)),
            Ok(Said::Room(room, text)) => {
                connection.publish_to_others(&room, Payload::Json, self.line(&text).as_bytes());
            }
            Ok(Said::User(user, text)) => {
                let outgoing = Outgoing::text(self.line(&text)).except(connection.connection());
                connection.send_to(Audience::User(user.into()), outgoing);
            }
            Ok(Said::Who) => {
                let (rooms, id) = (connection.channels(), connection.connection());
                let rooms: Vec<&str> = rooms.iter().map(|room| &**room).collect();
                let me = json!({"connection": id, "user": self.user, "rooms": rooms});
                connection.send_text(&me.to_string());
            }
            Err(_) => connection.close(CloseReason { code: 4000, reason: "not a command" }),
        }
    }

    fn answered(&mut self, _: u32, answer: Answer, connection: &mut Context<'_>) {
        if let Answer::Failed(error) = answer {
            connection.send_text(&json!({"error": error.message}).to_string());
        }
    }

    fn closed(&mut self, code: u16) {
        println!("{} is gone: {code}", self.user);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listen = Arguments::parse().listen;
    let mut config = Config::default();
    (config.http_server.address, config.http_server.port) = (listen.ip(), listen.port());
    let server = Server::builder(config).websocket("/chat", admit).start()?;
    println!("listening on http://{}", server.address());
    let handle = server.handle();
    for line in std::io::stdin().lock().lines() {
        let announced = Outgoing::json(&json!({"from": "the server", "text": line?}))?;
        let delivery = handle.send_to_all(announced)?;
        println!("told {}, missed {}", delivery.queued, delivery.failed);
    }
    server.shutdown();
    Ok(())
}
