//! `forebay index`: a dataset that stays where it lies becomes a version.

use std::sync::atomic::{AtomicU64, Ordering};

use forebay::{FormatChoice, IndexProgress, IndexSettings, Indexed, Source, Split, SplitRule};

use crate::{
    Context, config,
    error::CommandError,
    flags::Index,
    printer::{Printer, bytes, reasons},
};

pub fn run(context: &Context<'_>, flags: Index) -> Result<(), CommandError> {
    let settings = config::settings(context.flags)?.resolve()?;
    let source = Source { store: flags.source, paths: flags.paths };
    let mut index = IndexSettings::new(flags.name, source);
    index.format = flags.format.map_or(FormatChoice::Detect, FormatChoice::Named);
    index.splits = SplitRule::parse(&flags.splits)?;
    index.extent_bytes = flags.extent_bytes.unwrap_or(index.extent_bytes);
    index.workers = flags.workers.unwrap_or(index.workers);
    index.fresh = flags.fresh;
    let engine = config::engine(context, &settings)?;
    let bar = Bar { printer: context.printer, done_bytes: AtomicU64::new(0) };
    let indexed = engine.index(&index, &bar)?;
    if indexed.trained_on_held_out > 0 {
        context.printer.note(&format!(
            "{} files are trained on whose names say that they are meant to be held out; \
             `--split names` holds them out",
            indexed.trained_on_held_out
        ));
    }
    context.printer.result("indexed", &indexed.manifest, &describe(&indexed));
    Ok(())
}

/// What the index is of, for people.
fn describe(indexed: &Indexed) -> String {
    let manifest = &indexed.manifest;
    let rows = |split| manifest.split(split).map_or(0, |split| split.rows);
    let fields: Vec<&str> =
        manifest.schema.fields.iter().map(|field| field.name.as_str()).collect();
    format!(
        "{name}@{version}{reused}: {files} {format} files ({size}), {passed_over} passed over{why}; \
         {train} train and {validation} validation rows of {fields} in {extents} extents; {read} \
         files ({read_size}) were looked through now",
        name = manifest.name,
        version = manifest.version.number(),
        reused = if indexed.reused { " (unchanged, reused)" } else { "" },
        files = manifest.files,
        format = manifest.dialect,
        size = bytes(manifest.file_bytes),
        passed_over = manifest.passed_over.values().sum::<u64>(),
        why = reasons(&manifest.passed_over),
        train = rows(Split::Train),
        validation = rows(Split::Validation),
        fields = fields.join(", "),
        extents = indexed.extents(),
        read = indexed.read_files,
        read_size = bytes(indexed.read_bytes),
    )
}

/// Shows how many bytes are looked through.
struct Bar<'a> {
    printer: &'a Printer,
    done_bytes: AtomicU64,
}

impl IndexProgress for Bar<'_> {
    fn add(&self, done_bytes: u64, total_bytes: u64) {
        let done = self.done_bytes.fetch_add(done_bytes, Ordering::Relaxed) + done_bytes;
        self.printer.progress("index", done, total_bytes, "bytes");
    }
}
