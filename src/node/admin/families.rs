//! Metrics as families of samples, and the two texts in which they are told.
//!
//! ```text
//!   Family { name, kind, help, samples } --> text 0.0.4 (what everybody reads), or OpenMetrics 1.0 where it is asked for
//! ```
//!
//! OpenMetrics has no counter whose name does not end in `_total`; memcached_exporter has a few (`uptime_seconds`): they are gauges there.
//!
//! Lives here: families, writing them. Not here: which there are (`metrics`, `exporter`).
//! Formats: Prometheus' *Exposition formats*, OpenMetrics 1.0 by the `prometheus-client` crate.

use std::fmt::Write;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::latency::{self, Histogram};

/// Labels of a sample.
pub type Labels = Vec<(&'static str, String)>;

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises; its samples are called `NAME_total`.
    Counter,
    /// Only rises, and is called as it is.
    BareCounter,
    /// Rises and falls.
    Gauge,
    /// How many took how long, in seconds.
    Histogram,
}

/// A figure.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    Count(u64),
    /// Any number.
    Real(f64),
    /// A histogram.
    Times(Box<Histogram>),
}

impl From<u64> for Value {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<f64> for Value {
    fn from(real: f64) -> Self {
        Self::Real(real)
    }
}

/// Figures of one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// Its name, without `_total`.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// What it tells, without a full stop.
    pub help: String,
    /// One for each set of labels.
    pub samples: Vec<(Labels, Value)>,
}

/// All that is told.
#[derive(Clone, Debug, Default)]
pub struct Families(pub Vec<Family>);

impl Families {
    /// Adds a sample to the family of this name, which is made where it is not there.
    pub fn put(&mut self, name: &str, kind: Kind, help: &str, labels: Labels, value: impl Into<Value>) {
        let value = value.into();
        if let Some(family) = self.0.iter_mut().rev().find(|family| family.name == name) {
            debug_assert_eq!(family.kind, kind);
            family.samples.push((labels, value));
            return;
        }
        let help = help.trim_end_matches('.').to_string();
        self.0.push(Family { name: name.into(), kind, help, samples: vec![(labels, value)] });
    }

    /// The text that Prometheus reads by default, version 0.0.4.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for family in &self.0 {
            let name = match family.kind {
                Kind::Counter => format!("{}_total", family.name),
                _ => family.name.clone(),
            };
            let kind = match family.kind {
                Kind::Counter | Kind::BareCounter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            // Writing to a string does not fail.
            let _ = writeln!(text, "# HELP {name} {}.\n# TYPE {name} {kind}", escaped(&family.help, false));
            for (labels, value) in &family.samples {
                match value {
                    Value::Count(count) => drop(writeln!(text, "{name}{} {count}", braced(labels, None))),
                    Value::Real(real) => drop(writeln!(text, "{name}{} {real}", braced(labels, None))),
                    Value::Times(histogram) => write_histogram(&mut text, &name, labels, histogram),
                }
            }
        }
        text
    }

    /// OpenMetrics 1.0.
    ///
    /// # Errors
    /// None in practice: writing to a string does not fail.
    pub fn open_metrics(self) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for family in &self.0 {
            let (kind, help) = (open_kind(family.kind), format!("{}.", escaped(&family.help, false)));
            let mut metric = encoder.encode_descriptor(&family.name, &help, None, kind)?;
            for (labels, value) in &family.samples {
                match labels.is_empty() {
                    true => encode_sample(&mut metric, family.kind, value)?,
                    false => encode_sample(&mut metric.encode_family(labels)?, family.kind, value)?,
                }
            }
        }
        Ok(())
    }
}

fn encode_sample(sample: &mut MetricEncoder<'_>, kind: Kind, value: &Value) -> Result<(), std::fmt::Error> {
    match (value, kind) {
        (Value::Count(count), Kind::Counter) => sample.encode_counter::<NoLabelSet, _, f64>(count, None),
        (Value::Real(real), Kind::Counter) => sample.encode_counter::<NoLabelSet, _, f64>(real, None),
        (Value::Count(count), _) => sample.encode_gauge(&i64::try_from(*count).unwrap_or(i64::MAX)),
        (Value::Real(real), _) => sample.encode_gauge(real),
        (Value::Times(histogram), _) => {
            let buckets = histogram.buckets.iter().enumerate().map(|(at, count)| (latency::bound_s(at), *count));
            let (buckets, sum_s): (Vec<_>, _) = (buckets.collect(), histogram.sum_ns as f64 / 1e9);
            sample.encode_histogram::<NoLabelSet>(sum_s, histogram.count(), &buckets, None)
        }
    }
}

fn open_kind(kind: Kind) -> MetricType {
    match kind {
        Kind::Counter => MetricType::Counter,
        Kind::BareCounter | Kind::Gauge => MetricType::Gauge,
        Kind::Histogram => MetricType::Histogram,
    }
}

fn write_histogram(text: &mut String, name: &str, labels: &Labels, histogram: &Histogram) {
    let mut below = 0;
    for (bucket, count) in histogram.buckets.iter().enumerate() {
        below += count;
        let bound = latency::bound_s(bucket);
        let bound = if bound.is_infinite() { "+Inf".to_string() } else { bound.to_string() };
        let _ = writeln!(text, "{name}_bucket{} {below}", braced(labels, Some(&bound)));
    }
    let sum_s = histogram.sum_ns as f64 / 1e9;
    let _ = writeln!(text, "{name}_sum{0} {sum_s}\n{name}_count{0} {below}", braced(labels, None));
}

/// Labels in braces; nothing for none.
fn braced(labels: &Labels, bound: Option<&str>) -> String {
    let mut parts: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value, true))).collect();
    parts.extend(bound.map(|bound| format!("le=\"{bound}\"")));
    if parts.is_empty() { String::new() } else { format!("{{{}}}", parts.join(",")) }
}

/// A text as help or label may hold it.
fn escaped(text: &str, quotes: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes { text.replace('"', "\\\"") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planted() -> Families {
        let mut families = Families::default();
        families.put("x_gets", Kind::Counter, "Gets.", vec![("result", "hit".into())], 7);
        families.put("x_gets", Kind::Counter, "", vec![("result", "a\"b\\c\nd".into())], 8);
        families.put("x_uptime_seconds", Kind::BareCounter, "Since start", vec![], 9);
        families.put("x_share", Kind::Gauge, "Share", vec![], 0.25);
        let mut histogram = Histogram::default();
        histogram.add(16_000, 2);
        histogram.add(20_000_000_000, 1);
        families.put("x_seconds", Kind::Histogram, "Time", vec![("op", "get".into())], Value::Times(Box::new(histogram)));
        families
    }

    #[test]
    fn the_plain_text_is_what_prometheus_reads() {
        let text = planted().text();
        let start = "# HELP x_gets_total Gets.\n# TYPE x_gets_total counter\nx_gets_total{result=\"hit\"} 7\n\
            x_gets_total{result=\"a\\\"b\\\\c\\nd\"} 8\n# HELP x_uptime_seconds Since start.\n# TYPE x_uptime_seconds counter\n\
            x_uptime_seconds 9\n# HELP x_share Share.\n# TYPE x_share gauge\nx_share 0.25\n# HELP x_seconds Time.\n\
            # TYPE x_seconds histogram\nx_seconds_bucket{op=\"get\",le=\"0.000016\"} 2\n";
        assert!(text.starts_with(start), "{text}");
        assert!(text.ends_with(
            "x_seconds_bucket{op=\"get\",le=\"1.048576\"} 2\nx_seconds_bucket{op=\"get\",le=\"+Inf\"} 3\n\
             x_seconds_sum{op=\"get\"} 20.000032\nx_seconds_count{op=\"get\"} 3\n"
        ));
    }

    #[test]
    fn open_metrics_has_no_counter_without_total_and_an_end() {
        let text = planted().open_metrics().unwrap();
        assert!(text.contains("# TYPE x_gets counter\nx_gets_total{result=\"hit\"} 7\n"), "{text}");
        assert!(text.contains("x_gets_total{result=\"a\\\"b\\\\c\\nd\"} 8\n"), "{text}");
        assert!(text.contains("# TYPE x_uptime_seconds gauge\nx_uptime_seconds 9\n"), "{text}");
        assert!(text.contains("x_seconds_bucket{le=\"+Inf\",op=\"get\"} 3\n"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
