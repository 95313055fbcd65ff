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
    /// Logarithmic scale along y.
    pub y_log: bool,
    /// Names and points; points that are not finite, or not positive on a logarithmic scale, are left out.
    pub series: Vec<(String, Vec<(f64, f64)>)>,
    /// How to write a number at the x axis.
    pub x_words: fn(f64) -> String,
}

/// One axis: from values to places.
struct Axis {
    low: f64,
    high: f64,
    log: bool,
}

impl Axis {
    fn new(values: impl Iterator<Item = f64>, log: bool) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values {
            (low, high) = (low.min(value), high.max(value));
        }
        if !low.is_finite() || !high.is_finite() {
            (low, high) = (1.0, 10.0);
        }
        if log {
            low = 10f64.powf(low.log10().floor());
            high = 10f64.powf(high.log10().ceil());
        } else {
            low = low.min(0.0);
        }
        if high <= low {
            high = if log { low * 10.0 } else { low + 1.0 };
        }
        Self { low, high, log }
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
        if self.log {
            let decades = (self.high / self.low).log10().round() as i32;
            return (0..=decades).map(|decade| self.low * 10f64.powi(decade)).collect();
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
        let usable = |point: &&(f64, f64)| {
            point.0.is_finite() && point.1.is_finite() && (!self.x_log || point.0 > 0.0) && (!self.y_log || point.1 > 0.0)
        };
        let points = || self.series.iter().flat_map(|(_, points)| points.iter().filter(usable));
        let x_axis = Axis::new(points().map(|point| point.0), self.x_log);
        let y_axis = Axis::new(points().map(|point| point.1), self.y_log);
        let x = |value: f64| LEFT + x_axis.place(value) * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - y_axis.place(value) * (HEIGHT - TOP - BOTTOM);
        // Also a picture by itself, outside of a page.
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\">\n\
             <style>text{{font:12px sans-serif}}.t{{text-anchor:middle}}.e{{text-anchor:end}}.g{{stroke:#ddd}}</style>\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
        );
        let middle = WIDTH / 2.0;
        let _ = writeln!(svg, "<text x=\"{middle}\" y=\"20\" class=\"t\">{}</text>", escape(self.title));
        let _ = writeln!(svg, "<text x=\"{middle}\" y=\"{}\" class=\"t\">{}</text>", HEIGHT - 8.0, escape(self.x_label));
        let turned = format!("rotate(-90 14 {})", HEIGHT / 2.0);
        let _ = writeln!(
            svg,
            "<text x=\"14\" y=\"{}\" class=\"t\" transform=\"{turned}\">{}</text>",
            HEIGHT / 2.0,
            escape(self.y_label)
        );
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
        for (number, (name, points)) in self.series.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let mut path = String::new();
            for point in points.iter().filter(usable) {
                let _ = write!(path, "{}{:.1} {:.1}", if path.is_empty() { 'M' } else { 'L' }, x(point.0), y(point.1));
            }
            let _ = writeln!(svg, "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>");
            let down = TOP + 16.0 + 16.0 * number as f64;
            let _ = writeln!(svg, "<text x=\"{}\" y=\"{down}\" fill=\"{colour}\">{}</text>", LEFT + 10.0, escape(name));
        }
        svg += "</svg>\n";
        svg
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
const COLOURS: [&str; 6] = ["#1f5fa8", "#c0392b", "#2e8b57", "#8e44ad", "#b8860b", "#555555"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_of_anything_is_closed_and_finite() {
        for points in [vec![], vec![(1.0, 0.0)], vec![(0.0, f64::NAN), (2.0, 5.0), (1e9, 1e-3)]] {
            for log in [false, true] {
                let series = vec![("a<b".to_owned(), points.clone())];
                let plot = Plot { title: "t", x_label: "x", y_label: "y", x_log: log, y_log: log, series, x_words: short };
                let svg = plot.svg();
                assert!(
                    svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf") && svg.contains("a&lt;b"),
                    "{svg}"
                );
            }
        }
    }
}
