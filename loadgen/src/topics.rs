//! What a help text has no room for, by topic: `loadgen explain`.

use crate::presets;

/// An example and what it means; prose has no example.
type Line = (&'static str, &'static str);

/// The topics, in the order in which they are told.
const TOPICS: [(&str, &[Line]); 9] = [
    (
        "sizes",
        &[
            ("--value_size 100", "all alike; k and m are units of 1024"),
            ("--value_size 10-500", "uniform between two sizes"),
            ("--value_size 100:9,4k:1", "sizes with weights"),
            ("--value_size lognormal:300,1.5", "median, and standard deviation of the logarithm"),
            ("--value_size pareto:0,214,0.35", "location, scale and shape of a generalised Pareto law"),
            ("", "A key's value has the same size each time. From 24 bytes on a value tells key, writer, age and checksum;"),
            ("", "shorter ones tell less."),
        ],
    ),
    (
        "mix",
        &[
            ("--ratio get:90,set:10", "weights of get, set, delete, touch, incr and cas"),
            ("", "incr counts on keys of its own. cas reads, and stores if nothing changed meanwhile: two requests."),
        ],
    ),
    (
        "laws",
        &[
            ("--distribution uniform", "every key alike"),
            ("--distribution zipf:0.99", "weight of the r-th most popular key: 1 / r^0.99, also meant by `zipf` alone"),
            ("--distribution hotspot:0.2,0.8", "0.2 of the keys get 0.8 of the requests, also meant by `hotspot` alone"),
            ("--distribution latest:0.99", "zipf, counted back from the newest key; 0.99 is also meant by `latest` alone"),
            ("--distribution sequential", "round and round"),
            ("", "Popular keys are scattered over the key space."),
        ],
    ),
    ("ttls", &[("--ttl 60s", "seconds, or s, m, h and d; at most 30 days; 0 is for ever"), ("--ttl 1h:9,0:1", "with weights")]),
    (
        "presets",
        &[
            ("", "What stands behind a preset on the command line overrides it. The published workloads that these options"),
            ("", "stand for are named in the head of loadgen/src/presets.rs."),
        ],
    ),
    (
        "traces",
        &[
            (
                "",
                "A name that ends in .xz is read through xz. NAME.trace holds numbers of objects, 4 bytes each, highest first;",
            ),
            (
                "",
                "other files hold lines of 7 columns, time,key,key size,value size,client,operation,ttl (Twitter's form), or of 4",
            ),
            ("", "columns, time,key,size,operation."),
            ("", "Requests follow each other as fast as the pace allows. Reads are reads, whatever writes a value is a set,"),
            ("", "delete is a delete. --fill_misses stores what a read missed, in the largest size that the trace gives it."),
        ],
    ),
    (
        "checks",
        &[
            ("", "Every answer is judged against a ledger of acknowledged writes: wrong key, torn, stale, lost, expired,"),
            ("", "miscounted, garbled."),
            ("--misses auto", "a miss of a stored key is a fault if the server's stats count no eviction"),
            ("--misses fault", "it is a fault"),
            ("--misses allowed", "it is an eviction"),
            ("--shared", "other clients write the same keys: age and loss are not judged"),
            ("--no_verify", "values are not looked at"),
            ("--audit", "every key is read once more at the end"),
        ],
    ),
    (
        "loops",
        &[
            ("--depth 16", "closed loop: so many requests in flight per connection; latency from sending"),
            ("--rate 20000", "open loop: requests are due whatever the answers take; latency from then on"),
            ("--arrival constant", "the requests of an open loop are due at equal distances; poisson: at random"),
            ("--spin", "polls before a request is due: sends on time, takes a CPU per thread"),
            ("--shard_aware", "asks a pbcache node for the map of its cores, and each core for its own keys"),
        ],
    ),
    (
        "servers",
        &[
            (
                "",
                "A server that is to be started is a command line with {port} where its port belongs, and {mib}, for `loadgen misses`,",
            ),
            (
                "",
                "where its memory belongs. echo is a bare io_uring server that answers the same bytes and understands nothing. A",
            ),
            ("", "protocol and a colon in front, as in 'resp:valkey-server --port {port}', let compare speak that one to it."),
        ],
    ),
];

/// The topics' names.
pub fn names() -> [&'static str; TOPICS.len()] {
    TOPICS.map(|(name, _)| name)
}

/// One topic, or all of them.
pub fn text(topic: Option<&str>) -> String {
    let told = TOPICS.iter().filter(|(name, _)| topic.is_none_or(|topic| topic == *name));
    told.map(|(name, lines)| format!("{name}\n{}", body(name, lines))).collect::<Vec<_>>().join("\n")
}

fn body(name: &str, lines: &[Line]) -> String {
    let line = |(example, words): &Line| match *example {
        "" => format!("  {words}\n"),
        example => format!("  {example:<36} {words}\n"),
    };
    let presets = presets::PRESETS.map(|(name, options)| {
        let options: Vec<&str> = options.split_whitespace().collect();
        format!("  --preset {name:<10} {}\n", options.join(" "))
    });
    presets.into_iter().filter(|_| name == "presets").chain(lines.iter().map(line)).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn every_topic_is_told_and_every_example_is_accepted() {
        for (name, lines) in TOPICS {
            assert!(text(None).contains(&text(Some(name))), "{name}");
            for (example, _) in lines.iter().filter(|(example, _)| !example.is_empty()) {
                let arguments = ["loadgen", "run"].into_iter().chain(example.split(' '));
                crate::options::Options::try_parse_from(arguments).unwrap_or_else(|error| panic!("{example}: {error}"));
            }
        }
        let long = text(None).lines().filter(|line| !line.contains("--preset")).map(str::len).max();
        assert!(long <= Some(120), "{long:?}");
    }
}
