//! One connection: HTTP/1.1 over TCP or TLS, blocking, one request at a time.
//!
//! It exists because moving bytes is what the lake is for: a body goes from the socket straight
//! into the caller's memory, where general clients copy it once or thrice, and a read gives up
//! when no byte comes for a while, where they limit whole bodies. Only what S3 stores send is
//! understood: `Content-Length`, chunks, and bodies that end with the connection.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

/// The most that status line and headers of an answer may take.
const HEAD_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 100;
/// What one read of a head or of a chunk's frame asks for.
const READ_BYTES: usize = 16 << 10;

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => &tls.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = match self {
                Self::Plain(socket) => socket.read(into),
                Self::Tls(tls) => tls.read(into),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

/// Where to connect, and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) is_tls: bool,
}

/// A connection, and what was read from it but not used.
pub(super) struct Connection {
    stream: Stream,
    unread: Vec<u8>,
    /// Where in `unread` the next byte is.
    next: usize,
    /// When it was last used, on the runtime's clock.
    pub(super) idle_since: Duration,
}

/// What a request consists of.
pub(super) struct Request<'a> {
    pub(super) method: &'a Method,
    /// Path and query.
    pub(super) target: &'a str,
    pub(super) authority: &'a str,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [Bytes],
}

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes are left.
    Length(u64),
    /// So many bytes of this chunk are left; none: the next line is a chunk's head.
    Chunk(u64),
    /// Until the connection ends.
    Close,
    /// It was read to its end.
    Done,
}

/// Status line and headers of an answer.
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) framing: Framing,
    /// Whether the connection may serve another request after the body.
    pub(super) is_reusable: bool,
}

impl Connection {
    pub(super) fn open(
        endpoint: &Endpoint,
        tls: Option<&Arc<ClientConfig>>,
        connect_timeout: Duration,
        progress_timeout: Duration,
    ) -> io::Result<Self> {
        let host = endpoint.host.trim_start_matches('[').trim_end_matches(']');
        // A name that does not resolve may be a mistake, or a hiccup of the resolver.
        let unresolved = |why: String| io::Error::new(io::ErrorKind::ConnectionRefused, why);
        let addresses = (host, endpoint.port)
            .to_socket_addrs()
            .map_err(|error| unresolved(format!("the name has no address ({error})")))?;
        let mut outcome = Err(unresolved("the name has no address".into()));
        for address in addresses {
            outcome = TcpStream::connect_timeout(&address, connect_timeout);
            if outcome.is_ok() {
                break;
            }
        }
        let socket = outcome?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(progress_timeout))?;
        socket.set_write_timeout(Some(progress_timeout))?;
        let stream = match tls {
            Some(config) => {
                let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
                let session =
                    ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
                Stream::Tls(Box::new(StreamOwned::new(session, socket)))
            }
            None => Stream::Plain(socket),
        };
        Ok(Self { stream, unread: Vec::new(), next: 0, idle_since: Duration::ZERO })
    }

    /// Whether nothing came on an idle connection: neither its end nor an answer nobody asked for.
    pub(super) fn is_quiet(&self) -> bool {
        let socket = self.stream.socket();
        if self.next < self.unread.len() || socket.set_nonblocking(true).is_err() {
            return false;
        }
        let peeked = socket.peek(&mut [0]);
        let is_restored = socket.set_nonblocking(false).is_ok();
        is_restored && peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends a request and reads the head of its answer.
    ///
    /// A store may answer and hang up before it has read a whole body, so the answer is looked for
    /// even when sending failed.
    pub(super) fn exchange(&mut self, request: &Request<'_>) -> io::Result<Head> {
        let sent = self.send(request);
        match (sent, self.head(request.method)) {
            (Ok(()), head) => head,
            (Err(_), Ok(head)) => Ok(Head { is_reusable: false, ..head }),
            (Err(error), Err(_)) => Err(error),
        }
    }

    fn send(&mut self, request: &Request<'_>) -> io::Result<()> {
        let Request { method, target, authority, headers, body } = request;
        let mut head = Vec::with_capacity(1024);
        head.extend_from_slice(format!("{method} {target} HTTP/1.1\r\n").as_bytes());
        let mut line = |name: &str, value: &[u8]| {
            for piece in [name.as_bytes(), b": ", value, b"\r\n"] {
                head.extend_from_slice(piece);
            }
        };
        line("host", authority.as_bytes());
        for (name, value) in *headers {
            if ![header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(name) {
                line(name.as_str(), value.as_bytes());
            }
        }
        let length: usize = body.iter().map(Bytes::len).sum();
        if length > 0 || [Method::PUT, Method::POST].contains(method) {
            line("content-length", length.to_string().as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        // A small body goes with its head: one packet instead of two.
        if length <= READ_BYTES {
            body.iter().for_each(|piece| head.extend_from_slice(piece));
            self.stream.write_all(&head)?;
        } else {
            self.stream.write_all(&head)?;
            body.iter().try_for_each(|piece| self.stream.write_all(piece))?;
        }
        self.stream.flush()
    }

    fn head(&mut self, method: &Method) -> io::Result<Head> {
        loop {
            if let Some(head) = self.parse_head(method)? {
                // `100 Continue` and its like announce the answer.
                if !head.status.is_informational() {
                    return Ok(head);
                }
            } else if self.unread.len() - self.next > HEAD_BYTES_MAX {
                return Err(malformed("its headers do not end"));
            } else if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn parse_head(&mut self, method: &Method) -> io::Result<Option<Head>> {
        let mut slots = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Response::new(&mut slots);
        let length = match parsed.parse(&self.unread[self.next..]) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(malformed(&error.to_string())),
        };
        let status = StatusCode::from_u16(parsed.code.unwrap_or_default())
            .map_err(|_| malformed("its status is no number from 100 to 999"))?;
        let mut headers = HeaderMap::with_capacity(parsed.headers.len());
        for field in parsed.headers.iter() {
            let name = HeaderName::from_bytes(field.name.as_bytes());
            let value = HeaderValue::from_bytes(field.value);
            if let (Ok(name), Ok(value)) = (name, value) {
                headers.append(name, value);
            }
        }
        let framing = framing(method, status, &headers)?;
        let says = |value: &str| has_token(&headers, &header::CONNECTION, value);
        let is_reusable = framing != Framing::Close
            && if parsed.version == Some(1) { !says("close") } else { says("keep-alive") };
        self.next += length;
        Ok(Some(Head { status, headers, framing, is_reusable }))
    }

    /// Reads more into `unread`; says how much.
    fn fill(&mut self) -> io::Result<usize> {
        self.unread.drain(..self.next);
        self.next = 0;
        let length = self.unread.len();
        self.unread.resize(length + READ_BYTES, 0);
        let result = self.stream.read(&mut self.unread[length..]);
        self.unread.truncate(length + *result.as_ref().unwrap_or(&0));
        result
    }

    /// Reads of a body what comes first; 0 at its end.
    pub(super) fn read_body(
        &mut self,
        framing: &mut Framing,
        into: &mut [u8],
    ) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        if *framing == Framing::Chunk(0) {
            self.next_chunk(framing)?;
        }
        let most = match framing {
            Framing::Done => return Ok(0),
            Framing::Close => into.len(),
            Framing::Length(left) | Framing::Chunk(left) => {
                usize::try_from(*left).map_or(into.len(), |left| left.min(into.len()))
            }
        };
        let read = self.take(&mut into[..most])?;
        match framing {
            Framing::Close if read == 0 => *framing = Framing::Done,
            Framing::Length(_) | Framing::Chunk(_) if read == 0 => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Framing::Length(left) => {
                *left -= read as u64;
                if *left == 0 {
                    *framing = Framing::Done;
                }
            }
            Framing::Chunk(left) => {
                *left -= read as u64;
                if *left == 0 {
                    self.line()?;
                }
            }
            Framing::Close | Framing::Done => {}
        }
        Ok(read)
    }

    /// What was read before, or else straight from the stream.
    fn take(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let unread = &self.unread[self.next..];
        if unread.is_empty() {
            return self.stream.read(into);
        }
        let length = unread.len().min(into.len());
        into[..length].copy_from_slice(&unread[..length]);
        self.next += length;
        Ok(length)
    }

    /// Reads the head of the next chunk, and what follows the last one.
    fn next_chunk(&mut self, framing: &mut Framing) -> io::Result<()> {
        let line = self.line()?;
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
        let length = std::str::from_utf8(digits)
            .ok()
            .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok())
            .ok_or_else(|| malformed("a chunk has no length"))?;
        *framing = Framing::Chunk(length);
        if length == 0 {
            while !self.line()?.is_empty() {}
            *framing = Framing::Done;
        }
        Ok(())
    }

    /// The next line, without its end.
    fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let unread = &self.unread[self.next..];
            if let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
                let line = unread[..end].strip_suffix(b"\r").unwrap_or(&unread[..end]).to_vec();
                self.next += end + 1;
                return Ok(line);
            }
            if unread.len() > HEAD_BYTES_MAX {
                return Err(malformed("a line does not end"));
            }
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn malformed(why: &str) -> io::Error {
    io::Error::other(format!("this is no HTTP answer: {why}"))
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        let tokens = value.to_str().unwrap_or_default().split(',');
        tokens.into_iter().any(|found| found.trim().eq_ignore_ascii_case(token))
    })
}

fn framing(method: &Method, status: StatusCode, headers: &HeaderMap) -> io::Result<Framing> {
    let is_bare = *method == Method::HEAD
        || status.is_informational()
        || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status);
    if is_bare {
        return Ok(Framing::Done);
    }
    if has_token(headers, &header::TRANSFER_ENCODING, "chunked") {
        return Ok(Framing::Chunk(0));
    }
    match headers.get(header::CONTENT_LENGTH) {
        None => Ok(Framing::Close),
        Some(length) => match length.to_str().ok().and_then(|length| length.trim().parse().ok()) {
            Some(0) => Ok(Framing::Done),
            Some(length) => Ok(Framing::Length(length)),
            None => Err(malformed("its length is no number")),
        },
    }
}
