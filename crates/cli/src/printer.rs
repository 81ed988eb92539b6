//! What people and programs see.
//!
//! Three faces of the same events: progress bars on a terminal, plain lines where the output is
//! piped, and one JSON object a line with `--json`. Results go to standard output, progress and
//! errors to standard error, so that a pipe carries results alone.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    sync::{Mutex, PoisonError},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;

/// How the output is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// Progress bars that redraw themselves.
    Terminal,
    /// One line for each thing that happened.
    Plain,
    /// One JSON object a line.
    Json,
}

/// Prints everything a command has to say.
pub struct Printer {
    face: Face,
    bars: MultiProgress,
    shown: Mutex<BTreeMap<String, Shown>>,
}

/// One progress under way.
struct Shown {
    bar: ProgressBar,
    /// The tenth of the work that was last told on a plain line.
    tenth: u64,
}

impl Printer {
    /// A printer for this process's standard streams.
    pub fn new(json: bool) -> Self {
        let face = match (json, io::stderr().is_terminal()) {
            (true, _) => Face::Json,
            (false, true) => Face::Terminal,
            (false, false) => Face::Plain,
        };
        Self { face, bars: MultiProgress::new(), shown: Mutex::default() }
    }

    /// The face it shows.
    pub fn face(&self) -> Face {
        self.face
    }

    /// A heading: a new hour of the day begins.
    pub fn hour(&self, name: &str, what: &str) {
        match self.face {
            Face::Json => self.json("hour", &serde_json::json!({ "hour": name, "what": what })),
            Face::Terminal => self.bar_line(&format!("\n\x1b[1m{name}\x1b[0m  {what}")),
            Face::Plain => eprintln!("== {name}: {what}"),
        }
    }

    /// Something happened that a person wants to know.
    pub fn note(&self, text: &str) {
        match self.face {
            Face::Json => self.json("note", &serde_json::json!({ "text": text })),
            Face::Terminal => self.bar_line(&format!("  {text}")),
            Face::Plain => eprintln!("  {text}"),
        }
    }

    /// `done` of `total` units of `task` are done; `detail` is shown beside.
    pub fn progress(&self, task: &str, done: u64, total: u64, detail: &str) {
        if self.face == Face::Json || total == 0 {
            return;
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = shown.entry(task.to_owned()).or_insert_with(|| self.start(task, total));
        if self.face == Face::Terminal {
            entry.bar.set_length(total);
            entry.bar.set_position(done);
            entry.bar.set_message(detail.to_owned());
        } else {
            let tenth = done * 10 / total;
            if tenth > entry.tenth {
                entry.tenth = tenth;
                eprintln!("  {task} {done}/{total} {detail}");
            }
        }
        if done >= total
            && let Some(finished) = shown.remove(task)
        {
            finished.bar.finish_and_clear();
        }
    }

    fn start(&self, task: &str, total: u64) -> Shown {
        let bar = match self.face {
            Face::Terminal => self.bars.add(ProgressBar::new(total)),
            Face::Plain | Face::Json => ProgressBar::hidden(),
        };
        let style = ProgressStyle::with_template("  {prefix:<18} {bar:32} {pos:>6}/{len:<6} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(task.to_owned());
        Shown { bar, tenth: 0 }
    }

    /// The result of a command: `text` for people, `value` for programs.
    pub fn result<T: Serialize>(&self, kind: &str, value: &T, text: &str) {
        match self.face {
            Face::Json => self.json(kind, value),
            Face::Terminal | Face::Plain => self.out(text),
        }
    }

    /// One event for programs; people see nothing of it.
    pub fn json<T: Serialize>(&self, kind: &str, value: &T) {
        if self.face == Face::Json {
            let line = serde_json::json!({ "kind": kind, "value": value });
            self.out(&line.to_string());
        }
    }

    /// The failure that ends the command, with every cause, each once.
    pub fn failure(&self, kind: forebay::ErrorKind, error: &dyn std::error::Error) {
        let causes: Vec<String> = std::iter::successors(error.source(), |cause| cause.source())
            .map(ToString::to_string)
            .collect();
        if self.face == Face::Json {
            let value = serde_json::json!({
                "kind": kind.as_str(), "message": error.to_string(), "causes": causes,
            });
            self.json("error", &value);
        }
        self.bar_line(&format!("error: {error}"));
        causes.iter().for_each(|cause| self.bar_line(&format!("  because: {cause}")));
    }

    fn out(&self, text: &str) {
        // A closed pipe (`| head`) is the reader's choice, not an error of ours.
        let _closed = writeln!(io::stdout().lock(), "{text}");
    }

    /// A line on standard error, above the bars where there are any.
    fn bar_line(&self, text: &str) {
        // Where nothing is drawn, the bars swallow the line and call that a success.
        let shown = self.face == Face::Terminal && self.bars.println(text).is_ok();
        if !shown {
            eprintln!("{text}");
        }
    }
}

/// Rows of a table, padded so that columns line up.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let columns = head.len();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let body = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    std::iter::once(line(head.to_vec())).chain(body).collect::<Vec<_>>().join("\n")
}

/// Counts by reason in parentheses, after a space; nothing if there are none.
pub fn reasons(counts: &BTreeMap<String, u64>) -> String {
    let each: Vec<_> = counts.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    if each.is_empty() { String::new() } else { format!(" ({})", each.join(", ")) }
}

/// A number of bytes, for people.
pub fn bytes(count: u64) -> String {
    let (unit, scale) = match count {
        0..1024 => return format!("{count} B"),
        1024..0x10_0000 => ("KiB", 1024.0),
        0x10_0000..0x4000_0000 => ("MiB", 1_048_576.0),
        _ => ("GiB", 1_073_741_824.0),
    };
    format!("{:.1} {unit}", count as f64 / scale)
}

/// Bytes per second, for people: in powers of ten, as disks and networks are sold.
pub fn rate(bytes_per_second: f64) -> String {
    match bytes_per_second {
        slow if slow < 1e6 => format!("{:.1} kB/s", slow / 1e3),
        slow if slow < 1e8 => format!("{:.1} MB/s", slow / 1e6),
        fast if fast < 1e9 => format!("{:.0} MB/s", fast / 1e6),
        fast => format!("{:.1} GB/s", fast / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let rows = vec![vec!["a".into(), "10".into()], vec!["longer".into(), "2".into()]];
        assert_eq!(table(&["name", "n"], &rows), "name    n\na       10\nlonger  2");
    }

    #[test]
    fn bytes_read_like_a_person_would_say_them() {
        assert_eq!(
            [bytes(9), bytes(1536), bytes(3 << 20), bytes(5 << 30)],
            ["9 B", "1.5 KiB", "3.0 MiB", "5.0 GiB"]
        );
    }
}
