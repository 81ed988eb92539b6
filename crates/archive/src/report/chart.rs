//! The frame of a plot: scales, grid, axes, and the few shapes that plots are made of.

use std::fmt::Write as _;

use super::series::Point;

/// The width of every plot, in its own units.
pub(crate) const WIDTH: f64 = 900.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 34.0;

/// A plot being drawn.
pub(crate) struct Chart {
    height: f64,
    x: (f64, f64),
    y: (f64, f64),
    shapes: String,
}

/// What a plot is about, for those who cannot see it.
pub(crate) struct Told<'a> {
    pub id: &'a str,
    pub title: &'a str,
    pub description: String,
}

impl Chart {
    /// A plot of `height` units that shows the ranges `x` and `y`.
    pub(crate) fn new(height: f64, x: (f64, f64), y: (f64, f64)) -> Self {
        Self { height, x: widened(x), y: widened(y), shapes: String::new() }
    }

    pub(crate) fn px(&self, x: f64) -> f64 {
        LEFT + (x - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - LEFT - RIGHT)
    }

    pub(crate) fn py(&self, y: f64) -> f64 {
        let bottom = self.height - BOTTOM;
        bottom - (y - self.y.0) / (self.y.1 - self.y.0) * (bottom - TOP)
    }

    pub(crate) fn top(&self) -> f64 {
        TOP
    }

    pub(crate) fn bottom(&self) -> f64 {
        self.height - BOTTOM
    }

    pub(crate) fn shape(&mut self, shape: std::fmt::Arguments<'_>) {
        writeln!(self.shapes, "{shape}").expect("writing to a string does not fail");
    }

    /// Horizontal lines with their values, written by `label`.
    pub(crate) fn horizontals(&mut self, label: impl Fn(f64) -> String) {
        let (left, right) = (LEFT, WIDTH - RIGHT);
        for tick in ticks(self.y, 5) {
            let y = self.py(tick);
            let (text, low) = (trimmed(&label(tick)), y + 4.0);
            let at = left - 8.0;
            self.shape(format_args!(
                "<line class=\"grid\" x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{at}\" y=\"{low:.1}\" text-anchor=\"end\">{text}</text>"
            ));
        }
    }

    /// The horizontal axis with its values, written by `label`, and its name.
    pub(crate) fn axis(&mut self, name: &str, whole: bool, label: impl Fn(f64) -> String) {
        let (bottom, right) = (self.bottom(), WIDTH - RIGHT);
        self.shape(format_args!(
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{bottom}\" y2=\"{bottom}\"/>"
        ));
        let found = ticks(self.x, 9);
        for tick in found.into_iter().filter(|tick| !whole || tick.fract() == 0.0) {
            let (x, low, text) = (self.px(tick), bottom + 17.0, trimmed(&label(tick)));
            self.shape(format_args!(
                "<text x=\"{x:.1}\" y=\"{low}\" text-anchor=\"middle\">{text}</text>"
            ));
        }
        let low = self.height - 3.0;
        self.shape(format_args!(
            "<text x=\"{right}\" y=\"{low}\" text-anchor=\"end\">{name}</text>"
        ));
    }

    /// A curve, and the range of what each point stands for where that is more than one value.
    pub(crate) fn curve(&mut self, class: &str, points: &[Point]) {
        if points.iter().any(|point| point.low < point.high) {
            let above = points.iter().map(|point| (point.x, point.high));
            let below = points.iter().rev().map(|point| (point.x, point.low));
            let band = self.path(above.chain(below));
            self.shape(format_args!("<path class=\"band fill {class}\" d=\"{band}Z\"/>"));
        }
        match points {
            [] => {}
            [only] => self.dot(class, only.x, only.y),
            _ => {
                let path = self.path(points.iter().map(|point| (point.x, point.y)));
                self.shape(format_args!("<path class=\"curve {class}\" d=\"{path}\"/>"));
            }
        }
    }

    fn path(&self, points: impl Iterator<Item = (f64, f64)>) -> String {
        let mut path = String::new();
        for (x, y) in points {
            let letter = if path.is_empty() { 'M' } else { 'L' };
            write!(path, "{letter}{:.1} {:.1}", self.px(x), self.py(y))
                .expect("writing to a string does not fail");
        }
        path
    }

    pub(crate) fn dot(&mut self, class: &str, x: f64, y: f64) {
        let (x, y) = (self.px(x), self.py(y));
        self.shape(format_args!(
            "<circle class=\"fill {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>"
        ));
    }

    /// A horizontal level across the whole plot.
    pub(crate) fn level(&mut self, class: &str, y: f64) {
        let (y, right) = (self.py(y), WIDTH - RIGHT);
        self.shape(format_args!(
            "<line class=\"level {class}\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"
        ));
    }

    /// A moment: a vertical line with a word beside its head, on the left if `left`.
    #[allow(clippy::cast_precision_loss, reason = "a word has few letters")]
    pub(crate) fn event(&mut self, class: &str, x: f64, word: &str, left: bool) {
        let (x, top, bottom) = (self.px(x), self.top(), self.bottom());
        // Where there is no room on the wanted side, the word stands on the other.
        let room = 11.0 * 0.62 * word.chars().count() as f64;
        let left = (left && x - room > LEFT) || x + room > WIDTH - RIGHT;
        let (at, anchor) = if left { (x - 6.0, "end") } else { (x + 6.0, "start") };
        let y = top + 10.0;
        self.shape(format_args!(
            "<line class=\"event {class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{bottom}\"/>\
             <text class=\"{class}\" x=\"{at:.1}\" y=\"{y}\" text-anchor=\"{anchor}\">{word}</text>"
        ));
    }

    /// A stretch of the axis, lightly filled over the whole height.
    pub(crate) fn stretch(&mut self, class: &str, from: f64, to: f64) {
        let (left, top, height) = (self.px(from), self.top(), self.bottom() - self.top());
        let width = (self.px(to) - left).max(0.0);
        self.shape(format_args!(
            "<rect class=\"band fill {class}\" x=\"{left:.1}\" y=\"{top}\" width=\"{width:.1}\" \
             height=\"{height:.1}\"/>"
        ));
    }

    /// A bar from the axis up.
    pub(crate) fn bar(&mut self, class: &str, from: f64, to: f64, base: f64, top: f64) {
        let (left, right) = (self.px(from), self.px(to));
        let (high, low) = (self.py(top), self.py(base));
        // A gap between bars, unless they are too thin for one.
        let width = if right - left > 3.0 { right - left - 1.0 } else { right - left };
        let (width, height) = (width.max(0.6), (low - high).max(0.0));
        self.shape(format_args!(
            "<rect class=\"fill {class}\" x=\"{left:.1}\" y=\"{high:.1}\" width=\"{width:.1}\" \
             height=\"{height:.1}\"/>"
        ));
    }

    /// The plot as SVG.
    pub(crate) fn finish(self, told: &Told<'_>) -> String {
        let Told { id, title, description } = told;
        let (height, shapes) = (self.height, self.shapes);
        format!(
            "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\">\n\
             <title id=\"{id}-t\">{title}</title>\n<desc id=\"{id}-d\">{description}</desc>\n\
             {shapes}</svg>\n"
        )
    }
}

/// A label without the zeros that say nothing: `5.00 ms` is `5 ms`.
pub(crate) fn trimmed(label: &str) -> String {
    let digits = label.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-'));
    let (number, unit) = label.split_at(digits.unwrap_or(label.len()));
    let number = match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => number,
    };
    format!("{number}{unit}")
}

/// A range that is a range: of one value, some room around it.
fn widened((low, high): (f64, f64)) -> (f64, f64) {
    match (low.is_finite() && high.is_finite(), low < high) {
        (true, true) => (low, high),
        (true, false) => (low - 0.5, low + 0.5),
        (false, _) => (0.0, 1.0),
    }
}

/// At most about `count` round numbers inside a range.
pub(crate) fn ticks((low, high): (f64, f64), count: u32) -> Vec<f64> {
    let rough = (high - low) / f64::from(count.max(1));
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|s| s * power).find(|s| *s >= rough);
    let Some(step) = step.filter(|step| *step > 0.0 && step.is_finite()) else { return vec![low] };
    let first = (low / step - 1e-9).ceil();
    (0..=2 * count)
        // Multiples are computed and not added up, so that 0 is 0.
        .map(|index| (first + f64::from(index)) * step)
        .take_while(|tick| *tick <= high + step * 1e-9)
        .map(|tick| if tick.abs() < step * 1e-9 { 0.0 } else { tick })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ticks_lie_inside_and_are_few(low in -1e9f64..1e9, width in 1e-6f64..1e9) {
            let found = ticks((low, low + width), 6);
            prop_assert!(!found.is_empty() && found.len() <= 8, "{found:?}");
            let room = width * 1e-6;
            prop_assert!(found.iter().all(|tick| *tick >= low - room && *tick <= low + width + room));
            prop_assert!(found.is_sorted());
        }
    }

    #[test]
    fn labels_lose_only_zeros_that_say_nothing() {
        for (label, expected) in
            [("5.00 ms", "5 ms"), ("0.250", "0.25"), ("100", "100"), ("1.00e-5", "1e-5")]
        {
            assert_eq!(trimmed(label), expected);
        }
    }

    #[test]
    fn no_number_a_run_can_have_breaks_a_plot() {
        for range in [(0.0, 0.0), (f64::NAN, 1.0), (1.0, f64::INFINITY), (3.0, 2.0)] {
            let mut chart = Chart::new(100.0, range, range);
            chart.horizontals(|tick| tick.to_string());
            chart.axis("x", false, |tick| tick.to_string());
            let told = Told { id: "x", title: "x", description: String::new() };
            let svg = chart.finish(&told);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
