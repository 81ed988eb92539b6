//! What the trait asks, as requests.

use std::io;

use bytes::Bytes;
use forebay_types::Key;
use http::{StatusCode, header};
use object_store::{GetRange, ObjectStore, PutMode, PutOptions};

use super::{S3, failure::Failure, transport::Response, upload::Upload};
use crate::{Created, Error, Listed, ObjectWriter, Store};

/// The largest object that is copied by one request: its answer comes when all is copied, and more
/// would take longer than an answer is waited for. S3 itself takes up to 5 GiB.
const COPY_BYTES_MAX: u64 = 1 << 30;

impl Store for S3 {
    fn url(&self) -> &str {
        &self.shared.url
    }

    fn size(&self, key: &Key) -> Result<Option<u64>, Error> {
        self.try_size(key).map_err(self.failed("look for", key))
    }

    fn read_range(&self, key: &Key, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        let wanted = offset.saturating_add(into.len() as u64);
        let truncated = |length| Error::Truncated { key: key.clone(), wanted, length };
        let failed = self.failed("read", key);
        if into.is_empty() {
            let absent =
                || failed(Failure::new(io::ErrorKind::NotFound, "there is no such object"));
            let length = self.try_size(key).map_err(&failed)?.ok_or_else(absent)?;
            return if length < wanted { Err(truncated(length)) } else { Ok(()) };
        }
        let range = Some(GetRange::Bounded(offset..wanted));
        let mut response = self.get(key, range, false).map_err(&failed)?;
        let length = match response.status {
            StatusCode::PARTIAL_CONTENT => checked_range(&response, offset, into.len()),
            // An answer in full is right when all was asked for.
            StatusCode::OK if offset == 0 => checked_whole(&response),
            StatusCode::OK => Err(unsound("it gave a whole object where a range was asked for")),
            StatusCode::RANGE_NOT_SATISFIABLE => self.length_of(key, &response),
            _ => return Err(failed(self.refusal(response).map_err(&failed)?)),
        };
        let length = length.map_err(&failed)?;
        if length < wanted {
            return Err(truncated(length));
        }
        response.read_exact(into).map_err(failed)
    }

    fn read_whole(&self, key: &Key, bytes_max: u64) -> Result<Option<Vec<u8>>, Error> {
        let failed = self.failed("read", key);
        let mut response = self.get(key, None, false).map_err(&failed)?;
        if response.status != StatusCode::OK {
            let failure = self.refusal(response).map_err(&failed)?;
            return if failure.is_absent() { Ok(None) } else { Err(failed(failure)) };
        }
        let length = checked_whole(&response).map_err(&failed)?;
        if length > bytes_max {
            return Err(Error::TooLarge { key: key.clone(), length, limit: bytes_max });
        }
        let mut body = vec![0; length as usize];
        response.read_exact(&mut body).map_err(failed)?;
        Ok(Some(body))
    }

    fn writer(&self, key: &Key) -> Result<Box<dyn ObjectWriter>, Error> {
        Ok(Box::new(Upload::new(self, key)))
    }

    fn put(&self, key: &Key, body: &[u8]) -> Result<(), Error> {
        if body.len() > self.settings().part_bytes {
            let mut upload = Upload::new(self, key);
            io::Write::write_all(&mut upload, body).map_err(|source| Error::Object {
                act: "write",
                key: key.clone(),
                place: self.shared.url.clone(),
                source,
            })?;
            return Box::new(upload).finish();
        }
        self.put_once(key, &Bytes::copy_from_slice(body))
    }

    fn create(&self, key: &Key, body: &[u8]) -> Result<Created, Error> {
        let path = self.path(key);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let body = Bytes::copy_from_slice(body);
        match self.run(self.client().put_opts(&path, body.into(), options)) {
            Ok(_) => Ok(Created::New),
            Err(failure)
                if failure.status.is_some_and(|status| {
                    [StatusCode::PRECONDITION_FAILED, StatusCode::NOT_MODIFIED].contains(&status)
                }) =>
            {
                Ok(Created::Exists)
            }
            Err(failure) => Err(self.failed("create", key)(failure)),
        }
    }

    fn copy(&self, from: &Key, to: &Key, bytes: u64) -> Result<bool, Error> {
        if bytes > COPY_BYTES_MAX {
            return Ok(false);
        }
        let (source, target) = (self.path(from), self.path(to));
        let copied = object_store::ObjectStoreExt::copy(self.client(), &source, &target);
        match self.run(copied) {
            // A store of less than the whole protocol: whoever asked copies.
            Err(failure) if failure.status == Some(StatusCode::NOT_IMPLEMENTED) => Ok(false),
            outcome => outcome.map(|()| true).map_err(self.failed("copy", from)),
        }
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(Listed) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let full = format!("{}{prefix}", self.shared.root);
        let failed = |failure: Failure| {
            let url = self.shared.url.clone();
            Error::Store { act: "list", url, source: failure.into_io() }
        };
        let mut token = None;
        loop {
            let page =
                self.with_retries(|| self.page(&full, token.clone(), None).map_err(failed))?;
            page.objects(&self.shared.root).try_for_each(&mut *visit)?;
            match page.next_continuation_token {
                // A store that repeats itself would be listed for ever.
                next @ Some(_) if next != token => token = next,
                _ => return Ok(()),
            }
        }
    }

    /// A delete answers alike whether there was an object, so it is looked for first.
    fn delete(&self, key: &Key) -> Result<bool, Error> {
        let failed = self.failed("delete", key);
        let is_there = self.try_size(key).map_err(&failed)?.is_some();
        if is_there {
            let path = self.path(key);
            let deleted = object_store::ObjectStoreExt::delete(self.client(), &path);
            match self.run(deleted) {
                Err(failure) if failure.is_absent() => return Ok(false),
                outcome => outcome.map_err(failed)?,
            }
        }
        Ok(is_there)
    }
}

impl S3 {
    fn try_size(&self, key: &Key) -> Result<Option<u64>, Failure> {
        let response = self.get(key, None, true)?;
        if response.status == StatusCode::OK {
            let unknown = || unsound("it does not say how long the object is");
            return response.content_length().map(Some).ok_or_else(unknown);
        }
        let failure = self.refusal(response)?;
        if failure.is_absent() { Ok(None) } else { Err(failure) }
    }

    /// Why an answer is no success. That an object is absent is believed only of a bucket that is
    /// there.
    fn refusal(&self, response: Response) -> Result<Failure, Failure> {
        let failure = response.into_failure();
        if failure.is_absent() && failure.code.is_empty() {
            self.check_bucket()?;
        }
        Ok(failure)
    }

    /// The length of an object that ends before the range that was asked for.
    fn length_of(&self, key: &Key, response: &Response) -> Result<u64, Failure> {
        let told =
            text(response, &header::CONTENT_RANGE).and_then(|range| range.strip_prefix("bytes */"));
        match told.and_then(|length| length.parse().ok()) {
            Some(length) => Ok(length),
            None => Ok(self.try_size(key)?.unwrap_or(0)),
        }
    }

    pub(super) fn put_once(&self, key: &Key, body: &Bytes) -> Result<(), Error> {
        let (path, options) = (self.path(key), PutOptions::default());
        self.run(self.client().put_opts(&path, body.clone().into(), options))
            .map(drop)
            .map_err(self.failed("write", key))
    }

    pub(super) fn put_with_retries(&self, key: &Key, body: &Bytes) -> Result<(), Error> {
        self.with_retries(|| self.put_once(key, body))
    }
}

fn unsound(why: &str) -> Failure {
    Failure::new(io::ErrorKind::Other, format!("the store's answer is unsound: {why}"))
}

fn text<'a>(response: &'a Response, name: &header::HeaderName) -> Option<&'a str> {
    response.headers.get(name)?.to_str().ok()
}

/// The object's length, from an answer that holds the range that was asked for, or what there is
/// of it.
fn checked_range(response: &Response, offset: u64, length: usize) -> Result<u64, Failure> {
    let range = text(response, &header::CONTENT_RANGE).and_then(content_range);
    let Some((first, last, total)) = range else {
        return Err(unsound("it does not say which range it gives"));
    };
    let wanted_last = offset.saturating_add(length as u64).min(total).saturating_sub(1);
    if (first, last) != (offset, wanted_last) {
        return Err(unsound("it gave another range than was asked for"));
    }
    let is_whole = response.content_length().is_none_or(|length| length == last - first + 1);
    if is_whole { Ok(total) } else { Err(unsound("its length is not that of its range")) }
}

fn checked_whole(response: &Response) -> Result<u64, Failure> {
    response.content_length().ok_or_else(|| unsound("it does not say how long the object is"))
}

/// First byte, last byte and total of `bytes 0-4/9`.
fn content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let range = (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
    (range.0 <= range.1 && range.1 < range.2).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::content_range;

    #[test]
    fn ranges_that_make_no_sense_are_refused() {
        assert_eq!(content_range("bytes 2-4/9"), Some((2, 4, 9)));
        for text in ["bytes 4-2/9", "bytes 0-9/9", "bytes */9", "0-4/9", "bytes 0-4/*", ""] {
            assert_eq!(content_range(text), None, "{text}");
        }
    }
}
