//! The target of a request: which key it means.
//!
//! ```text
//!   /KEY?ttl=60&flags=5         the key: what is between the first `/` and `?`, percent-decoded once
//!   /get/?key=KEY, /get?key=KEY the same (Velour Fog); without `key=` they are the keys `get/` and `get`
//!   /_/key/KEY                  any key, also one that begins with `_/`
//!   /_/healthz, /_/readyz       for probes; nothing else below `/_/` is there
//!   http://HOST/KEY             as a proxy is asked: the same, with HOST instead of the field
//!   *                           of OPTIONS: the server
//! ```
//!
//! No `.`, `..` or `//` is tidied away and `+` is no space: two paths are two keys. What stands in a query and means nothing is
//! refused: a misspelt `?ttl=` would keep an item for ever.
//!
//! Lives here: from the target to the key and what its query says. Not here: decoding (`key`), what the method does (`head`).

use super::Refusal;
use super::answer::Status;
use super::head::digits;
use crate::key::Key;
use crate::limits::KEY_BYTES_MAX;
use crate::time::Exptime;

/// What a target means.
pub struct Target<'a> {
    pub path: Path<'a>,
    /// `?ttl=`: seconds from now; 0 for ever.
    pub ttl_s: Option<u32>,
    /// `?flags=`.
    pub client_flags: u32,
    has_flags: bool,
}

/// What is asked for.
#[derive(Clone, Copy)]
pub enum Path<'a> {
    /// An item.
    Key(Key<'a>),
    /// Whether the node works.
    Healthy,
    /// Whether new clients should come.
    Ready,
    /// `*`.
    Everything,
}

/// The path of a target with its query, and its host where it has one.
///
/// # Errors
/// 400 for a target of no form that is known.
pub fn split(target: &[u8]) -> Result<(&[u8], Option<&[u8]>), Refusal> {
    if let [b'/', ..] | b"*" = target {
        return Ok((target, None));
    }
    match target.split_first_chunk::<7>() {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"http://") => {
            let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
            Ok((&rest[end..], Some(&rest[..end])))
        }
        _ => Err((Status::BadRequest, "the target begins with no slash")),
    }
}

impl<'a> Target<'a> {
    /// Reads a target that `split` has cut.
    ///
    /// # Errors
    /// 400 for a key or a query that is wrong, 404 for a path below `/_/` that is not there.
    pub fn read(target: &'a [u8]) -> Result<Self, Refusal> {
        let nothing = Self { path: Path::Everything, ttl_s: None, client_flags: 0, has_flags: false };
        if target == b"*" {
            return Ok(nothing);
        }
        if target.contains(&b'#') {
            return Err((Status::BadRequest, "the target has a fragment; # in a key is %23"));
        }
        let (path, query) = match memchr::memchr(b'?', target) {
            Some(at) => (&target[..at], &target[at + 1..]),
            None => (target, &[][..]),
        };
        let (read, name) = nothing.read_query(query)?;
        let path = match (path, name) {
            (b"/get" | b"/get/", Some(name)) => Path::Key(key(name)?),
            (_, Some(_)) => return Err((Status::BadRequest, "key= stands behind /get/ only")),
            (b"/_/healthz", None) => Path::Healthy,
            (b"/_/readyz", None) => Path::Ready,
            ([b'/', b'_', b'/', rest @ ..], None) => match rest.strip_prefix(b"key/") {
                Some(name) => Path::Key(key(name)?),
                None => return Err((Status::NotFound, "there is nothing here; such a key is /_/key/KEY")),
            },
            ([b'/', name @ ..], None) => Path::Key(key(name)?),
            _ => return Err((Status::BadRequest, "there is no key")),
        };
        Ok(Self { path, ..read })
    }

    /// Takes a query in; the key comes back where the query has one.
    fn read_query(mut self, query: &'a [u8]) -> Result<(Self, Option<&'a [u8]>), Refusal> {
        let mut key = None;
        for word in query.split(|&byte| byte == b'&').filter(|word| !word.is_empty()) {
            let equals = memchr::memchr(b'=', word).unwrap_or(word.len());
            let value = word.get(equals + 1..).unwrap_or_default();
            let repeated = match &word[..equals] {
                b"key" => key.replace(value).is_some(),
                b"ttl" => {
                    let seconds = digits(value).filter(|&seconds| seconds <= Exptime::RELATIVE_MAX as u64);
                    let seconds = seconds.ok_or((Status::BadRequest, "ttl is 0 to 2592000 seconds"))?;
                    self.ttl_s.replace(seconds as u32).is_some()
                }
                b"flags" => {
                    let flags = digits(value).and_then(|flags| flags.try_into().ok());
                    self.client_flags = flags.ok_or((Status::BadRequest, "flags are a number of 32 bits"))?;
                    std::mem::replace(&mut self.has_flags, true)
                }
                _ => return Err((Status::BadRequest, "the query means nothing; ? in a key is %3F")),
            };
            if repeated {
                return Err((Status::BadRequest, "a word of the query is there twice"));
            }
        }
        Ok((self, key))
    }

    /// Whether the query has what only a store has.
    pub fn is_for_stores(&self) -> bool {
        self.ttl_s.is_some() || self.has_flags
    }
}

/// The key that this text stands for.
fn key(text: &[u8]) -> Result<Key<'_>, Refusal> {
    if memchr::memchr(b'%', text).is_some() {
        return Key::from_percent(text)
            .ok_or((Status::BadRequest, "the key is empty, too long, or has a % that means nothing"));
    }
    match text.len() {
        0 => Err((Status::BadRequest, "there is no key: /KEY is wanted")),
        1..=KEY_BYTES_MAX => Ok(Key::new(text)),
        _ => Err((Status::BadRequest, "the key is longer than 250 bytes")),
    }
}
