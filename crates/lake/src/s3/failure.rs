//! Why a request failed, in words, and whether it may be made again.
//!
//! A failure crosses `object_store` as the source of one of its errors and is found again on the
//! other side. Its words name the host, the status and what to set, and never a header, a query or
//! a credential.

use std::{error::Error as StdError, io};

use http::{HeaderMap, StatusCode};
use serde::Deserialize;

/// The most of a store's own message that is repeated.
const MESSAGE_CHARS_MAX: usize = 200;

/// A failed request.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{words}")]
pub(super) struct Failure {
    /// Decides whether it is transient, and its public kind.
    pub(super) kind: io::ErrorKind,
    /// The status, if there was an answer.
    pub(super) status: Option<StatusCode>,
    /// The store's own name for it: `NoSuchKey`; empty if it gave none.
    pub(super) code: String,
    words: String,
}

impl Failure {
    pub(super) fn new(kind: io::ErrorKind, words: impl Into<String>) -> Self {
        Self { kind, status: None, code: String::new(), words: words.into() }
    }

    /// A failure of the connection to `host`.
    pub(super) fn of_io(act: &str, host: &str, error: &io::Error) -> Self {
        let kind = match error.kind() {
            // How a socket says that its time is up.
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut,
            // A connection that ends is no damaged object.
            io::ErrorKind::UnexpectedEof => io::ErrorKind::ConnectionAborted,
            // What TLS says of a peer it cannot trust is no damaged object either.
            io::ErrorKind::InvalidData => io::ErrorKind::Other,
            kind => kind,
        };
        let why = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                "no byte came in time".to_owned()
            }
            io::ErrorKind::InvalidData => {
                format!("{error}; a private certificate authority is named in SSL_CERT_FILE")
            }
            _ => error.to_string(),
        };
        Self::new(kind, format!("{act} {host}: {why}"))
    }

    /// What an answer that is no success means.
    pub(super) fn of_answer(
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        host: &str,
    ) -> Self {
        let Refusal { code, message, region } = Refusal::read(body);
        let region = headers
            .get("x-amz-bucket-region")
            .and_then(|value| value.to_str().ok().map(str::to_owned))
            .or(region);
        let (kind, advice) = meaning(status, &code, region.as_deref());
        let mut words = format!("{host} answered {}", status.as_u16());
        if !code.is_empty() {
            words.push_str(&format!(" {code}"));
        }
        if !message.is_empty() {
            let message: String = message.chars().take(MESSAGE_CHARS_MAX).collect();
            words.push_str(&format!(" ({})", message.trim_end_matches('.')));
        }
        if !advice.is_empty() {
            words.push_str(&format!("; {advice}"));
        }
        Self { kind, status: Some(status), code, words }
    }

    /// The failure that an error of `object_store` carries, or the error itself in words.
    pub(super) fn of_store(error: &object_store::Error) -> Self {
        let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
        while let Some(error) = cause {
            if let Some(failure) = error.downcast_ref::<Self>() {
                return failure.clone();
            }
            cause = error.source();
        }
        Self::new(io::ErrorKind::Other, error.to_string())
    }

    /// Whether the answer says that the object, and not the bucket, is absent. Some stores and all
    /// answers to HEAD give no code; then the caller must look for the bucket.
    pub(super) fn is_absent(&self) -> bool {
        self.status == Some(StatusCode::NOT_FOUND) && self.code != NO_BUCKET
    }

    pub(super) fn is_missing_bucket(&self) -> bool {
        self.code == NO_BUCKET
    }

    pub(super) fn into_io(self) -> io::Error {
        io::Error::new(self.kind, self)
    }
}

const NO_BUCKET: &str = "NoSuchBucket";

const CREDENTIALS: &str = "it does not accept the credentials: check AWS_ACCESS_KEY_ID, \
                           AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN";

/// Kind and advice. What will pass is [`io::ErrorKind::ResourceBusy`]; a right that lacks is
/// `PermissionDenied`, which opens a store read-only; credentials that are wrong are neither.
fn meaning(status: StatusCode, code: &str, region: Option<&str>) -> (io::ErrorKind, String) {
    use io::ErrorKind as Io;
    match (status.as_u16(), code) {
        (
            _,
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "InvalidToken"
            | "ExpiredToken"
            | "TokenRefreshRequired"
            | "InvalidSecurity",
        )
        | (401, _) => (Io::Other, CREDENTIALS.into()),
        (_, "RequestTimeTooSkewed") => (Io::Other, "set this machine's clock".into()),
        (_, NO_BUCKET) => {
            (Io::Other, "make the bucket, or check its name and AWS_ENDPOINT_URL".into())
        }
        (301 | 307 | 308, _) | (_, "AuthorizationHeaderMalformed" | "PermanentRedirect") => {
            let advice = region.map_or_else(
                || "check AWS_REGION and AWS_ENDPOINT_URL".into(),
                |region| format!("the bucket lies elsewhere: set AWS_REGION={region}"),
            );
            (Io::Other, advice)
        }
        (403, "") => (
            Io::PermissionDenied,
            "check the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) and their rights"
                .into(),
        ),
        (403, _) => (Io::PermissionDenied, "the credentials lack a right".into()),
        (404, _) => (Io::NotFound, String::new()),
        (507, _) | (_, "QuotaExceeded" | "XMinioStorageFull") => (Io::StorageFull, String::new()),
        // A conflict is two writers at one key at one moment: nothing was stored.
        (408 | 409 | 425 | 429 | 500 | 502..=504, _) | (_, "SlowDown" | "RequestTimeout") => {
            (Io::ResourceBusy, String::new())
        }
        (501, _) => (Io::Unsupported, "the store cannot do this".into()),
        _ => (Io::Other, "check AWS_ENDPOINT_URL: is this an S3 store?".into()),
    }
}

/// The body of a refusal.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Refusal {
    code: String,
    message: String,
    region: Option<String>,
}

impl Refusal {
    fn read(body: &[u8]) -> Self {
        quick_xml::de::from_reader(body).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, code: &str) -> Failure {
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
        let status = StatusCode::from_u16(status).unwrap();
        Failure::of_answer(status, &HeaderMap::new(), body.as_bytes(), "store:1")
    }

    #[test]
    fn wrong_credentials_are_not_taken_for_a_store_that_may_only_be_read() {
        assert_eq!(answer(403, "AccessDenied").kind, io::ErrorKind::PermissionDenied);
        for code in ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"] {
            let failure = answer(403, code);
            assert_eq!(failure.kind, io::ErrorKind::Other);
            assert!(failure.to_string().contains("AWS_ACCESS_KEY_ID"), "{failure}");
        }
    }

    #[test]
    fn a_missing_bucket_is_not_an_absent_object() {
        assert!(answer(404, "NoSuchKey").is_absent());
        let failure = answer(404, "NoSuchBucket");
        assert!(!failure.is_absent() && failure.kind != io::ErrorKind::NotFound);
        assert!(failure.to_string().contains("AWS_ENDPOINT_URL"), "{failure}");
    }

    #[test]
    fn a_bucket_of_another_region_says_which() {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-bucket-region", "eu-west-1".parse().unwrap());
        let failure = Failure::of_answer(StatusCode::MOVED_PERMANENTLY, &headers, b"", "store:1");
        assert!(failure.to_string().contains("AWS_REGION=eu-west-1"), "{failure}");
    }
}
