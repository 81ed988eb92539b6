//! A real S3 server for one test: SeaweedFS on loopback, in a directory that goes with it.
//!
//! The binaries are looked for in the directory that `FOREBAY_TOOLS` names, then on `PATH`;
//! `ci/install-tools` installs them. A server runs in a process group of its own, which is killed
//! when this value is dropped, by a panic too.

use std::{
    env, fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use forebay_lake::{S3, S3Settings, Store};
use forebay_runtime::Runtime;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::key;

/// The bucket that every server has.
pub const BUCKET: &str = "lake";
const ACCESS_KEY: &str = "forebay-key";
const SECRET_KEY: &str = "forebay-secret";
/// How long a server may take to start on a busy machine.
const START_MAX: Duration = Duration::from_secs(60);
const START_LOOK_EVERY: Duration = Duration::from_millis(50);
/// Another process may take a port between its choice and its use.
const STARTS_MAX: u32 = 3;

/// The binary `name`, as a test finds it.
///
/// # Panics
/// When it is not installed, with how to install it: a test that needs it must not pass silently.
#[must_use]
pub fn tool(name: &str) -> PathBuf {
    let tools = env::var_os("FOREBAY_TOOLS").map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    tools
        .into_iter()
        .chain(env::split_paths(&path))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| {
            panic!(
                "this test needs the program `{name}`: run `ci/install-tools` and set \
             FOREBAY_TOOLS=$HOME/.cache/forebay/tools/bin, as `make unit` does"
            )
        })
}

/// A process and all it started; they end with this value.
#[derive(Debug)]
pub struct Group(Child);

impl Group {
    /// Starts `command` in a process group of its own, its output thrown away.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.process_group(0).spawn().unwrap())
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().is_ok_and(|status| status.is_some())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _gone = kill_process_group(pid, Signal::KILL);
        }
        let _reaped = self.0.wait();
    }
}

/// `count` loopback ports that were free a moment ago, each with the one 10000 above it, which
/// SeaweedFS takes for its own traffic.
///
/// # Panics
/// When there are none.
#[must_use]
pub fn free_ports(count: usize) -> Vec<u16> {
    let mut held = Vec::new();
    let mut ports = Vec::new();
    for _ in 0..1000 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port() / 2;
        let pair = [port, port + 10_000].map(|port| TcpListener::bind(("127.0.0.1", port)));
        if port > 10_000 && pair.iter().all(Result::is_ok) {
            held.push(pair);
            ports.push(port);
        }
        if ports.len() == count {
            return ports;
        }
    }
    panic!("no free ports on loopback");
}

/// A running SeaweedFS with one bucket, [`BUCKET`].
#[derive(Debug)]
pub struct S3Server {
    process: Group,
    _folder: tempfile::TempDir,
    runtime: Runtime,
    port: u16,
    filer_port: u16,
}

impl S3Server {
    /// Starts a server and waits until it serves its bucket.
    ///
    /// # Panics
    /// When `weed` is not installed or does not start.
    #[must_use]
    pub fn start() -> Self {
        let runtime = Runtime::system();
        (0..STARTS_MAX).find_map(|_| Self::try_start(&runtime)).expect("weed did not start")
    }

    fn try_start(runtime: &Runtime) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("s3.json");
        let identity = format!(
            r#"{{"identities":[{{"name":"t","credentials":[{{"accessKey":"{ACCESS_KEY}","secretKey":"{SECRET_KEY}"}}],"actions":["Admin"]}}]}}"#
        );
        fs::write(&config, identity).unwrap();
        let ports = free_ports(5);
        let mut command = Command::new(tool("weed"));
        command.arg("mini").arg(format!("-dir={}", folder.path().display()));
        command.arg(format!("-s3.config={}", config.display()));
        command.args([
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-master.telemetry=false",
            "-admin.ui=false",
            "-webdav=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.autoCreateBucket=false",
            "-bucket=lake",
        ]);
        for (role, port) in ["s3", "master", "volume", "filer", "admin"].iter().zip(&ports) {
            let name =
                if *role == "volume" { "volume.port".into() } else { format!("{role}.port") };
            command.arg(format!("-{name}={port}"));
        }
        let process = Group::start(command.current_dir(folder.path()));
        let server = Self {
            process,
            _folder: folder,
            runtime: runtime.clone(),
            port: ports[0],
            filer_port: ports[3],
        };
        server.await_bucket()
    }

    /// Waits until an object can be written, which is the last thing to work.
    fn await_bucket(mut self) -> Option<Self> {
        let store = self.store(&format!("s3://{BUCKET}"));
        let started = self.runtime.elapsed();
        while self.runtime.elapsed().saturating_sub(started) < START_MAX {
            if store.put(&key("ready"), b"yes").is_ok() {
                return store
                    .delete(&key("ready"))
                    .is_ok_and(|was_there| was_there)
                    .then_some(self);
            }
            if self.process.has_ended() {
                return None;
            }
            self.runtime.sleep(START_LOOK_EVERY).unwrap();
        }
        None
    }

    /// The server's port on loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many uploads were begun and neither completed nor aborted. The server keeps each as a
    /// directory, which its own listing shows.
    ///
    /// # Panics
    /// When the server does not say.
    #[must_use]
    pub fn uploads(&self) -> usize {
        let mut socket = TcpStream::connect(("127.0.0.1", self.filer_port)).unwrap();
        let request = format!(
            "GET /buckets/{BUCKET}/.uploads/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\
             Accept: application/json\r\nConnection: close\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer.matches("\"FullPath\"").count()
    }

    /// Where the same objects are served without signatures, below `/buckets/`.
    #[must_use]
    pub fn filer_port(&self) -> u16 {
        self.filer_port
    }

    /// The variables by which it is reached, through `port`: its own, or a proxy's.
    #[must_use]
    pub fn variables_at(&self, port: u16) -> Vec<(String, String)> {
        variables(port, ACCESS_KEY, SECRET_KEY)
    }

    /// The variables by which it is reached.
    #[must_use]
    pub fn variables(&self) -> Vec<(String, String)> {
        self.variables_at(self.port)
    }

    /// The store at `url`, which names a bucket of this server.
    ///
    /// # Panics
    /// When the URL is not sound.
    #[must_use]
    pub fn store(&self, url: &str) -> S3 {
        S3::new(url, self.variables(), S3Settings::default(), &self.runtime).unwrap()
    }
}

/// The variables by which a server on loopback is reached.
#[must_use]
pub fn variables(port: u16, access_key: &str, secret_key: &str) -> Vec<(String, String)> {
    let pairs = [
        ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}")),
        ("AWS_ACCESS_KEY_ID", access_key.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", secret_key.to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value)).into()
}
