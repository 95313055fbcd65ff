//! From counts to something to read. One module per form.

pub mod text;
