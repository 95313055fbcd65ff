//! Every bound of the product: its unit, its reason, its source.
//!
//! Every loop, queue, buffer and retry names its bound here. A full one sheds, counts, and says so. Relations between bounds
//! are asserted at compile time at the end.
//!
//! Lives here: numbers. Not here: what happens when one is reached (where it is used), what an operator sets (`node::options`).

/// Longest key, in bytes. protocol.txt, *Keys*; the same for binary keys.
pub const KEY_BYTES_MAX: usize = 250;

/// Longest text of a key in a URI, in bytes: each byte of the key as `%` and two digits.
pub const PERCENT_KEY_BYTES_MAX: usize = 3 * KEY_BYTES_MAX;

/// Longest first line of an HTTP request, in bytes, without its end: 414 beyond it. RFC 9112 section 3 wants 8,000 at least.
pub const HTTP_LINE_BYTES_MAX: usize = 8 << 10;

/// Longest head of an HTTP request, in bytes with its end: 431 beyond it.
pub const HTTP_HEAD_BYTES_MAX: usize = 16 << 10;

/// Most header fields of an HTTP request: 431 beyond it.
pub const HTTP_FIELDS_MAX: usize = 64;

/// Longest part of the head of an HTTP read that travels with it, in bytes: from the first to the last of its conditions.
pub const HTTP_WORDS_BYTES_MAX: usize = 1 << 10;

/// Longest line in front of a chunk of an HTTP body, its extensions included, in bytes.
pub const HTTP_CHUNK_LINE_BYTES_MAX: usize = 16 + 256;

/// Seconds that an HTTP client has for the head of a request, from its first byte, and for a body beside `HTTP_BODY_BYTES_PER_S`: 408
/// behind them.
pub const HTTP_REQUEST_S_MAX: u32 = 10;

/// Slowest pace of an HTTP body, in bytes a second.
pub const HTTP_BODY_BYTES_PER_S: usize = 1 << 10;

/// Seconds after which an HTTP connection is closed that asks nothing, or takes nothing of its answers.
pub const HTTP_IDLE_S_MAX: u32 = 75;

/// What is still read, and dropped, of an HTTP client that was refused, in bytes, lest a reset take the answer from it. RFC 9112 section 9.6.
pub const HTTP_LINGER_BYTES_MAX: usize = 64 << 10;
/// The same in seconds.
pub const HTTP_LINGER_S_MAX: u32 = 2;

/// Longest command line without a newline, in bytes, for every command but `get` and `gets`. memcached 1.6 closes past this.
pub const LINE_BYTES_MAX: usize = 2048;

/// Longest line of a `get`, `gets`, `gat` or `gats` with many keys, in bytes. memcached has no bound; ours keeps memory bounded:
/// 1 MiB is 4,000 keys of the longest kind.
pub const MULTI_GET_LINE_BYTES_MAX: usize = 1 << 20;

/// Most words of a meta command, its name and key included. memcached 1.6.45.
pub const META_WORDS_MAX: usize = 20;

/// Longest opaque token of a meta command, in bytes, its letter `O` included. memcached 1.6.
pub const META_OPAQUE_BYTES_MAX: usize = 32;

/// Longest header or line of a RESP request, in bytes. Redis: `PROTO_INLINE_MAX_SIZE`.
pub const RESP_LINE_BYTES_MAX: usize = 64 << 10;

/// Most arguments of a RESP request. Redis: 2^31; each costs its client a header, and us nothing where a command is taken key by key.
pub const RESP_ARGUMENTS_MAX: i64 = 1 << 20;

/// Longest RESP argument that is no value, in bytes.
pub const RESP_ARGUMENT_BYTES_MAX: usize = INLINE_VALUE_BYTES_MAX;

/// Longest RESP request that is waited for as a whole, in bytes: a command that is taken key by key, and a long value, do not count.
pub const RESP_REQUEST_BYTES_MAX: usize = 64 << 10;

/// Most bytes behind a long value: ` EX 60 NX GET` and more of the kind, framed.
pub const RESP_TAIL_BYTES_MAX: usize = 256;

/// Default largest item (key, value and header), in bytes: memcached's `-I 1m`.
pub const ITEM_BYTES_DEFAULT: usize = 1 << 20;

/// Largest value that `--max_item_size` may allow, in bytes.
pub const ITEM_BYTES_MAX: usize = 128 << 20;

/// Values longer than this arrive in segments leased by the connection that reads them, and leave from there; shorter
/// ones are copied once. Chosen below the smallest segment.
pub const INLINE_VALUE_BYTES_MAX: usize = 16 << 10;

/// Longest value that a get copies out of the engine, in bytes. From here on copying costs more than a value with memory of its own
/// (with 256 KiB, half of the CPU time of a get).
pub const COPIED_VALUE_BYTES_MAX: usize = 96 << 10;

/// Longest value for which a shard evicts in one go what the arena lacks, in bytes: 20,000 items of 50 bytes, about a millisecond. For longer
/// ones it is done in slices, between requests.
pub const MADE_SPACE_BYTES_MAX: usize = 1 << 20;

/// Records are at most one part in this many of a segment, so that what is left at its end is 3 % on average. The rest of a longer value
/// lies in pages.
pub const RECORDS_PER_SEGMENT_MIN: usize = 16;

/// Blocks of the heap from this size on are mapped by themselves, in bytes: given back to the system when they are freed.
pub const HEAP_MAPPED_BYTES: usize = 64 << 10;

/// Smallest and largest segment, in bytes. At least 256 segments per shard are needed for a good hit ratio (engine.md 2c).
pub const SEGMENT_BYTES_MIN: usize = 64 << 10;
/// See [`SEGMENT_BYTES_MIN`].
pub const SEGMENT_BYTES_MAX: usize = 1 << 20;

/// Most data cores of a node.
pub const CORES_MAX: usize = 256;

/// Requests of one connection that are parsed and prefetched before the first is executed. The gain of prefetching stops
/// at 32, the line-fill buffers (engine.md 3, *Batches*).
pub const BATCH_COMMANDS_MAX: usize = 16;

/// Output of one connection in one turn after which its further requests wait, in bytes: a slow reader holds at most this and one
/// reply. 64 KiB is 500 replies of 100-byte values.
pub const OUTPUT_TURN_BYTES_MAX: usize = 64 << 10;

/// Replies of one connection that may wait for their turn at once, because one before them comes from another core. At worst, all
/// are of `INLINE_VALUE_BYTES_MAX`; their recent length bounds them to `OUTPUT_TURN_BYTES_MAX` otherwise.
pub const REPLIES_WAITING_MAX: usize = 256;

/// Replies of one connection that may wait for their turn at once, however long they are.
pub const REPLIES_WAITING_MIN: usize = 4;

/// Bytes of replies that a connection holds back so that they go out together with the ones that they were asked with.
pub const REPLIES_GROUPED_BYTES_MAX: usize = 16 << 10;

/// Capacity of a connection's buffer for cut requests that is kept when it is empty, in bytes.
pub const INPUT_KEPT_BYTES_MAX: usize = 1 << 10;

/// Unparsed input of a blocked connection above which its socket is no longer read, in bytes.
pub const INPUT_PAUSE_BYTES: usize = 16 << 10;

/// Unparsed input up to which a connection goes on though its core holds `HELD_BYTES_MAX`: one request with a value that is copied.
pub const INPUT_SHORT_BYTES: usize = INLINE_VALUE_BYTES_MAX + LINE_BYTES_MAX;

/// Bytes that one core may hold for its connections (long unparsed requests, output that readers do not take). Beyond it, a long
/// request is refused and its connection closed.
pub const HELD_BYTES_MAX: usize = 8 << 20;

/// Bytes held by one core from which on a connection gets only `OUTPUT_TIGHT_BYTES_MAX` of output ahead.
pub const HELD_BYTES_SOFT: usize = 2 << 20;

/// See [`HELD_BYTES_SOFT`], in bytes.
pub const OUTPUT_TIGHT_BYTES_MAX: usize = 4 << 10;

/// Queues from the other cores to one core, in bytes; divided among them.
pub const MESH_BYTES_PER_CORE: usize = 1 << 20;

/// Capacity of one queue between two cores, in bytes. The least is what 256 cores have room for.
pub const QUEUE_BYTES_MIN: usize = 2 << 10;
/// See [`QUEUE_BYTES_MIN`].
pub const QUEUE_BYTES_MAX: usize = 256 << 10;

/// Most connections that one `stats conns` lists: about 1 MiB of text.
pub const CONNECTIONS_LISTED_MAX: usize = 10_000;

/// Prefixes that one core counts for `stats detail`, and their bytes: about 1 MiB with their counters.
pub const PREFIXES_PER_CORE_MAX: usize = 8192;
/// See [`PREFIXES_PER_CORE_MAX`], in bytes.
pub const PREFIX_BYTES_PER_CORE_MAX: usize = 128 << 10;

/// Prefixes that `stats detail dump` shows, as many as on memcached 1.6, and their bytes. What is beyond is counted together.
pub const PREFIXES_MAX: usize = 65_536;
/// See [`PREFIXES_MAX`], in bytes.
pub const PREFIX_BYTES_MAX: usize = 1 << 20;

/// Connections that may `watch` at once. memcached 1.6.
pub const WATCHERS_MAX: usize = 20;

/// Events that one core keeps for those who watch, in bytes, until the control plane takes them; what is beyond is dropped, and told
/// as skipped. A few thousand.
pub const WATCH_BYTES_PER_CORE_MAX: usize = 256 << 10;

/// Lines that wait for one watcher, in bytes, and again as many under way to it; lines beyond are skipped, and their number is told.
/// memcached's `watcher_logbuf_size`.
pub const WATCHER_BYTES_MAX: usize = 256 << 10;

/// Keys that one core counts among those that are asked for most: 17 KiB.
pub const TOP_KEYS_PER_CORE: usize = 64;
/// One command in this many is sampled for them, and more where less is asked for: each costs some thousand instructions.
pub const TOP_KEYS_SAMPLE: u32 = 1024;
/// One in this many at most, and not before so many nanoseconds after the last one.
pub const TOP_KEYS_SAMPLE_MIN: u32 = 16;
/// See [`TOP_KEYS_SAMPLE_MIN`].
pub const TOP_KEYS_PAUSE_NS: u64 = 10_000_000;
/// Commands of a turn that may pass before the sample, one less: they cost a few instructions more than others.
pub const TOP_KEYS_SKIP: u64 = 8;

/// Requests that took long that one core remembers: 6 KiB.
pub const SLOW_REQUESTS_PER_CORE: usize = 128;

/// Questions of other nodes about this one that may wait.
pub const FACTS_QUESTIONS_MAX: usize = 64;
/// Longest answer to such a question, in bytes: what is known of 64 nodes takes a tenth of it.
pub const REPORT_BYTES_MAX: usize = 256 << 10;

/// Connections of the admin listener at once; more are told so and closed.
pub const ADMIN_CONNECTIONS_MAX: usize = 32;

/// Of them, those that watch events.
pub const ADMIN_WATCHERS_MAX: usize = 16;

/// Connections beyond `ADMIN_CONNECTIONS_MAX` that are being told so; of more, the socket is closed without a word.
pub const ADMIN_TURNED_AWAY_MAX: usize = 256;

/// Longest body of a request to the admin listener, in bytes.
pub const ADMIN_BODY_BYTES_MAX: usize = 16 << 10;

/// Longest head of a request to the admin listener, in bytes, and most fields of it.
pub const ADMIN_HEAD_BYTES_MAX: usize = 16 << 10;
/// See [`ADMIN_HEAD_BYTES_MAX`].
pub const ADMIN_FIELDS_MAX: usize = 64;

/// How long a connection of the admin listener may take for the head of a request, from the end of the one before, in seconds.
pub const ADMIN_HEAD_S_MAX: u64 = 10;

/// How long a core may be silent before the node is not healthy, in milliseconds: one that is parked writes its board every second.
pub const CORE_SILENCE_MS_MAX: u64 = 5000;

/// How often a core that has something to do writes its figures to its board, in milliseconds: 1 us each time. One that has nothing to do
/// writes them before it parks, and once a second.
pub const BOARD_PERIOD_MS: u64 = 250;

/// Other nodes of which a board tells; 120 bytes each. Of more, the first ones are told.
pub const BOARD_PEERS_MAX: usize = 64;

/// Times that a board is read again because it is being written, which takes a microsecond.
pub const BOARD_READS_MAX: u32 = 1000;

/// Capacity of a connection's out-of-order bytes that is kept when it is idle, in bytes.
pub const STASH_KEPT_BYTES_MAX: usize = 16 << 10;

/// What a process may have beside `--memory_size`, in bytes, with any number of cores, clients and nodes. A core's part adds up as
///
/// | of one core | KiB | |
/// |---|---|---|
/// | receive buffers | 2048 | [`RECEIVE_BUFFERS_BYTES`] |
/// | queues from the other cores | 1024 | [`MESH_BYTES_PER_CORE`] |
/// | output of a turn, what is copied for it, and bytes for other nodes | 384 | [`OUTPUT_BYTES_PER_CORE`] |
/// | entries and completions of its io_urings, and glommio's | 320 | measured |
/// | input, output and requests that it holds for others, before it counts as items | 256 | [`HELD_BYTES_FREE`] |
///
/// and the rest, 64 KiB, is for its stack. All that it holds for clients and nodes beyond [`HELD_BYTES_FREE`] is charged to the memory of
/// items, which make room for it. What is kept for nodes that are away has a part of `--memory_size` (`node::budget`). The code of the
/// program, the tables of its connections, its control plane and what the arena has free at the wrong place are [`PROCESS_BYTES`].
pub const fn beside_memory_bytes(cores: usize) -> usize {
    PROCESS_BYTES + cores * CORE_BYTES
}

/// See [`beside_memory_bytes`].
pub const PROCESS_BYTES: usize = 16 << 20;
/// See [`beside_memory_bytes`].
pub const CORE_BYTES: usize = 4 << 20;

/// Receive buffers of one core. All are free again at the end of every turn; a turn with more events than this re-arms the receives that
/// found none.
pub const RECEIVE_BUFFERS_COUNT: u16 = 256;
/// Bytes of one receive buffer: a hundred pipelined gets, or a set of a value that is copied.
pub const RECEIVE_BUFFER_BYTES: usize = 8 << 10;
/// All of one core, in bytes.
pub const RECEIVE_BUFFERS_BYTES: usize = RECEIVE_BUFFERS_COUNT as usize * RECEIVE_BUFFER_BYTES;

/// Output of one turn of a core, in bytes, and a piece of it that is put together elsewhere.
pub const OUTPUT_BYTES_PER_CORE: usize = 4 * OUTPUT_TURN_BYTES_MAX + 2 * OUTPUT_TURN_BYTES_MAX;

/// What a core holds for its connections and other nodes that is not charged to the memory of items, in bytes.
pub const HELD_BYTES_FREE: usize = 256 << 10;
/// What is charged beyond, is charged in steps of this many bytes.
pub const HELD_BYTES_STEP: usize = 64 << 10;

/// Memory that a node sets aside from `--memory_size` for each core's receive buffers and held requests, in bytes, at most: with few
/// cores, a node keeps to `--memory_size` better than it must.
pub const RESERVE_BYTES_PER_CORE: usize = 2 << 20;
/// At most one part in this many of `--memory_size` is set aside.
pub const RESERVE_PART: usize = 32;

/// Least memory of a node, in MiB; a node with more cores needs one for each.
pub const MEMORY_MB_MIN: u64 = 8;

/// Least memory for the items and the index of one core, in bytes: a segment to write to, one to evict, and pages of the index.
pub const ARENA_BYTES_PER_CORE_MIN: usize = 128 << 10;

/// How long a store may wait for memory that other cores or readers hold, in milliseconds, before it fails.
pub const STARVED_MS_MAX: u64 = 5000;

/// Milliseconds that a core that was told to end accepts handshakes that had begun, and awaits requests behind the last arrival: what
/// clients had sent by then may not have been received.
pub const DRAIN_LISTEN_MS: u64 = 20;

/// Requests in a row to one other core after which a connection moves there. High enough that a random stream over two cores
/// moves once in 2^64 requests.
pub const STEERING_STREAK_MIN: u32 = 64;

/// Longest part of a frame between nodes before its value, in bytes: a key, words to repeat, and numbers.
pub const PEER_META_BYTES_MAX: usize = 4 << 10;

/// Longest message of a handshake between nodes, in bytes.
pub const PEER_HANDSHAKE_BYTES_MAX: usize = 2 << 10;

/// Difference of two nodes' clocks above which they refuse each other, in milliseconds.
pub const PEER_CLOCK_SKEW_MS_MAX: u64 = 60_000;

/// Commands that one link between nodes may have under way, of the whole window of its requests. At 100-byte values, 0.3 MiB.
pub const PEER_WINDOW: u32 = 2048;

/// Bytes of the requests of one core to other nodes that are under way, beyond which commands wait, its own and forwarded ones.
pub const PEER_OUTSTANDING_BYTES_MAX: usize = 16 << 20;

/// Requests of one core that other nodes have a part in. Beyond it, clients wait.
pub const PEER_OPERATIONS_MAX: usize = 16 << 10;

/// Bytes of the commands of one core that other nodes have a part in. Beyond it, clients wait.
pub const PEER_OPERATIONS_BYTES_MAX: usize = 8 << 20;

/// Answers that wait to be sent over one link of another node, in bytes, beyond which its next requests wait.
pub const PEER_OUTPUT_BYTES_MAX: usize = 512 << 10;

/// How long a node may take to accept a link, in milliseconds.
pub const PEER_CONNECT_MS_MAX: u64 = 500;

/// Silence of a node that owes an answer after which it counts as away, in milliseconds.
pub const PEER_SILENCE_MS_MAX: u64 = 500;

/// How long another node may be silent in the middle of a handshake or a frame before its connection is closed, in seconds.
pub const PEER_STALL_S_MAX: u32 = 5;

/// Connections beyond `--conn_limit` that may show with their first byte that another node has made them. Who does not is refused then.
pub const PEER_UNPROVEN_MAX: u32 = 256;

/// How often a node is asked whether it is there while something is expected of it, in milliseconds.
pub const PEER_PING_MS: u64 = 100;

/// How long a node that said that it holds nothing for another one will not stand in for it, in milliseconds. Below the silence that makes a
/// node count as away, so that waiting for it costs a client nothing more in most cases.
pub const PEER_LEASE_MS: u64 = 300;

/// How long a command may be sent to another node after its clock was heard, in milliseconds; it is asked for first otherwise. The rest of
/// `PEER_LEASE_MS` is for the way there and for what it waits for there.
pub const PEER_FRESH_MS: u64 = 150;

/// Pause before a node that was away is tried again, in milliseconds: doubled each time.
pub const PEER_BACKOFF_MS_MIN: u64 = 50;
/// See [`PEER_BACKOFF_MS_MIN`].
pub const PEER_BACKOFF_MS_MAX: u64 = 1000;

/// After a failed reconnect to a peer that is alive elsewhere, signs of life of it are ignored for this long, in milliseconds; each time for
/// twice as long. What was under way when it went away may be such a sign, so it is short at first.
pub const PEER_CONTACT_IGNORED_MS_MIN: u64 = 200;
/// The longest time for which they are ignored: requests wait for each try.
pub const PEER_CONTACT_IGNORED_MS_MAX: u64 = 5000;

/// How long a core waits at most, after a change of its view, for the word of the others that none of them coordinates under the one before,
/// in milliseconds. A round trip in calm; the rest is for nodes that hear of it late.
pub const VIEW_HOLD_MS_MAX: u64 = 2000;

/// Milliseconds in which a node that has left the ring is still heard: commands that were sent to it are executed for `PEER_LEASE_MS` at
/// most, and the node that it passes them on to may wait as long for a lease to end. It goes on for longer than this.
pub const LINK_DRAIN_MS_MAX: u64 = 1000;

/// How long a node that leaves goes on trying to bring others what they do not take, in milliseconds, once they have all that it owns.
pub const LEAVE_DRAIN_MS_MAX: u64 = 10_000;

/// Longest life of a request that other nodes have a part in, in milliseconds.
pub const PEER_OPERATION_MS_MAX: u64 = 5000;

/// How long after its last request a core keeps its leases, in milliseconds. An idle ring says nothing.
pub const PEER_ACTIVE_MS: u64 = 1000;

/// Times that a write starts again because another node had something newer.
pub const PEER_CONFLICTS_MAX: u8 = 4;

/// What a key takes that another node has announced as missing here, in bytes. All of them take a quarter of this core's part of
/// `--handoff_memory` at most; with more, all items that the other node may have a newer version of count as stale.
pub const PEER_MISSING_BYTES: usize = 32;

/// How long a copy may be uncommitted before hints are kept for the other owners of its write, in milliseconds: several
/// times `PEER_PING_MS`.
pub const PEER_UNCOMMITTED_MS_MAX: u64 = 1000;

/// What an uncommitted copy takes beside its key, in bytes. All of them take a quarter of this core's part of
/// `--handoff_memory` at most; of more, the oldest become hints.
pub const PEER_UNCOMMITTED_BYTES: usize = 24;

/// Hints and items of a transfer that may be under way to one node: enough for a round trip, little enough not to be felt.
pub const REPLAY_WINDOW_MAX: u32 = 128;
/// See [`REPLAY_WINDOW_MAX`].
pub const REPLAY_WINDOW_MIN: u32 = 4;

/// Time that a replayed item may take to be taken before the window is halved, in milliseconds.
pub const REPLAY_SLOW_MS: u64 = 20;

/// Seconds that a tombstone stays beyond the window of hints: replay, skew of clocks, and some.
pub const TOMBSTONE_SLACK_S: u32 = 600;

/// Most nodes that a member table tells of, those that are gone included: short memories have brought removed nodes back elsewhere. 600 KiB.
pub const MEMBER_RECORDS_MAX: usize = 4096;

/// Largest table in one frame, in bytes.
pub const MEMBER_TABLE_BYTES_MAX: usize = 2 << 20;

/// Id, zone and address of one node together, in bytes: its record fits into a datagram of gossip beside other ones.
pub const MEMBER_TEXT_BYTES_MAX: usize = 320;

/// Largest datagram of gossip, in bytes: with IP and UDP below the least size that IPv6 carries whole.
pub const GOSSIP_PACKET_BYTES_MAX: usize = 1200;

/// Largest record in a datagram of gossip, in bytes: names, their three lengths, and numbers.
pub const GOSSIP_RECORD_BYTES_MAX: usize = 400;

const _: () = assert!(MEMBER_TEXT_BYTES_MAX + 64 <= GOSSIP_RECORD_BYTES_MAX);
const _: () = assert!(PEER_FRESH_MS < PEER_LEASE_MS && PEER_LEASE_MS < PEER_SILENCE_MS_MAX);
const _: () = assert!(PEER_PING_MS < PEER_FRESH_MS);
const _: () = assert!(2 * PEER_LEASE_MS < LINK_DRAIN_MS_MAX);
const _: () = assert!(INLINE_VALUE_BYTES_MAX < COPIED_VALUE_BYTES_MAX);
const _: () = assert!(KEY_BYTES_MAX < LINE_BYTES_MAX);
const _: () = assert!(
    RECEIVE_BUFFERS_BYTES + MESH_BYTES_PER_CORE + OUTPUT_BYTES_PER_CORE + (320 << 10) + HELD_BYTES_FREE + (64 << 10)
        <= CORE_BYTES
);
const _: () = assert!(HELD_BYTES_FREE < HELD_BYTES_SOFT && HELD_BYTES_SOFT < HELD_BYTES_MAX);
const _: () = assert!(PERCENT_KEY_BYTES_MAX + HTTP_WORDS_BYTES_MAX + 256 <= PEER_META_BYTES_MAX);
const _: () = assert!(HTTP_LINE_BYTES_MAX < HTTP_HEAD_BYTES_MAX);
const _: () = assert!(ITEM_BYTES_DEFAULT <= ITEM_BYTES_MAX);

/// What an item counts against `--max_item_size`, in bytes: key, value and memcached's header of 48 bytes, CAS, and ends, so that
/// the largest value that fits is about the same as on memcached with the same `-I`.
pub const fn item_total_bytes(key_bytes: usize, value_bytes: usize) -> usize {
    key_bytes + value_bytes + 48 + 8 + 3
}
