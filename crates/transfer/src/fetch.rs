//! Fetching: an immutable object comes to the node once, whoever asks.
//!
//! ```text
//! cached? ── yes ─────────────────────────────────────────────► mapped file
//!    no
//! landing lock (one download per node; dies with its process)
//! cached now? ── yes: another process landed it ──────────────► mapped file
//!    no
//! reserve space, evicting by known future ─ read pieces ─ check length and digest ─ rename
//! ```
//!
//! An object that is stored in another form lands beside its content first, is decoded from there,
//! and leaves nothing but its content. Space for both is reserved at once.
//!
//! A download whose digest does not match is read once more, since a byte may flip on the way; if
//! it does not match again, the lake's object is damaged and the error says so.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use forebay_local::{CachedFile, Landing, Spool};
use forebay_runtime::Cancelled;
use forebay_types::{Digest, ErrorKind};

use crate::{Error, Object, Transfer, pieces};

/// How long an urgent fetch waits for room that other landings hold: their objects can be evicted
/// as soon as they have landed, unless their process died.
const LANDING_PATIENCE: Duration = Duration::from_secs(30);

/// How long it waits when the disk itself is full.
const FULL_DISK_PATIENCE: Duration = Duration::from_secs(1);
const LANDING_POLL: Duration = Duration::from_millis(5);

/// How soon an object is needed, which decides what may be evicted for it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Urgency<'a> {
    /// Somebody waits for it: anything else may go.
    Now {
        /// Set when nobody waits any more.
        stop: Option<&'a AtomicBool>,
    },
    /// It will be needed.
    Ahead {
        /// In so many positions: only what is needed later may go.
        distance: u64,
        /// Whether anything may go for it yet.
        evicts: bool,
        /// Set when nobody wants it any more.
        stop: &'a AtomicBool,
    },
}

/// A landing, and where its stored bytes land before it, if they are to be decoded.
type Reserved = (Landing, Option<Spool>);

/// Why a landing got no name.
enum Unlanded {
    /// The bytes are not what they should be; why they cannot be decoded, if that is how it showed.
    Damaged(Option<std::io::Error>),
    Failed(Error),
}

impl From<Error> for Unlanded {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Urgency<'_> {
    fn distance(self) -> Option<u64> {
        match self {
            Self::Now { .. } => None,
            Self::Ahead { distance, .. } => Some(distance),
        }
    }

    /// Whether the download may go on.
    pub(crate) fn check(self, transfer: &Transfer) -> Result<(), Cancelled> {
        let stop = match self {
            Self::Now { stop } => stop,
            Self::Ahead { stop, .. } => Some(stop),
        };
        match stop {
            Some(stop) if stop.load(Ordering::SeqCst) => Err(Cancelled),
            _ => transfer.runtime().check(),
        }
    }
}

impl Transfer {
    /// The object as a mapped, verified file on this node; downloaded if it is not there.
    ///
    /// # Errors
    /// [`Error::Missing`] or [`Error::Damaged`] when the lake's object is not what was promised;
    /// [`Error::Local`] when the tier has no room even after evicting everything else.
    pub fn fetch(&self, object: &Object) -> Result<CachedFile, Error> {
        self.fetch_now(object, None)
    }

    /// As [`Transfer::fetch`], but gives up at the next piece once `stop` is set.
    ///
    /// # Errors
    /// As [`Transfer::fetch`], and [`Error::Cancelled`].
    pub fn fetch_unless(&self, object: &Object, stop: &AtomicBool) -> Result<CachedFile, Error> {
        self.fetch_now(object, Some(stop))
    }

    fn fetch_now(&self, object: &Object, stop: Option<&AtomicBool>) -> Result<CachedFile, Error> {
        self.fetch_when(object, Urgency::Now { stop })
            .map(|file| file.expect("urgent fetches never wait for room"))
    }

    /// The object if it is on this node already.
    ///
    /// # Errors
    /// When the tier cannot be read.
    pub fn cached(&self, object: &Object) -> Result<Option<CachedFile>, Error> {
        self.find(object)
    }

    /// Downloads the object again, because its file on this node was found damaged.
    ///
    /// Several may have found it so, in one process or in many: the first downloads it, and the
    /// others find under the lock that what is there now has its digest.
    ///
    /// # Errors
    /// As [`Transfer::fetch`].
    pub fn refetch(&self, object: &Object) -> Result<CachedFile, Error> {
        self.require_process()?;
        let _lock = self.local().lock(object.digest).map_err(local("lock", object))?;
        let found = self.local().cached(object.digest).map_err(local("open", object))?;
        if let Some(file) = found.filter(|file| Digest::of(file) == object.digest) {
            return Ok(file);
        }
        self.local().evict(object.digest).map_err(local("evict", object))?;
        self.counters().refetched.fetch_add(1, Ordering::Relaxed);
        self.download(object, Urgency::Now { stop: None })
            .map(|file| file.expect("urgent fetches never wait for room"))
    }

    /// `None` when it is not urgent and there is no room for it yet.
    pub(crate) fn fetch_when(
        &self,
        object: &Object,
        urgency: Urgency<'_>,
    ) -> Result<Option<CachedFile>, Error> {
        if let Some(file) = self.find(object)? {
            return Ok(Some(file));
        }
        let _lock = self.local().lock(object.digest).map_err(local("lock", object))?;
        match self.find(object)? {
            Some(file) => Ok(Some(file)),
            None => self.download(object, urgency),
        }
    }

    fn find(&self, object: &Object) -> Result<Option<CachedFile>, Error> {
        self.require_process()?;
        let file = self.local().cached(object.digest).map_err(local("open", object))?;
        // A file cut short after it landed is no copy: the download takes its name.
        let file = file.filter(|file| file.bytes() == object.bytes);
        self.counters().hits.fetch_add(u64::from(file.is_some()), Ordering::Relaxed);
        Ok(file)
    }

    /// Requires the landing lock.
    fn download(&self, object: &Object, urgency: Urgency<'_>) -> Result<Option<CachedFile>, Error> {
        let mut undecodable = None;
        for _attempt in 0..2 {
            let Some((landing, spool)) = self.reserve(object, urgency)? else { return Ok(None) };
            match self.land(object, urgency, landing, spool) {
                Ok(file) => {
                    self.candidates().landed(object.digest);
                    let (_, stored_bytes) = object.place();
                    self.counters().fetched.fetch_add(1, Ordering::Relaxed);
                    self.counters().fetched_bytes.fetch_add(stored_bytes, Ordering::Relaxed);
                    return Ok(Some(file));
                }
                Err(Unlanded::Damaged(source)) => {
                    undecodable = source;
                    self.counters().damaged.fetch_add(1, Ordering::Relaxed);
                }
                Err(Unlanded::Failed(error)) => return Err(error),
            }
        }
        let (key, lake) = (object.key.clone(), object.lake(self).url().into());
        Err(match (undecodable, &object.stored) {
            (Some(source), _) => Error::Decode { object: key, lake, source },
            (None, Some(_)) => Error::Changed { object: key, lake },
            (None, None) => Error::Damaged { object: key, lake },
        })
    }

    /// Brings the bytes, and names the file if they are what they should be.
    fn land(
        &self,
        object: &Object,
        urgency: Urgency<'_>,
        mut landing: Landing,
        spool: Option<Spool>,
    ) -> Result<CachedFile, Unlanded> {
        match object.decoder().zip(spool) {
            None => {
                let file = landing.file();
                let mut see = |bytes: &[u8]| landing.see(bytes);
                pieces::stream(self, object, urgency, &file, &mut see)?;
            }
            Some((decoder, spool)) => {
                pieces::stream(self, object, urgency, &spool.file(), &mut |_| {})?;
                let stored = spool.map().map_err(local("map", object))?;
                decoder
                    .decode(&stored, &mut landing)
                    .map_err(|source| self.undecoded(object, source))?;
            }
        }
        landing.finish().map_err(|error| match error.kind() {
            ErrorKind::Corrupt => Unlanded::Damaged(None),
            _ => Unlanded::Failed(local("land", object)(error)),
        })
    }

    fn undecoded(&self, object: &Object, source: std::io::Error) -> Unlanded {
        match ErrorKind::of_io(&source) {
            ErrorKind::Corrupt => Unlanded::Damaged(Some(source)),
            _ => {
                let lake = object.lake(self).url().into();
                Unlanded::Failed(Error::Decode { object: object.key.clone(), lake, source })
            }
        }
    }

    /// Space for the object, and for what it is decoded from, made by evicting one other object
    /// after the other.
    fn reserve(&self, object: &Object, urgency: Urgency<'_>) -> Result<Option<Reserved>, Error> {
        let (tier, digest, bytes) = (self.local(), object.digest, object.bytes);
        let (_, stored_bytes) = object.place();
        let land = || match object.decoder() {
            None => tier.land(digest, bytes).map(|landing| (landing, None)),
            Some(_) => tier
                .land_from(digest, bytes, stored_bytes)
                .map(|(landing, spool)| (landing, Some(spool))),
        };
        self.make_way(object, object.landing_bytes(), urgency, land)
    }

    /// Reserves `bytes` on behalf of `object`, evicting other objects until `reserve` succeeds.
    fn make_way<T>(
        &self,
        object: &Object,
        bytes: u64,
        urgency: Urgency<'_>,
        reserve: impl Fn() -> Result<T, forebay_local::Error>,
    ) -> Result<Option<T>, Error> {
        let mut waited = Duration::ZERO;
        loop {
            let full = match reserve() {
                Ok(reserved) => return Ok(Some(reserved)),
                Err(error) if error.kind() == ErrorKind::Full => error,
                Err(error) => return Err(local("land", object)(error)),
            };
            if matches!(urgency, Urgency::Ahead { evicts: false, .. }) {
                return Ok(None);
            }
            if self.make_room(object.digest, &object.key, urgency.distance())? {
                continue;
            }
            if matches!(urgency, Urgency::Ahead { .. }) {
                return Ok(None);
            }
            // On a full disk it may be somebody else's files that take the room.
            let patience = match full {
                forebay_local::Error::DiskFull { .. } => FULL_DISK_PATIENCE,
                _ => LANDING_PATIENCE,
            };
            if waited >= patience || !self.may_fit(bytes)? {
                return Err(local("make room for", object)(full));
            }
            urgency
                .check(self)
                .and_then(|()| self.runtime().sleep(LANDING_POLL))
                .map_err(|source| Error::Cancelled { object: object.key.clone(), source })?;
            waited += LANDING_POLL;
        }
    }

    /// Whether `bytes` fit once everything else in the cache, or on its way there, is gone.
    fn may_fit(&self, bytes: u64) -> Result<bool, Error> {
        let usage = self.local().usage().map_err(Error::Tier)?;
        let staying_bytes = usage.staged_bytes.saturating_add(usage.scratch_bytes);
        Ok(bytes.saturating_add(staying_bytes) <= usage.budget_bytes)
    }
}

pub(crate) fn local(
    act: &'static str,
    object: &Object,
) -> impl FnOnce(forebay_local::Error) -> Error {
    let object = object.key.clone();
    move |source| Error::Local { act, object, source }
}
