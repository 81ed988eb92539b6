//! The trainer as a child process of the day.
//!
//! The child is `forebay train … --json`; the day reads its events from a pipe. The child dies
//! with its parent, so that a killed day leaves no trainer behind that would write on.

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use forebay::{ErrorKind, Event, Name};
use serde::Deserialize;

use crate::{Context, error::CommandError};

/// How a trainer process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It took its last step.
    Finished,
    /// It was killed after this step.
    Killed {
        /// The last step it was seen to take.
        step: u64,
    },
}

/// What to start, and when to kill it.
pub struct TrainProcess<'a> {
    pub run: &'a Name,
    pub arguments: Vec<String>,
    pub kill_step: Option<u64>,
}

#[derive(Deserialize)]
struct Line {
    kind: String,
    value: serde_json::Value,
}

impl TrainProcess<'_> {
    /// Runs the process to its end; `seen` is given every event.
    pub fn run(
        &self,
        context: &Context<'_>,
        mut seen: impl FnMut(&Event),
    ) -> Result<Ended, CommandError> {
        let mut child = self.start()?;
        let stdout = child.stdout.take();
        let stdout = stdout.ok_or_else(|| CommandError::Broken("a pipe was asked for".into()))?;
        let mut killed = None;
        for line in BufReader::new(stdout).lines() {
            let line = line.map_err(|source| CommandError::Child { act: "read", source })?;
            if let Some(event) = event(&line) {
                seen(&event);
                if let (Event::Step(step), None) = (&event, killed)
                    && Some(step.step) == self.kill_step
                {
                    child.kill().map_err(|source| CommandError::Child { act: "kill", source })?;
                    killed = Some(step.step);
                }
            }
            if context.runtime.check().is_err() {
                terminate(&child);
            }
        }
        let status =
            child.wait().map_err(|source| CommandError::Child { act: "wait for", source })?;
        context.runtime.check()?;
        match (killed, status.code()) {
            (Some(step), None) => Ok(Ended::Killed { step }),
            (_, Some(0)) => Ok(Ended::Finished),
            (_, code) => Err(self.failed(code.unwrap_or(-1))),
        }
    }

    fn start(&self) -> Result<Child, CommandError> {
        let program =
            env::current_exe().map_err(|source| CommandError::Child { act: "find", source })?;
        Command::new(program)
            .args(["train", self.run.as_str(), "--json", "--with-parent"])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|source| CommandError::Child { act: "start", source })
    }

    fn failed(&self, code: i32) -> CommandError {
        let kind = ErrorKind::ALL.into_iter().find(|kind| i32::from(kind.exit_code()) == code);
        CommandError::ChildFailed {
            run: self.run.to_string(),
            code,
            kind: kind.unwrap_or(ErrorKind::Internal),
        }
    }
}

fn event(line: &str) -> Option<Event> {
    let line: Line = serde_json::from_str(line).ok()?;
    (line.kind == "event").then(|| serde_json::from_value(line.value).ok()).flatten()
}

/// Asks the child to save and end; it may have ended by itself.
fn terminate(child: &Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ended = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// Makes the operating system kill this process when its parent dies.
#[cfg(target_os = "linux")]
pub fn die_with_parent() {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    let asked = set_parent_process_death_signal(Some(Signal::KILL));
    // The parent may have died before we asked; its orphan has another parent by then.
    if asked.is_err() || getppid().is_none_or(rustix::process::Pid::is_init) {
        std::process::exit(i32::from(ErrorKind::Interrupted.exit_code()));
    }
}

/// Elsewhere the child lives on until its next event finds no reader.
#[cfg(not(target_os = "linux"))]
pub fn die_with_parent() {}
