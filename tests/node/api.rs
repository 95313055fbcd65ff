//! JSON of the admin listener: answers are held against its description, field by field; events, keys, actions.
//!
//! Lives here: what a program sees under `/api/v1`. Not here: metrics and health (`admin`), the page.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::admin::{start, until};
use crate::asking::{self, Answer, ask, get};
use crate::server::Server;

const TOKEN: &str = "0123456789abcdef-token";

pub fn json(answer: &Answer) -> Value {
    assert_eq!(answer.field("content-type"), "application/json");
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.body))
}

/// The shape that is described for a 200 of this path.
fn described<'a>(document: &'a Value, path: &str) -> &'a Value {
    let content = &document["paths"][path]["get"]["responses"]["200"]["content"];
    let content =
        if content["application/json"].is_null() { &content["text/event-stream"] } else { &content["application/json"] };
    &content["schema"]
}

/// What of an answer is not as described, each with its place.
fn differences(document: &Value, schema: &Value, value: &Value, place: &str, found: &mut Vec<String>) {
    // An event is of one of several shapes; a test says which by a field that only one has.
    if let Some(shapes) = schema["oneOf"].as_array() {
        let shape = if value["nodes"].is_array() { 2 } else { usize::from(value["node"].is_object()) };
        return differences(document, &shapes[shape], value, place, found);
    }
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().unwrap();
        return differences(document, &document["components"]["schemas"][name], value, place, found);
    }
    if schema["description"].as_str().is_none_or(str::is_empty) {
        found.push(format!("{place} is not described"));
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() || number.is_i64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let kinds: Vec<&str> = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        kind => kind.as_str().into_iter().collect(),
    };
    let fits = kinds.contains(&kind) || (kind == "integer" && kinds.contains(&"number"));
    if !fits {
        found.push(format!("{place} is {kind}, described as {kinds:?}"));
    }
    if let (Some(words), Some(word)) = (schema["enum"].as_array(), value.as_str())
        && !words.iter().any(|known| known == word)
    {
        found.push(format!("{place} is {word}, which is none of {words:?}"));
    }
    match value {
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(index, item)| differences(document, &schema["items"], item, &format!("{place}[{index}]"), found));
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                let known = &schema["properties"][name];
                match (known.is_null(), schema["additionalProperties"].is_object()) {
                    (false, _) => differences(document, known, field, &format!("{place}.{name}"), found),
                    (true, true) => {
                        differences(document, &schema["additionalProperties"], field, &format!("{place}.{name}"), found)
                    }
                    (true, false) => found.push(format!("{place}.{name} is not described")),
                }
            }
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            found.extend(required.filter(|name| !fields.contains_key(*name)).map(|name| format!("{place}.{name} is missing")));
        }
        _ => {}
    }
}

#[track_caller]
pub fn expect_as_described(document: &Value, path: &str, value: &Value) {
    let mut found = Vec::new();
    differences(document, described(document, path), value, path, &mut found);
    assert!(found.is_empty(), "{found:#?}");
}

/// Reads events until one is as wanted.
pub fn event(port: u16, is_wanted: impl Fn(&Value) -> bool) -> Value {
    let mut stream = asking::connect(port);
    stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let lines = BufReader::new(stream).lines().map(Result::unwrap);
    let events = lines.filter_map(|line| Some(serde_json::from_str(line.strip_prefix("data: ")?).unwrap()));
    events.take(20).find(is_wanted).expect("an event as wanted within 20 s")
}

#[test]
fn answers_are_as_described() {
    let (server, port) = start(&["--cores", "2", "--admin_keys"]);
    let mut client = server.connect();
    client.ask("set k 7 100 5\r\nhello\r\n", "STORED\r\n");
    client.ask("get k\r\n", "VALUE k 7 5\r\nhello\r\nEND\r\n");
    let document = json(&get(port, "/api/v1/openapi.json"));
    until(port, "/api/v1/stats", |answer| json(answer)["totals"]["get_hits"] == 1);
    let plain = "node ring stats settings peers handoff nodes conns keys top slow memory";
    for path in plain.split(' ').map(|path| format!("/api/v1/{path}")) {
        expect_as_described(&document, &path, &json(&get(port, &path)));
    }
    let place = json(&get(port, "/api/v1/where?key=k"));
    expect_as_described(&document, "/api/v1/where", &place);
    assert_eq!((&place["owners"][0]["state"], &place["owners"][0]["id"]), (&"here".into(), &place["served_by"]));
    let item = json(&get(port, "/api/v1/key?key=%6b"));
    expect_as_described(&document, "/api/v1/key", &item);
    assert_eq!((&item["value"], &item["flags"], &item["is_whole"]), (&"hello".into(), &7.into(), &true.into()));
    let copy = &item["copies"][0];
    assert_eq!((&copy["state"], &copy["serves"], &copy["copy"]["size_bytes"]), (&"here".into(), &true.into(), &5.into()));
    assert_eq!(copy["copy"]["version"].as_str().unwrap(), item["cas"].to_string());
    expect_as_described(&document, "/api/v1/events", &event(port, |_| true));
    let figures = event(port, |figures| figures["gets"].as_u64() >= Some(2));
    expect_as_described(&document, "/api/v1/events", &figures);
    assert!(figures.to_string().len() < 2048, "an event is at most 2 KiB");
    assert_eq!((&figures["items"], &figures["connections"]), (&1.into(), &1.into()));
    assert!(figures["verdicts"][0]["text"].as_str().unwrap().starts_with("All is well: 2 cores, 1 items"), "{figures}");
    // What else there is needs a ring (`others`), or changes something.
    let mut described: Vec<&str> =
        document["paths"].as_object().unwrap().keys().map(|path| path.trim_start_matches("/api/v1/")).collect();
    let mut asked: Vec<&str> = plain.split(' ').chain(["where", "key", "events", "partitions", "actions/{name}"]).collect();
    described.sort_unstable();
    asked.sort_unstable();
    assert_eq!(described, asked);
}

/// Symptom: `where` named another core than the one that had the key. Cause: it divided hashes among the cores, not buckets. Cure: the
/// arithmetic of `key`. Of three buckets on two cores, the second belongs to the first core, and half of its hashes were told wrongly.
#[test]
fn the_core_that_is_told_is_the_one_that_has_the_key() {
    let (server, port) = start(&["--cores", "2", "--buckets", "3"]);
    let mut client = server.connect();
    let mut told = [0u64; 2];
    for key in 0..32 {
        client.ask(format!("set k{key} 0 0 1\r\nx\r\n"), "STORED\r\n");
        let place = json(&get(port, &format!("/api/v1/where?key=k{key}")));
        told[place["core_here"].as_u64().unwrap() as usize] += 1;
    }
    let items = |answer: &Answer| [0, 1].map(|core| json(answer)["cores"][core]["items"].as_u64().unwrap());
    until(port, "/api/v1/stats", |answer| items(answer).iter().sum::<u64>() == 32);
    assert_eq!(items(&get(port, "/api/v1/stats")), told);
}

#[test]
fn a_difference_is_found() {
    let document: Value = serde_json::from_str(include_str!("../../src/node/admin/openapi.json")).unwrap();
    let count = |change: &dyn Fn(&mut Value)| {
        let mut answer = serde_json::json!({ "target": "a", "partitions": 4096, "dirty": [1] });
        change(&mut answer);
        let mut found = Vec::new();
        differences(&document, described(&document, "/api/v1/partitions"), &answer, "", &mut found);
        found.len()
    };
    assert_eq!(count(&|_| {}), 0);
    assert_eq!(count(&|answer| answer["more"] = 1.into()), 1);
    assert_eq!(count(&|answer| answer["dirty"][0] = "x".into()), 1);
    assert_eq!(count(&|answer| answer["target"] = Value::Null), 1);
    assert_eq!(count(&|answer| drop(answer.as_object_mut().unwrap().remove("dirty"))), 1);
}

#[test]
fn keys_that_are_none_and_keys_that_are_secret_are_refused() {
    let (_server, port) = start(&["--cores", "1"]);
    let status = |path: &str| get(port, path).status;
    assert_eq!(status("/api/v1/key?key=k"), 403);
    assert_eq!(json(&get(port, "/api/v1/node"))["keys_shown"], false);
    for query in ["", "?key=", "?key=%", "?key=%zz", &format!("?key={}", "x".repeat(251))] {
        assert_eq!(status(&format!("/api/v1/where{query}")), 400, "{query}");
    }
    assert_eq!(status(&format!("/api/v1/where?key={}", "x".repeat(250))), 200);
    assert_eq!((status("/api/v1/partitions"), status("/api/v1/partitions?target=x")), (400, 404));
    assert_eq!((status("/api/v1/keys"), status("/api/v1/top")), (403, 403));
    for query in ["limit=0", "limit=1001", "limit=-1", "limit=x"] {
        assert_eq!(status(&format!("/api/v1/conns?{query}")), 400, "{query}");
    }
    let (_open, port) = start(&["--cores", "1", "--admin_keys"]);
    assert_eq!(get(port, "/api/v1/key?key=absent").status, 404);
    for query in ["limit=0", "limit=201", "cursor=1-0", "cursor=x", "prefix=%zz", "cursor=0-%zz"] {
        assert_eq!(get(port, &format!("/api/v1/keys?{query}")).status, 400, "{query}");
    }
}

/// A file with the token, for this test alone.
struct TokenFile(PathBuf);

impl TokenFile {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("pbcache-api-token-{}-{number}", std::process::id()));
        std::fs::write(&path, format!("{TOKEN}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        Self(path)
    }
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn act(port: u16, action: &str, fields: &str, body: &str) -> Answer {
    ask(port, "POST", &format!("/api/v1/actions/{action}"), fields, body)
}

fn start_with_token(options: &[&str]) -> (Server, u16, TokenFile) {
    let token = TokenFile::new();
    let mut all = vec!["--cores", "2", "--admin_token_file", token.0.to_str().unwrap()];
    all.extend(options);
    let (server, port) = start(&all);
    (server, port, token)
}

#[test]
fn actions_need_the_token_their_type_and_a_body_that_fits() {
    let (_server, port, _token) = start_with_token(&[]);
    let json_type = "Content-Type: application/json\r\n";
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let both = format!("{json_type}{bearer}");
    let refused = act(port, "flush", json_type, "{}");
    assert_eq!((refused.status, refused.field("www-authenticate")), (401, "Bearer"));
    assert_eq!(act(port, "flush", &format!("{json_type}Authorization: Bearer {TOKEN}x\r\n"), "{}").status, 401);
    assert_eq!(act(port, "flush", &bearer, "{}").status, 415);
    assert_eq!(act(port, "flush", &format!("{bearer}Content-Type: text/plain\r\n"), "{}").status, 415);
    assert_eq!(act(port, "flush", &format!("{both}Origin: http://evil.example\r\n"), "{}").status, 403);
    assert_eq!(act(port, "unknown", &both, "{}").status, 404);
    for body in ["", "{", "[]", "{\"delay_s\":-1}", "{\"delay\":1}", "{\"delay_s\":\"1\"}"] {
        assert_eq!(act(port, "flush", &both, body).status, 400, "{body}");
    }
    assert_eq!((act(port, "memlimit", &both, "{}").status, act(port, "set", &both, "{}").status), (400, 400));
    assert_eq!(act(port, "memlimit", &both, "{\"megabytes\":1}").status, 409);
    let refused = act(port, "refresh_certs", &both, "{}");
    assert_eq!((refused.status, refused.body.contains("has no certificates")), (409, true));
    assert_eq!((act(port, "shutdown", &both, "{}").status, act(port, "drain", &both, "{}").status), (403, 403));
    assert_eq!(act(port, "flush", &both, &format!("{{\"key\":\"{}\"}}", "x".repeat(10 << 20))).status, 413);
    let (_server, port) = start(&["--cores", "1"]);
    assert_eq!(act(port, "flush", &both, "{}").status, 403);
}

#[test]
fn actions_do_what_they_say() {
    let (mut server, port, _token) = start_with_token(&["--enable_shutdown"]);
    let both = format!("Content-Type: application/json\r\nAuthorization: Bearer {TOKEN}\r\n");
    #[track_caller]
    fn done(answer: &Answer) {
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    let mut client = server.connect();
    done(&act(port, "set", &both, "{\"key\":\"a b\",\"value\":\"h\\u00e9\\r\\n!\",\"ttl_s\":100}"));
    let item = json(&ask(port, "GET", "/api/v1/key?key=a%20b", &both, ""));
    assert_eq!(
        (&item["value"], &item["size_bytes"], &item["ttl_s"].as_u64().is_some_and(|ttl_s| ttl_s <= 100)),
        (&"h\u{e9}\r\n!".into(), &6.into(), &true)
    );
    client.ask("set k 0 0 1\r\nx\r\n", "STORED\r\n");
    done(&act(port, "flush", &both, "{}"));
    client.ask("get k\r\n", "END\r\n");
    done(&act(port, "memlimit", &both, "{\"megabytes\":64}"));
    assert_eq!(client.stat("", "limit_maxbytes"), (64 << 20).to_string());
    done(&act(port, "reset", &both, "{}"));
    assert_eq!(client.stat("", "cmd_set"), "0");
    done(&act(port, "verbosity", &both, "{\"level\":1}"));
    assert_eq!(client.stat("settings", "verbosity"), "1");
    done(&act(port, "drain", &both, "{}"));
    assert_eq!(get(port, "/readyz").status, 503);
    client.ask("get k\r\n", "END\r\n");
    done(&act(port, "shutdown", &both, "{}"));
    assert_eq!(server.wait(Duration::from_secs(10)), Some(0));
}

#[test]
fn those_who_watch_are_bounded_and_leave_room_for_others() {
    let (_server, port) = start(&["--cores", "1"]);
    let watch = || {
        let mut stream = asking::connect(port);
        stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut line = String::new();
        let mut reader = BufReader::new(stream);
        reader.read_line(&mut line).unwrap();
        (reader, line)
    };
    let watchers: Vec<_> = (0..16).map(|_| watch()).collect();
    assert!(watchers.iter().all(|(_, line)| line.starts_with("HTTP/1.1 200")));
    let (_, line) = watch();
    assert!(line.starts_with("HTTP/1.1 503"), "{line}");
    assert_eq!(get(port, "/metrics").status, 200);
}
