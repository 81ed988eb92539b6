//! `forebay doctor`: whether this node and its tiers are fit, and what limits them.

use forebay::doctor::{self, Area, Bound, Bounds, Diagnosis, State, Step};

use crate::{
    Context, config,
    error::CommandError,
    flags::Doctor,
    printer::{rate, table},
};

pub fn run(context: &Context<'_>, flags: &Doctor) -> Result<(), CommandError> {
    let settings = config::settings(context.flags)?.resolve()?;
    let begin = |area| context.printer.note(&format!("examining {}", the(area)));
    let probe_bytes = flags.probe_bytes.unwrap_or(doctor::PROBE_BYTES_DEFAULT);
    let diagnosis = doctor::examine(&settings, probe_bytes, context.runtime, &begin)?;
    context.printer.result("diagnosis", &diagnosis, &describe(&diagnosis));
    Ok(diagnosis.require_fit()?)
}

/// Every finding with what to do about it, then what limits throughput, for people.
fn describe(diagnosis: &Diagnosis) -> String {
    let mut rows = Vec::new();
    for finding in &diagnosis.findings {
        let state = match finding.state {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Failure => "FAILURE",
        };
        let area = the(finding.area).trim_start_matches("the ").trim_start_matches("this ");
        let found = finding.found.clone();
        rows.push(vec![state.into(), area.into(), finding.check.into(), found]);
        if let Some(advice) = &finding.advice {
            rows.push(vec![String::new(), String::new(), String::new(), format!("-> {advice}")]);
        }
    }
    let findings = table(&["state", "of", "check", "found"], &rows);
    format!("{findings}\n\n{}", limits(&diagnosis.bounds))
}

fn the(area: Area) -> &'static str {
    match area {
        Area::Lake => "the lake",
        Area::Local => "the local tier",
        Area::Node => "this node",
    }
}

fn limits(bounds: &Bounds) -> String {
    let cold = match bounds.cold {
        Some(Bound { step, bytes_per_second }) => {
            let limit = match step {
                Step::LakeRead => "reading from the lake",
                Step::Digest => "verifying it (BLAKE3)",
                Step::LocalWrite => "writing to the local tier",
                Step::LocalRead => "reading from the local tier",
            };
            let rate = rate(bytes_per_second);
            format!("cold data arrives at {rate} at most: {limit} is the limit")
        }
        None => "how fast cold data arrives is not known: not all of its way was measured".into(),
    };
    let warm = match bounds.warm {
        Some(bound) => {
            format!("; warm data, on the node already, at {}", rate(bound.bytes_per_second))
        }
        None => String::new(),
    };
    format!("What limits throughput: {cold}{warm}.")
}
