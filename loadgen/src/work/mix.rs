//! Which command is next, and how long items live.

use std::fmt;
use std::str::FromStr;

use fastrand::Rng;
use serde::Serialize;

/// A command of the client. What it looks like on the wire is the door's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Read one or more keys.
    Get,
    /// Store.
    Set,
    /// Remove.
    Delete,
    /// Give a new time to live.
    Touch,
    /// Count up by one: on keys of their own.
    Incr,
    /// Read with the CAS unique, then store if unchanged: two requests.
    Cas,
    /// The read half of `Cas`.
    Gets,
    /// Sets a counter to 0, before it is counted up for the first time.
    CounterSet,
}

/// Weights of the commands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mix {
    /// Command and cumulative share, the last one 1.
    steps: Vec<(Kind, f64)>,
}

/// Times to live, with weights, in seconds; 0: for ever.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Ttls {
    list: Vec<(u32, f64)>,
}

impl Mix {
    /// A mix from commands and weights, of which one at least is above 0.
    pub fn new(weights: &[(Kind, f64)]) -> Self {
        let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
        let mut reached = 0.0;
        let mut steps: Vec<(Kind, f64)> = Vec::new();
        for (kind, weight) in weights.iter().filter(|(_, weight)| *weight > 0.0) {
            reached += weight / sum;
            steps.push((*kind, reached));
        }
        if let Some(last) = steps.last_mut() {
            last.1 = 1.0;
        }
        Self { steps }
    }

    /// The next command.
    #[inline]
    pub fn pick(&self, rng: &mut Rng) -> Kind {
        let point = rng.f64();
        self.steps.iter().find(|(_, reached)| point < *reached).map_or(Kind::Get, |(kind, _)| *kind)
    }

    /// The share of a command, 0 to 1.
    pub fn share(&self, kind: Kind) -> f64 {
        let mut before = 0.0;
        for (step, reached) in &self.steps {
            if *step == kind {
                return reached - before;
            }
            before = *reached;
        }
        0.0
    }
}

impl Ttls {
    /// Whether any item gets a time to live.
    pub fn any(&self) -> bool {
        !self.list.is_empty()
    }

    /// The time to live of the next write, in seconds.
    #[inline]
    pub fn pick(&self, rng: &mut Rng) -> u32 {
        if self.list.is_empty() {
            return 0;
        }
        let mut point = rng.f64() * self.list.iter().map(|(_, weight)| weight).sum::<f64>();
        for (ttl, weight) in &self.list {
            point -= weight;
            if point < 0.0 {
                return *ttl;
            }
        }
        0
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut weights = Vec::new();
        for part in text.split(',') {
            let (name, weight) = part.split_once([':', '=']).ok_or(format!("`{part}` is not COMMAND:WEIGHT"))?;
            let kind = KINDS.iter().find(|(word, _)| *word == name);
            let kind = kind.ok_or(format!("`{name}` is not one of get, set, delete, touch, incr, cas"))?.1;
            let weight: f64 = weight.parse().map_err(|_| format!("`{weight}` is not a weight"))?;
            if !(weight >= 0.0 && weight.is_finite()) {
                return Err(format!("`{weight}` is not a weight"));
            }
            weights.push((kind, weight));
        }
        if weights.iter().all(|(_, weight)| *weight == 0.0) {
            return Err("one weight at least must be above 0".into());
        }
        Ok(Self::new(&weights))
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, output: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |kind: Kind| (self.share(kind) * 10_000.0).round() / 100.0;
        let parts: Vec<String> = KINDS
            .iter()
            .filter(|(_, kind)| share(*kind) > 0.0)
            .map(|(name, kind)| format!("{name}:{}", share(*kind)))
            .collect();
        write!(output, "{}", parts.join(","))
    }
}

impl FromStr for Ttls {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut list = Vec::new();
        for part in text.split(',') {
            let (ttl, weight) = part.split_once(':').unwrap_or((part, "1"));
            let ttl = seconds(ttl).ok_or(format!("`{ttl}` is not a time to live"))?;
            let weight = weight.parse().map_err(|_| format!("`{weight}` is not a weight"))?;
            list.push((ttl, weight));
        }
        if list.iter().all(|(ttl, _)| *ttl == 0) {
            list.clear();
        }
        Ok(Self { list })
    }
}

/// Seconds with an optional s, m, h or d behind them.
fn seconds(text: &str) -> Option<u32> {
    let (digits, unit) = match text.as_bytes().last()? {
        b's' => (&text[..text.len() - 1], 1),
        b'm' => (&text[..text.len() - 1], 60),
        b'h' => (&text[..text.len() - 1], 3600),
        b'd' => (&text[..text.len() - 1], 86_400),
        _ => (text, 1),
    };
    digits.parse::<u32>().ok()?.checked_mul(unit).filter(|seconds| *seconds <= 30 * 86_400)
}

impl Kind {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        KINDS
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or(if self == Kind::Gets { "gets" } else { "counter_set" }, |(name, _)| name)
    }
}

/// The commands that a mix can name.
const KINDS: [(&str, Kind); 6] = [
    ("get", Kind::Get),
    ("set", Kind::Set),
    ("delete", Kind::Delete),
    ("touch", Kind::Touch),
    ("incr", Kind::Incr),
    ("cas", Kind::Cas),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_come_out_as_asked() {
        let mix: Mix = "get:90,set:10".parse().expect("a mix");
        let mut rng = Rng::with_seed(3);
        let gets = (0..100_000).filter(|_| mix.pick(&mut rng) == Kind::Get).count();
        assert!((89_000..91_000).contains(&gets), "{gets}");
        assert_eq!(mix.to_string(), "get:90,set:10");
        assert!("get:0".parse::<Mix>().is_err() && "put:1".parse::<Mix>().is_err());
    }
}
