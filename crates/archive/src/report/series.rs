//! Curves with a bounded number of points.

/// The most points of a curve: more than a screen has columns for.
pub(crate) const POINTS_MAX: usize = 720;

/// One point of a curve; after thinning, one stretch of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    pub x: f64,
    /// The mean of the stretch's numbers.
    pub y: f64,
    pub low: f64,
    pub high: f64,
}

/// The values as at most [`POINTS_MAX`] points: the mean, least and greatest of stretches of equal
/// width. Values that are no numbers are left out.
pub(crate) fn thin(values: &[(f64, f64)]) -> Vec<Point> {
    let numbers: Vec<_> = values.iter().copied().filter(|(_, y)| y.is_finite()).collect();
    let stretch = numbers.len().div_ceil(POINTS_MAX).max(1);
    numbers.chunks(stretch).map(point).collect()
}

#[allow(clippy::cast_precision_loss, reason = "a stretch has far fewer than 2^53 values")]
fn point(stretch: &[(f64, f64)]) -> Point {
    let count = stretch.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| stretch.iter().map(of).sum::<f64>() / count;
    let ys = || stretch.iter().map(|(_, y)| *y);
    Point {
        x: mean(|(x, _)| *x),
        y: mean(|(_, y)| *y),
        low: ys().fold(f64::INFINITY, f64::min),
        high: ys().fold(f64::NEG_INFINITY, f64::max),
    }
}

/// The value that half of them lie below; 0 for none.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_curve_is_thinned_and_keeps_its_extremes() {
        let mut values: Vec<_> = (0..1_000_000).map(|x| (f64::from(x), 1.0)).collect();
        values[500].1 = 100.0;
        values[501].1 = f64::NAN;
        let points = thin(&values);
        assert!(points.len() <= POINTS_MAX);
        assert!(points.iter().any(|point| point.high == 100.0));
        assert!(points.iter().all(|point| point.low <= point.y && point.y <= point.high));
        assert!(points.is_sorted_by(|one, next| one.x < next.x));
    }

    #[test]
    fn a_short_curve_is_kept_as_it_is() {
        let points = thin(&[(0.0, 5.0), (1.0, f64::INFINITY), (2.0, 4.0)]);
        assert_eq!(
            points.iter().map(|point| (point.x, point.y)).collect::<Vec<_>>(),
            [(0.0, 5.0), (2.0, 4.0)]
        );
        assert!(thin(&[]).is_empty());
        assert_eq!(median([3.0, f64::NAN, 1.0, 2.0].into_iter()), 2.0);
    }
}
