//! How numbers, times and other people's words are written.

use std::fmt::Write as _;

/// A text that others chose, unable to become markup, in content and in attributes.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Controls and direction overrides make a text look like another.
            c if c.is_control() && c != '\n' => escaped.push('\u{fffd}'),
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                escaped.push('\u{fffd}');
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// A whole number, in groups of three digits.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

/// A length in bytes.
#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    if number < 1000 {
        return format!("{number}\u{202f}B");
    }
    let mut value = number as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{}\u{202f}{}", three(value), UNITS[unit])
}

/// A duration.
pub(crate) fn seconds(value: f64) -> String {
    match value {
        v if !v.is_finite() => "?".into(),
        v if v <= 0.0 => "0\u{202f}s".into(),
        v if v < 1e-3 => format!("{}\u{202f}µs", three(v * 1e6)),
        v if v < 0.9995 => format!("{}\u{202f}ms", three(v * 1e3)),
        v if v < 120.0 => format!("{}\u{202f}s", three(v)),
        v => format!("{:.0}\u{202f}min {:.0}\u{202f}s", (v / 60.0).floor(), v % 60.0),
    }
}

/// A measured number, in the digits a reader compares.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "not a number".into(),
        _ if value.is_infinite() => if value > 0.0 { "∞" } else { "−∞" }.into(),
        size if size != 0.0 && !(1e-3..1e6).contains(&size) => format!("{value:.2e}"),
        size if size < 100.0 => format!("{value:.3}"),
        _ => format!("{value:.1}"),
    }
}

/// How much a second, in three digits and whole numbers beyond them.
pub(crate) fn rate(value: f64) -> String {
    if value.is_finite() && value >= 99.5 { count(value.round() as u64) } else { three(value) }
}

/// A share of 1.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1}\u{202f}%", share * 100.0)
}

fn three(value: f64) -> String {
    match value {
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

/// A moment of UTC: `2026-11-23 09:48:15 UTC`.
#[must_use]
pub fn moment(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02} ");
    write!(text, "{hour:02}:{minute:02}:{second:02} UTC").expect("writing to a string");
    text
}

/// Year, month and day of a number of days since 1970-01-01 (Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_what_date_says() {
        assert_eq!(moment(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(moment(951_782_399_000), "2000-02-28 23:59:59 UTC");
        assert_eq!(moment(951_782_400_000), "2000-02-29 00:00:00 UTC");
        assert_eq!(moment(1_767_225_600_000), "2026-01-01 00:00:00 UTC");
        assert_eq!(moment(4_107_542_400_000), "2100-03-01 00:00:00 UTC");
    }

    #[test]
    fn numbers_read_well_at_every_size() {
        assert_eq!(count(0), "0");
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(bytes(999), "999\u{202f}B");
        assert_eq!(bytes(1_000), "1.00\u{202f}kB");
        assert_eq!(bytes(999_700), "1.00\u{202f}MB");
        assert_eq!(bytes(u64::MAX), "18447\u{202f}PB");
        assert_eq!(seconds(0.0123), "12.3\u{202f}ms");
        assert_eq!(seconds(75.0), "75.0\u{202f}s");
        assert_eq!(seconds(200.0), "3\u{202f}min 20\u{202f}s");
        assert_eq!(number(f64::NAN), "not a number");
        assert_eq!(number(1e-5), "1.00e-5");
        assert_eq!(number(0.0), "0.000");
    }

    #[test]
    fn nothing_that_is_escaped_can_open_a_tag_or_leave_an_attribute() {
        let hostile = "</td><script>x</script>\" onload='y' &amp; \u{202e}\0";
        let escaped = escape(hostile);
        assert!(!escaped.contains(['<', '>', '"', '\'', '\u{202e}', '\0']), "{escaped}");
        assert!(escaped.contains("&amp;amp;"));
    }
}
