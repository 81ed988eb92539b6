//! The report of a run: one HTML file that opens anywhere, offline, for years.
//!
//! It is a pure function of the run record and the journal. It has no scripts and asks for nothing
//! outside itself; its policy forbids a browser to. Every text that others chose (names, reasons,
//! devices) is escaped where it is put in, by `text::escape` and nowhere else. Plots are SVG with
//! a title and a description, and what they show stands in a table too.
//!
//! # Bounds
//! The document does not grow with the number of steps: a plot has at most
//! `series::POINTS_MAX` points, a table at most `tables::ROWS_MAX` rows.

mod chart;
mod facts;
mod plots;
mod series;
mod tables;
mod text;

use forebay_format::v1::{journal::Entry, run::RunRecord};

use facts::Facts;
use text::escape;
pub use text::moment;

const STYLE: &str = include_str!("style.css");

/// The report of a run as one HTML document.
#[must_use]
pub fn html(run: &RunRecord, entries: &[Entry]) -> String {
    let facts = Facts::of(entries);
    let title = format!("{} — the day of a model", escape(run.run.as_str()));
    let body = [
        tables::head(run, &facts),
        tables::cards(run, &facts),
        tables::hours(&facts),
        plots::loss(&facts),
        plots::throughput(&facts),
        plots::waiting(&facts),
        plots::checkpoints(&facts),
        tables::checkpoints(&facts),
        tables::traffic(&facts),
        tables::settings(run),
        tables::foot(run, &facts),
    ]
    .concat();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n\
         </body>\n</html>\n"
    )
}
