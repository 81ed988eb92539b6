//! The binary `forebay`: it parses, calls the facade and prints. It decides nothing.

mod commands;
mod config;
mod error;
mod events;
mod flags;
mod printer;

use std::process::ExitCode;

use clap::Parser;
use forebay::{ErrorKind, Runtime};

use crate::{
    error::CommandError,
    flags::{Archive, Bench, Checkpoint, Flags, Verb},
    printer::Printer,
};

/// What every command is given.
pub struct Context<'a> {
    /// The flags every verb understands.
    pub flags: &'a flags::Common,
    /// Where it speaks.
    pub printer: &'a Printer,
    /// Its clock, and the flag that Ctrl-C sets.
    pub runtime: &'a Runtime,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let printer = Printer::new(flags.common.json);
    let runtime = Runtime::system();
    let stopper = runtime.clone();
    if let Err(error) = ctrlc::set_handler(move || stopper.cancel()) {
        printer.note(&format!("Ctrl-C will end the program at once: {error}"));
    }
    let context = Context { flags: &flags.common, printer: &printer, runtime: &runtime };
    match dispatch(&context, flags.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let kind = error.kind();
            printer.failure(kind, &error);
            ExitCode::from(kind.exit_code())
        }
    }
}

fn dispatch(context: &Context<'_>, verb: Verb) -> Result<(), CommandError> {
    match verb {
        Verb::Day(flags) => commands::day::run(context, flags),
        Verb::Prepare(flags) => commands::prepare::run(context, flags),
        Verb::Index(flags) => commands::index::run(context, flags),
        Verb::Train(flags) => commands::train::run(context, flags),
        Verb::Checkpoint(Checkpoint::List(flags)) => commands::checkpoint::list(context, &flags),
        Verb::Checkpoint(Checkpoint::Show(flags)) => commands::checkpoint::show(context, &flags),
        Verb::Checkpoint(Checkpoint::Diff(flags)) => commands::checkpoint::diff(context, &flags),
        Verb::Checkpoint(Checkpoint::Now(flags)) => commands::checkpoint::now(context, &flags),
        Verb::Checkpoint(Checkpoint::Drain(flags)) => commands::checkpoint::drain(context, &flags),
        Verb::Checkpoint(Checkpoint::Sweep(flags)) => commands::checkpoint::sweep(context, &flags),
        Verb::Checkpoint(Checkpoint::Convert(flags)) => {
            commands::checkpoint::convert(context, &flags)
        }
        Verb::Checkpoint(Checkpoint::Fork(flags)) => commands::checkpoint::fork(context, &flags),
        Verb::Checkpoint(Checkpoint::Retain(flags)) => {
            commands::checkpoint::retain(context, &flags)
        }
        Verb::Checkpoint(Checkpoint::Verify(flags)) => {
            commands::checkpoint::verify(context, &flags)
        }
        Verb::Checkpoint(Checkpoint::Restore(flags)) => {
            commands::checkpoint::restore(context, &flags)
        }
        Verb::Checkpoint(Checkpoint::Remove(flags)) => {
            commands::checkpoint::remove(context, &flags)
        }
        Verb::Evaluate(flags) => commands::evaluate::run(context, &flags),
        Verb::Archive(Archive::Publish(flags)) => commands::archive::publish(context, flags),
        Verb::Archive(Archive::Verify(flags)) => commands::archive::verify(context, &flags),
        Verb::Archive(Archive::Restore(flags)) => commands::archive::restore(context, &flags),
        Verb::Archive(Archive::List(flags)) => commands::archive::list(context, &flags),
        Verb::Trace(flags) => commands::trace::run(context, &flags),
        Verb::Bench(Bench::Feed(flags)) => commands::bench::feed(context, &flags),
        Verb::Doctor(flags) => commands::doctor::run(context, &flags),
        Verb::Clear(_) => commands::clear::run(context),
        Verb::Config(_) => commands::config::run(context),
    }
}

/// The kind of a failure that is not the engine's.
const USAGE: ErrorKind = ErrorKind::Invalid;
