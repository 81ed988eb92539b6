//! A bad network: a proxy that hands bytes on between a client and a server on loopback, and
//! spoils exchanges when it is told to.
//!
//! It reads each request (its body too, by its length) and then lets a rule decide what becomes of
//! it. Every connection has a thread, which ends when its client hangs up.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use forebay_runtime::{Runtime, Task};

/// What becomes of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireFault {
    /// The connection is dropped before the server sees the request.
    Drops,
    /// The server does as it is told, and the answer is thrown away with the connection.
    LosesReply,
    /// The client is told to slow down and when to come back, in seconds.
    SlowsDown(u64),
    /// So many bytes of the answer arrive, then the connection is dropped.
    CutsAfter(usize),
    /// So many bytes of the answer arrive, then nothing more.
    StallsAfter(usize),
}

struct Rule {
    request_part: String,
    times: usize,
    fault: WireFault,
}

#[derive(Default)]
struct Shared {
    port: u16,
    rules: Mutex<Vec<Rule>>,
    requests: AtomicUsize,
    has_ended: AtomicBool,
    /// Connections whose answer stalls, kept open until the end.
    stalled: Mutex<Vec<TcpStream>>,
}

/// A proxy before a server on loopback; it stops listening when it is dropped.
pub struct FaultProxy {
    shared: Arc<Shared>,
    port: u16,
    listener: Option<Task<()>>,
}

impl FaultProxy {
    /// A proxy before the server at `server_port` that behaves, so far.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn start(server_port: u16) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let shared = Arc::new(Shared { port: server_port, ..Shared::default() });
        let runtime = Runtime::system();
        let listen = {
            let (shared, runtime) = (shared.clone(), runtime.clone());
            move || {
                for client in socket.incoming().map_while(Result::ok) {
                    if shared.has_ended.load(Ordering::SeqCst) {
                        return;
                    }
                    let shared = shared.clone();
                    let _ends_itself = runtime.spawn("fault-proxy", move || {
                        let _hung_up = shared.serve(client);
                    });
                }
            }
        };
        Self { shared, port, listener: Some(runtime.spawn("fault-proxy-listener", listen)) }
    }

    /// Where it listens, on loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many requests came so far.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// The next `times` requests whose first line contains `request_part` meet `fault`.
    pub fn inject(&self, request_part: &str, times: usize, fault: WireFault) {
        let rule = Rule { request_part: request_part.into(), times, fault };
        self.shared.rules.lock().unwrap_or_else(PoisonError::into_inner).push(rule);
    }

    /// Forgets every rule.
    pub fn behave(&self) {
        self.shared.rules.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.has_ended.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _woken = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(listener) = self.listener.take() {
            let _ended = listener.join();
        }
    }
}

impl Shared {
    fn fault(&self, line: &str) -> Option<WireFault> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let rule =
            rules.iter_mut().find(|rule| rule.times > 0 && line.contains(&rule.request_part))?;
        rule.times -= 1;
        Some(rule.fault)
    }

    /// Serves one connection until an end hangs up.
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let mut unread = Vec::new();
        loop {
            let request = read_message(&mut client, &mut unread)?;
            self.requests.fetch_add(1, Ordering::SeqCst);
            let line = String::from_utf8_lossy(&request);
            let line = line.lines().next().unwrap_or_default();
            let fault = self.fault(line);
            match fault {
                Some(WireFault::Drops) => return client.shutdown(Shutdown::Both),
                Some(WireFault::SlowsDown(seconds)) => {
                    let body = "<Error><Code>SlowDown</Code></Error>";
                    let length = body.len();
                    let head = format!(
                        "HTTP/1.1 503 Slow Down\r\nRetry-After: {seconds}\r\n\
                         Content-Length: {length}\r\n\r\n"
                    );
                    client.write_all(head.as_bytes())?;
                    client.write_all(body.as_bytes())?;
                    continue;
                }
                _ => {}
            }
            let answer = self.ask(&request)?;
            match fault {
                Some(WireFault::LosesReply) => return client.shutdown(Shutdown::Both),
                Some(WireFault::CutsAfter(bytes)) => {
                    client.write_all(&answer[..bytes.min(answer.len())])?;
                    return client.shutdown(Shutdown::Both);
                }
                Some(WireFault::StallsAfter(bytes)) => {
                    client.write_all(&answer[..bytes.min(answer.len())])?;
                    let mut stalled = self.stalled.lock().unwrap_or_else(PoisonError::into_inner);
                    stalled.push(client);
                    return Ok(());
                }
                _ => {
                    client.write_all(&answer)?;
                    // The server hung up after its answer, so we do.
                    return client.shutdown(Shutdown::Both);
                }
            }
        }
    }

    /// Sends a request to the server over a connection of its own, and returns the whole answer.
    fn ask(&self, request: &[u8]) -> io::Result<Vec<u8>> {
        let mut server = TcpStream::connect(("127.0.0.1", self.port))?;
        let (line, rest) = split_line(request);
        server.write_all(line)?;
        server.write_all(b"connection: close\r\n")?;
        server.write_all(rest)?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        Ok(answer)
    }
}

/// The first line with its end, and the rest.
fn split_line(request: &[u8]) -> (&[u8], &[u8]) {
    let end = request.iter().position(|byte| *byte == b'\n').map_or(request.len(), |at| at + 1);
    request.split_at(end)
}

/// A request with its body; what came after it stays in `unread`.
fn read_message(client: &mut TcpStream, unread: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    let mut piece = vec![0; 64 << 10];
    loop {
        if let Some(end) = unread.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&unread[..end]).to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"))
                .map_or(0, |length| length.trim().parse::<usize>().unwrap());
            if unread.len() >= end + 4 + length {
                let rest = unread.split_off(end + 4 + length);
                return Ok(std::mem::replace(unread, rest));
            }
        }
        match client.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => unread.extend_from_slice(&piece[..read]),
        }
    }
}
