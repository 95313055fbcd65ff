//! The format of a transcript: from the file to lines.
//!
//! Lives here: parsing and matching. Not here: who answers, the packets of the binary protocol (`packet`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use pbcache::protocol::http;

use crate::original::{self, Version};
use crate::packet::{Request, Response};

/// One file.
pub struct Transcript {
    pub path: PathBuf,
    pub options: Options,
    pub lines: Vec<Line>,
}

/// What the file asks of the server and of the runner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Options {
    pub max_item_size: Option<u32>,
    pub flush_disabled: bool,
    pub dump_disabled: bool,
    pub cas_disabled: bool,
    /// `--http`, `--http_miss`, `--http_max_age`, `--http_host`: what is given, in this order.
    pub http: Vec<(&'static str, String)>,
    pub node_only: bool,
    pub differs: bool,
    pub clock: bool,
    /// Runs in memory only.
    pub memory_only: bool,
    /// The release of the original whose behaviour this is; older ones differ.
    pub since: Option<Version>,
    /// The release of the original that behaves otherwise, and we do not follow.
    pub before: Option<Version>,
}

impl Options {
    /// Whether a server in its usual state, without its control plane, is enough.
    pub fn plain(&self) -> bool {
        let state = (self.max_item_size, self.flush_disabled, self.dump_disabled, self.cas_disabled, self.node_only);
        state == (None, false, false, false, false) && self.http.is_empty()
    }

    /// What the HTTP door of a server in memory is told. They are few, and live as long as the test.
    pub fn http_rules(&self) -> &'static http::Rules {
        if self.http.is_empty() {
            return http::Rules::DEFAULT;
        }
        let mut rules = http::Rules::DEFAULT.clone();
        for (name, value) in &self.http {
            match (*name, value.as_str()) {
                ("--http", "readonly") => rules.mode = http::Mode::ReadOnly,
                ("--http", "off") => rules.mode = http::Mode::Off,
                ("--http_miss", "404") => rules.miss = http::Miss::NotFound,
                ("--http_max_age", "on") => rules.max_age = true,
                ("--http_host", host) => rules.hosts.push(host.into()),
                other => panic!("no such option: {other:?}"),
            }
        }
        Box::leak(Box::new(rules))
    }
}

/// One line that does something.
pub struct Line {
    pub number: usize,
    pub source: String,
    pub action: Action,
    /// As `Options::since` and `Options::before`, for this line.
    pub releases: (Option<Version>, Option<Version>),
}

/// What a line does.
pub enum Action {
    Send(Vec<Part>),
    SendPacket(Request),
    Expect(Vec<Part>),
    ExpectPacket(Response),
    Closed,
    Quiet,
    Clock(u32),
    Connection(String),
}

/// A piece of a `>` or `<` line.
#[derive(Clone, Debug)]
pub enum Part {
    Bytes(Vec<u8>),
    /// A number seen before.
    Insert(String),
    /// A number to remember.
    Capture(String),
    /// Any bytes up to what follows; with newlines if `lines`.
    Any {
        lines: bool,
    },
}

/// Numbers remembered by name.
pub type Names = HashMap<String, u64>;

/// What matching found.
#[derive(Debug, PartialEq, Eq)]
pub enum Match {
    /// So many bytes match.
    Full(usize),
    /// All right so far; more bytes are needed.
    Partial,
    /// Wrong, whatever comes.
    Wrong,
}

/// Reads a file. Panics with file and line where it is not in the format.
pub fn read(path: &Path) -> Transcript {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut transcript = Transcript { path: path.to_path_buf(), options: Options::default(), lines: Vec::new() };
    let mut exchange = Exchange::default();
    for (index, source) in text.lines().enumerate() {
        let wrong = |reason: &str| -> ! { panic!("{}:{}: {reason}: {source}", path.display(), index + 1) };
        if let Some((mark @ ("@since" | "@before"), version)) = source.split_once(" next ") {
            let Some(version) = original::parse(version) else { wrong("no release") };
            let releases = if mark == "@since" { (Some(version), None) } else { (None, Some(version)) };
            exchange = Exchange { releases, answered: false };
            continue;
        }
        match parse(source, &mut transcript.options) {
            Ok(None) => {}
            Ok(Some(action)) => {
                let releases = exchange.releases(&action);
                transcript.lines.push(Line { number: index + 1, source: source.to_string(), action, releases });
            }
            Err(reason) => wrong(&reason),
        }
    }
    assert!(!transcript.lines.is_empty(), "{}: nothing in it", path.display());
    transcript
}

/// The exchange that `@since next` or `@before next` is about: what is sent, and the answers behind it.
#[derive(Default)]
struct Exchange {
    releases: (Option<Version>, Option<Version>),
    answered: bool,
}

/// Whether an expectation with these bounds, from the first and before the second, is one of a release; of the latest if none is given.
pub fn holds((since, before): (Option<Version>, Option<Version>), release: Option<Version>) -> bool {
    let Some(release) = release else { return true };
    since.is_none_or(|since| since <= release) && before.is_none_or(|before| release < before)
}

impl Exchange {
    /// The releases of which a line holds, if this exchange has such and the line belongs to it.
    fn releases(&mut self, action: &Action) -> (Option<Version>, Option<Version>) {
        let sends = matches!(action, Action::Send(_) | Action::SendPacket(_));
        if sends && self.answered {
            self.releases = (None, None);
        }
        self.answered |= !sends;
        self.releases
    }
}

fn parse(source: &str, options: &mut Options) -> Result<Option<Action>, String> {
    if source.is_empty() || source.starts_with('#') {
        return Ok(None);
    }
    let (mark, rest) = source.split_once(' ').unwrap_or((source, ""));
    Ok(Some(match mark {
        ">" => Action::Send(parts(rest)?),
        "<" => Action::Expect(parts(rest)?),
        ">*" => Action::Send(vec![Part::Bytes(framed(rest)?)]),
        ">!" => Action::SendPacket(Request::parse(rest)?),
        "<!" => Action::ExpectPacket(Response::parse(rest)?),
        "=" => match rest {
            "closed" => Action::Closed,
            "quiet" => Action::Quiet,
            _ => return Err("unknown state".into()),
        },
        "@other" => Action::Connection(rest.to_string()),
        "@clock" => {
            options.clock = true;
            let seconds = rest.strip_prefix('+').ok_or("the clock moves by +N")?;
            Action::Clock(seconds.parse().map_err(|_| "no number of seconds")?)
        }
        _ => {
            directive(mark, rest, options)?;
            return Ok(None);
        }
    }))
}

fn directive(mark: &str, rest: &str, options: &mut Options) -> Result<(), String> {
    match mark {
        "@max_item_size" => options.max_item_size = Some(rest.parse().map_err(|_| "no number of bytes")?),
        "@memory" => options.memory_only = true,
        "@flush_disabled" => options.flush_disabled = true,
        "@dump_disabled" => options.dump_disabled = true,
        "@cas_disabled" => options.cas_disabled = true,
        "@http" => options.http.push(("--http", rest.into())),
        "@http_miss" => options.http.push(("--http_miss", rest.into())),
        "@http_max_age" => options.http.push(("--http_max_age", rest.into())),
        "@http_host" => options.http.push(("--http_host", rest.into())),
        "@node" => options.node_only = true,
        "@since" => options.since = Some(original::parse(rest).ok_or("no release")?),
        "@before" => options.before = Some(original::parse(rest).ok_or("no release")?),
        "@differs" if rest.is_empty() => return Err("@differs wants a reason".into()),
        "@differs" => options.differs = true,
        _ => return Err("unknown mark".into()),
    }
    Ok(())
}

/// Reads bytes with escapes.
pub fn parts(source: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut bytes = Vec::new();
    let mut rest = source;
    while let Some(character) = rest.chars().next() {
        if let Some(braced) = rest.strip_prefix("\\{") {
            let (inside, behind) = braced.split_once('}').ok_or("unclosed brace")?;
            rest = behind;
            let special = match inside {
                "*" => Part::Any { lines: false },
                "**" => Part::Any { lines: true },
                _ => match (inside.strip_prefix('='), inside.split_once('*')) {
                    (Some(name), _) => Part::Capture(name.to_string()),
                    (None, Some((text, count))) => {
                        let count: usize = count.parse().map_err(|_| "no count in the repetition")?;
                        bytes.extend(literal(text)?.repeat(count));
                        continue;
                    }
                    (None, None) => Part::Insert(inside.to_string()),
                },
            };
            if !bytes.is_empty() {
                parts.push(Part::Bytes(std::mem::take(&mut bytes)));
            }
            parts.push(special);
            continue;
        }
        let taken = if character == '\\' { escape(rest, &mut bytes)? } else { character.len_utf8() };
        if character != '\\' {
            bytes.extend_from_slice(&rest.as_bytes()[..taken]);
        }
        rest = &rest[taken..];
    }
    if !bytes.is_empty() {
        parts.push(Part::Bytes(bytes));
    }
    Ok(parts)
}

/// A request of RESP: words at spaces, each with its length.
fn framed(source: &str) -> Result<Vec<u8>, String> {
    let words = source.split(' ').map(literal).collect::<Result<Vec<_>, _>>()?;
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in &words {
        bytes.extend([format!("${}\r\n", word.len()).as_bytes(), word, b"\r\n"].concat());
    }
    Ok(bytes)
}

/// Bytes with escapes and without names.
pub fn literal(source: &str) -> Result<Vec<u8>, String> {
    match &parts(source)?[..] {
        [] => Ok(Vec::new()),
        [Part::Bytes(bytes)] => Ok(bytes.clone()),
        _ => Err("no names or wildcards here".into()),
    }
}

/// Reads the escape at the front of `rest`; returns its length.
fn escape(rest: &str, bytes: &mut Vec<u8>) -> Result<usize, String> {
    let byte = match rest.as_bytes().get(1) {
        Some(b'r') => b'\r',
        Some(b'n') => b'\n',
        Some(b't') => b'\t',
        Some(b'0') => 0,
        Some(b's') => b' ',
        Some(b'\\') => b'\\',
        Some(b'x') => {
            let digits = rest.get(2..4).ok_or("\\x wants two digits")?;
            bytes.push(u8::from_str_radix(digits, 16).map_err(|_| "\\x wants two hex digits")?);
            return Ok(4);
        }
        _ => return Err("unknown escape".into()),
    };
    bytes.push(byte);
    Ok(2)
}

/// The bytes to send.
pub fn assemble(parts: &[Part], names: &Names) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    for part in parts {
        match part {
            Part::Bytes(literal) => bytes.extend_from_slice(literal),
            Part::Insert(name) => bytes.extend_from_slice(named(name, names)?.to_string().as_bytes()),
            Part::Capture(_) | Part::Any { .. } => return Err("only what is expected may have wildcards".into()),
        }
    }
    Ok(bytes)
}

/// The number remembered under `name`.
pub fn named(name: &str, names: &Names) -> Result<u64, String> {
    names.get(name).copied().ok_or_else(|| format!("nothing is remembered as {name}"))
}

/// Matches the front of `received`. Remembers numbers.
pub fn matches(parts: &[Part], received: &[u8], names: &mut Names) -> Result<Match, String> {
    let mut at = 0;
    for (index, part) in parts.iter().enumerate() {
        let rest = &received[at..];
        match part {
            Part::Bytes(_) | Part::Insert(_) => {
                let wanted = assemble(std::slice::from_ref(part), names)?;
                let common = wanted.len().min(rest.len());
                if wanted[..common] != rest[..common] {
                    return Ok(Match::Wrong);
                }
                if common < wanted.len() {
                    return Ok(Match::Partial);
                }
                at += common;
            }
            Part::Capture(name) => {
                let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
                if length == rest.len() {
                    return Ok(Match::Partial);
                }
                let digits = std::str::from_utf8(&rest[..length]).expect("digits");
                let Ok(number) = digits.parse() else { return Ok(Match::Wrong) };
                names.insert(name.clone(), number);
                at += length;
            }
            Part::Any { lines } => {
                let Some(Part::Bytes(behind)) = parts.get(index + 1) else {
                    return Err("bytes must follow a wildcard".into());
                };
                let found = rest.windows(behind.len()).position(|window| window == behind);
                let line_end = rest.iter().position(|&byte| byte == b'\n');
                match found {
                    Some(length) if *lines || !rest[..length].contains(&b'\n') => at += length,
                    Some(_) => return Ok(Match::Wrong),
                    None if *lines || line_end.is_none() => return Ok(Match::Partial),
                    None => return Ok(Match::Wrong),
                }
            }
        }
    }
    Ok(Match::Full(at))
}

/// Bytes for a message: escaped, and shortened where they are many.
pub fn show(bytes: &[u8]) -> String {
    let shown = bytes[..bytes.len().min(300)].escape_ascii().to_string();
    match bytes.len() {
        0 => "(nothing)".into(),
        1..=300 => shown,
        length => format!("{shown}... ({length} bytes)"),
    }
}
