//! What clients asked and were told, and when; in memory, and as lines that people read and tests are made of.
//!
//! ```text
//!   c2.17  1204.551..1207.004  set r7 r7:2.9 -> STORED token=81      connection 2, its 17th request; milliseconds; request -> answer
//!   c2.18  1204.551..?         incr c1 1 -> ? reset                  nobody knows whether it was executed
//! ```
//!
//! Every written value ends with a tag that no other write uses, so that a value tells who wrote it; an appended tag follows a `+`.
//!
//! Lives here: the words. Not here: how they travel (`speech`), what must follow from them (`judge`).

use std::fmt;
use std::str::FromStr;

/// Microseconds since the episode began.
pub type Micros = u64;
/// No time at all: the end of a request that was never answered.
pub const NEVER: Micros = u64::MAX;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    Get,
    /// Reads, and changes the time to live.
    GetTouch {
        ttl_s: u32,
    },
    Set {
        value: String,
        ttl_s: u32,
    },
    Add {
        value: String,
    },
    Replace {
        value: String,
    },
    /// The value begins with `+`.
    Append {
        value: String,
    },
    Cas {
        value: String,
        token: u64,
    },
    Delete,
    Increment,
    Touch {
        ttl_s: u32,
    },
    /// Everything, not one key.
    Flush,
}

/// What a server said. `token`: the version, where it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Value { value: String, token: Option<u64> },
    Miss,
    Stored { token: Option<u64> },
    NotStored,
    Exists,
    NotFound,
    Deleted,
    Number { number: u64, token: Option<u64> },
    Touched,
    Ok,
}

/// A time as it is written: milliseconds.
pub fn ms(us: Micros) -> String {
    format!("{}.{:03}", us / 1000, us % 1000)
}

/// A time as it is read.
pub fn us(ms: &str) -> Option<Micros> {
    ms.parse::<f64>().ok().filter(|ms| *ms >= 0.0).map(|ms| (ms * 1000.0).round() as Micros)
}

/// One request and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub connection: u32,
    /// Its place among the requests of its connection.
    pub number: u32,
    pub key: String,
    pub ask: Ask,
    pub invoked: Micros,
    /// When its answer was read; `NEVER` if it is not known whether it was executed.
    pub answered: Micros,
    /// `Err`: why it is not known.
    pub answer: Result<Answer, String>,
}

impl Call {
    /// Whether the outcome is known.
    pub fn is_known(&self) -> bool {
        self.answer.is_ok()
    }

    /// Whether the request may change something.
    pub fn may_change(&self) -> bool {
        self.ask != Ask::Get
    }

    /// Whether the request is known to have changed something, or may have.
    pub fn has_changed(&self) -> bool {
        match &self.answer {
            Err(_) => self.may_change(),
            Ok(Answer::Miss | Answer::NotStored | Answer::Exists | Answer::NotFound) => false,
            Ok(Answer::Value { .. }) => matches!(self.ask, Ask::GetTouch { .. }),
            Ok(_) => true,
        }
    }

    /// The tag that the request writes.
    pub fn writes(&self) -> Option<&str> {
        match &self.ask {
            Ask::Set { value, .. }
            | Ask::Add { value }
            | Ask::Replace { value }
            | Ask::Append { value }
            | Ask::Cas { value, .. } => Some(last_tag(value)),
            _ => None,
        }
    }

    /// The tag that the answer shows.
    pub fn reads(&self) -> Option<&str> {
        match &self.answer {
            Ok(Answer::Value { value, .. }) => Some(last_tag(value)),
            _ => None,
        }
    }

    /// The version that the answer tells.
    pub fn token(&self) -> Option<u64> {
        match self.answer {
            Ok(Answer::Value { token, .. } | Answer::Stored { token } | Answer::Number { token, .. }) => token,
            _ => None,
        }
    }

    /// Whether the answer shows that nothing was there, at some moment between the two times; after a delete, nothing is there either.
    pub fn shows_absence(&self) -> bool {
        match &self.answer {
            Ok(Answer::Miss | Answer::NotFound | Answer::Deleted) => true,
            Ok(Answer::NotStored) => matches!(self.ask, Ask::Append { .. } | Ask::Replace { .. }),
            Ok(Answer::Stored { .. }) => matches!(self.ask, Ask::Add { .. }),
            Ok(Answer::Ok) => self.ask == Ask::Flush,
            _ => false,
        }
    }

    /// Whether the answer shows that something was there, or put it there.
    pub fn shows_presence(&self) -> bool {
        match (&self.ask, &self.answer) {
            (Ask::Delete | Ask::Flush, _) | (_, Err(_)) => false,
            (Ask::Add { .. }, Ok(Answer::NotStored)) => true,
            (_, Ok(answer)) => !matches!(answer, Answer::Miss | Answer::NotFound | Answer::NotStored),
        }
    }

    /// Whether the item may be gone afterwards: at once, or when its time is over.
    pub fn may_remove(&self) -> bool {
        let may = match self.ask {
            Ask::Delete | Ask::Flush => true,
            Ask::Set { ttl_s, .. } | Ask::Touch { ttl_s } | Ask::GetTouch { ttl_s } => ttl_s > 0,
            _ => false,
        };
        may && (self.has_changed() || !self.is_known())
    }
}

/// What comes behind the last `+`: the tag of whoever wrote last.
pub fn last_tag(value: &str) -> &str {
    value.rsplit('+').next().unwrap_or(value)
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let until = if self.answered == NEVER { "?".into() } else { ms(self.answered) };
        let id = format!("c{}.{}", self.connection, self.number);
        write!(f, "{id:9} {:>9}..{until:9} {} -> ", ms(self.invoked), Request(&self.key, &self.ask))?;
        match &self.answer {
            Ok(answer) => write!(f, "{answer}"),
            Err(why) => write!(f, "? {why}"),
        }
    }
}

/// A request in words.
struct Request<'a>(&'a str, &'a Ask);

impl fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Request(key, ask) = self;
        match ask {
            Ask::Get => write!(f, "get {key}"),
            Ask::GetTouch { ttl_s } => write!(f, "gat {key} ttl={ttl_s}"),
            Ask::Set { value, ttl_s: 0 } => write!(f, "set {key} {value}"),
            Ask::Set { value, ttl_s } => write!(f, "set {key} {value} ttl={ttl_s}"),
            Ask::Add { value } => write!(f, "add {key} {value}"),
            Ask::Replace { value } => write!(f, "replace {key} {value}"),
            Ask::Append { value } => write!(f, "append {key} {value}"),
            Ask::Cas { value, token } => write!(f, "cas {key} {value} token={token}"),
            Ask::Delete => write!(f, "delete {key}"),
            Ask::Increment => write!(f, "incr {key}"),
            Ask::Touch { ttl_s } => write!(f, "touch {key} ttl={ttl_s}"),
            Ask::Flush => write!(f, "flush_all"),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = |token: &Option<u64>| token.map_or(String::new(), |token| format!(" token={token}"));
        match self {
            Self::Value { value, token: version } => write!(f, "VALUE {value}{}", token(version)),
            Self::Miss => write!(f, "MISS"),
            Self::Stored { token: version } => write!(f, "STORED{}", token(version)),
            Self::NotStored => write!(f, "NOT_STORED"),
            Self::Exists => write!(f, "EXISTS"),
            Self::NotFound => write!(f, "NOT_FOUND"),
            Self::Deleted => write!(f, "DELETED"),
            Self::Number { number, token: version } => write!(f, "NUMBER {number}{}", token(version)),
            Self::Touched => write!(f, "TOUCHED"),
            Self::Ok => write!(f, "OK"),
        }
    }
}

impl FromStr for Call {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        parse(line).ok_or_else(|| format!("no call: {line}"))
    }
}

fn parse(line: &str) -> Option<Call> {
    let (left, right) = line.split_once("->")?;
    let mut words = left.split_whitespace();
    let (connection, number) = words.next()?.strip_prefix('c')?.split_once('.')?;
    let (invoked, answered) = words.next()?.split_once("..")?;
    let name = words.next()?;
    let rest: Vec<&str> = words.collect();
    let (key, ask) = parse_ask(name, &rest)?;
    let told: Vec<&str> = right.split_whitespace().collect();
    let answer = match told.split_first()? {
        (&"?", why) => Err(why.join(" ")),
        _ => Ok(parse_answer(&told)?),
    };
    let answered = if answered == "?" { NEVER } else { us(answered)? };
    let (connection, number) = (connection.parse().ok()?, number.parse().ok()?);
    Some(Call { connection, number, key, ask, invoked: us(invoked)?, answered, answer })
}

/// The number behind `name=` among these words.
fn numbered<T: FromStr>(words: &[&str], name: &str) -> Option<T> {
    words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

fn parse_ask(name: &str, words: &[&str]) -> Option<(String, Ask)> {
    if name == "flush_all" {
        return Some((String::new(), Ask::Flush));
    }
    let key = words.first()?.to_string();
    let value = || words.get(1).map(|word| word.to_string());
    let ttl_s = numbered(words, "ttl").unwrap_or(0);
    let ask = match name {
        "get" => Ask::Get,
        "gat" => Ask::GetTouch { ttl_s },
        "set" => Ask::Set { value: value()?, ttl_s },
        "add" => Ask::Add { value: value()? },
        "replace" => Ask::Replace { value: value()? },
        "append" => Ask::Append { value: value()? },
        "cas" => Ask::Cas { value: value()?, token: numbered(words, "token")? },
        "delete" => Ask::Delete,
        "incr" => Ask::Increment,
        "touch" => Ask::Touch { ttl_s },
        _ => return None,
    };
    Some((key, ask))
}

fn parse_answer(words: &[&str]) -> Option<Answer> {
    let token = numbered(words, "token");
    Some(match words {
        ["VALUE", value, ..] => Answer::Value { value: value.to_string(), token },
        ["MISS"] => Answer::Miss,
        ["STORED", ..] => Answer::Stored { token },
        ["NOT_STORED"] => Answer::NotStored,
        ["EXISTS"] => Answer::Exists,
        ["NOT_FOUND"] => Answer::NotFound,
        ["DELETED"] => Answer::Deleted,
        ["NUMBER", number, ..] => Answer::Number { number: number.parse().ok()?, token },
        ["TOUCHED"] => Answer::Touched,
        ["OK"] => Answer::Ok,
        _ => return None,
    })
}

/// The calls of a text, one a line.
#[cfg(test)]
pub fn calls(text: &str) -> Vec<Call> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| line.parse().unwrap()).collect()
}

#[test]
fn a_call_reads_as_it_is_written() {
    for line in [
        "c2.17 1204.551..1207.004 set r7 r7:2.9 -> STORED token=81",
        "c2.18 1204.551..? incr c1 -> ? reset by the node",
        "c0.1 1.000..2.500 cas r1 x token=7 -> EXISTS",
        "c0.2 1.000..2.500 gat b1 ttl=3 -> VALUE b1:0.1+b1:0.2 token=9",
        "c0.3 1.000..2.500 flush_all -> OK",
        "c0.4 1.000..2.500 set b1 b1:0.4 ttl=2 -> STORED",
        "c0.5 1.000..2.500 touch b1 ttl=2 -> NOT_FOUND",
        "c0.6 1.000..2.500 incr c1 -> NUMBER 7 token=3",
        "c0.7 1.000..2.500 append r1 +r1:0.7 -> NOT_STORED",
    ] {
        let call: Call = line.parse().unwrap();
        let words = |text: &str| text.split_whitespace().map(str::to_string).collect::<Vec<_>>();
        assert_eq!(words(&call.to_string()), words(line));
    }
    assert!("c1.1 0..1 sit k v -> STORED".parse::<Call>().is_err());
    assert!("c1.1 0..1 set k v -> MAYBE".parse::<Call>().is_err());
}
