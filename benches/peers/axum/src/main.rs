//! A tuned axum WebSocket server: `/echo` answers each message, `/pubsub` delivers each message to
//! everybody.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::get;
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::broadcast::{Receiver, Sender};

/// Publications that may wait for the slowest subscriber; it then misses some, which the load
/// generator reports.
const QUEUED_MAX: usize = 16_384;

/// What one connection reads at a time: tungstenite's default of 128 KiB would be its whole idle
/// footprint.
const READ_BUFFER_BYTES: usize = 4_096;

fn tuned(upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    // Answers are flushed by hand, once per batch; the write buffer only has to hold a batch.
    upgrade.read_buffer_size(READ_BUFFER_BYTES).write_buffer_size(64 * 1_024)
}

async fn echo(upgrade: WebSocketUpgrade) -> Response {
    tuned(upgrade).on_upgrade(async |mut socket: WebSocket| {
        while let Some(Ok(message)) = socket.recv().await {
            if matches!(message, Message::Text(_) | Message::Binary(_)) {
                if socket.feed(message).await.is_err() {
                    return;
                }
                // Everything that has been received is answered in one write.
                while let Some(Some(Ok(message))) = socket.recv().now_or_never() {
                    if matches!(message, Message::Text(_) | Message::Binary(_))
                        && socket.feed(message).await.is_err()
                    {
                        return;
                    }
                }
                if socket.flush().await.is_err() {
                    return;
                }
            }
        }
    })
}

async fn pubsub(upgrade: WebSocketUpgrade, State(topic): State<Arc<Sender<Message>>>) -> Response {
    // Subscribed before the 101 leaves, so that a connected client misses nothing.
    let subscription = topic.subscribe();
    tuned(upgrade).on_upgrade(move |socket| serve(socket, topic, subscription))
}

/// Cloning a `Message` clones a reference: the payload is shared by all subscribers.
async fn serve(
    socket: WebSocket,
    topic: Arc<Sender<Message>>,
    mut subscription: Receiver<Message>,
) {
    let (mut sink, mut stream) = socket.split();
    let publish = async {
        while let Some(Ok(message)) = stream.next().await {
            if matches!(message, Message::Text(_) | Message::Binary(_)) {
                let _ = topic.send(message);
            }
        }
    };
    let deliver = async {
        loop {
            match subscription.recv().await {
                Ok(message) => {
                    if sink.feed(message).await.is_err() {
                        return;
                    }
                }
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            }
            loop {
                match subscription.try_recv() {
                    Ok(message) => {
                        if sink.feed(message).await.is_err() {
                            return;
                        }
                    }
                    Err(TryRecvError::Lagged(_)) => continue,
                    Err(_) => break,
                }
            }
            if sink.flush().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = publish => {}
        () = deliver => {}
    }
}

async fn listen(port: u16) -> std::io::Result<()> {
    let topic = Arc::new(Sender::<Message>::new(QUEUED_MAX));
    let router =
        Router::new().route("/echo", get(echo)).route("/pubsub", get(pubsub)).with_state(topic);
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(([127, 0, 0, 1], port).into())?;
    let listener = socket.listen(4_096)?;
    println!("listening on http://{}", listener.local_addr()?);
    use axum::serve::ListenerExt;
    let listener = listener.tap_io(|tcp| {
        let _ = tcp.set_nodelay(true);
    });
    axum::serve(listener, router).await
}

fn usage() -> ! {
    eprintln!(
        "usage: axum-peer [--port P] [--threads N]   (port 0: any; one thread: the current one)"
    );
    std::process::exit(2)
}

fn main() -> std::io::Result<()> {
    let (mut port, mut threads) = (0u16, 1usize);
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().unwrap_or_else(|| usage());
        match flag.as_str() {
            "--port" => port = value.parse().unwrap_or_else(|_| usage()),
            "--threads" => threads = value.parse().unwrap_or_else(|_| usage()),
            _ => usage(),
        }
    }
    let runtime = if threads <= 1 {
        tokio::runtime::Builder::new_current_thread().enable_io().build()?
    } else {
        tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_io().build()?
    };
    runtime.block_on(listen(port))
}
