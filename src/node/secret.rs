//! The secret that the nodes of a ring share.
//!
//! Lives here: reading it, and whether it is worth its name. Not here: what is made of it (`cluster::handshake`).

use std::path::Path;

use super::StartError;
use super::options::Options;

/// Shorter than this, a secret is refused: who once listens to a handshake tries all of them, a billion a second.
const SECRET_BYTES_MIN: usize = 16;
/// Shorter than this, it is used and complained about: 32 random bytes cannot be tried.
const SECRET_BYTES_WANTED: usize = 32;
/// How to make one.
const REMEDY: &str = "make one with `head -c 32 /dev/urandom | base64`";

/// The secret of `--cluster_secret_file`; `None` where there is no such option.
///
/// # Errors
/// It cannot be read, or is too short to be one.
pub fn read(options: &Options) -> Result<Option<Vec<u8>>, StartError> {
    read_file(options.cluster_secret_file.as_deref())
}

/// The secret of this file; `None` where there is no file.
///
/// # Errors
/// As `read`.
pub fn read_file(path: Option<&Path>) -> Result<Option<Vec<u8>>, StartError> {
    let Some(path) = path else { return Ok(None) };
    let mut secret = std::fs::read(path)
        .map_err(|error| StartError(format!("--cluster_secret_file {} cannot be read: {error}.", path.display())))?;
    while secret.last().is_some_and(u8::is_ascii_whitespace) {
        secret.pop();
    }
    if secret.len() < SECRET_BYTES_MIN {
        return Err(StartError(format!(
            "--cluster_secret_file {} holds {} bytes, which can be guessed; {REMEDY}.",
            path.display(),
            secret.len()
        )));
    }
    if secret.len() < SECRET_BYTES_WANTED {
        log::warn!("--cluster_secret_file {} is short; {REMEDY}", path.display());
    }
    Ok(Some(secret))
}
