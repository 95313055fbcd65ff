//! A line plot as SVG text: no script, nothing to fetch.

use std::fmt::Write;

/// What to draw.
pub struct Plot<'a> {
    /// Above the plot.
    pub title: &'a str,
    /// Below the plot.
    pub x_label: &'a str,
    /// Left of the plot.
    pub y_label: &'a str,
    /// Logarithmic scale along x.
    pub x_log: bool,
    /// Where the x axis has its marks; empty: at round numbers.
    pub x_ticks: Vec<f64>,
    /// Logarithmic scale along y.
    pub y_log: bool,
    /// Names and points; points that are not finite, or not positive on a logarithmic scale, are left out.
    pub series: Vec<(String, Vec<(f64, f64)>)>,
    /// How many of the last series are only there to compare with: they are dashed.
    pub references: usize,
    /// How to write a number at the x axis.
    pub x_words: fn(f64) -> String,
}

/// One axis: from values to places.
struct Axis {
    low: f64,
    high: f64,
    log: bool,
    marks: Vec<f64>,
}

impl Axis {
    /// An axis for values, with marks of its own or without.
    fn new(values: impl Iterator<Item = f64>, log: bool, marks: &[f64]) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values {
            (low, high) = (low.min(value), high.max(value));
        }
        if !low.is_finite() || !high.is_finite() {
            (low, high) = (1.0, 10.0);
        }
        if !marks.is_empty() {
            // A little room beyond the first and the last mark.
            let room = if log { (high / low).powf(MARGIN) } else { (high - low) * MARGIN };
            (low, high) = if log { (low / room, high * room) } else { (low - room, high + room) };
        } else if log {
            low = 10f64.powf(low.log10().floor());
            high = 10f64.powf(high.log10().ceil());
        } else {
            low = low.min(0.0);
        }
        if high <= low {
            high = if log { low * 10.0 } else { low + 1.0 };
        }
        Self { low, high, log, marks: marks.to_vec() }
    }

    /// 0 at the low end, 1 at the high one.
    fn place(&self, value: f64) -> f64 {
        if self.log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        }
    }

    fn ticks(&self) -> Vec<f64> {
        if !self.marks.is_empty() {
            return self.marks.clone();
        }
        if self.log {
            let decades = (self.high / self.low).log10().round() as i32;
            // Few decades leave room for marks between them.
            let within: &[f64] = if decades <= 2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
            let ticks = (0..=decades).flat_map(|decade| within.iter().map(move |factor| factor * 10f64.powi(decade)));
            return ticks.map(|tick| tick * self.low).filter(|tick| *tick <= self.high * 1.000_001).collect();
        }
        let rough = (self.high - self.low) / 6.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough).unwrap_or(power);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        (first..=last).map(|number| number as f64 * step).collect()
    }
}

impl Plot<'_> {
    /// The plot as an `svg` element.
    pub fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|(_, points)| points.iter().filter(|point| self.usable(point)));
        let marks = if points().next().is_some() { &self.x_ticks[..] } else { &[] };
        let x_axis = Axis::new(points().map(|point| point.0).chain(marks.iter().copied()), self.x_log, marks);
        let y_axis = Axis::new(points().map(|point| point.1), self.y_log, &[]);
        let x = |value: f64| LEFT + x_axis.place(value) * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - y_axis.place(value) * (HEIGHT - TOP - BOTTOM);
        // Also a picture by itself, outside of a page.
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\">\n\
             <style>text{{font:12px sans-serif}}.t{{text-anchor:middle}}.e{{text-anchor:end}}.g{{stroke:#ddd}}</style>\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
        );
        self.labels(&mut svg);
        for tick in x_axis.ticks() {
            let at = x(tick);
            let _ = writeln!(svg, "<path d=\"M{at:.1} {TOP}V{:.1}\" class=\"g\"/>", HEIGHT - BOTTOM);
            let words = (self.x_words)(tick);
            let _ = writeln!(svg, "<text x=\"{at:.1}\" y=\"{}\" class=\"t\">{words}</text>", HEIGHT - BOTTOM + 16.0);
        }
        for tick in y_axis.ticks() {
            let at = y(tick);
            let _ = writeln!(svg, "<path d=\"M{LEFT} {at:.1}H{:.1}\" class=\"g\"/>", WIDTH - RIGHT);
            let _ = writeln!(svg, "<text x=\"{}\" y=\"{:.1}\" class=\"e\">{}</text>", LEFT - 6.0, at + 4.0, short(tick));
        }
        // Names stand where lines that fall leave room, or lines that rise.
        let falls = self.series.iter().map(|(_, points)| fall(points)).sum::<f64>() > 0.0;
        let (beside, class) = if falls { (WIDTH - RIGHT - 10.0, " class=\"e\"") } else { (LEFT + 10.0, "") };
        for (number, (name, points)) in self.series.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let dashes = if number + self.references >= self.series.len() { " stroke-dasharray=\"5 4\"" } else { "" };
            let mut path = String::new();
            for point in points.iter().filter(|point| self.usable(point)) {
                let _ = write!(path, "{}{:.1} {:.1}", if path.is_empty() { 'M' } else { 'L' }, x(point.0), y(point.1));
            }
            let _ = writeln!(svg, "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>");
            let dots = points.iter().filter(|point| self.usable(point) && points.len() <= DOTS_MAX && dashes.is_empty());
            for point in dots {
                let _ = writeln!(svg, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>", x(point.0), y(point.1));
            }
            let down = TOP + 16.0 + 16.0 * number as f64;
            let _ = writeln!(svg, "<text x=\"{beside}\" y=\"{down}\" fill=\"{colour}\"{class}>{}</text>", escape(name));
        }
        svg += "</svg>\n";
        svg
    }

    fn usable(&self, point: &(f64, f64)) -> bool {
        point.0.is_finite() && point.1.is_finite() && (!self.x_log || point.0 > 0.0) && (!self.y_log || point.1 > 0.0)
    }

    /// Title and names of the axes.
    fn labels(&self, svg: &mut String) {
        let (middle, half) = ((LEFT + WIDTH - RIGHT) / 2.0, (TOP + HEIGHT - BOTTOM) / 2.0);
        let _ = writeln!(svg, "<text x=\"{middle}\" y=\"20\" class=\"t\">{}</text>", escape(self.title));
        let _ = writeln!(svg, "<text x=\"{middle}\" y=\"{}\" class=\"t\">{}</text>", HEIGHT - 8.0, escape(self.x_label));
        let turned = format!("transform=\"rotate(-90 14 {half})\"");
        let _ = writeln!(svg, "<text x=\"14\" y=\"{half}\" class=\"t\" {turned}>{}</text>", escape(self.y_label));
    }
}

/// By how much a line falls from its first point to its last, as a share of its highest.
fn fall(points: &[(f64, f64)]) -> f64 {
    let highest = points.iter().map(|point| point.1).filter(|value| value.is_finite()).fold(0.0, f64::max);
    match (points.first(), points.last()) {
        (Some(first), Some(last)) if highest > 0.0 && (first.1 - last.1).is_finite() => (first.1 - last.1) / highest,
        _ => 0.0,
    }
}

/// A number in few characters: 1200 is 1.2k.
pub fn short(value: f64) -> String {
    let size = value.abs();
    let (scaled, unit) = match size {
        1e9.. => (value / 1e9, "G"),
        1e6.. => (value / 1e6, "M"),
        1e3.. => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = if scaled.abs() >= 100.0 || scaled == scaled.round() { format!("{scaled:.0}") } else { format!("{scaled:.2}") };
    text + unit
}

/// Text that HTML cannot mistake for markup.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 40.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 48.0;
/// Room beyond the first and the last of given marks, as a share of the axis.
const MARGIN: f64 = 0.04;
/// A line of more points is drawn without dots.
const DOTS_MAX: usize = 20;
const COLOURS: [&str; 6] = ["#1f5fa8", "#c0392b", "#2e8b57", "#8e44ad", "#b8860b", "#555555"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_of_anything_is_closed_and_finite() {
        for points in [vec![], vec![(1.0, 0.0)], vec![(0.0, f64::NAN), (2.0, 5.0), (1e9, 1e-3)]] {
            for log in [false, true] {
                let series = vec![("a<b".to_owned(), points.clone())];
                let (title, x_label, y_label, x_log, y_log) = ("t", "x", "y", log, log);
                let x_ticks = if points.len() > 2 { vec![1.0, 30.0] } else { Vec::new() };
                let plot = Plot { title, x_label, y_label, x_log, x_ticks, y_log, series, references: 0, x_words: short };
                let svg = plot.svg();
                assert!(
                    svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf") && svg.contains("a&lt;b"),
                    "{svg}"
                );
            }
        }
    }

    #[test]
    fn marks_names_and_dashes_stand_where_they_belong() {
        let series =
            vec![("falls".to_owned(), vec![(1.0, 0.9), (30.0, 0.1)]), ("as before".to_owned(), vec![(1.0, 0.5), (30.0, 0.4)])];
        let plot = Plot {
            title: "t",
            x_label: "share",
            y_label: "misses",
            x_log: true,
            x_ticks: vec![1.0, 30.0],
            y_log: false,
            series,
            references: 1,
            x_words: |share| format!("{share} %"),
        };
        let svg = plot.svg();
        for part in [">1 %</text>", ">30 %</text>", ">share</text>", ">misses</text>", "class=\"e\">falls</text>"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        assert_eq!((svg.matches("<circle").count(), svg.matches("dasharray").count()), (2, 1), "{svg}");
        assert!(!svg.contains(">10 %</text>"), "{svg}");
    }
}
