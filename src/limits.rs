//! Fixed bounds, each with its unit in the name; the configurable ones live in `config`.

/// Shards of one process: the width of a link table row, far above any machine's CPU count.
pub const SHARDS_MAX: usize = 256;

/// Entries of one link's ring; what does not fit waits in the sender's backlog.
pub const LINK_ENTRIES: usize = 4096;

/// Bytes of publications that may wait behind one full link before publishers are refused.
pub const LINK_BACKLOG_BYTES_MAX: usize = bound(64 << 20, 4 << 10);

/// Answers to publishes with an idempotency key that one shard remembers; above it the oldest goes.
pub const IDEMPOTENT_ANSWERS_PER_SHARD_MAX: usize = 65_536;

/// Requests of one shard that wait for answers of other shards.
pub const REQUESTS_IN_FLIGHT_MAX: usize = bound(65_536, 60);

/// Commands of one connection whose answer is outstanding; the next one is refused with error 111.
/// Enough for the burst of a client that does not await each publish on a channel of another shard.
pub const COMMANDS_IN_FLIGHT_MAX: usize = bound(256, 12);

/// Bytes given to the kernel by one send, so that a slow reader's progress shows.
pub const SEND_BYTES_MAX: usize = bound(256 << 10, 700);

/// Bytes that publications of one turn are joined to before a new segment is begun.
pub const SEGMENT_BYTES_MAX: usize = bound(64 << 10, 500);

/// Connections above the configured limit that are still accepted, to be told 503.
pub const REFUSALS_IN_FLIGHT_MAX: usize = bound(512, 2);

/// Bytes of the reason in a close frame (RFC 6455 section 5.5.1).
pub const CLOSE_TEXT_BYTES_MAX: usize = 123;

/// Milliseconds for a whole close: our close frame, the peer's, and the TCP shutdown.
pub const CLOSE_TIMEOUT_MS: u64 = 5_000;

/// Milliseconds that a shard sleeps at most, a net under the wake handshake.
pub const SLEEP_MS_MAX: u64 = 1_000;

/// Bytes of one HTTP request line and header block.
pub const HTTP_HEAD_BYTES_MAX: usize = 16 << 10;

/// Header fields of one HTTP request.
pub const HTTP_HEADERS_MAX: usize = 64;

/// Subprotocols that one WebSocket handshake may offer.
pub const SUBPROTOCOLS_MAX: usize = 16;

/// Wakes of one device that are held or reported; the next one is refused.
pub const WAKES_PER_DEVICE_MAX: usize = 16;

/// Wakes of one shard's devices that are held or reported; the next one is refused.
pub const WAKES_PER_SHARD_MAX: usize = 65_536;

/// Milliseconds before a wake that no device confirmed is sent a second time; doubled each time.
pub const WAKE_REPEAT_MS: u64 = 1_000;

/// Milliseconds between two sendings of a wake at most.
pub const WAKE_REPEAT_MS_MAX: u64 = 30_000;

/// Milliseconds for which a confirmed wake is reported at least.
pub const WAKE_REPORTED_MS: u64 = 60_000;

/// Lookups of device tokens by the backend that one shard waits for; the next one is told 503.
pub const LOOKUPS_IN_FLIGHT_MAX: usize = 4_096;

/// Questions of one shard's connections to one proxy of the backend; the next one is refused with
/// error 111. Of what they hold, no more waits in all shards together than the proxy's queue takes.
pub const BACKEND_CALLS_IN_FLIGHT_MAX: usize = 4_096;

/// Commands of one batch of the HTTP API.
pub const BATCH_COMMANDS_MAX: usize = 10_000;

/// Commands of one parallel batch that are executed at once.
pub const BATCH_PARALLEL_MAX: usize = bound(1_024, 5);

/// Bytes of the replies of one batch, about; commands that are not begun then are not executed.
pub const BATCH_REPLY_BYTES_MAX: usize = 64 << 20;

/// Channels of one answer of the HTTP API; where more match it is error 106.
pub const CHANNELS_PER_ANSWER_MAX: usize = 100_000;

/// Connections of one answer of the HTTP API; where there are more it is error 106.
pub const CONNECTIONS_PER_ANSWER_MAX: usize = 10_000;

/// Connections that one call of the HTTP API is telling something; the others wait.
pub const ORDERS_IN_FLIGHT_MAX: usize = bound(256, 3);

/// Bytes of an idempotency key or a version's epoch, which outlive their publication.
pub const PUBLICATION_KEY_BYTES_MAX: usize = 255;

/// Watchers of one page of a list.
pub const WATCHERS_PER_PAGE_MAX: usize = 1_000;

/// Keys of one fetched key set.
pub const KEY_SET_KEYS_MAX: usize = 256;

/// Bytes of one fetched key set.
pub const KEY_SET_BYTES_MAX: u64 = 1 << 20;

/// Seconds between two fetches of a key set, and for which an unknown key is known to be unknown.
pub const KEY_SET_FETCH_PAUSE_S: u64 = 5;

/// Bytes of a device's id.
pub const DEVICE_ID_BYTES_MAX: usize = 255;

/// Bytes that a peer may send on its open stream before the connection is closed.
pub const STREAM_INPUT_BYTES_MAX: u32 = 16 << 10;

/// The generation of a place's first tenant. In the simulation it is about to wrap.
pub const GENERATION_FIRST: u32 = bound(0, u32::MAX as usize - 1) as u32;

/// A bound of the product; `simulated` where the feature `simulation` wants small worlds to reach it.
pub(crate) const fn bound(product: usize, simulated: usize) -> usize {
    if cfg!(feature = "simulation") { simulated } else { product }
}

const _: () = assert!(SEGMENT_BYTES_MAX <= SEND_BYTES_MAX, "a joined segment is one send");
