//! Scanning: line ends, words, numbers.
//!
//! Lives here: what text and meta parsing share. Not here: commands.
