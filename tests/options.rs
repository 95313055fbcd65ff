//! The command line as data: words in, options or one exact sentence out.
//!
//! Lives here: names, bounds, relations, help, the table in the README. Not here: what a node does with its options (`node`).
#![allow(clippy::disallowed_methods)] // a test may wait, read and connect

use std::net::SocketAddr;
use std::path::PathBuf;

use pbcache::cluster::Ack;
use pbcache::node::options::{IoChoice, Options, Refusal, RingNode, table};
use pbcache::protocol::Protocols;

const CPUS: usize = 4;

fn parse(line: &str) -> Result<Options, Refusal> {
    let words = std::iter::once("pbcache").chain(line.split_whitespace());
    Options::parse(words.map(String::from), CPUS)
}

/// What a line means, as a change of the defaults.
#[track_caller]
fn means(line: &str, change: impl FnOnce(&mut Options)) {
    let mut wanted = parse("").unwrap();
    change(&mut wanted);
    assert_eq!(parse(line), Ok(wanted), "{line}");
}

#[track_caller]
fn refused(line: &str, sentence: &str) {
    assert_eq!(parse(line), Err(Refusal::Wrong(sentence.into())), "{line}");
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn nothing_given_means_the_defaults() {
    let options = parse("").unwrap();
    assert_eq!((options.cores, options.memory_mb, options.port), (CPUS as u16, 100, 11211));
    assert_eq!((options.buckets, options.redundancy, options.item_bytes_max), (10_000_000, 1, 1 << 20));
    assert_eq!((options.conn_limit, options.idle_timeout_s, options.listen_backlog), (1024, 0, 1024));
    assert_eq!(options.addresses, [socket("0.0.0.0:11211")]);
    assert_eq!((options.io, options.protocols, options.verbosity), (IoChoice::Auto, Protocols::Any, 0));
    assert_eq!((options.unix_mask, options.requests_per_event, options.delimiter), (0o700, 20, ':'));
    assert_eq!((options.shard_ports, options.unix_socket, options.user), (None, None, None));
    assert!(options.notices.is_empty() && options.ringnodes.is_empty() && options.joins.is_empty());
    for admitted in ["127.0.0.1", "10.1.2.3", "172.31.0.1", "192.168.1.1", "169.254.0.1", "::1", "fd00::1", "fe80::1"] {
        assert!(options.incoming.iter().any(|network| network.contains(&admitted.parse::<std::net::IpAddr>().unwrap())));
    }
    for stranger in ["8.8.8.8", "172.32.0.1", "2001:db8::1"] {
        assert!(!options.incoming.iter().any(|network| network.contains(&stranger.parse::<std::net::IpAddr>().unwrap())));
    }
}

#[test]
fn many_cpus_give_no_more_cores_than_memory_and_limits_allow() {
    let cores = |cpus, line: &str| {
        let words = std::iter::once("pbcache").chain(line.split_whitespace());
        Options::parse(words.map(String::from), cpus).unwrap().cores
    };
    assert_eq!(cores(0, ""), 1);
    assert_eq!(cores(128, ""), 100);
    assert_eq!(cores(512, "-m 4096"), 256);
    assert_eq!(cores(512, "-m 4096 -t 2"), 2);
}

#[test]
fn own_options_have_underscores_and_take_dashes() {
    for name in ["--memory_size", "--memory-size", "--memory_limit", "--memory-limit", "-m"] {
        means(&format!("{name} 256"), |options| options.memory_mb = 256);
        means(&format!("{name}=256"), |options| options.memory_mb = 256);
    }
    for row in table::ROWS {
        for name in std::iter::once(&row.name).chain(row.aliases) {
            let (line, dashed) = match row.takes {
                table::Takes::One(_) | table::Takes::Many(_) => {
                    (format!("--{name} ~"), format!("--{} ~", name.replace('_', "-")))
                }
                _ => (format!("--{name}"), format!("--{}", name.replace('_', "-"))),
            };
            assert_eq!(parse(&line), parse(&dashed), "{line}");
            let is_unknown = matches!(parse(&line), Err(Refusal::Wrong(text)) if text.contains("unknown"));
            assert!(!is_unknown, "{line}");
        }
    }
}

#[test]
fn options_of_the_node_are_read() {
    means("--cores 2", |options| options.cores = 2);
    means("--io streams", |options| options.io = IoChoice::Streams);
    means("--buckets 1000", |options| options.buckets = 1000);
    for name in ["--io", "--engine"] {
        means(&format!("{name} pump"), |options| options.io = IoChoice::Pump);
    }
    for name in ["--redundancy", "--redudancy"] {
        means(&format!("{name} 3 --ringnode a"), |options| {
            (options.redundancy, options.ringnodes) = (3, vec![node("a:11211", 1, "", None)]);
        });
    }
    means("--idle_timeout 60", |options| options.idle_timeout_s = 60);
    means("--slow_ms 5", |options| options.slow_ms = 5);
    means("--drain_delay 5", |options| options.drain_delay_s = 5);
    means("--shard_ports 12000", |options| options.shard_ports = Some(12000));
    means("--incoming_ip 10.0.0.0/8 --incoming_ip 1.2.3.4,fd00::/8", |options| {
        options.incoming = ["10.0.0.0/8", "1.2.3.4/32", "fd00::/8"].map(|text| text.parse().unwrap()).to_vec();
    });
    means("--ringnode a --ringnode b.example:11212,10.0.0.1,[::1]:5,::1", |options| {
        let address = ["a:11211", "b.example:11212", "10.0.0.1:11211", "[::1]:5", "[::1]:11211"];
        options.ringnodes = address.map(|address| node(address, 1, "", None)).to_vec();
    });
    means("--ringnode a/weight=3/zone=east,b/id=two", |options| {
        options.ringnodes = vec![node("a:11211", 3, "east", None), node("b:11211", 1, "", Some("two"))];
    });
    let means_in_ring = |line: &str, change: &dyn Fn(&mut Options)| {
        means(&format!("--ringnode a {line}"), |options| {
            options.ringnodes = vec![node("a:11211", 1, "", None)];
            change(options);
        });
    };
    means_in_ring("--advertise a.example:5", &|options| options.advertise = Some("a.example:5".into()));
    means_in_ring("--node_id n1 --weight 0 --zone z", &|options| {
        (options.node_id, options.weight, options.zone) = (Some("n1".into()), Some(0), Some("z".into()));
    });
    means_in_ring("--ack one", &|options| options.ack = Ack::One);
    means_in_ring("--handoff_memory 20 --handoff_window 60 --handoff_rate 0", &|options| {
        (options.handoff_percent, options.handoff_window_s, options.handoff_rate) = (20, 60, 0);
    });
    means_in_ring("--cluster_name c --cluster_secret_file /x", &|options| {
        (options.cluster_name, options.cluster_secret_file) = ("c".into(), Some("/x".into()));
    });
}

#[test]
fn memory_is_given_in_mb_or_with_a_unit() {
    for (text, mb) in
        [("64", 64), ("64m", 64), ("64M", 64), ("1g", 1024), ("2G", 2048), ("8192k", 8), ("9000k", 8), ("16384g", 1 << 24)]
    {
        means(&format!("-t 2 --memory_size {text}"), |options| (options.cores, options.memory_mb) = (2, mb));
    }
    let allowed = "allowed is at most 16384g; less than 8m, or 1m per core, becomes that.";
    for wrong in ["1t", "g", "1.5g", "16385g", "17592186044416g"] {
        refused(&format!("--memory_size {wrong}"), &format!("option --memory_size has the value '{wrong}'; {allowed}"));
    }
}

#[test]
fn what_a_ring_is_told_has_an_effect_or_a_sentence() {
    // A node that is alone may be joined by others, which ask it.
    means("--redundancy 3 --zone a", |options| (options.redundancy, options.zone) = (3, Some("a".into())));
    means("--join a,b:5 --join ::1 --data_dir /x", |options| {
        options.joins = ["a:11211", "b:5", "[::1]:11211"].map(String::from).to_vec();
        options.data_dir = Some("/x".into());
    });
    let both = "option --ringnode makes a ring that is an explicit list for good, --data_dir belongs to one that changes; add --join, or leave \
                one of them out.";
    refused("--ringnode a --data_dir /x", both);
    assert!(parse("--ringnode a --join b --data_dir /x").is_ok(), "the list is what the table begins with");
    means("--front --removal_after 0", |options| (options.weight, options.removal_after_s) = (Some(0), 0));
    means("--front --weight 0", |options| options.weight = Some(0));
    refused("--front --weight 2", "option --front holds nothing, --weight asks for a share; give one of them.");
    refused(
        "--join a/weight=3",
        "option --join has the value 'a/weight=3'; allowed is HOST or HOST:PORT, an IPv6 address with a port in brackets.",
    );
    refused("--redudancy 2 --redundancy 3 --ringnode a", "option --redundancy is given as 2 and as 3; give it once.");
    refused("--zone a --zone b --ringnode a", "option --zone is given as a and as b; give it once.");
    assert!(parse("--redudancy 2 --redundancy 2 --ringnode a").is_ok());
    assert!(parse("--zone a --ack one --buckets 5").unwrap().notices.is_empty());
}

fn node(address: &str, weight: u32, zone: &str, id: Option<&str>) -> RingNode {
    RingNode { address: address.into(), weight, zone: zone.into(), id: id.map(String::from) }
}

#[test]
fn http_is_told_what_to_serve_and_its_names() {
    use pbcache::protocol::http::{Miss, Mode};
    means("--http readonly --http_miss 404", |options| {
        (options.http.mode, options.http.miss) = (Mode::ReadOnly, Miss::NotFound)
    });
    means("--http off", |options| options.http.mode = Mode::Off);
    means("--http_max_age on", |options| options.http.max_age = true);
    means("--http-host a.example,b.example --http_host c.example", |options| {
        options.http.hosts = ["a.example", "b.example", "c.example"].map(String::from).to_vec();
    });
    let options = parse("--ringnode a:1,[::1]:2/weight=3 --advertise b.example:4").unwrap();
    assert_eq!(options.http_rules().hosts, ["a", "[::1]", "b.example"]);
    for name in ["a.example:80", "http://a", "a/b", "a@b"] {
        assert!(parse(&format!("--http_host x,{name}")).is_err(), "{name}");
    }
}

#[test]
fn addresses_come_alone_in_lists_and_with_ports() {
    let listens = |line: &str, wanted: &[&str]| {
        let wanted: Vec<_> = wanted.iter().map(|text| socket(text)).collect();
        assert_eq!(parse(line).unwrap().addresses, wanted, "{line}");
    };
    listens("-p 5000", &["0.0.0.0:5000"]);
    listens("-l 127.0.0.1", &["127.0.0.1:11211"]);
    listens("--ip 127.0.0.1 --ip ::1 -p 5000", &["127.0.0.1:5000", "[::1]:5000"]);
    listens("--listen 127.0.0.1,[::1]:7,10.0.0.1:8", &["127.0.0.1:11211", "[::1]:7", "10.0.0.1:8"]);
    listens("-l [::]", &["[::]:11211"]);
    listens("-l localhost:9,*", &["127.0.0.1:9", "0.0.0.0:11211"]);
    listens("-l 127.0.0.1,127.0.0.1", &["127.0.0.1:11211"]);
    let allowed = "allowed is an IPv4 or IPv6 address, with a port if wanted: 10.0.0.1, 10.0.0.1:11212, [::1]:11212.";
    for wrong in ["300.0.0.1", "example.org", "127.0.0.1:70000", "proto[ascii]:127.0.0.1", "notls:127.0.0.1:1", "[::1", ","] {
        refused(&format!("-l {wrong}"), &format!("option --ip has the value '{wrong}'; {allowed}"));
    }
}

#[test]
fn a_unix_socket_turns_tcp_off_unless_tcp_is_asked_for() {
    let listens = |line: &str| parse(line).unwrap().addresses;
    assert_eq!(listens("-s /run/x"), []);
    assert_eq!(listens("--unix_socket /run/x -m 64"), []);
    assert_eq!(listens("-s /run/x -p 5000"), [socket("0.0.0.0:5000")]);
    assert_eq!(listens("-s /run/x -l ::1"), [socket("[::1]:11211")]);
    assert_eq!(listens("-s /run/x --shard_ports 5000"), [socket("0.0.0.0:11211")]);
    means("-s /run/x -a 777 -p 11211", |options| {
        options.unix_socket = Some(PathBuf::from("/run/x"));
        options.unix_mask = 0o777;
    });
}

#[test]
fn short_flags_of_memcached_mean_the_same() {
    means("-t 2 -m 64 -c 100 -I 2m -b 7", |options| {
        (options.cores, options.memory_mb, options.conn_limit) = (2, 64, 100);
        (options.item_bytes_max, options.listen_backlog) = (2 << 20, 7);
    });
    means("-M -C -F -X -W -A", |options| {
        (options.evictions_disabled, options.cas_disabled, options.flush_disabled) = (true, true, true);
        (options.dump_disabled, options.watch_disabled, options.shutdown_enabled) = (true, true, true);
    });
    means("-d -k -r -P /run/pid -u nobody", |options| {
        (options.daemon, options.lock_memory, options.core_dumps) = (true, true, true);
        (options.pidfile, options.user) = (Some(PathBuf::from("/run/pid")), Some("nobody".into()));
    });
    means("-B ascii", |options| options.protocols = Protocols::TextOnly);
    means("-B binary", |options| options.protocols = Protocols::BinaryOnly);
    means("-B auto -U 0", |_| ());
    means("--disable_tuning_hint", |options| options.tuning_hint_disabled = true);
    means("-v", |options| options.verbosity = 1);
    means("-vv", |options| options.verbosity = 2);
    means("-vvv", |options| options.verbosity = 3);
    means("-v -vv", |options| options.verbosity = 3);
    means("-p11211 -m100 -c1024", |_| ());
    means("-M -M", |options| options.evictions_disabled = true);
    means("-m 64 -m 128", |options| options.memory_mb = 128);
}

#[test]
fn long_forms_of_memcached_mean_the_same() {
    let twins = [
        ("-p 5000", "--port=5000"),
        ("-l ::1", "--listen=::1"),
        ("-m 99", "--memory-limit=99"),
        ("-c 99", "--conn-limit=99"),
        ("-t 3", "--threads=3"),
        ("-I 2m", "--max-item-size=2m"),
        ("-s /x", "--unix-socket=/x"),
        ("-a 777", "--unix-mask=777"),
        ("-b 9", "--listen-backlog=9"),
        ("-B ascii", "--protocol=ascii"),
        ("-M", "--disable-evictions"),
        ("-F", "--disable-flush-all"),
        ("-X", "--disable-dumping"),
        ("-W", "--disable-watch"),
        ("-A", "--enable-shutdown"),
        ("-C", "--disable-cas"),
        ("-R 5", "--max-reqs-per-event=5"),
        ("-P /x", "--pidfile=/x"),
        ("-d", "--daemon"),
        ("-U 0", "--udp-port=0"),
        ("-u nobody", "--user=nobody"),
        ("-k", "--lock-memory"),
        ("-r", "--enable-coredumps"),
        ("-v", "--verbose"),
        ("-o modern", "--extended=modern"),
        ("-n 64", "--slab-min-size=64"),
        ("-f 1.5", "--slab-growth-factor=1.5"),
        ("-L", "--enable-largepages"),
        ("-N 2", "--napi_ids=2"),
    ];
    for (short, long) in twins {
        assert_eq!(parse(short), parse(long), "{short}");
        assert!(parse(short).is_ok(), "{short}");
    }
}

#[test]
fn what_has_no_effect_is_accepted_and_told() {
    let noticed = |line: &str, notices: &[&str]| assert_eq!(parse(line).unwrap().notices, notices, "{line}");
    noticed(
        "-R 5 -n 64 -f 1.5 -L",
        &["--max_reqs_per_event", "--slab_min_size", "--slab_growth_factor", "--enable_largepages"],
    );
    noticed("-D / -N 2", &["--napi_ids"]);
    means("-D /", |options| (options.delimiter, options.detail) = ('/', true));
    noticed("-o modern,hashpower=20 -o no_lru_crawler", &["-o modern", "-o hashpower", "-o no_lru_crawler"]);
    noticed("-o slab_automove,slab_automove=2,track_sizes", &["-o slab_automove", "-o slab_automove", "-o track_sizes"]);
    means("-o idle_timeout=30", |options| options.idle_timeout_s = 30);
    means("-o idle_timeout=30 -o idle_timeout=40,", |options| options.idle_timeout_s = 40);
}

#[test]
fn start_lines_of_memcached_start_with_a_remark_where_they_mean_less_here() {
    let remarked = |line: &str, change: &dyn Fn(&mut Options), remark: &str| {
        means(line, |options| {
            change(options);
            options.remarks = vec![remark.into()];
        });
    };
    for given in ["0", "1", "7", "4096k"] {
        let mb = if given == "4096k" { "4" } else { given };
        let remark = format!("--memory_size is {mb} MB: it becomes 8 MB, the least with --cores 4");
        remarked(&format!("-m {given}"), &|options| options.memory_mb = 8, &remark);
    }
    assert!(parse("-m 8").unwrap().remarks.is_empty());
    let change = |options: &mut Options| (options.cores, options.memory_mb) = (200, 200);
    remarked("-t 200 -m 100", &change, "--memory_size is 100 MB: it becomes 200 MB, the least with --cores 200");
    remarked("-t 200", &change, "--memory_size is 100 MB: it becomes 200 MB, the least with --cores 200");
    let remark = "UDP is not served: --udp_port 11211 has no effect";
    remarked("-U 11211", &|_| (), remark);
    remarked("-U 11211 -p 11211", &|_| (), remark);
    remarked(
        "-U 11211 -p 0 -l 127.0.0.1:5000",
        &|options| {
            (options.port, options.addresses) = (0, vec![socket("127.0.0.1:5000")]);
        },
        remark,
    );
    let alone = "option --udp_port 11211 with --port 0 asks for UDP alone, which is not served; give a --port.";
    refused("-U 11211 -p 0", alone);
    refused("-p 0 -U 11211 -l 127.0.0.1", alone);
    assert!(parse("-p 0 -U 0").is_ok());
    assert!(parse("-p 0 -U 11211 -s /run/x").is_ok());
    means("-b 100000", |options| options.listen_backlog = 100_000);
}

/// Every setting of `-o` in the sources of memcached 1.6, but those that are refused on purpose, as their documentation
/// writes them.
#[test]
fn every_setting_that_memcached_knows_is_accepted() {
    let settings = "maxconns_fast no_maxconns_fast hashpower=20 no_hashexpand hash_algorithm=xxh3 hash_algorithm=jenkins \
        hash_algorithm=murmur3 tail_repair_time=3600 lru_crawler no_lru_crawler lru_crawler_sleep=100 lru_crawler_tocrawl=0 \
        lru_maintainer no_lru_maintainer hot_lru_pct=20 warm_lru_pct=40 hot_max_factor=0.2 warm_max_factor=2.0 temporary_ttl=61 \
        idle_timeout=0 idle_timeout=604800 slab_reassign no_slab_reassign slab_automove slab_automove=0 slab_automove=2 \
        no_slab_automove slab_automove_ratio=0.8 slab_automove_window=30 slab_automove_freeratio=0.010 slab_chunk_max=512 \
        slab_sizes=100-200-300 track_sizes modern no_modern inline_ascii_resp no_inline_ascii_resp no_chunked_items drop_privileges \
        no_drop_privileges relaxed_privileges resp_obj_mem_limit resp_obj_mem_limit=100 read_buf_mem_limit=100 \
        watcher_logbuf_size=256 worker_logbuf_size=64 sock_cookie_id=7";
    for setting in settings.split_whitespace() {
        assert!(parse(&format!("-o {setting}")).is_ok(), "{setting}: {:?}", parse(&format!("-o {setting}")));
    }
    let all = settings.split_whitespace().collect::<Vec<_>>().join(",");
    assert!(parse(&format!("-o {all}")).is_ok());
}

#[test]
fn extended_settings_are_held_against_bounds_or_refused() {
    refused("-o idle_timeout", "option -o idle_timeout needs a value; allowed is 0 to 2147483647.");
    refused("-o idle_timeout=x", "option -o idle_timeout has the value 'x'; allowed is 0 to 2147483647.");
    refused("-o hashpower=99", "option -o hashpower has the value '99'; allowed is 12 to 32.");
    refused("-o hash_algorithm=md5", "option -o hash_algorithm has the value 'md5'; allowed is jenkins, murmur3 or xxh3.");
    refused("-o slab_automove_ratio=0", "option -o slab_automove_ratio has the value '0'; allowed is a number above 0.");
    refused("-o ext_path=/x:1G", "option -o ext_path is refused: there is no storage on flash yet.");
    refused("-o modern,ssl_key=/x", "option -o ssl_key is refused: TLS is not served yet.");
    refused(
        "-o proxy_config=/x",
        "option -o proxy_config is refused: there is no proxy; any node of a ring answers for every key.",
    );
    refused("-o nonsense", "option -o has no setting 'nonsense'; see memcached's manual for those that it has.");
}

#[test]
fn what_is_not_there_yet_is_refused() {
    refused(
        "-S",
        "option -S (--enable_sasl) is refused: SASL authentication is not served yet; bind to a private address or use --incoming_ip.",
    );
    refused(
        "--auth-file=/x",
        "option -Y (--auth_file) is refused: text authentication is not served yet; bind to a private address or use --incoming_ip.",
    );
    refused("-Z", "option -Z (--enable_ssl) is refused: TLS is not served yet; put a TLS proxy in front.");
    refused("-e /x", "option -e (--memory_file) is refused: warm restart is not there yet.");
}

#[test]
fn the_admin_listener_is_on_loopback_unless_there_is_a_token() {
    let admin = parse("").unwrap().admin;
    assert_eq!((admin.address, admin.port_given), (socket("127.0.0.1:11280"), false));
    assert!(admin.token_file.is_none() && !admin.shows_keys && admin.metrics_compat);
    means("--admin_port 0", |options| (options.admin.address, options.admin.port_given) = (socket("127.0.0.1:0"), true));
    means("--admin_ip ::1 --admin_port 80", |options| {
        (options.admin.address, options.admin.port_given) = (socket("[::1]:80"), true);
    });
    means("--admin_ip 0.0.0.0 --admin_token_file /x", |options| {
        (options.admin.address, options.admin.token_file) = (socket("0.0.0.0:11280"), Some(PathBuf::from("/x")));
    });
    means("--admin_keys --metrics_compat off", |options| {
        (options.admin.shows_keys, options.admin.metrics_compat) = (true, false);
    });
    let open =
        "option --admin_ip 10.0.0.1 is not loopback, and there is no --admin_token_file; give one, or listen on 127.0.0.1.";
    refused("--admin_ip 10.0.0.1", open);
    assert!(parse("--admin_ip 10.0.0.1 --admin_port 0").is_ok());
    let form = "an IPv4 or IPv6 address; one that is not loopback needs --admin_token_file";
    refused("--admin_ip host", &format!("option --admin_ip has the value 'host'; allowed is {form}."));
    refused("--metrics_compat yes", "option --metrics_compat has the value 'yes'; allowed is on or off.");
}

#[test]
fn bounds_are_allowed_and_one_beyond_is_not() {
    let borders = [
        ("cores", "1", "256", "0", "257", "-m 256"),
        ("memory_size", "0", "16777216", "-1", "16777217", "-t 1 -I 1m"),
        ("port", "0", "65535", "-1", "65536", ""),
        ("shard_ports", "1", "65532", "0", "65536", "-t 4"),
        ("listen_backlog", "1", "2147483647", "0", "2147483648", ""),
        ("buckets", "1", "4294967295", "0", "4294967296", ""),
        ("redundancy", "1", "16", "0", "17", "--ringnode a"),
        ("weight", "0", "65535", "-1", "65536", ""),
        ("handoff_memory", "0", "50", "-1", "51", ""),
        ("handoff_window", "1", "604800", "0", "604801", ""),
        ("handoff_rate", "0", "10000000", "-1", "10000001", ""),
        ("conn_limit", "1", "1000000", "0", "1000001", ""),
        ("admin_port", "0", "65535", "-1", "65536", ""),
        ("slow_ms", "0", "60000", "-1", "60001", ""),
        ("drain_delay", "0", "3600", "-1", "3601", ""),
        ("idle_timeout", "0", "2147483647", "-1", "2147483648", ""),
        ("max_item_size", "1k", "128m", "1023", "129m", "-m 256"),
        ("max_item_size", "1024", "134217728", "0", "134217729", "-m 256"),
        ("unix_mask", "000", "777", "8", "1000", ""),
        ("max_reqs_per_event", "1", "1000000", "0", "1000001", ""),
        ("slab_min_size", "1", "1048576", "0", "1048577", ""),
        ("slab_growth_factor", "1.01", "9", "1", "inf", ""),
    ];
    for (name, least, most, below, above, with) in borders {
        for inside in [least, most] {
            assert!(parse(&format!("{with} --{name} {inside}")).is_ok(), "{name} {inside}");
        }
        let allowed = table::find(name).allowed();
        for outside in [below, above, "x", "1x", "+5", "99999999999999999999"] {
            let sentence = format!("option --{name} has the value '{outside}'; allowed is {allowed}.");
            if (name, outside) != ("slab_growth_factor", "+5")
                && (name, outside) != ("slab_growth_factor", "99999999999999999999")
            {
                refused(&format!("{with} --{name}={outside}"), &sentence);
            }
        }
    }
}

#[test]
fn a_wrong_value_is_one_sentence_with_option_value_and_range() {
    refused("-t 0", "option --cores has the value '0'; allowed is 1 to 256.");
    refused(
        "-m x",
        "option --memory_size has the value 'x'; allowed is at most 16384g; less than 8m, or 1m per core, becomes that.",
    );
    refused("-p 70000", "option --port has the value '70000'; allowed is 0 to 65535, 0 for any free one.");
    refused("-I 1g", "option --max_item_size has the value '1g'; allowed is 1k to 128m, at most half of --memory_size.");
    refused("--io fast", "option --io has the value 'fast'; allowed is auto, pump or streams.");
    refused("-B udp", "option --protocol has the value 'udp'; allowed is auto, ascii or binary.");
    refused("-D ab", "option --delimiter has the value 'ab'; allowed is one character.");
    refused(
        "--incoming_ip 10.0.0.0/33",
        "option --incoming_ip has the value '10.0.0.0/33'; allowed is a network such as 10.0.0.0/8 or fd00::/8, or an address.",
    );
    let attributes = ["a/weight", "a/weight=x", "a/weight=65536", "a/size=1", "a/id=", "a/zone=b c"];
    let addresses = ["a:0", "a:70000", ":5", "a b", "-a", "a..b", "1.2.3", "[::1", "[a]:5", "a:b:c"];
    for node in addresses.into_iter().chain(attributes) {
        let words = ["pbcache", "--ringnode", node].map(String::from);
        let sentence = format!(
            "option --ringnode has the value '{node}'; allowed is HOST or HOST:PORT, an IPv6 address with a port in brackets, then /weight=, /zone= or /id= where that node has them."
        );
        assert_eq!(Options::parse(words, CPUS), Err(Refusal::Wrong(sentence)), "{node}");
    }
}

#[test]
fn options_are_held_against_each_other() {
    assert!(parse("-t 64 -m 64").is_ok(), "a large item must fit with 64 MB and 64 cores");
    refused(
        "-m 8 -I 5m",
        "option --max_item_size is 5242880 bytes, more than half of --memory_size (8 MB); give a smaller one or more memory.",
    );
    assert!(parse("-m 8 -I 4m").is_ok());
    refused(
        "-t 4 --shard_ports 65533",
        "option --shard_ports 65533 leaves no room for 4 cores below 65536; give at most 65532.",
    );
    assert!(parse("-t 4 --shard_ports 65532").is_ok());
    let overlap = |base, port| {
        format!("option --shard_ports {base} to {} contains the port {port} of --port or --ip; choose another base.", base + 3)
    };
    refused("-t 4 --shard_ports 11208", &overlap(11208, 11211));
    assert!(parse("-t 4 --shard_ports 11207").is_ok());
    assert!(parse("-t 4 --shard_ports 11212").is_ok());
    refused("-t 4 --shard_ports 5000 -l 127.0.0.1:5001", &overlap(5000, 5001));
}

#[test]
fn a_line_that_cannot_be_read_is_one_sentence() {
    refused("--nonsense", "option --nonsense is unknown; `pbcache --help` lists the options.");
    refused("--nonsense=5", "option --nonsense is unknown; `pbcache --help` lists the options.");
    refused("-z", "option -z is unknown; `pbcache --help` lists the options.");
    refused("word", "'word' is not an option; `pbcache --help` lists the options.");
    refused("--port", "option --port needs a value.");
    refused("-p", "option --port needs a value.");
    refused("--daemon=yes", "option --daemon takes no value.");
    refused("--verbose=2", "option --verbose takes no value.");
}

#[test]
fn help_version_and_licence_are_printed() {
    let printed = |line| match parse(line) {
        Err(Refusal::Print(text)) => text,
        other => panic!("{line}: {other:?}"),
    };
    assert_eq!(printed("-V"), format!("pbcache {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(printed("--version"), printed("-V"));
    assert!(printed("-i").contains("Apache-2.0"));
    let help = printed("-h");
    assert_eq!(printed("--help"), help);
    for row in table::ROWS {
        let lines = help.lines().filter_map(|line| line.trim_start().split_once("  "));
        let names = |names: &str| names.split([' ', '.']).any(|word| word.strip_prefix("--") == Some(row.name));
        let (_, text) = lines.into_iter().find(|(column, _)| names(column)).unwrap_or_default();
        assert!(text.contains(row.doc) && text.contains(row.default) && text.contains(&row.allowed()), "{}: {text}", row.name);
    }
    for heading in ["Node:", "Network:", "Ring:", "Limits:", "Protocol:", "Process:"] {
        assert!(help.lines().any(|line| line == heading), "{heading}");
    }
}

#[test]
fn every_row_is_whole() {
    for (index, row) in table::ROWS.iter().enumerate() {
        assert!(row.doc.ends_with('.') && !row.doc.is_empty(), "{}", row.name);
        let fixed = !["all CPUs", "loopback and private ranges"].contains(&row.default);
        if fixed && !row.default.is_empty() {
            assert!(row.bounds.read(row.default).is_some(), "the default of {} is within its bounds", row.name);
        }
        for other in &table::ROWS[index + 1..] {
            assert_ne!(row.name, other.name);
            assert!(row.short.is_none() || row.short != other.short, "-{:?}", row.short);
        }
    }
}

/// Run with `PBCACHE_WRITE=1` to write the table anew.
#[test]
fn the_readme_shows_every_option() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (start, end) = ("<!-- options -->\n", "<!-- /options -->");
    let from = text.find(start).expect("README.md has the mark of the options") + start.len();
    let to = text.find(end).expect("README.md has the mark behind the options");
    if std::env::var_os("PBCACHE_WRITE").is_some() {
        std::fs::write(path, format!("{}{}{}", &text[..from], table::markdown(), &text[to..])).unwrap();
        return;
    }
    assert!(text[from..to] == table::markdown(), "run `PBCACHE_WRITE=1 cargo test --test options` to write the table anew");
}
