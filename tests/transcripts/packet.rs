//! Packets of the binary protocol as readable lines.
//!
//! ```text
//!   | magic 1 | opcode 1 | key length 2 | extras length 1 | datatype 1 | vbucket or status 2 | total 4 | opaque 4 | cas 8 |
//!   | extras | key | value |
//! ```
//!
//! Lives here: words to packets, matching of packets. Not here: what an opcode does.

use crate::format::{Match, Names, literal, named};

/// A request to send.
pub struct Request {
    opcode: u8,
    fields: Vec<(String, String)>,
}

/// A response to expect.
pub struct Response {
    opcode: u8,
    fields: Vec<(String, String)>,
    many: bool,
}

impl Request {
    /// Reads the words behind `>!`.
    pub fn parse(source: &str) -> Result<Self, String> {
        let (opcode, fields, many) = words(source, &REQUEST_FIELDS)?;
        if many {
            return Err("`many` is for responses".into());
        }
        Ok(Self { opcode, fields })
    }

    /// The packet's bytes.
    pub fn assemble(&self, names: &Names) -> Result<Vec<u8>, String> {
        let field = |name: &str| find(&self.fields, name);
        let number = |name: &str, default: usize| field(name).map_or(Ok(default as u64), |text| value_of(text, names));
        let extras = hex(field("extras").unwrap_or(""))?;
        let key = literal(field("key").unwrap_or(""))?;
        let value = literal(field("value").unwrap_or(""))?;
        let total = extras.len() + key.len() + value.len();
        let mut packet = vec![number("magic", 0x80)? as u8, self.opcode];
        packet.extend((number("key_bytes", key.len())? as u16).to_be_bytes());
        packet.push(number("extras_bytes", extras.len())? as u8);
        packet.push(number("datatype", 0)? as u8);
        packet.extend((number("vbucket", 0)? as u16).to_be_bytes());
        packet.extend((number("total_bytes", total)? as u32).to_be_bytes());
        packet.extend((number("opaque", 0)? as u32).to_be_bytes());
        packet.extend(number("cas", 0)?.to_be_bytes());
        packet.extend([extras, key, value].concat());
        Ok(packet)
    }
}

impl Response {
    /// Reads the words behind `<!`.
    pub fn parse(source: &str) -> Result<Self, String> {
        let (opcode, fields, many) = words(source, &RESPONSE_FIELDS)?;
        Ok(Self { opcode, fields, many })
    }

    /// Matches the front of `received`; with `many`, as many packets as match. Remembers numbers.
    pub fn matches(&self, received: &[u8], names: &mut Names) -> Result<Match, String> {
        let mut at = 0;
        loop {
            let matched = self.matches_one(&received[at..], names)?;
            match matched {
                Match::Full(length) if self.many => at += length,
                Match::Wrong if self.many => return Ok(Match::Full(at)),
                other => return Ok(other),
            }
        }
    }

    fn matches_one(&self, received: &[u8], names: &mut Names) -> Result<Match, String> {
        let Some(header) = received.get(..24) else {
            return Ok(if received.first().is_some_and(|&magic| magic != 0x81) { Match::Wrong } else { Match::Partial });
        };
        let total = u32::from_be_bytes(header[8..12].try_into().expect("4 bytes")) as usize;
        let key_bytes = u16::from_be_bytes([header[2], header[3]]) as usize;
        let extras_bytes = header[4] as usize;
        if header[0] != 0x81 || header[1] != self.opcode || extras_bytes + key_bytes > total {
            return Ok(Match::Wrong);
        }
        let Some(body) = received.get(24..24 + total) else { return Ok(Match::Partial) };
        let (extras, rest) = body.split_at(extras_bytes);
        let (key, value) = rest.split_at(key_bytes);
        let status = u16::from_be_bytes([header[6], header[7]]) as u64;
        let opaque = u32::from_be_bytes(header[12..16].try_into().expect("4 bytes")) as u64;
        let cas = u64::from_be_bytes(header[16..24].try_into().expect("8 bytes"));
        let field = |name: &str| find(&self.fields, name);
        let bytes_match = |name: &str, got: &[u8]| match field(name) {
            Some("*") => Ok(true),
            Some(text) if name == "extras" => hex(text).map(|wanted| wanted == got),
            text => literal(text.unwrap_or("")).map(|wanted| wanted == got),
        };
        let right = bytes_match("extras", extras)?
            && bytes_match("key", key)?
            && bytes_match("value", value)?
            && number_matches(field("datatype"), header[5] as u64, names)?
            && number_matches(field("status"), status, names)?
            && number_matches(field("opaque"), opaque, names)?
            && number_matches(field("cas"), cas, names)?;
        Ok(if right { Match::Full(24 + total) } else { Match::Wrong })
    }
}

fn number_matches(wanted: Option<&str>, got: u64, names: &mut Names) -> Result<bool, String> {
    match wanted {
        None => Ok(got == 0),
        Some("*") => Ok(true),
        Some(text) => match text.strip_prefix("\\{=").and_then(|name| name.strip_suffix('}')) {
            Some(name) => {
                names.insert(name.to_string(), got);
                Ok(true)
            }
            None => Ok(value_of(text, names)? == got),
        },
    }
}

/// A number: decimal, 0x, or remembered.
fn value_of(text: &str, names: &Names) -> Result<u64, String> {
    if let Some(name) = text.strip_prefix("\\{").and_then(|name| name.strip_suffix('}')) {
        return named(name, names);
    }
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("no number: {text}"))
}

fn hex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u8> = text.bytes().filter(|&byte| byte != b'_').collect();
    digits
        .chunks(2)
        .map(|pair| {
            let pair = std::str::from_utf8(pair).map_err(|_| "no hex")?;
            u8::from_str_radix(pair, 16).map_err(|_| format!("no hex: {pair}"))
        })
        .collect()
}

fn find<'f>(fields: &'f [(String, String)], name: &str) -> Option<&'f str> {
    fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
}

type Words = (u8, Vec<(String, String)>, bool);

fn words(source: &str, known: &[&str]) -> Result<Words, String> {
    let mut words = source.split_ascii_whitespace();
    let name = words.next().ok_or("an opcode is missing")?;
    let opcode = match OPCODES.iter().find(|(known, _)| *known == name) {
        Some((_, opcode)) => *opcode,
        None => value_of(name, &Names::new())? as u8,
    };
    let mut fields = Vec::new();
    let mut many = false;
    for word in words {
        match word.split_once('=') {
            Some((field, value)) if known.contains(&field) => fields.push((field.to_string(), value.to_string())),
            None if word == "many" => many = true,
            _ => return Err(format!("unknown word {word}")),
        }
    }
    Ok((opcode, fields, many))
}

const REQUEST_FIELDS: [&str; 11] =
    ["magic", "key", "value", "extras", "opaque", "cas", "vbucket", "datatype", "key_bytes", "extras_bytes", "total_bytes"];
const RESPONSE_FIELDS: [&str; 7] = ["status", "key", "value", "extras", "opaque", "cas", "datatype"];

/// Names of the opcodes, protocol_binary.h.
const OPCODES: [(&str, u8); 37] = [
    ("get", 0x00),
    ("set", 0x01),
    ("add", 0x02),
    ("replace", 0x03),
    ("delete", 0x04),
    ("increment", 0x05),
    ("decrement", 0x06),
    ("quit", 0x07),
    ("flush", 0x08),
    ("getq", 0x09),
    ("noop", 0x0a),
    ("version", 0x0b),
    ("getk", 0x0c),
    ("getkq", 0x0d),
    ("append", 0x0e),
    ("prepend", 0x0f),
    ("stat", 0x10),
    ("setq", 0x11),
    ("addq", 0x12),
    ("replaceq", 0x13),
    ("deleteq", 0x14),
    ("incrementq", 0x15),
    ("decrementq", 0x16),
    ("quitq", 0x17),
    ("flushq", 0x18),
    ("appendq", 0x19),
    ("prependq", 0x1a),
    ("verbosity", 0x1b),
    ("touch", 0x1c),
    ("gat", 0x1d),
    ("gatq", 0x1e),
    ("sasl_list", 0x20),
    ("sasl_auth", 0x21),
    ("sasl_step", 0x22),
    ("gatk", 0x23),
    ("gatkq", 0x24),
    ("rget", 0x30),
];
