//! Whom a request may come from: web pages of somewhere else are refused.
//!
//! ```text
//!   page of evil.example  --> evil.example now means 127.0.0.1 --> GET /key, Host: evil.example        421: that name is not ours
//!   page of evil.example  --> POST http://localhost:11211/key  --> Origin: http://evil.example         403
//! ```
//!
//! That a node listens on the loopback only does not stop a page that is open in a browser on the same machine; but a page cannot choose
//! the Host that a browser sends. So a name is ours if no stranger can own it (an address, `localhost`, a name without a dot or below a
//! suffix that is nobody's), or if an operator said so.
//!
//! Lives here: these rules. Not here: the fields themselves (`head`).
//! RFC 6761 and RFC 6762 (`.local`), RFC 8375 (`.home.arpa`), ICANN's `.internal`; Fetch Metadata for `Sec-Fetch-Site`.

use super::answer::Status;
use super::{Refusal, Rules};

/// The name in a Host field or an authority, without the port; `None` if it is malformed. Addresses of IPv6 keep their brackets.
pub fn parse(host: &[u8]) -> Option<&[u8]> {
    let end = match host {
        [b'[', rest @ ..] => {
            let end = rest.iter().position(|&byte| byte == b']')?;
            let address = &rest[..end];
            let valid =
                address.contains(&b':') && address.iter().all(|byte| matches!(byte, b':' | b'.') || byte.is_ascii_hexdigit());
            valid.then_some(end + 2)?
        }
        _ => host.iter().position(|&byte| !OF_NAME[usize::from(byte)]).unwrap_or(host.len()),
    };
    let (name, port) = host.split_at_checked(end)?;
    let ported = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    (!name.is_empty() && ported).then_some(name)
}

/// Which bytes a name has.
const OF_NAME: [bool; 256] = {
    let mut bytes = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        bytes[byte as usize] = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        byte += 1;
    }
    bytes
};

/// Whether a request for this host (empty in HTTP/1.0 without one) from a page of this origin is looked at.
///
/// # Errors
/// 421 for a name that is not ours, 403 for a page of somewhere else.
pub fn admit(rules: &Rules, host: &[u8], origin: Option<&[u8]>, is_cross_site: bool) -> Result<(), Refusal> {
    if !host.is_empty() && !parse(host).is_some_and(|name| is_ours(rules, name)) {
        return Err((Status::Misdirected, "this node has no such name; --http_host names it"));
    }
    let is_own = |origin: &[u8]| {
        let rest = origin.strip_prefix(b"http://").or(origin.strip_prefix(b"https://"));
        rest.is_some_and(|authority| !authority.is_empty() && authority.eq_ignore_ascii_case(host))
    };
    if is_cross_site || !origin.is_none_or(is_own) {
        return Err((Status::Forbidden, "requests of pages of other hosts are refused"));
    }
    Ok(())
}

/// As `admit`, for a listener of its own, whose answers are not written here: the code of the status, and a sentence.
///
/// # Errors
/// 421 or 403.
pub fn check(rules: &Rules, host: &[u8], origin: Option<&[u8]>, is_cross_site: bool) -> Result<(), (u16, &'static str)> {
    let code = |status| if status == Status::Misdirected { 421 } else { 403 };
    admit(rules, host, origin, is_cross_site).map_err(|(status, sentence)| (code(status), sentence))
}

/// Whether no stranger can own this name, or it was named at the start.
fn is_ours(rules: &Rules, name: &[u8]) -> bool {
    let name = name.strip_suffix(b".").unwrap_or(name);
    let ends_with = |suffix: &[u8]| name.len() > suffix.len() && name[name.len() - suffix.len()..].eq_ignore_ascii_case(suffix);
    name.starts_with(b"[")
        || name.iter().all(|&byte| byte != b'.')
        || is_ipv4(name)
        || SUFFIXES.iter().any(|suffix| ends_with(suffix))
        || rules.hosts.iter().any(|host| name.eq_ignore_ascii_case(host.as_bytes()))
}

/// Whether this is an address of IPv4 as browsers send it: four numbers up to 255.
fn is_ipv4(name: &[u8]) -> bool {
    let (mut parts, mut digits, mut number) = (1, 0, 0u32);
    for &byte in name {
        match byte {
            b'0'..=b'9' if digits < 3 => (digits, number) = (digits + 1, number * 10 + u32::from(byte - b'0')),
            b'.' if digits > 0 && number <= 255 => (parts, digits, number) = (parts + 1, 0, 0),
            _ => return false,
        }
    }
    parts == 4 && digits > 0 && number <= 255
}

/// Names below these are nobody's.
const SUFFIXES: [&[u8]; 5] = [b".localhost", b".internal", b".local", b".home.arpa", b".test"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::http::{Miss, Mode};

    #[test]
    fn a_host_is_a_name_and_perhaps_a_port() {
        for (host, name) in [
            ("a", "a"),
            ("a:1", "a"),
            ("a:", "a"),
            ("a.b-c_d:65535", "a.b-c_d"),
            ("[::1]", "[::1]"),
            ("[::1]:80", "[::1]"),
            ("[::ffff:1.2.3.4]", "[::ffff:1.2.3.4]"),
        ] {
            assert_eq!(parse(host.as_bytes()), Some(name.as_bytes()), "{host}");
        }
        for host in [
            "", ":1", "a b", "a@b", "a/b", "a:b", "a:1:2", "a:123456", "[::1", "[]", "[a]x", "[::1]x", "[g::]", "a,b", "\u{e4}",
        ] {
            assert_eq!(parse(host.as_bytes()), None, "{host}");
        }
    }

    #[test]
    fn names_that_a_stranger_could_own_are_not_ours() {
        let rules = Rules { mode: Mode::On, miss: Miss::NoContent, hosts: vec!["cache.example.org".into()], max_age: false };
        for name in [
            "localhost",
            "LocalHost",
            "a.localhost",
            "127.0.0.1",
            "10.0.0.255",
            "[::1]",
            "cache",
            "db.internal",
            "x.local",
            "x.home.arpa",
            "x.test",
            "cache.example.org",
            "CACHE.example.org.",
            "localhost.",
        ] {
            assert!(is_ours(&rules, name.as_bytes()), "{name}");
        }
        for name in [
            "evil.example",
            "example.org",
            "127.0.0.1.evil.example",
            "1.2.3",
            "1.2.3.256",
            "1.2.3.4.5",
            "0127.0.0.1",
            "a.internal.evil.org",
            "notlocal.locally",
            ".local",
            "x.cache.example.org",
            "localhost.evil.org",
        ] {
            assert!(!is_ours(&rules, name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn an_origin_is_the_host_that_is_asked() {
        let admits =
            |origin: Option<&str>, cross| admit(Rules::DEFAULT, b"localhost:11211", origin.map(str::as_bytes), cross).is_ok();
        assert!(
            admits(None, false)
                && admits(Some("http://localhost:11211"), false)
                && admits(Some("https://LOCALHOST:11211"), false)
        );
        assert!(!admits(None, true) && !admits(Some("http://localhost:11211"), true));
        for origin in
            ["null", "", "http://", "http://localhost", "http://localhost:80", "http://evil.example", "file://localhost:11211"]
        {
            assert!(!admits(Some(origin), false), "{origin}");
        }
        assert!(admit(Rules::DEFAULT, b"", Some(b"http://"), false).is_err());
        assert!(admit(Rules::DEFAULT, b"", None, false).is_ok());
    }
}
