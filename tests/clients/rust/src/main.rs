//! What the crates `memcache` and `async-memcached` rely on, case by case: `ok NAME` or `not ok NAME`.
//!
//!     pbcache-clients ADDRESS SOCKET
//!
//! Lives here: the cases. Not here: the servers (`tests/clients/run.py`).

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use async_memcached::AsciiProtocol;

fn case(name: &str, body: impl FnOnce()) {
    let verdict = if catch_unwind(AssertUnwindSafe(body)).is_ok() { "ok" } else { "not ok" };
    println!("{verdict} {name}");
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let (address, socket) = (&words[1], &words[2]);
    for (door, url) in [
        ("text", format!("memcache://{address}?protocol=ascii&timeout=5")),
        ("binary", format!("memcache://{address}?timeout=5")),
        ("unix", format!("memcache://{socket}?protocol=ascii&timeout=5")),
    ] {
        memcache_cases(door, &url);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    async_cases(&runtime, address);
}

fn memcache_cases(door: &str, url: &str) {
    let client = match memcache::connect(url) {
        Ok(client) => client,
        Err(error) => {
            eprintln!("{error}");
            return println!("not ok memcache {door} connect");
        }
    };
    let name = |case: &str| format!("memcache {door} {case}");
    case(&name("version"), || assert!(!client.version().unwrap().is_empty()));
    case(&name("set and get"), || {
        client.set("a", "one", 60).unwrap();
        assert_eq!(client.get::<String>("a").unwrap().unwrap(), "one");
        assert!(client.get::<String>("nothing").unwrap().is_none());
    });
    case(&name("gets"), || {
        client.set("b", "two", 0).unwrap();
        let found: HashMap<String, String> = client.gets(&["a", "b", "c"]).unwrap();
        assert_eq!((found.len(), found["b"].as_str()), (2, "two"));
    });
    case(&name("add and replace"), || {
        // What they return for "not stored" differs by protocol, so look at what is there.
        let _ = client.add("a", "x", 0);
        assert_eq!(client.get::<String>("a").unwrap().unwrap(), "one");
        client.replace("a", "three", 0).unwrap();
        let _ = client.replace("nothing", "x", 0);
        assert!(client.get::<String>("nothing").unwrap().is_none());
    });
    case(&name("append and prepend"), || {
        client.append("a", ">").unwrap();
        client.prepend("a", "<").unwrap();
        assert_eq!(client.get::<String>("a").unwrap().unwrap(), "<three>");
    });
    case(&name("cas"), || {
        let found: HashMap<String, (Vec<u8>, u32, Option<u64>)> = client.gets(&["a"]).unwrap();
        let token = found["a"].2.unwrap();
        assert!(client.cas("a", "four", 0, token).unwrap());
        assert!(!client.cas("a", "five", 0, token).unwrap());
    });
    case(&name("increment and decrement"), || {
        client.set("n", 10u64, 0).unwrap();
        assert_eq!(client.increment("n", 5).unwrap(), 15);
        assert_eq!(client.decrement("n", 20).unwrap(), 0);
    });
    case(&name("touch and delete"), || {
        assert!(client.touch("a", 60).unwrap());
        assert!(client.delete("a").unwrap());
        assert!(!client.delete("a").unwrap());
    });
    case(&name("a large value"), || {
        let value = vec![7u8; 500_000];
        client.set("large", &value[..], 0).unwrap();
        assert_eq!(client.get::<Vec<u8>>("large").unwrap().unwrap(), value);
    });
    // In text, this version of the crate stops reading statistics at their first line.
    if door == "binary" {
        case(&name("stats"), || assert!(client.stats().unwrap()[0].1.contains_key("curr_items")));
    }
    case(&name("flush"), || {
        client.flush().unwrap();
        assert!(client.get::<String>("n").unwrap().is_none());
    });
}

fn async_cases(runtime: &tokio::runtime::Runtime, address: &str) {
    let connect = || runtime.block_on(async_memcached::Client::new(format!("tcp://{address}"))).expect("a connection");
    let mut client = connect();
    let name = |case: &str| format!("async-memcached {case}");
    case(&name("set and get"), || {
        runtime.block_on(client.set("a", "one", Some(60), Some(7))).unwrap();
        let value = runtime.block_on(client.get("a")).unwrap().unwrap();
        assert_eq!((value.data.as_deref(), value.flags), (Some(&b"one"[..]), Some(7)));
    });
    let mut client = connect();
    case(&name("many"), || {
        let pairs: Vec<(String, String)> = (0..100).map(|i| (format!("key{i}"), format!("value{i}"))).collect();
        let borrowed: Vec<_> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        runtime.block_on(client.set_multi(&borrowed, None, None)).unwrap();
        let keys = pairs.iter().map(|(key, _)| key.as_str());
        assert_eq!(runtime.block_on(client.get_multi(keys)).unwrap().len(), 100);
    });
    let mut client = connect();
    case(&name("add, increment, delete"), || {
        assert!(runtime.block_on(client.add("a", "x", None, None)).is_err());
        runtime.block_on(client.set("n", 10u64, None, None)).unwrap();
        assert_eq!(runtime.block_on(client.increment("n", 5)).unwrap(), 15);
        assert_eq!(runtime.block_on(client.decrement("n", 20)).unwrap(), 0);
        runtime.block_on(client.delete("a")).unwrap();
    });
    let mut client = connect();
    case(&name("stats, version, flush"), || {
        assert!(!runtime.block_on(client.version()).unwrap().is_empty());
        assert!(runtime.block_on(client.stats()).unwrap().contains_key("curr_items"));
        runtime.block_on(client.flush_all()).unwrap();
        assert!(runtime.block_on(client.get("n")).unwrap().is_none());
    });
    meta_cases(runtime, connect());
}

fn meta_cases(runtime: &tokio::runtime::Runtime, mut client: async_memcached::Client) {
    use async_memcached::MetaProtocol;
    case("async-memcached meta", || {
        runtime.block_on(client.meta_set("m", "one", false, None, Some(&["T60", "F7"]))).unwrap();
        let value = runtime.block_on(client.meta_get("m", false, None, Some(&["v", "f", "t"]))).unwrap().unwrap();
        assert_eq!(value.data.as_deref(), Some(&b"one"[..]));
        runtime.block_on(client.meta_delete("m", false, None, None)).unwrap();
        assert!(runtime.block_on(client.meta_get("m", false, None, Some(&["v"]))).unwrap().is_none());
    });
}
