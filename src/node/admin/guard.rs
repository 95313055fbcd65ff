//! Who may ask the admin listener for what.
//!
//! ```text
//!   Host: an address, localhost, a name of inside, a name of the ring          else 421: a page that has rebound its name to us
//!   Origin: none, or this host; Sec-Fetch-Site: not cross-site                 else 403: a page of somewhere else
//!   Authorization: Bearer TOKEN                                                for actions, and for keys and values
//! ```
//!
//! A page can make its name resolve to any address (DNS rebinding), but cannot choose the `Host` that its browser sends.
//!
//! Lives here: those rules, the token. Not here: which paths need what (`mod`, `actions`).

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use axum::http::{HeaderMap, StatusCode, header};

use crate::node::StartError;
use crate::node::options::Options;
use crate::protocol::http;

/// Shorter than this, a token can be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// The rules of one node.
pub struct Guard {
    /// Hash of the token: hashes are compared in constant time, and a core file has no token.
    token: Option<blake3::Hash>,
    /// What this node is called.
    names: http::Rules,
    /// Keys and values are shown to anybody.
    pub shows_keys: bool,
}

impl Guard {
    /// The rules for these options.
    ///
    /// # Errors
    /// A token file that cannot be read, that others can read, or that holds no token.
    pub fn new(options: &Options) -> Result<Self, StartError> {
        let token = options.admin.token_file.as_deref().map(read_token).transpose()?;
        let addresses = options.ringnodes.iter().map(|node| &node.address).chain(&options.advertise);
        let of_ring = addresses.filter_map(|address| http::parse_host(address.as_bytes()));
        let mut names = options.http.clone();
        names.hosts.extend(of_ring.map(|name| String::from_utf8_lossy(name).into_owned()));
        Ok(Self { token, names, shows_keys: options.admin.shows_keys })
    }

    /// Whether a request may be looked at. Before anything else is done with it.
    ///
    /// # Errors
    /// The status and a sentence for whoever sent it.
    pub fn admit(&self, headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return Err((StatusCode::BAD_REQUEST, "one Host is needed"));
        };
        if host.is_empty() {
            return Err((StatusCode::BAD_REQUEST, "one Host is needed"));
        }
        let origin = headers.get(header::ORIGIN).map(|origin| origin.as_bytes());
        let is_cross_site = headers.get("sec-fetch-site").is_some_and(|site| site.as_bytes() == b"cross-site");
        http::check_host(&self.names, host.as_bytes(), origin, is_cross_site)
            .map_err(|(code, sentence)| (StatusCode::from_u16(code).unwrap_or(StatusCode::FORBIDDEN), sentence))
    }

    /// Whether there is a token: without one there are no actions.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Whether a request brings the token.
    pub fn knows(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        match (&self.token, given) {
            (Some(token), Some(given)) => blake3::hash(given) == *token,
            _ => false,
        }
    }

    /// Whether a request may see keys and values.
    pub fn may_see_keys(&self, headers: &HeaderMap) -> bool {
        self.shows_keys || self.knows(headers)
    }
}

fn read_token(path: &Path) -> Result<blake3::Hash, StartError> {
    let place = path.display();
    let wrong = |what: String| StartError(format!("--admin_token_file {place} {what}."));
    let bytes = std::fs::read(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let mode = std::fs::metadata(path).map_err(|error| wrong(format!("cannot be read: {error}")))?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err(wrong(format!(
            "is open to every user of this machine (mode {:03o}); run `chmod 600 {place}`",
            mode & 0o777
        )));
    }
    let token = bytes.trim_ascii();
    if token.len() < TOKEN_BYTES_MIN || !token.iter().all(u8::is_ascii_graphic) {
        return Err(wrong(format!(
            "holds no token of {TOKEN_BYTES_MIN} printable characters or more; make one with `head -c 32 /dev/urandom | base64`"
        )));
    }
    Ok(blake3::hash(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(line: &str) -> Guard {
        let words = std::iter::once("pbcache").chain(line.split_whitespace());
        Guard::new(&Options::parse(words.map(String::from), 1).unwrap()).unwrap()
    }

    fn status(guard: &Guard, fields: &[(&'static str, &str)]) -> u16 {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        guard.admit(&headers).map_or_else(|(status, _)| status.as_u16(), |()| 200)
    }

    #[test]
    fn a_host_that_a_public_page_can_have_is_refused() {
        let guard =
            guard("--ringnode cache-1.example.com:11211 --advertise cache-2.example.com --http_host cache-3.example.com");
        let ours = "127.0.0.1 127.0.0.1:11280 [::1]:11280 10.1.2.3 localhost LOCALHOST:1 localhost. cache db-1:80 x.internal a.b.local \
            n.home.arpa n.test cache-1.example.com CACHE-2.example.com:11280 cache-3.example.com";
        for host in ours.split_whitespace() {
            assert_eq!(status(&guard, &[("host", host)]), 200, "{host}");
        }
        for host in ["evil.example.com", "evil.com:11280", "localhost.evil.com", "xlocal.com", "a.nottest", "1.2.3.4.evil.com"]
        {
            assert_eq!(status(&guard, &[("host", host)]), 421, "{host}");
        }
        assert_eq!((status(&guard, &[]), status(&guard, &[("host", "")])), (400, 400));
        assert_eq!(status(&guard, &[("host", "localhost"), ("host", "localhost")]), 400);
    }

    #[test]
    fn a_page_of_another_origin_is_refused() {
        let guard = guard("");
        let with = |name, value| status(&guard, &[("host", "127.0.0.1:11280"), (name, value)]);
        assert_eq!(with("origin", "http://127.0.0.1:11280"), 200);
        assert_eq!(with("origin", "http://127.0.0.1:8080"), 403);
        assert_eq!(with("origin", "https://evil.com"), 403);
        assert_eq!(with("origin", "null"), 403);
        assert_eq!(with("sec-fetch-site", "same-origin"), 200);
        assert_eq!(with("sec-fetch-site", "cross-site"), 403);
    }

    #[test]
    fn a_token_is_wanted_exactly() {
        let folder = std::env::temp_dir().join(format!("pbcache-token-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("token");
        let line = format!("--admin_token_file {}", path.display());
        let refused = |line: &str| {
            let words = std::iter::once("pbcache").chain(line.split_whitespace());
            Guard::new(&Options::parse(words.map(String::from), 1).unwrap()).err().unwrap().0
        };
        assert!(refused(&line).contains("cannot be read"));
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(refused(&line).contains("is open to every user of this machine (mode 644); run `chmod 600"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let guard = guard(&line);
        let knows = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            guard.knows(&headers)
        };
        assert!(knows("Bearer 0123456789abcdef"));
        for wrong in
            ["Bearer 0123456789abcdeF", "Bearer 0123456789abcde", "Bearer ", "Basic 0123456789abcdef", "0123456789abcdef"]
        {
            assert!(!knows(wrong), "{wrong}");
        }
        std::fs::write(&path, "0123456789abcde\n").unwrap();
        assert!(refused(&line).contains("holds no token"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
