//! Rings of real nodes that change while clients work: nodes join and leave, and nobody feels it.
//!
//! A writer sets key after key, and reads back what it has set some time before; not one request may fail, and not one acknowledged value may
//! be lost.
//!
//! Lives here: the stories of joins and leaves, and what does not fit together. Not here: changes by the thousand (`simulation`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use super::ring::{Ring, value_of};

/// Long enough for every change here on a loaded machine.
const CHANGE_S: &str = "60";

/// What clients have been through.
#[derive(Default)]
struct Load {
    stored: Vec<String>,
    wrong: Vec<String>,
}

/// Writes and reads over these nodes until told to stop.
fn work(ring: &Ring, nodes: &[usize], prefix: &str, stop: &AtomicBool) -> Load {
    let mut clients: Vec<_> = nodes.iter().map(|&node| ring.connect(node)).collect();
    let mut load = Load::default();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (key, count) = (format!("{prefix}{number}"), clients.len());
        match clients[number % count].set(&key).as_str() {
            "STORED" => load.stored.push(key),
            answer => load.wrong.push(format!("set {key}: {answer}")),
        }
        // One of the last, and one of long ago.
        for back in [3, number / 2] {
            let Some(key) = load.stored.len().checked_sub(back + 1).map(|index| load.stored[index].clone()) else { continue };
            let found = clients[(number + 1) % count].get(&key);
            if found.as_deref() != Some(&value_of(&key)) {
                load.wrong.push(format!("get {key}: {found:?}"));
            }
        }
        let counter = clients[number % count].line(&format!("incr {prefix}count 1\r\n"));
        let expected = number.to_string();
        if number == 0 {
            assert_eq!(clients[0].line(&format!("set {prefix}count 0 0 1\r\n0\r\n")), "STORED");
        } else if counter != expected {
            load.wrong.push(format!("incr: {counter}, and not {expected}"));
        }
    }
    load
}

/// Every change is done, and everything is where it belongs.
#[track_caller]
fn settled(ring: &Ring, nodes: &[usize]) {
    for &node in nodes {
        let (text, code) = ring.operate(node, &["wait", "settled", CHANGE_S]);
        assert_eq!(code, 0, "node {node}: {text}");
    }
}

/// Works while `change` happens; nothing goes wrong.
fn nobody_feels(ring: &mut Ring, nodes: &[usize], prefix: &str, change: impl FnOnce(&mut Ring)) -> Vec<String> {
    static STOP: [AtomicBool; 8] = [const { AtomicBool::new(false) }; 8];
    let stop = &STOP[prefix.len() % 8];
    stop.store(false, Ordering::Relaxed);
    let clients = ring.clients_only();
    let (nodes, owned) = (nodes.to_vec(), prefix.to_string());
    let worker = spawn(move || work(&clients, &nodes, &owned, stop));
    sleep(Duration::from_millis(500));
    change(ring);
    sleep(Duration::from_millis(500));
    stop.store(true, Ordering::Relaxed);
    let load = worker.join().unwrap();
    println!("{} writes, {} wrong", load.stored.len(), load.wrong.len());
    let some = &load.wrong[..load.wrong.len().min(5)];
    assert!(load.wrong.is_empty(), "{} of {} requests went wrong: {some:?}", load.wrong.len(), load.stored.len());
    load.stored
}

/// A ring of one becomes one of three, and one of two again, under load.
fn a_ring_grows_and_shrinks(options: &[&str]) {
    let mut ring = Ring::found(options);
    let mut client = ring.connect(0);
    let mut keys: Vec<String> = (0..5000).map(|number| format!("early{number}")).collect();
    keys.iter().for_each(|key| assert_eq!(client.set(key), "STORED"));
    keys.extend(nobody_feels(&mut ring, &[0], "a", |ring| {
        assert_eq!(ring.join(0, &[]), 1);
        settled(ring, &[0, 1]);
    }));
    ring.expect_all(&[0, 1], &keys);
    keys.extend(nobody_feels(&mut ring, &[0, 1], "bb", |ring| {
        assert_eq!(ring.join(1, &[]), 2);
        settled(ring, &[0, 1, 2]);
    }));
    ring.expect_all(&[0, 1, 2], &keys);
    // Counters, too. Symptom: an increment under way to the node that leaves was answered with an error, for nobody knew whether it had been
    // executed. Cause: the others closed their links when they heard that it had left. Cure: what was sent is answered before.
    keys.extend(nobody_feels(&mut ring, &[1, 2], "ccc", |ring| {
        let (text, code) = ring.operate(1, &["leave", &ring.id(0), "--force"]);
        assert_eq!(code, 0, "{text}");
        assert!(ring.has_ended(0, Duration::from_secs(60)), "{}", ring.operate(1, &["status"]).0);
        settled(ring, &[1, 2]);
    }));
    ring.expect_all(&[1, 2], &keys);
    let (status, _) = ring.operate(1, &["status"]);
    assert!(status.contains(&format!("node {} left", ring.id(0))), "{status}");
}

#[test]
fn a_ring_grows_and_shrinks_with_two_copies() {
    a_ring_grows_and_shrinks(&["--cores", "2", "--redundancy", "2"]);
}

#[test]
fn a_ring_grows_and_shrinks_with_one_copy() {
    a_ring_grows_and_shrinks(&["--cores", "1"]);
}

/// What a refused start says.
fn refused(address: &str, options: &[&str]) -> String {
    let options: Vec<String> = options.iter().map(|option| option.to_string()).collect();
    super::ring::start(address, &options).expect_err("it starts")
}

#[test]
fn what_does_not_belong_together_is_one_sentence() {
    let ring = Ring::found(&["--cores", "1"]);
    let (seed, own) = (ring.id(0), super::ring::addresses(1)[0].clone());
    let cases: [(&[&str], &str); 6] = [
        (&["--join", &seed, "--buckets", "1000"], "--buckets"),
        (&["--join", &seed, "--cluster_name", "other"], "belongs to the cluster"),
        (&["--join", &format!("{own}:{}", super::ring::PORT)], "names only this node itself"),
        (&["--data_dir", "/x", "--ringnode", &seed], "add --join"),
        (&["--join", &format!("[::ffff:{own}]:{}", super::ring::PORT)], "names only this node itself"),
        (&["--weight", "0"], "needs a ring to join"),
    ];
    for (options, sentence) in cases {
        let said = refused(&own, options);
        assert!(
            said.contains(sentence) && said.trim_end().lines().last().unwrap().starts_with("pbcache: "),
            "{options:?}: {said}"
        );
    }
    // A second process with the id of a node that runs.
    let mut doubled = Ring::found(&["--cores", "1"]);
    let other = doubled.join(0, &["--node_id", "twin"]);
    settled(&doubled, &[0, other]);
    let said = refused(&own, &["--join", &doubled.id(0), "--node_id", "twin"]);
    assert!(said.contains("the node twin is running at"), "{said}");
    let listed = Ring::start(2, &["--cores", "1"]);
    let said = refused(&own, &["--join", &listed.id(0)]);
    assert!(said.contains("explicit list"), "{said}");
    let (said, code) = listed.operate(0, &["leave"]);
    assert!(said.contains("--ringnode") && code == 2, "{said}");
    let (status, code) = ring.operate(0, &["status"]);
    assert!(code == 0 && status.lines().filter(|line| line.starts_with("node ")).count() == 1, "{status}");
}

/// All are killed and started again without seeds: they find each other by their files.
#[test]
fn a_ring_comes_back_from_its_files() {
    let folder = std::env::temp_dir().join(format!("pbcache-members-{}", std::process::id()));
    let of = |node: usize| folder.join(node.to_string()).display().to_string();
    let mut ring = Ring::found(&["--cores", "1", "--redundancy", "2", "--data_dir", &of(0)]);
    ring.options_of_all(&["--cores", "1", "--redundancy", "2"]);
    for node in 1..3 {
        ring.join(0, &["--data_dir", &of(node)]);
        settled(&ring, &[0, node]);
    }
    (0..3).for_each(|node| ring.kill(node));
    // A node of another id, and a torn file.
    let other = super::ring::addresses(1)[0].clone();
    assert!(refused(&other, &["--data_dir", &of(1)]).contains("is that of the node"));
    let torn = folder.join("torn");
    std::fs::create_dir_all(&torn).unwrap();
    let bytes = std::fs::read(folder.join("1/members")).unwrap();
    std::fs::write(torn.join("members"), &bytes[..bytes.len() - 3]).unwrap();
    assert!(refused(&other, &["--data_dir", &torn.display().to_string()]).contains("torn"));
    for node in 0..3 {
        ring.options_of_all(&["--cores", "1", "--redundancy", "2", "--data_dir", &of(node)]);
        ring.restart(node);
    }
    settled(&ring, &[0, 1, 2]);
    let (status, _) = ring.operate(2, &["status"]);
    assert_eq!(status.lines().filter(|line| line.starts_with("node ") && line.contains(" normal ")).count(), 3, "{status}");
    let mut client = ring.connect(0);
    let keys: Vec<String> = (0..300).map(|number| format!("key{number}")).collect();
    keys.iter().for_each(|key| assert_eq!(client.set(key), "STORED"));
    ring.expect_all(&[0, 1, 2], &keys);
    std::fs::remove_dir_all(&folder).unwrap();
}

/// A node that waits for its seed does not listen, and joins when the seed comes.
#[test]
fn a_node_waits_for_its_seed_and_founds_nothing() {
    let addresses = super::ring::addresses(2);
    let (seed, own) = (addresses[0].clone(), addresses[1].clone());
    let options = vec!["--cores".into(), "1".into(), "--join".into(), format!("{seed}:{}", super::ring::PORT)];
    let waiting = spawn(move || super::ring::start(&own, &options));
    sleep(Duration::from_millis(1500));
    assert!(!waiting.is_finished(), "it has started without a ring");
    let begun = Instant::now();
    let mut founder = super::ring::start(&seed, &["--cores".into(), "1".into()]).unwrap();
    let mut joined = waiting.join().unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20));
    for child in [&mut founder, &mut joined] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
