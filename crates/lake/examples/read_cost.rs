//! What reading a bucket costs: CPU seconds of this process per GiB, beside a bare socket that
//! reads the same bytes from the same server, in the same run.
//!
//! `cargo run --release -p forebay-lake --example read_cost`

#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on panics")]

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
};

use forebay_lake::{Lake, Purpose};
use forebay_runtime::Runtime;
use forebay_testing::{S3Server, key};

const MIB: usize = 1 << 20;
const OBJECT_BYTES: usize = 256 * MIB;
const ROUNDS: usize = 4;

/// The CPU time of this process in seconds, of its own code and of the kernel for it.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // Linux tells it in hundredths, whatever the machine.
    ticks as f64 / 100.0
}

/// Reads `OBJECT_BYTES × ROUNDS` in ranges of `length`, and prints what that cost.
fn measure(what: &str, length: usize, mut read: impl FnMut(u64, &mut [u8])) {
    let runtime = Runtime::system();
    let mut into = vec![0; length];
    let (cpu, stopwatch) = (cpu_seconds(), runtime.stopwatch());
    for _ in 0..ROUNDS {
        (0..OBJECT_BYTES).step_by(length).for_each(|offset| read(offset as u64, &mut into));
    }
    let gib = (OBJECT_BYTES * ROUNDS) as f64 / (1 << 30) as f64;
    let (cpu, seconds) = ((cpu_seconds() - cpu) / gib, stopwatch.seconds());
    let speed = gib / seconds;
    println!("{what:8} {:3} MiB ranges: {cpu:.2} CPU s/GiB, {speed:.2} GiB/s", length / MIB);
}

/// One ranged GET of a bare socket: what no client can undercut.
fn bare(socket: &mut TcpStream, offset: u64, into: &mut [u8]) {
    let last = offset + into.len() as u64 - 1;
    let request = format!(
        "GET /buckets/lake/object HTTP/1.1\r\nHost: 127.0.0.1\r\nRange: bytes={offset}-{last}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    let mut piece = [0; 4096];
    let body = loop {
        let read = socket.read(&mut piece).unwrap();
        head.extend_from_slice(&piece[..read]);
        if let Some(end) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break head.split_off(end + 4);
        }
    };
    into[..body.len()].copy_from_slice(&body);
    socket.read_exact(&mut into[body.len()..]).unwrap();
}

fn main() {
    let server = S3Server::start();
    let lake = Lake::new(std::sync::Arc::new(server.store("s3://lake")), &Runtime::system());
    let body: Vec<u8> = (0..OBJECT_BYTES).map(|at| ((at * 7) >> 3) as u8).collect();
    lake.write(&key("object"), Purpose::Source, &body).unwrap();
    for length in [4 * MIB, 16 * MIB] {
        let mut socket = TcpStream::connect(("127.0.0.1", server.filer_port())).unwrap();
        for _ in 0..2 {
            measure("bare", length, |offset, into| bare(&mut socket, offset, into));
            measure("lake", length, |offset, into| {
                lake.read_range(&key("object"), Purpose::Source, offset, into).unwrap();
            });
        }
    }
}
