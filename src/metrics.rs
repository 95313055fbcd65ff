//! Every counter of a shard, declared once.
//!
//! ```text
//!   row:  field | memcached stat | what it counts          -> field of `Counters`, row of `ROWS`
//! ```
//!
//! Plain 64-bit fields of one core: counting is an addition to a line that the core owns. The control plane adds the cores up.
//!
//! Lives here: counters and what a reply counts as. Not here: printing (`node::stats`), gauges (`engine::Statistics`).
//! Names and meaning follow memcached's doc/protocol.txt, *General-purpose statistics*.

use crate::command::{Error, Get, Reply, Verb};

macro_rules! counters {
    ($($field:ident $stat:literal $help:literal;)*) => {
        /// Counters of one core since its start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $(#[doc = $help] pub $field: u64,)*
        }

        /// One row per counter: field, memcached's stat name (empty for our own), what it counts.
        pub const ROWS: &[Row] = &[$(Row { field: stringify!($field), stat: $stat, help: $help, read: |c| c.$field },)*];

        impl Counters {
            /// Adds the counters of another core.
            pub fn add(&mut self, other: &Counters) {
                $(self.$field += other.$field;)*
            }

            /// What was counted since an earlier moment.
            pub fn since(&self, before: &Counters) -> Self {
                Self { $($field: self.$field.saturating_sub(before.$field),)* }
            }

            /// Gives every counter to `visit`, in the order of the rows.
            pub fn visit(&mut self, visit: &mut impl FnMut(&mut u64)) {
                $(visit(&mut self.$field);)*
            }
        }
    };
}

/// What is known of one counter.
pub struct Row {
    /// Name of the field; the Prometheus name is `pbcache_` + field + `_total`.
    pub field: &'static str,
    /// Name in memcached's `stats`; empty if memcached has none.
    pub stat: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// Reads it.
    pub read: fn(&Counters) -> u64,
}

counters! {
    total_connections "total_connections" "Connections accepted.";
    rejected_connections "rejected_connections" "Connections refused because --conn_limit was reached.";
    strangers_refused "" "Connections closed because their address is not in --incoming_ip.";
    accept_errors "" "Accepts that failed, most often for want of file descriptors.";
    connections_moved "" "Connections that moved to the core of their keys.";
    requests_crossed "" "Commands sent to another core, whose keys they are.";
    idle_kicks "idle_kicks" "Connections closed by --idle_timeout, and HTTP clients that were silent or took no answers.";
    http_refused "" "HTTP requests that were refused, and their connections closed.";
    http_late "" "HTTP clients that were too slow with a request.";
    cmd_get "cmd_get" "Keys asked for, but for those touched meanwhile.";
    cmd_set "cmd_set" "Values sent to be stored.";
    cmd_flush "cmd_flush" "flush_all commands.";
    cmd_touch "cmd_touch" "Keys touched, gat included.";
    cmd_meta "cmd_meta" "Items described by `me`: the meta commands that memcached counts here.";
    get_hits "get_hits" "Keys that were found.";
    get_misses "get_misses" "Keys that were not found.";
    delete_misses "delete_misses" "Deletes of absent keys.";
    delete_hits "delete_hits" "Deletes of present keys.";
    incr_misses "incr_misses" "Increments of absent keys.";
    incr_hits "incr_hits" "Increments of present keys.";
    decr_misses "decr_misses" "Decrements of absent keys.";
    decr_hits "decr_hits" "Decrements of present keys.";
    cas_misses "cas_misses" "CAS stores of absent keys.";
    cas_hits "cas_hits" "CAS stores that matched.";
    cas_badval "cas_badval" "CAS stores whose value had changed meanwhile.";
    touch_hits "touch_hits" "Touches of present keys.";
    touch_misses "touch_misses" "Touches of absent keys.";
    store_too_large "store_too_large" "Stores refused because the item is larger than --max_item_size.";
    store_no_memory "store_no_memory" "Stores refused for want of memory.";
    bytes_read "bytes_read" "Bytes received from clients.";
    bytes_written "bytes_written" "Bytes sent to clients.";
    requests_remote "" "Commands sent to another core of this node.";
    pauses "conn_yields" "Times that a connection had to wait for its own output, a link or memory.";
}

impl Counters {
    /// Counts an executed command as memcached 1.6.18 does, oddities included: a read that touches is a touch when it hits; `mg`
    /// with T that misses is a plain miss; a created number is neither hit nor miss.
    ///
    /// A match and two or three additions.
    #[inline]
    pub fn record(&mut self, verb: &Verb, reply: &Reply<'_>) {
        match verb {
            Verb::Get(get) => self.record_get(get, matches!(reply, Reply::Item(_))),
            Verb::Store(store) => self.record_store(store.compare.is_some(), reply),
            Verb::Delete(delete) => {
                let removes = !delete.invalidate && !delete.drop_value;
                self.delete_hits += (removes && matches!(reply, Reply::Deleted)) as u64;
                self.delete_misses += matches!(reply, Reply::NotFound) as u64;
            }
            Verb::Arithmetic(arithmetic) => {
                let hit = matches!(reply, Reply::Number { created: false, .. }) as u64;
                let miss = matches!(reply, Reply::NotFound) as u64;
                if arithmetic.decrement {
                    self.decr_hits += hit;
                    self.decr_misses += miss;
                } else {
                    self.incr_hits += hit;
                    self.incr_misses += miss;
                }
            }
            Verb::Touch(_) => self.record_touch(matches!(reply, Reply::Touched(_))),
            Verb::Inspect => self.cmd_meta += 1,
        }
    }

    #[inline]
    fn record_get(&mut self, get: &Get, hit: bool) {
        if get.touch.is_some() && (hit || !get.meta) {
            return self.record_touch(hit);
        }
        self.cmd_get += 1;
        self.get_hits += hit as u64;
        self.get_misses += !hit as u64;
    }

    #[inline]
    fn record_touch(&mut self, hit: bool) {
        self.cmd_touch += 1;
        self.touch_hits += hit as u64;
        self.touch_misses += !hit as u64;
    }

    #[inline]
    fn record_store(&mut self, compares: bool, reply: &Reply<'_>) {
        match reply {
            Reply::Busy => return,
            Reply::Error(Error::TooLarge) => self.store_too_large += 1,
            Reply::Error(Error::OutOfMemory) => self.store_no_memory += 1,
            _ => self.cmd_set += 1,
        }
        if compares {
            self.cas_hits += matches!(reply, Reply::Stored(_)) as u64;
            self.cas_badval += matches!(reply, Reply::Exists) as u64;
            self.cas_misses += matches!(reply, Reply::NotFound) as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Arithmetic, Delete, Item, Store};
    use crate::time::Exptime;

    #[test]
    fn replies_are_counted_under_memcached_names() {
        let mut counters = Counters::default();
        counters.record(&Verb::Get(Get::default()), &Reply::NotFound);
        counters.record(&Verb::Get(Get::default()), &Reply::Item(Item::with_cas(1)));
        let cas = Verb::Store(Store { compare: Some(7), ..Store::default() });
        counters.record(&cas, &Reply::Exists);
        counters.record(&cas, &Reply::Busy);
        let read = |stat: &str| ROWS.iter().find(|row| row.stat == stat).map(|row| (row.read)(&counters));
        assert_eq!(read("cmd_get"), Some(2));
        assert_eq!(read("get_hits"), Some(1));
        assert_eq!(read("get_misses"), Some(1));
        assert_eq!(read("cas_badval"), Some(1));
        assert_eq!(read("cmd_set"), Some(1));
    }

    #[test]
    fn what_is_no_hit_is_not_counted_as_one() {
        let mut counters = Counters::default();
        let created = Reply::Number { number: 1, item: Item::with_cas(1), created: true };
        counters.record(&Verb::Arithmetic(Arithmetic::default()), &created);
        counters.record(&Verb::Delete(Delete { invalidate: true, ..Delete::default() }), &Reply::Deleted);
        assert_eq!(counters, Counters::default());
        let touches = Get { touch: Some(Exptime(0)), ..Get::default() };
        counters.record(&Verb::Get(touches), &Reply::NotFound);
        assert_eq!((counters.cmd_get, counters.cmd_touch, counters.touch_misses), (0, 1, 1));
        counters.record(&Verb::Get(Get { meta: true, ..touches }), &Reply::NotFound);
        assert_eq!((counters.cmd_get, counters.cmd_touch, counters.get_misses), (1, 1, 1));
    }

    #[test]
    fn no_name_stands_twice() {
        let mut names: Vec<_> = ROWS.iter().map(|row| row.stat).filter(|stat| !stat.is_empty()).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
