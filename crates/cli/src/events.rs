//! Shows what happens in a run, as it happens.

use forebay::{Event, journal::Step};

use crate::printer::{Printer, bytes};

/// Shows one event of a run of `steps` steps.
pub fn show(printer: &Printer, run: &str, steps: u64, event: &Event) {
    printer.json("event", event);
    match event {
        Event::Step(step) => show_step(printer, run, steps, step),
        Event::Resumed(resumed) => printer.note(&format!(
            "resumed at step {} from the {} tier in {:.3} s",
            resumed.step, resumed.tier, resumed.seconds
        )),
        Event::CheckpointCommitted(saved) => printer.note(&format!(
            "checkpoint at step {}: {}, paused {:.1} ms, staged after {:.0} ms, committed after {:.0} ms",
            saved.step,
            bytes(saved.bytes),
            saved.pause_seconds * 1e3,
            saved.stage_seconds * 1e3,
            saved.durable_seconds * 1e3
        )),
        Event::Killed(killed) => printer.note(&format!("killed with SIGKILL after step {}", killed.step)),
        _ => {}
    }
}

fn show_step(printer: &Printer, run: &str, steps: u64, step: &Step) {
    let detail = format!("loss {:.3}  waited {:.1} ms", step.loss, step.waited_seconds * 1e3);
    printer.progress(run, step.step + 1, steps, &detail);
}
