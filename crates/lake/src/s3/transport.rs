//! Requests over pooled connections: the transport that `object_store` signs for.
//!
//! `object_store` knows the protocol: what to ask, how to sign it, where credentials come from.
//! It hands the signed request to this transport, on the caller's own thread. An answer that is
//! read here (a body into the caller's memory, a listing) is left in the request's [`Slot`], and
//! never goes through it; every refusal travels back as a [`Failure`].
//!
//! Nothing is tried twice here: that is [`crate::retry`]'s work, whose attempts are counted.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use forebay_runtime::Runtime;
use http::{Extensions, HeaderMap, Method, StatusCode, Uri, header};
use http_body_util::BodyExt;
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    },
};
use rustls::{ClientConfig, RootCertStore};

use super::{
    S3Settings,
    connection::{Connection, Endpoint, Framing, Request},
    failure::Failure,
    limit::Limit,
};

/// How long an unused connection is kept: less than any store waits.
const IDLE_MAX: Duration = Duration::from_secs(15);
/// The most unused connections that are kept.
const IDLE_CONNECTIONS_MAX: usize = 64;
/// The largest body that is read into memory of our own: a listing, a refusal.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Where an answer is left for the caller; travels with the request.
#[derive(Clone, Default)]
pub(super) struct Slot(Arc<Mutex<Option<Response>>>);

impl Slot {
    /// What a request carries to have its answer left here.
    pub(super) fn extensions(&self) -> Extensions {
        let mut extensions = Extensions::new();
        extensions.insert(self.clone());
        extensions
    }

    pub(super) fn take(&self) -> Option<Response> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Says that the answer lies in its slot; nobody else sees it.
#[derive(Debug, thiserror::Error)]
#[error("the answer was taken")]
struct Taken;

/// Makes requests. Cloning is cheap and shares the connections.
#[derive(Clone)]
pub(super) struct Transport {
    shared: Arc<Shared>,
}

struct Shared {
    runtime: Runtime,
    settings: S3Settings,
    limit: Limit,
    idle: Mutex<HashMap<Endpoint, Vec<Connection>>>,
    tls: OnceLock<Result<Arc<ClientConfig>, Failure>>,
}

impl fmt::Debug for Transport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Transport")
    }
}

impl Transport {
    pub(super) fn new(settings: S3Settings, runtime: &Runtime) -> Self {
        let shared = Shared {
            runtime: runtime.clone(),
            limit: Limit::new(settings.requests_max, runtime),
            settings,
            idle: Mutex::default(),
            tls: OnceLock::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    fn exchange(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: &[Bytes],
    ) -> Result<Response, Failure> {
        let endpoint = endpoint(uri)?;
        let host = format!("{}:{}", endpoint.host, endpoint.port);
        let cancelled = |_| Failure::new(io::ErrorKind::Other, "the work was cancelled");
        self.shared.limit.enter().map_err(cancelled)?;
        // From here on the turn is given back when the exchange, or what comes of it, is dropped.
        let turn = Turn(self.clone());
        let mut connection = match self.idle_connection(&endpoint) {
            Some(connection) => connection,
            None => self.connect(&endpoint, &host)?,
        };
        let request = Request {
            method,
            target: uri.path_and_query().map_or("/", |target| target.as_str()),
            authority: uri.authority().map_or("", |authority| authority.as_str()),
            headers,
            body,
        };
        let head = connection
            .exchange(&request)
            .map_err(|error| Failure::of_io("the connection failed to", &host, &error))?;
        self.note(head.status, &head.headers);
        let response = Response {
            status: head.status,
            headers: head.headers,
            framing: head.framing,
            is_reusable: head.is_reusable,
            connection: Some(connection),
            endpoint,
            host,
            turn,
        };
        Ok(response)
    }

    /// Lets the limit learn from an answer.
    fn note(&self, status: StatusCode, headers: &HeaderMap) {
        if [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS].contains(&status) {
            let seconds = headers
                .get(header::RETRY_AFTER)
                .and_then(|value| value.to_str().ok()?.trim().parse().ok());
            self.shared.limit.throttled(seconds.map(Duration::from_secs));
        } else if status.is_success() {
            self.shared.limit.served();
        }
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<Endpoint, Vec<Connection>>> {
        self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that was used last, if it is young and its peer has not hung up.
    fn idle_connection(&self, endpoint: &Endpoint) -> Option<Connection> {
        let now = self.shared.runtime.elapsed();
        loop {
            let connection = self.idle().get_mut(endpoint)?.pop()?;
            if now.saturating_sub(connection.idle_since) < IDLE_MAX && connection.is_quiet() {
                return Some(connection);
            }
        }
    }

    fn keep(&self, endpoint: Endpoint, mut connection: Connection) {
        connection.idle_since = self.shared.runtime.elapsed();
        let mut idle = self.idle();
        let idle = idle.entry(endpoint).or_default();
        if idle.len() < IDLE_CONNECTIONS_MAX {
            idle.push(connection);
        }
    }

    fn connect(&self, endpoint: &Endpoint, host: &str) -> Result<Connection, Failure> {
        let tls = endpoint.is_tls.then(|| self.tls()).transpose()?;
        let S3Settings { connect_timeout, progress_timeout, .. } = self.shared.settings;
        Connection::open(endpoint, tls.as_ref(), connect_timeout, progress_timeout).map_err(
            |error| {
                let act = "cannot connect to";
                let failure = Failure::of_io(act, host, &error);
                let words = format!("{failure}; check AWS_ENDPOINT_URL and AWS_REGION");
                Failure::new(failure.kind, words)
            },
        )
    }

    /// The certificates this machine trusts; `SSL_CERT_FILE` and `SSL_CERT_DIR` name others.
    fn tls(&self) -> Result<Arc<ClientConfig>, Failure> {
        self.shared.tls.get_or_init(tls_config).clone()
    }
}

fn tls_config() -> Result<Arc<ClientConfig>, Failure> {
    let failed = |why: String| Failure::new(io::ErrorKind::Other, why);
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(failed(
            "this machine trusts no certificate, so no https store can be reached: install \
             ca-certificates, or name a file of them in SSL_CERT_FILE"
                .into(),
        ));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn endpoint(uri: &Uri) -> Result<Endpoint, Failure> {
    let is_tls = uri.scheme_str() != Some("http");
    let host = uri.host().ok_or_else(|| {
        Failure::new(io::ErrorKind::Other, "the endpoint has no host; check AWS_ENDPOINT_URL")
    })?;
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    Ok(Endpoint { host: host.to_owned(), port, is_tls })
}

/// A turn of the limit, given back when dropped.
struct Turn(Transport);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.shared.limit.leave();
    }
}

/// An answer whose body may not have been read. Dropping it hangs up if so, and otherwise keeps
/// the connection for another request.
pub(super) struct Response {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    framing: Framing,
    is_reusable: bool,
    connection: Option<Connection>,
    endpoint: Endpoint,
    host: String,
    turn: Turn,
}

impl Response {
    /// The length of the body, as the headers tell it.
    pub(super) fn content_length(&self) -> Option<u64> {
        self.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
    }

    /// Reads of the body what comes first; 0 at its end.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(connection) = &mut self.connection else { return Ok(0) };
        connection.read_body(&mut self.framing, into)
    }

    /// Fills `into` from the body.
    pub(super) fn read_exact(&mut self, into: &mut [u8]) -> Result<(), Failure> {
        let mut filled = 0;
        while filled < into.len() {
            match self.read(&mut into[filled..]) {
                Ok(0) => return Err(self.broken(filled, &io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => filled += read,
                Err(error) => return Err(self.broken(filled, &error)),
            }
        }
        Ok(())
    }

    fn broken(&self, after_bytes: usize, error: &io::Error) -> Failure {
        let act = format!("a body broke off after {after_bytes} bytes from");
        Failure::of_io(&act, &self.host, error)
    }

    /// The whole body, which must be small.
    pub(super) fn read_to_end(&mut self) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        let mut piece = vec![0; 64 << 10];
        loop {
            match self.read(&mut piece) {
                Ok(0) => return Ok(body),
                Ok(read) => body.extend_from_slice(&piece[..read]),
                Err(error) => return Err(self.broken(body.len(), &error)),
            }
            if body.len() > ANSWER_BYTES_MAX {
                let words = format!("{} gave an answer without end", self.host);
                return Err(Failure::new(io::ErrorKind::Other, words));
            }
        }
    }

    /// What an answer that is no success means.
    pub(super) fn into_failure(mut self) -> Failure {
        let body = self.read_to_end().unwrap_or_default();
        Failure::of_answer(self.status, &self.headers, &body, &self.host)
    }
}

impl Drop for Response {
    fn drop(&mut self) {
        if self.framing == Framing::Done
            && self.is_reusable
            && let Some(connection) = self.connection.take()
        {
            self.turn.0.keep(self.endpoint.clone(), connection);
        }
    }
}

#[async_trait]
impl HttpService for Transport {
    /// Blocks: every call is driven by the thread that waits for it.
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, mut body) = request.into_parts();
        let mut pieces = Vec::new();
        while let Some(frame) = body.frame().await {
            pieces.extend(frame?.into_data().ok());
        }
        let failed = |failure: Failure| HttpError::new(HttpErrorKind::Unknown, failure);
        let mut response =
            self.exchange(&parts.method, &parts.uri, &parts.headers, &pieces).map_err(failed)?;
        if let Some(slot) = parts.extensions.get::<Slot>() {
            *slot.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(response);
            return Err(HttpError::new(HttpErrorKind::Unknown, Taken));
        }
        if !response.status.is_success() {
            return Err(failed(response.into_failure()));
        }
        let body = response.read_to_end().map_err(failed)?;
        let mut answer = HttpResponse::new(Bytes::from(body).into());
        *answer.status_mut() = response.status;
        *answer.headers_mut() = std::mem::take(&mut response.headers);
        Ok(answer)
    }
}

impl HttpConnector for Transport {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}
