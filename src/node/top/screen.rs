//! The lines of `pbcache top`, from samples: a pure function of what the node told.
//!
//! Lives here: which figures, in which order, as text. Not here: colours and the cursor (`terminal`).

use std::collections::VecDeque;

use serde_json::Value;

use super::feed::Sample;
use crate::latency;
use crate::node::words::{bytes, duration, grouped, short_time};

/// Rates that are kept for the line of bars: one a second.
const BARS_MAX: usize = 300;
/// Least width of the line of bars where there is no terminal.
const BARS_SHOWN: usize = 60;

/// How a line is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// As any other.
    #[default]
    Plain,
    /// Above others.
    Title,
    /// All is well.
    Good,
    /// To be known.
    Warn,
    /// To be looked after.
    Bad,
}

/// One line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// How it is meant.
    pub style: Style,
    /// Without an end of line.
    pub text: String,
}

/// What is to be shown.
#[derive(Default)]
pub struct Screen {
    sample: Sample,
    /// Commands a second, the last ones last.
    rates: VecDeque<f64>,
    /// Why the figures are old, if they are.
    pub trouble: Option<String>,
}

fn number(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap_or(0.0)
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or("")
}

fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

fn whole(number: f64) -> String {
    grouped(number.max(0.0).round() as u64)
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

impl Screen {
    /// Takes the next sample.
    pub fn take(&mut self, sample: Sample) {
        self.trouble = None;
        self.sample = sample;
        if self.sample.then.is_some() {
            self.rates.push_back(self.rate(&|figures| number(figures, "requests")));
            if self.rates.len() > BARS_MAX {
                self.rates.pop_front();
            }
        }
    }

    /// All lines, cut to this many columns and rows.
    pub fn lines(&self, columns: usize, rows: usize) -> Vec<Line> {
        let mut lines = vec![Line { style: Style::Title, text: self.title() }];
        let mut put = |style: Style, text: String| lines.push(Line { style, text });
        if let Some(trouble) = &self.trouble {
            put(Style::Bad, format!("! {trouble}; the figures below are old"));
        }
        for verdict in list(&self.sample.now, "verdicts") {
            let (style, mark) = match text(verdict, "level") {
                "bad" => (Style::Bad, '!'),
                "warn" => (Style::Warn, '*'),
                _ => (Style::Good, ' '),
            };
            put(style, format!("{mark} {}", text(verdict, "text")));
        }
        put(Style::Plain, String::new());
        self.totals().into_iter().for_each(|line| put(Style::Plain, line));
        put(Style::Plain, format!("{:<10}{}", "Last", self.bars(columns.min(BARS_SHOWN + 11).saturating_sub(11))));
        for table in [self.cores(), self.nodes()] {
            put(Style::Plain, String::new());
            for (index, line) in align(&table).into_iter().enumerate() {
                put(if index == 0 { Style::Title } else { Style::Plain }, line);
            }
        }
        lines.truncate(rows);
        lines.iter_mut().for_each(|line| line.text = line.text.chars().take(columns).collect());
        lines
    }

    fn title(&self) -> String {
        let node = &self.sample.node;
        let uptime_s = number(node, "uptime_s") as u64;
        let (cores, limit) = (number(node, "cores"), number(&self.sample.now, "memory_limit_bytes"));
        format!(
            "pbcache {}  version {}, up for {}, {cores} {} ({}), {}",
            text(node, "id"),
            text(node, "version"),
            duration(uptime_s),
            if cores == 1.0 { "core" } else { "cores" },
            text(node, "io"),
            bytes(limit)
        )
    }

    /// Change of a figure in a second; 0 before there are two samples.
    fn rate(&self, figure: &dyn Fn(&Value) -> f64) -> f64 {
        let Some(then) = &self.sample.then else { return 0.0 };
        let now = &self.sample.now;
        let seconds = (number(now, "unix_ms") - number(then, "unix_ms")) / 1000.0;
        if seconds > 0.0 { ((figure(now) - figure(then)) / seconds).max(0.0) } else { 0.0 }
    }

    fn totals(&self) -> [String; 4] {
        let now = &self.sample.now;
        let rate = |name: &'static str| self.rate(&|figures| number(figures, name));
        let (gets, hits) = (rate("gets"), rate("hits"));
        let ratio = if gets > 0.0 { percent(hits / gets) } else { "-".into() };
        let within = |share| self.quantile_s(share).map_or("-".into(), short_time);
        let used = number(now, "segment_bytes") + number(now, "index_bytes");
        [
            format!(
                "{:<10}{}/s, gets {}/s, stores {}/s, hit ratio {ratio}",
                "Commands",
                whole(rate("requests")),
                whole(gets),
                whole(rate("stores"))
            ),
            format!("{:<10}half within {}, 99 % within {}, 99.9 % within {}", "Time", within(0.5), within(0.99), within(0.999)),
            format!(
                "{:<10}{} of {}, {} items, {} evictions/s",
                "Memory",
                bytes(used),
                bytes(number(now, "memory_limit_bytes")),
                whole(number(now, "items")),
                whole(rate("evictions"))
            ),
            format!(
                "{:<10}{}/s received, {}/s sent, {} connections",
                "Network",
                bytes(rate("received_bytes")),
                bytes(rate("sent_bytes")),
                whole(number(now, "connections"))
            ),
        ]
    }

    /// Bound below which this share of the commands of the last second lie.
    fn quantile_s(&self, share: f64) -> Option<f64> {
        let then = list(self.sample.then.as_ref()?, "latency");
        let mut histogram = latency::Histogram::default();
        for (index, count) in list(&self.sample.now, "latency").iter().enumerate().take(latency::BUCKETS) {
            let before = then.get(index).and_then(Value::as_u64).unwrap_or(0);
            histogram.buckets[index] = count.as_u64().unwrap_or(0).saturating_sub(before);
        }
        histogram.quantile_s(share)
    }

    /// Commands a second of the last seconds, as bars: the highest is the most of them.
    fn bars(&self, width: usize) -> String {
        let most = self.rates.iter().copied().fold(1.0, f64::max);
        let shown = self.rates.iter().skip(self.rates.len().saturating_sub(width));
        let bar = |rate: &f64| BARS[((rate / most * (BARS.len() - 1) as f64).round() as usize).min(BARS.len() - 1)];
        shown.map(bar).collect()
    }

    fn cores(&self) -> Vec<Vec<String>> {
        let heads = ["CORE", "COMMANDS/s", "IN TURNS", "CONNECTIONS", "ITEMS", "SENT ACROSS/s"].map(String::from).to_vec();
        let row = |(index, core): (usize, &Value)| {
            let rate = |name: &'static str| self.rate(&|figures| number(&figures["cores"][index], name));
            let silent_s = number(core, "silent_ms") / 1000.0;
            let name = if silent_s > 5.0 { format!("{index} silent for {silent_s:.0} s") } else { index.to_string() };
            let (connections, items) = (whole(number(core, "connections")), whole(number(core, "items")));
            vec![name, whole(rate("requests")), percent(rate("busy_s").min(1.0)), connections, items, whole(rate("crossed"))]
        };
        std::iter::once(heads).chain(list(&self.sample.now, "cores").iter().enumerate().map(row)).collect()
    }

    fn nodes(&self) -> Vec<Vec<String>> {
        let heads = ["NODE", "STATE", "SHARE", "ZONE", "ITEMS", "MEMORY", "LINKS", "KEYS WAIT", "OLDEST", "DIRTY PARTITIONS"];
        let here = text(&self.sample.ring, "me");
        let peers = list(&self.sample.now, "peers");
        let row = |member: &Value| {
            let id = text(member, "id");
            let now = peers.iter().find(|peer| text(peer, "id") == id).unwrap_or(member);
            let state = match now["away_s"].as_f64() {
                Some(seconds) => format!("away since {}", duration(seconds as u64)),
                None => text(now, "state").into(),
            };
            let zone = if text(member, "zone").is_empty() { "-" } else { text(member, "zone") };
            let waiting = self.waiting_for(id, now);
            let oldest = if waiting.keys > 0.0 { duration(waiting.oldest_s as u64) } else { "-".into() };
            let name = if id == here { format!("{id} (this)") } else { id.into() };
            let (share, links) = (percent(number(member, "share")), whole(number(now, "links_up")));
            let report = self.report(id);
            let told = |name: &str, shown: fn(f64) -> String| report.map_or("-".into(), |report| shown(number(report, name)));
            let (items, memory) = (told("items", whole), told("memory_used_bytes", bytes));
            vec![name, state, share, zone.into(), items, memory, links, whole(waiting.keys), oldest, whole(waiting.partitions)]
        };
        let members = list(&self.sample.ring, "nodes").iter().map(row);
        std::iter::once(heads.map(String::from).to_vec()).chain(members).collect()
    }

    /// What a node tells of itself, if it does.
    fn report(&self, id: &str) -> Option<&Value> {
        let node = list(&self.sample.nodes, "nodes").iter().find(|node| text(node, "id") == id)?;
        Some(&node["report"]).filter(|report| report.is_object())
    }

    /// What all nodes together keep for one; `own` is what this one knows of it.
    fn waiting_for(&self, id: &str, own: &Value) -> Waiting {
        let here = text(&self.sample.ring, "me");
        let others = list(&self.sample.nodes, "nodes").iter().filter(|node| text(node, "id") != here);
        let told = others.flat_map(|node| list(&node["report"], "peers")).filter(|peer| text(peer, "id") == id);
        told.chain([own]).fold(Waiting::default(), |sum, peer| Waiting {
            keys: sum.keys + number(peer, "hints_pending"),
            oldest_s: sum.oldest_s.max(number(peer, "oldest_hint_s")),
            partitions: sum.partitions.max(number(peer, "dirty_partitions")),
        })
    }
}

/// What is kept for a node.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Waiting {
    keys: f64,
    oldest_s: f64,
    partitions: f64,
}

/// From nothing to the most.
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Rows as lines: the first column to the left, others to the right where they are numbers.
fn align(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let is_text = |column: usize| column == 0 || rows.iter().skip(1).any(|row| row[column].starts_with(char::is_alphabetic));
    let texts: Vec<bool> = (0..columns).map(is_text).collect();
    let cell = |(column, cell): (usize, &String)| match texts[column] {
        true => format!("{cell:<width$}", width = widths[column]),
        false => format!("{cell:>width$}", width = widths[column]),
    };
    let line = |row: &Vec<String>| row.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ").trim_end().to_string();
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn figures(second: u64, requests: u64) -> Value {
        let mut latency = vec![0; latency::BUCKETS];
        latency[0] = requests;
        json!({
            "unix_ms": second * 1000, "requests": requests, "gets": requests, "hits": requests / 2, "latency": latency,
            "items": 1234, "memory_limit_bytes": 64 << 20, "connections": 5,
            "verdicts": [{ "level": "bad", "text": "Node b:1 is away since 12 s." }],
            "cores": [{ "core": 0, "requests": requests, "busy_s": second as f64 / 4.0, "connections": 5, "items": 1234 }],
            "peers": [{ "id": "b:1", "state": "away", "away_s": 12.0, "hints_pending": 1204, "oldest_hint_s": 11.0 }],
        })
    }

    fn sample() -> Sample {
        let ring = json!({ "me": "a:1", "nodes": [
            { "id": "a:1", "state": "here", "share": 0.5, "zone": "" },
            { "id": "b:1", "state": "up", "share": 0.5, "zone": "west" },
        ] });
        let node = json!({ "id": "a:1", "version": "0.1.0", "uptime_s": 3, "cores": 1, "io": "uring" });
        let nodes = json!({ "nodes": [
            { "id": "a:1", "report": { "items": 1234, "memory_used_bytes": 2048, "peers": [{ "id": "b:1", "hints_pending": 9 }] } },
            { "id": "c:1", "report": { "peers": [{ "id": "b:1", "hints_pending": 6, "oldest_hint_s": 20.0 }] } },
            { "id": "b:1", "trouble": "it is away", "report": null },
        ] });
        Sample { node, ring, nodes, now: figures(3, 3000), then: Some(figures(1, 1000)) }
    }

    #[test]
    fn rates_are_of_the_time_between_two_samples_and_the_worst_stands_first() {
        let mut screen = Screen::default();
        screen.take(sample());
        let lines: Vec<String> = screen.lines(200, 100).into_iter().map(|line| line.text).collect();
        let all = lines.join("\n");
        assert!(lines[0].starts_with("pbcache a:1  version 0.1.0, up for 3 s, 1 core (uring)"), "{all}");
        assert_eq!(lines[1], "! Node b:1 is away since 12 s.");
        assert!(all.contains("Commands  1,000/s, gets 1,000/s, stores 0/s, hit ratio 50.0 %"), "{all}");
        assert!(all.contains("half within 16 us, 99 % within 16 us"), "{all}");
        assert!(all.contains("0          1,000    25.0 %"), "{all}");
        let away = lines.iter().find(|line| line.starts_with("b:1")).unwrap();
        assert!(away.contains("away since 12 s") && away.contains("west"), "{away}");
        // What this node keeps and what another one does, but not what this one has told of itself a moment ago.
        assert!(away.contains("1,210") && away.contains("20 s"), "{away}");
        assert!(lines.iter().any(|line| line.starts_with("a:1 (this)  here") && line.contains("2.0 KiB")), "{all}");
    }

    #[test]
    fn a_small_window_gets_the_beginning_and_a_silent_node_is_told() {
        let mut screen = Screen::default();
        assert!(!screen.lines(80, 24).is_empty(), "nothing is known, and nothing panics");
        screen.take(sample());
        screen.trouble = Some("a:1 says nothing".into());
        let lines = screen.lines(10, 3);
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.text.chars().count() <= 10));
        assert_eq!((lines[1].style, lines[1].text.as_str()), (Style::Bad, "! a:1 says"));
        screen.take(sample());
        assert_eq!(screen.trouble, None);
        (0..2 * BARS_MAX).for_each(|_| screen.take(sample()));
        assert_eq!(screen.rates.len(), BARS_MAX);
    }
}
