//! `metrics.csv`: one line for each step, as it was last taken.

use std::fmt::Write as _;

use forebay_format::v1::journal::{Entry, Event};

const HEAD: &str = "step,unix_ms,attempt,loss,learning_rate,gradient_norm,tokens,seconds,\
                    waited_seconds,wait_cause\n";

/// The step table of a journal.
pub(crate) fn csv(entries: &[Entry]) -> String {
    let mut csv = String::from(HEAD);
    for entry in forebay_journal::timeline(entries).counted {
        let Event::Step(step) = &entry.event else { continue };
        let cause = quoted(step.wait_cause.as_deref().unwrap_or_default());
        // Numbers are written so that reading them gives the same bits.
        writeln!(
            csv,
            "{},{},{},{},{},{},{},{},{},{cause}",
            step.step,
            entry.unix_ms,
            entry.attempt,
            step.loss,
            step.learning_rate,
            step.gradient_norm,
            step.tokens,
            step.seconds,
            step.waited_seconds,
        )
        .expect("writing to a string does not fail");
    }
    csv
}

/// A text as RFC 4180 wants it, so that no cause can become a column or a line.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || " _-.:".contains(c);
    if text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("\"{}\"", text.replace('"', "\"\""))
    }
}

#[cfg(test)]
mod tests {
    use forebay_format::v1::journal::Step;

    use super::*;

    #[test]
    fn hostile_causes_stay_in_their_cell_and_numbers_keep_their_bits() {
        let step = Step {
            step: 3,
            loss: 0.1 + 0.2,
            learning_rate: 1e-7,
            gradient_norm: f64::NAN,
            tokens: 8,
            seconds: 0.5,
            waited_seconds: 0.25,
            wait_cause: Some("a \"b\",c\n9".into()),
        };
        let entry = Entry { sequence: 0, unix_ms: 5, attempt: 2, event: Event::Step(step) };
        let csv = csv(&[entry]);
        let line = csv.strip_prefix(HEAD).unwrap();
        assert_eq!(
            line,
            "3,5,2,0.30000000000000004,0.0000001,NaN,8,0.5,0.25,\"a \"\"b\"\",c\n9\"\n"
        );
    }
}
