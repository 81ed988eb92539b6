//! The engine for S3 and every store that speaks its protocol.
//!
//! ```text
//! s3://<bucket>/<prefix>/<key>      an object; the prefix may be empty
//! ```
//!
//! `object_store` composes and signs requests and finds credentials; [`transport`] carries them
//! over connections of our own, on the thread that asks; [`engine`] is the trait. So a body goes from the socket into the
//! caller's memory without a copy, and there is no reactor. Credentials come from the standard
//! places only: the environment, a web identity, the container's or the instance's service. They
//! are kept in memory, and signatures travel in headers: no address that is shown or logged
//! carries one.
//!
//! # Bounds
//! [`S3Settings`] names them all: requests in flight, the time without a byte, part size and parts
//! in flight. A reader needs no memory beside its own; a writer a few parts.
//!
//! # After a crash
//! A put is there, whole, or it is not. Parts of an upload that was not completed: see [`upload`].

mod connection;
mod engine;
mod failure;
mod limit;
mod listing;
mod profile;
mod settings;
mod transport;
mod upload;

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use forebay_runtime::Runtime;
use forebay_types::Key;
use futures_executor::block_on;
use http::Uri;
use object_store::{
    GetOptions, GetRange, ObjectStore, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsCredentialProvider},
    list::{PaginatedListOptions, PaginatedListStore},
    path::Path,
};

pub use settings::S3Settings;

use crate::{Error, retry::Retry};
use failure::Failure;
use listing::Page;
use transport::{Response, Slot, Transport};

/// A prefix of a bucket. Cloning is cheap and gives the same store.
#[derive(Clone)]
pub struct S3 {
    shared: Arc<Shared>,
}

struct Shared {
    url: String,
    /// What every key is put behind: empty, or ending with `/`.
    root: String,
    client: AmazonS3,
    /// None: requests are not signed.
    credentials: Option<AwsCredentialProvider>,
    /// Whether the bucket was seen, so that "not found" is about an object.
    is_bucket_there: AtomicBool,
    settings: S3Settings,
    runtime: Runtime,
    retry: Retry,
}

/// The address alone: the rest holds credentials.
impl fmt::Debug for S3 {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("S3").field(&self.shared.url).finish()
    }
}

impl S3 {
    /// The store that `url` names, `s3://bucket` or `s3://bucket/prefix`, reached as `variables`
    /// say, those of the environment as a rule. Asks the store for nothing.
    ///
    /// # Errors
    /// [`Error::Url`] when the URL or a variable cannot be understood.
    pub fn new(
        url: &str,
        variables: impl IntoIterator<Item = (String, String)>,
        settings: S3Settings,
        runtime: &Runtime,
    ) -> Result<Self, Error> {
        let refuse = |why: String| Error::Url { url: url.to_owned(), why };
        let (bucket, root) = bucket_and_root(url).map_err(refuse)?;
        let variables = profile::completed(variables.into_iter().collect());
        // Every request is tried once below us: our own retries can be cancelled.
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_retry(retry)
            .with_disable_bulk_delete(true);
        for (name, value) in variables.iter().filter(|(name, _)| name.starts_with("AWS_")) {
            match name.to_ascii_lowercase().parse() {
                Ok(AmazonS3ConfigKey::Bucket) | Err(_) => {}
                Ok(key) => builder = builder.with_config(key, value),
            }
        }
        check_endpoint(&builder, &variables).map_err(refuse)?;
        let refused = |error: object_store::Error| refuse(error.to_string());
        // A client that is asked for nothing but credentials: so its failures are never taken for
        // the store's, and it gives up sooner where there is no service.
        let services = Transport::new(CREDENTIALS.with(&settings), runtime);
        let credentials = builder
            .clone()
            .with_http_connector(services)
            .build()
            .map_err(refused)?
            .credentials()
            .clone();
        let client = builder
            .with_credentials(credentials.clone())
            .with_http_connector(Transport::new(settings.clone(), runtime))
            .build()
            .map_err(refused)?;
        let is_anonymous = variables.get("AWS_SKIP_SIGNATURE").is_some_and(|value| is_true(value));
        Ok(Self {
            shared: Arc::new(Shared {
                url: url.trim_end_matches('/').to_owned(),
                root,
                client,
                credentials: (!is_anonymous).then_some(credentials),
                is_bucket_there: AtomicBool::new(false),
                settings,
                runtime: runtime.clone(),
                retry: Retry::new(runtime),
            }),
        })
    }

    fn client(&self) -> &AmazonS3 {
        &self.shared.client
    }

    fn settings(&self) -> &S3Settings {
        &self.shared.settings
    }

    fn runtime(&self) -> &Runtime {
        &self.shared.runtime
    }

    fn path(&self, key: &Key) -> Path {
        Path::parse(format!("{}{key}", self.shared.root)).expect("a key's segments make a path")
    }

    fn with_retries<T>(&self, request: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
        self.shared.retry.run(request, || {})
    }

    /// Drives a request on this thread; nothing in it waits for another task.
    fn run<T>(&self, request: impl Future<Output = object_store::Result<T>>) -> Result<T, Failure> {
        block_on(async {
            if let Some(credentials) = &self.shared.credentials {
                credentials.get_credential().await.map_err(|error| no_credentials(&error))?;
            }
            request.await.map_err(|error| Failure::of_store(&error))
        })
    }

    /// Makes a request whose answer is read here.
    fn ask<T>(
        &self,
        slot: &Slot,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<Response, Failure> {
        let outcome = self.run(request);
        let lost = || Failure::new(io::ErrorKind::Other, "a request got no answer");
        slot.take().ok_or_else(|| outcome.err().unwrap_or_else(lost))
    }

    fn get(&self, key: &Key, range: Option<GetRange>, head: bool) -> Result<Response, Failure> {
        let slot = Slot::default();
        let options =
            GetOptions { range, head, extensions: slot.extensions(), ..Default::default() };
        self.ask(&slot, self.client().get_opts(&self.path(key), options))
    }

    /// One page of the objects whose full names start with `prefix`.
    fn page(
        &self,
        prefix: &str,
        page_token: Option<String>,
        max_keys: Option<usize>,
    ) -> Result<Page, Failure> {
        let slot = Slot::default();
        let extensions = slot.extensions();
        let options =
            PaginatedListOptions { page_token, max_keys, extensions, ..Default::default() };
        let prefix = (!prefix.is_empty()).then_some(prefix);
        let mut response = self.ask(&slot, self.client().list_paginated(prefix, options))?;
        if !response.status.is_success() {
            return Err(response.into_failure());
        }
        let unread = |error: quick_xml::DeError| {
            let words = format!("the store's listing cannot be read: {error}");
            Failure::new(io::ErrorKind::Other, words)
        };
        Page::read(&response.read_to_end()?).map_err(unread)
    }

    /// Whether an answer without a code is about the object: only if the bucket is there, which is
    /// asked once. What may not be listed is there.
    fn check_bucket(&self) -> Result<(), Failure> {
        if !self.shared.is_bucket_there.load(Ordering::Relaxed) {
            match self.page(&self.shared.root, None, Some(1)) {
                Err(failure) if failure.kind != io::ErrorKind::PermissionDenied => {
                    return Err(failure);
                }
                _ => self.shared.is_bucket_there.store(true, Ordering::Relaxed),
            }
        }
        Ok(())
    }

    /// Checks that the bucket is there and lets itself be asked.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let failed = |failure: Failure| {
            let kind =
                if failure.is_missing_bucket() { io::ErrorKind::NotFound } else { failure.kind };
            let source = io::Error::new(kind, failure);
            Error::Store { act: "open", url: self.shared.url.clone(), source }
        };
        self.with_retries(|| self.check_bucket().map_err(failed))
    }

    fn failed(&self, act: &'static str, key: &Key) -> impl Fn(Failure) -> Error {
        let (key, place) = (key.clone(), self.shared.url.clone());
        move |failure| {
            let (key, place) = (key.clone(), place.clone());
            Error::Object { act, key, place, source: failure.into_io() }
        }
    }
}

/// Services of credentials are near, or not there.
struct Patience {
    connect: Duration,
    progress: Duration,
}

const CREDENTIALS: Patience =
    Patience { connect: Duration::from_secs(1), progress: Duration::from_secs(5) };

impl Patience {
    fn with(&self, settings: &S3Settings) -> S3Settings {
        S3Settings {
            connect_timeout: self.connect.min(settings.connect_timeout),
            progress_timeout: self.progress.min(settings.progress_timeout),
            ..settings.clone()
        }
    }
}

fn no_credentials(error: &object_store::Error) -> Failure {
    let found = Failure::of_store(error);
    // Only a service that is there and busy may answer a moment later.
    let kind = match found.kind {
        io::ErrorKind::ResourceBusy => found.kind,
        _ => io::ErrorKind::Other,
    };
    let words = format!(
        "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
         AWS_PROFILE, or AWS_SKIP_SIGNATURE=true for a public bucket ({found})"
    );
    Failure::new(kind, words)
}

fn is_true(value: &str) -> bool {
    ["1", "true", "yes", "on"].contains(&value.to_ascii_lowercase().as_str())
}

/// The bucket of `s3://bucket/prefix`, and the prefix with a `/` at its end.
fn bucket_and_root(url: &str) -> Result<(&str, String), String> {
    let rest = url.strip_prefix("s3://").unwrap_or(url);
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if bucket.is_empty() || !bucket.bytes().all(is_name) {
        return Err("expected s3://bucket or s3://bucket/prefix".into());
    }
    let prefix = prefix.trim_end_matches('/');
    if prefix.is_empty() {
        return Ok((bucket, String::new()));
    }
    Key::new(prefix).map_err(|error| format!("its prefix is unusable: {error}"))?;
    Ok((bucket, format!("{prefix}/")))
}

/// Data in the clear is for this machine alone, unless it is allowed by name.
fn check_endpoint(
    builder: &AmazonS3Builder,
    variables: &BTreeMap<String, String>,
) -> Result<(), String> {
    let endpoint = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint]
        .iter()
        .find_map(|key| builder.get_config_value(key));
    let Some(endpoint) = endpoint else { return Ok(()) };
    let unusable = || {
        format!("AWS_ENDPOINT_URL is `{endpoint}`; expected https://host or http://127.0.0.1:port")
    };
    let uri: Uri = endpoint.parse().map_err(|_| unusable())?;
    let host = uri.host().ok_or_else(unusable)?.trim_matches(['[', ']']);
    let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let is_allowed = variables.get("AWS_ALLOW_HTTP").is_some_and(|value| is_true(value));
    match uri.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if is_here || is_allowed => Ok(()),
        Some("http") => Err(format!(
            "AWS_ENDPOINT_URL is `{endpoint}`, which sends data in the clear; use https, or set \
             AWS_ALLOW_HTTP=true"
        )),
        _ => Err(unusable()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(url: &str, variables: &[(&str, &str)]) -> Result<S3, Error> {
        let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        S3::new(url, variables, S3Settings::default(), &Runtime::manual(1))
    }

    #[test]
    fn urls_are_read_or_refused_in_words() {
        assert_eq!(bucket_and_root("s3://b").unwrap(), ("b", String::new()));
        assert_eq!(bucket_and_root("s3://b/").unwrap(), ("b", String::new()));
        assert_eq!(bucket_and_root("s3://b/x/y/").unwrap(), ("b", "x/y/".into()));
        for url in ["s3://", "s3:///x", "s3://b/../x", "s3://b//x", "s3://k:s@b/x"] {
            let error = open(url, &[]).unwrap_err();
            assert!(error.to_string().contains(url), "{error}");
        }
    }

    #[test]
    fn data_in_the_clear_is_for_this_machine_unless_allowed() {
        for endpoint in ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "https://x"]
        {
            open("s3://b", &[("AWS_ENDPOINT_URL", endpoint)]).unwrap();
        }
        let far = ("AWS_ENDPOINT_URL", "http://store.example");
        let error = open("s3://b", &[far]).unwrap_err();
        assert!(error.to_string().contains("AWS_ALLOW_HTTP"), "{error}");
        open("s3://b", &[far, ("AWS_ALLOW_HTTP", "true")]).unwrap();
        assert!(open("s3://b", &[("AWS_ENDPOINT_URL", "store:9000")]).is_err());
    }

    #[test]
    fn no_credential_is_ever_shown() {
        let secrets = [("AWS_ACCESS_KEY_ID", "know-me"), ("AWS_SECRET_ACCESS_KEY", "know-me-not")];
        let store = open("s3://b/x", &secrets).unwrap();
        assert!(!format!("{store:?}").contains("know-me"), "{store:?}");
    }
}
