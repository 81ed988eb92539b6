//! A bench for whole-program tests: the real binary, real text, a lake and a tier of its own.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// A directory with a source, a configuration, a lake and a local tier.
pub struct Bench {
    folder: tempfile::TempDir,
}

/// What a command said.
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Small enough for a debug build, large enough to be sharded, evicted and resumed.
const CONFIGURATION: &str = r#"
steps = 24
local_budget_bytes = 16777216

[prepare.recipe]
row_tokens = 33
shard_bytes = 32768
batch_bytes = 8192
validation_share = 0.1

[feed]
batch_size = 4

[train.model]
width = 16
layers = 1
heads = 2
hidden_width = 32

[train.optimizer]
warm_up_steps = 4

[checkpoint]
every_steps = 6

[gate]
loss_max = 100.0
"#;

impl Bench {
    pub fn new() -> Self {
        let bench = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(bench.path("raw")).unwrap();
        bench.write_source("moby.txt", &moby(200_000));
        fs::write(bench.path("forebay.toml"), CONFIGURATION).unwrap();
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn lake(&self, key: &str) -> PathBuf {
        self.path("lake").join(key)
    }

    pub fn write_source(&self, name: &str, text: &str) {
        fs::write(self.path("raw").join(name), text).unwrap();
    }

    /// Adds lines to the configuration, before its first section.
    pub fn configure(&self, lines: &str) {
        let text = fs::read_to_string(self.path("forebay.toml")).unwrap();
        fs::write(self.path("forebay.toml"), format!("{lines}\n{text}")).unwrap();
    }

    /// Replaces a text in the configuration.
    pub fn reconfigure(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.path("forebay.toml")).unwrap();
        assert!(text.contains(from), "{from} is not in the configuration");
        fs::write(self.path("forebay.toml"), text.replace(from, to)).unwrap();
    }

    /// The command, not started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        command
            .args(arguments)
            .arg("--store")
            .arg(self.path("lake"))
            .arg("--local")
            .arg(self.path("local"))
            .arg("--config")
            .arg(self.path("forebay.toml"))
            .stdin(Stdio::null())
            .env_remove("FOREBAY_CRASH_AT");
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Said {
        Said::of(self.command(arguments).output().unwrap())
    }

    /// Runs a command that must succeed.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> Said {
        let said = self.run(arguments);
        assert_eq!(said.code, Some(0), "{arguments:?} said:\n{}\n{}", said.out, said.err);
        said
    }

    /// Runs a command that must fail with `code` and say every text of `says`.
    #[track_caller]
    pub fn fails(&self, arguments: &[&str], code: i32, says: &[&str]) -> Said {
        let said = self.run(arguments);
        assert_eq!(said.code, Some(code), "{arguments:?} said:\n{}\n{}", said.out, said.err);
        for text in says {
            assert!(said.err.contains(text), "{arguments:?} does not say `{text}`:\n{}", said.err);
        }
        said
    }

    /// Runs `forebay train RUN` until it dies at a crash point.
    #[track_caller]
    pub fn crash(&self, arguments: &[&str], point: &str) {
        let mut command = self.command(arguments);
        let said = Said::of(command.env("FOREBAY_CRASH_AT", point).output().unwrap());
        assert_eq!(said.code, None, "{point} was not reached:\n{}\n{}", said.out, said.err);
    }

    pub fn source_flag(&self) -> String {
        self.path("raw").display().to_string()
    }

    #[track_caller]
    pub fn prepare(&self) -> Said {
        self.ok(&["prepare", "--source", &self.source_flag()])
    }

    /// Whether a shard is listed on a page of the validation split.
    pub fn is_validation(&self, shard: &str) -> bool {
        let read = |key: &str| -> serde_json::Value {
            serde_json::from_str(&fs::read_to_string(self.lake(key)).unwrap()).unwrap()
        };
        let manifest = read("datasets/day-text/v1.json");
        let splits = manifest["body"]["splits"].as_array().unwrap();
        let validation = splits.iter().find(|split| split["split"] == "validation").unwrap();
        validation["pages"].as_array().unwrap().iter().any(|page| {
            let page = read(&format!("shards/{}.page.json", page.as_str().unwrap()));
            page["body"]["shards"].as_array().unwrap().iter().any(|s| s["digest"] == shard)
        })
    }

    /// Every file below `folder`, as paths relative to it.
    pub fn files(&self, folder: &str) -> Vec<String> {
        let root = self.path(folder);
        let mut found = Vec::new();
        walk(&root, &mut |path| {
            found.push(path.strip_prefix(&root).unwrap().display().to_string());
        });
        found.sort();
        found
    }
}

impl Said {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The JSON objects of kind `kind` on standard output.
    pub fn json(&self, kind: &str) -> Vec<serde_json::Value> {
        self.out
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .filter(|line| line["kind"] == kind)
            .map(|mut line| line["value"].take())
            .collect()
    }
}

/// The first `bytes` of the novel in `data/`, which is 7-bit where it is cut.
fn moby(bytes: usize) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/raw/moby-dick.txt.gz");
    let output = Command::new("gzip").arg("-dc").arg(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let end = (bytes..).find(|&end| text.is_char_boundary(end)).unwrap();
    text[..end].to_owned()
}

fn walk(folder: &Path, visit: &mut dyn FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, visit) } else { visit(&path) }
    }
}

/// Changes one bit in the middle of a file.
pub fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(path, bytes).unwrap();
}
