//! Requests as bytes, and bytes as answers: the text protocol and the meta protocol.
//!
//! ```text
//!   value on the wire:  r7:2.9 | r7:2.9~40~abc..   a tag, or a tag, a length, and so many letters that follow from the tag
//!   in a history:       r7:2.9                     the letters are checked and left out
//! ```
//!
//! A meta request carries its number as opaque, a text request nothing: who answers the wrong one is found out by its key or its shape.
//!
//! Lives here: both directions. Not here: when what is asked (`clients`).

use super::history::{Answer, Ask};

/// In which protocol a request is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Text,
    Meta,
}

/// What is needed to write a request and to read its answer.
#[derive(Clone, Debug)]
pub struct Request {
    pub dialect: Dialect,
    pub key: String,
    pub ask: Ask,
    pub number: u32,
    /// Letters behind the tag of what is written.
    pub padding: usize,
}

/// An answer, and how many bytes it took; `None` while bytes are missing.
pub type Parsed = Option<(Result<Answer, String>, usize)>;

impl Request {
    pub fn write(&self, output: &mut Vec<u8>) {
        let text = match (self.dialect, &self.ask) {
            (_, Ask::Flush) => "flush_all\r\n".into(),
            (Dialect::Text, _) => self.text(),
            (Dialect::Meta, _) => self.meta(),
        };
        output.extend_from_slice(text.as_bytes());
    }

    fn text(&self) -> String {
        let key = &self.key;
        let store = |name: &str, value: &str, ttl_s: u32, token: &str| {
            let value = padded(value, self.padding);
            format!("{name} {key} 0 {ttl_s} {}{token}\r\n{value}\r\n", value.len())
        };
        match &self.ask {
            Ask::Get => format!("gets {key}\r\n"),
            Ask::GetTouch { ttl_s } => format!("gats {ttl_s} {key}\r\n"),
            Ask::Set { value, ttl_s } => store("set", value, *ttl_s, ""),
            Ask::Add { value } => store("add", value, 0, ""),
            Ask::Replace { value } => store("replace", value, 0, ""),
            Ask::Append { value } => store("append", value, 0, ""),
            Ask::Cas { value, token } => store("cas", value, 0, &format!(" {token}")),
            Ask::Delete => format!("delete {key}\r\n"),
            Ask::Increment => format!("incr {key} 1\r\n"),
            Ask::Touch { ttl_s } => format!("touch {key} {ttl_s}\r\n"),
            Ask::Flush => "flush_all\r\n".into(),
        }
    }

    fn meta(&self) -> String {
        let (key, number) = (&self.key, self.number);
        let store = |value: &str, flags: &str| {
            let value = padded(value, self.padding);
            format!("ms {key} {} c O{number}{flags}\r\n{value}\r\n", value.len())
        };
        match &self.ask {
            Ask::Get => format!("mg {key} v c O{number}\r\n"),
            Ask::GetTouch { ttl_s } => format!("mg {key} v c O{number} T{ttl_s}\r\n"),
            Ask::Set { value, ttl_s } => store(value, &format!(" T{ttl_s}")),
            Ask::Add { value } => store(value, " ME"),
            Ask::Replace { value } => store(value, " MR"),
            Ask::Append { value } => store(value, " MA"),
            Ask::Cas { value, token } => store(value, &format!(" C{token}")),
            Ask::Delete => format!("md {key} O{number}\r\n"),
            Ask::Increment => format!("ma {key} v c O{number}\r\n"),
            Ask::Touch { ttl_s } => format!("mg {key} O{number} T{ttl_s}\r\n"),
            Ask::Flush => "flush_all\r\n".into(),
        }
    }

    /// Reads the answer from the front of what came.
    ///
    /// # Errors
    /// It is no answer to this request.
    pub fn read(&self, input: &[u8]) -> Result<Parsed, String> {
        let Some(end) = input.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        let line = String::from_utf8_lossy(&input[..end]).into_owned();
        if line.starts_with("SERVER_ERROR") {
            return Ok(Some((Err(line), end + 2)));
        }
        let rest = &input[end + 2..];
        let mut words: Vec<&str> = line.split(' ').collect();
        if self.dialect == Dialect::Meta && self.ask != Ask::Flush {
            self.check_opaque(&mut words, &line)?;
        }
        match words[..] {
            ["VALUE", key, _, bytes, token] if self.dialect == Dialect::Text => {
                let Some((value, used)) = self.value(key, bytes, rest, b"\r\nEND\r\n")? else { return Ok(None) };
                let token = Some(token.parse().map_err(|_| format!("no token: {line}"))?);
                Ok(Some((Ok(Answer::Value { value, token }), end + 2 + used)))
            }
            ["VA", bytes, ref flags @ ..] if self.dialect == Dialect::Meta => {
                let Some((value, used)) = self.value(&self.key, bytes, rest, b"\r\n")? else { return Ok(None) };
                let token = flags.iter().find_map(|flag| flag.strip_prefix('c')?.parse().ok());
                let answer = match self.ask {
                    Ask::Increment => Answer::Number { number: value.parse().map_err(|_| line.clone())?, token },
                    _ => Answer::Value { value, token },
                };
                Ok(Some((Ok(answer), end + 2 + used)))
            }
            _ => match self.short(&words) {
                Some(answer) => Ok(Some((Ok(answer), end + 2))),
                None => Err(format!("{:?} of {} is answered with {line:?}", self.ask, self.key)),
            },
        }
    }

    /// Takes the opaque out, which must be ours.
    fn check_opaque(&self, words: &mut Vec<&str>, line: &str) -> Result<(), String> {
        let own = format!("O{}", self.number);
        let Some(place) = words.iter().position(|word| *word == own) else {
            return Err(format!("{:?} of {} with {own} is answered with {line:?}", self.ask, self.key));
        };
        words.remove(place);
        Ok(())
    }

    /// A value and what it takes with its end.
    fn value(&self, key: &str, bytes: &str, rest: &[u8], end: &[u8]) -> Result<Option<(String, usize)>, String> {
        let bytes: usize = bytes.parse().map_err(|_| format!("no length: {bytes}"))?;
        if key != self.key {
            return Err(format!("{} is answered with the key {key}", self.key));
        }
        if rest.len() < bytes + end.len() {
            return Ok(None);
        }
        let value = &rest[..bytes];
        if &rest[bytes..bytes + end.len()] != end {
            return Err(format!("the value of {key} does not end where it should"));
        }
        let value = std::str::from_utf8(value).ok().and_then(plain);
        let value =
            value.ok_or_else(|| format!("the value of {key} is torn: {:?}", String::from_utf8_lossy(&rest[..bytes])))?;
        Ok(Some((value, bytes + end.len())))
    }

    /// An answer of one line without a value.
    fn short(&self, words: &[&str]) -> Option<Answer> {
        let token = words.iter().find_map(|word| word.strip_prefix('c')?.parse().ok());
        Some(match (words.first()?, &self.ask, self.dialect) {
            (&"END", Ask::Get | Ask::GetTouch { .. }, Dialect::Text) => Answer::Miss,
            (&"EN", Ask::Get | Ask::GetTouch { .. }, Dialect::Meta) => Answer::Miss,
            (&"EN", Ask::Touch { .. }, Dialect::Meta) => Answer::NotFound,
            (&"HD", Ask::Touch { .. }, Dialect::Meta) => Answer::Touched,
            (&"HD", Ask::Delete, Dialect::Meta) => Answer::Deleted,
            (&"HD", _, Dialect::Meta) if self.stores() => Answer::Stored { token },
            (&"NS", _, Dialect::Meta) if self.stores() => Answer::NotStored,
            (&"EX", Ask::Cas { .. }, Dialect::Meta) => Answer::Exists,
            (&"NF", Ask::Cas { .. } | Ask::Delete | Ask::Increment, Dialect::Meta) => Answer::NotFound,
            (&"STORED", _, Dialect::Text) if self.stores() => Answer::Stored { token: None },
            (&"NOT_STORED", _, Dialect::Text) if self.stores() => Answer::NotStored,
            (&"EXISTS", Ask::Cas { .. }, Dialect::Text) => Answer::Exists,
            (&"DELETED", Ask::Delete, Dialect::Text) => Answer::Deleted,
            (&"TOUCHED", Ask::Touch { .. }, Dialect::Text) => Answer::Touched,
            (&"NOT_FOUND", _, Dialect::Text) if self.ask != Ask::Get => Answer::NotFound,
            (&"OK", Ask::Flush, _) => Answer::Ok,
            (number, Ask::Increment, Dialect::Text) => Answer::Number { number: number.parse().ok()?, token: None },
            _ => return None,
        })
    }

    fn stores(&self) -> bool {
        matches!(self.ask, Ask::Set { .. } | Ask::Add { .. } | Ask::Replace { .. } | Ask::Append { .. } | Ask::Cas { .. })
    }
}

/// The letters that belong to a tag.
fn letters(tag: &str, count: usize) -> String {
    let first = tag.bytes().fold(7u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    (0..count as u32).map(|place| char::from(b'a' + ((first.wrapping_add(place)) % 26) as u8)).collect()
}

/// A value with letters behind its tag.
fn padded(value: &str, padding: usize) -> String {
    match padding {
        0 => value.into(),
        count => format!("{value}~{count}~{}", letters(value.trim_start_matches('+'), count)),
    }
}

/// A value without letters, if each part has those that it should.
fn plain(value: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in value.split('+') {
        let mut pieces = part.split('~');
        let tag = pieces.next()?;
        if let Some(count) = pieces.next() {
            let found = pieces.next()?;
            if pieces.next().is_some() || found != letters(tag, count.parse().ok()?) {
                return None;
            }
        }
        parts.push(tag);
    }
    Some(parts.join("+"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dialect: Dialect, ask: Ask, input: &str) -> Result<Parsed, String> {
        Request { dialect, key: "k".into(), ask, number: 5, padding: 0 }.read(input.as_bytes())
    }

    #[test]
    fn letters_come_and_go() {
        for padding in [0, 1, 40, 5000] {
            let value = padded("k:1.2", padding);
            assert_eq!(value.len(), 5 + if padding > 0 { padding + 2 + padding.to_string().len() } else { 0 });
            assert_eq!(plain(&value).as_deref(), Some("k:1.2"));
            let both = format!("{value}{}", padded("+k:3.4", padding));
            assert_eq!(plain(&both).as_deref(), Some("k:1.2+k:3.4"));
        }
        let torn = padded("k:1.2", 40).replace("~40~", "~39~");
        assert_eq!(plain(&torn), None);
        assert_eq!(plain(&padded("k:1.2", 40)[..20]), None);
    }

    #[test]
    fn answers_are_taken_whole() {
        let whole = "VALUE k 0 5 17\r\nk:1.2\r\nEND\r\n";
        for end in 0..whole.len() {
            assert_eq!(read(Dialect::Text, Ask::Get, &whole[..end]), Ok(None));
        }
        let value = Answer::Value { value: "k:1.2".into(), token: Some(17) };
        assert_eq!(read(Dialect::Text, Ask::Get, whole), Ok(Some((Ok(value.clone()), whole.len()))));
        let meta = "VA 5 c17 O5\r\nk:1.2\r\nHD O6\r\n";
        assert_eq!(read(Dialect::Meta, Ask::Get, meta), Ok(Some((Ok(value), meta.len() - 7))));
        let error = "SERVER_ERROR the node went away\r\n";
        assert_eq!(read(Dialect::Meta, Ask::Get, error), Ok(Some((Err(error.trim_end().into()), error.len()))));
    }

    #[test]
    fn answers_to_something_else_are_refused() {
        assert!(read(Dialect::Text, Ask::Get, "VALUE j 0 5 17\r\nk:1.2\r\nEND\r\n").unwrap_err().contains("the key j"));
        assert!(read(Dialect::Meta, Ask::Get, "VA 5 c17 O6\r\nk:1.2\r\n").is_err());
        assert!(read(Dialect::Text, Ask::Get, "STORED\r\n").is_err());
        assert!(read(Dialect::Text, Ask::Delete, "END\r\n").is_err());
        assert!(read(Dialect::Text, Ask::Get, "VALUE k 0 6 17\r\nk:1.2\r\nEND\r\n ").is_err());
        assert!(read(Dialect::Text, Ask::Get, "VALUE k 0 9 17\r\nk:1~3~abz\r\nEND\r\n").unwrap_err().contains("torn"));
    }
}
