//! An embedder's plain WebSocket endpoints: `/echo` returns every message, `/pubsub` delivers
//! every message to all of its connections.
//!
//! `cargo run --release --example echo -- --listen 127.0.0.1:9001 --shards 1`

use std::net::SocketAddr;

use clap::Parser;
use tiderace::{
    codec::websocket::Message,
    config::Config,
    protocol::{
        Payload,
        handler::{Context, Handler},
    },
    server::Server,
};

#[derive(Parser)]
struct Arguments {
    /// Address and port; port 0 lets the system choose.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Shards; one per CPU if left out.
    #[arg(long)]
    shards: Option<std::num::NonZeroUsize>,
    /// Bytes of one message.
    #[arg(long, default_value_t = 64 << 10)]
    message_bytes_max: usize,
}

struct Echo;

impl Handler for Echo {
    fn message(&mut self, message: Message<'_>, connection: &mut Context<'_>) {
        match message {
            Message::Text(text) => connection.send_text(text),
            Message::Binary(bytes) => connection.send_binary(bytes),
            _ => {}
        }
    }
}

struct PubSub;

impl Handler for PubSub {
    fn opened(&mut self, connection: &mut Context<'_>) {
        connection.subscribe("all");
    }

    fn message(&mut self, message: Message<'_>, connection: &mut Context<'_>) {
        match message {
            Message::Text(text) => {
                connection.publish("all", Payload::Text, text.as_bytes());
            }
            Message::Binary(bytes) => {
                connection.publish("all", Payload::Binary, bytes);
            }
            _ => {}
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let mut config = Config { shards: arguments.shards, ..Config::default() };
    config.http_server.address = arguments.listen.ip();
    config.http_server.port = arguments.listen.port();
    config.websocket.message_size_limit = arguments.message_bytes_max;
    let mut signals = signal_hook::iterator::Signals::new([
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
    ])?;
    let server = Server::builder(config)
        .websocket("/echo", |_| Ok(Echo))
        .websocket("/pubsub", |_| Ok(PubSub))
        .start()?;
    println!("listening on http://{}", server.address());
    signals.forever().next();
    server.shutdown();
    Ok(())
}
