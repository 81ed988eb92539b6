//! The trainer on the real engine: a run that is stopped and taken up again ends as one that never
//! was, and what it learned can be scored.

#![allow(clippy::unwrap_used, reason = "functions that tests share")]

use std::{fs, path::Path};

use forebay::{Engine, Event, Name, Run, Runtime, Settings, compare};
use forebay_trainer::{
    DESCRIPTION, DEVICE, LanguageModelScorer, ModelSettings, Outcome, TrainerSettings, train,
};

const STEPS: u64 = 10;

struct Silent;

impl forebay::Progress for Silent {
    fn add(&self, _: forebay::Stage, _: u64, _: u64) {}
}

/// A few kilobytes that can be learned: every line counts on.
fn write_source(directory: &Path) {
    fs::create_dir(directory).unwrap();
    let line = |number: u32| format!("{number} and then {} comes, as always.\n\n", number + 1);
    fs::write(directory.join("numbers.txt"), (0..400).map(line).collect::<String>()).unwrap();
}

fn settings(directory: &Path) -> Settings {
    let mut settings = Settings { steps: STEPS, ..Settings::default() };
    settings.prepare.source = directory.join("source");
    settings.prepare.recipe.row_tokens = 17;
    settings.prepare.recipe.validation_share = 0.1;
    settings.feed.batch_size = 4;
    settings.checkpoint.every_steps = 4;
    let model =
        ModelSettings { width: 16, layers: 1, heads: 2, hidden_width: 32, lookback_tokens: 2 };
    let trainer = TrainerSettings { model, ..TrainerSettings::default() };
    settings.train = serde_json::to_value(trainer).unwrap();
    settings.resolve().unwrap()
}

/// Both tiers in `directory`, as a new process would open them.
fn engine(directory: &Path) -> Engine {
    let store = directory.join("lake").display().to_string();
    Engine::open(&store, &directory.join("local"), 64 << 20, &Runtime::system()).unwrap()
}

/// Trains `name`, asking it to stop once it has recorded step `stop_after`.
fn go(
    engine: &Engine,
    name: &str,
    settings: &Settings,
    stop_after: Option<u64>,
) -> Result<Outcome, forebay::Error> {
    let runtime = engine.runtime().clone();
    let observer = Box::new(move |event: &Event| match event {
        Event::Step(step) if Some(step.step) == stop_after => runtime.cancel(),
        _ => (),
    });
    let trainer = forebay::Trainer { description: DESCRIPTION.into(), device: DEVICE.into() };
    let name = Name::new(name).unwrap();
    let run = Run::open(engine, &name, settings, None, &trainer, observer)?;
    train(run, &serde_json::from_value(settings.train.clone()).unwrap())
}

fn prepared() -> (tempfile::TempDir, Settings) {
    let directory = tempfile::tempdir().unwrap();
    write_source(&directory.path().join("source"));
    let settings = settings(directory.path());
    engine(directory.path()).prepare(&settings, &Silent).unwrap();
    (directory, settings)
}

#[test]
fn a_run_that_was_stopped_and_taken_up_again_ends_as_one_that_never_was() {
    let (directory, settings) = prepared();
    for stop_after in [1, 3, 6] {
        let stopped =
            go(&engine(directory.path()), "stopped", &settings, Some(stop_after)).unwrap();
        assert!(stopped.interrupted, "{stopped:?}");
        assert_eq!(stopped.steps_taken, stop_after + 1);
    }
    let engine = engine(directory.path());
    let stopped = go(&engine, "stopped", &settings, None).unwrap();
    let whole = go(&engine, "whole", &settings, None).unwrap();
    assert_eq!(stopped, whole);
    assert_eq!((whole.steps_taken, whole.interrupted), (STEPS, false));
    let name = |text: &str| Name::new(text).unwrap();
    let compared = compare::runs(&engine, &name("stopped"), &name("whole")).unwrap();
    assert_eq!((compared.losses, compared.difference), (STEPS, None));
}

#[test]
fn a_finished_run_is_left_as_it_is() {
    let (directory, settings) = prepared();
    let engine = engine(directory.path());
    let first = go(&engine, "run", &settings, None).unwrap();
    assert_eq!(go(&engine, "run", &settings, None).unwrap(), first);
}

#[test]
fn what_was_learned_can_be_scored() {
    let (directory, settings) = prepared();
    let engine = engine(directory.path());
    go(&engine, "run", &settings, None).unwrap();
    let name = Name::new("run").unwrap();
    let record = engine.run_record(&name).unwrap();
    let mut scorer = LanguageModelScorer::new(&engine, &record).unwrap();
    let score = engine.evaluate(&name, None, &settings, &mut scorer).unwrap();
    assert!(score.measures.predictions > 0);
    // Ten steps teach little, but more than nothing: 257 tokens, all alike, cost 5.5 nats.
    assert!(score.measures.loss < 5.0, "{}", score.measures.loss);
}
