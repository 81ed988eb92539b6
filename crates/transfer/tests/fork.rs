//! A forked child has its parent's memory and none of its threads. It must be told so, and must not
//! hang, or take away what the parent is working on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{io::Write, sync::Arc, time::Duration};

use forebay_lake::Purpose;
use forebay_local::LocalTier;
use forebay_runtime::Runtime;
use forebay_testing::{TempTiers, key};
use forebay_transfer::{
    Error, Need, Needs, Object, Plan, PrefetchSettings, Prefetcher, StagedBytes,
};
use forebay_types::{Digest, ErrorKind};

struct Endless(Object);

impl Plan for Endless {
    fn needs(self: Arc<Self>, from: u64) -> Needs {
        Box::new((from..).map(move |first| Ok(Need { object: self.0.clone(), first, last: first })))
    }

    fn next_use(&self, _digest: Digest, after: u64) -> Option<u64> {
        Some(after)
    }
}

/// Runs `work` in a forked child and says how it ended; a child that hangs is killed.
fn in_fork(work: impl FnOnce() -> i32) -> Option<i32> {
    // SAFETY: the child runs `work` on its only thread, touching nothing that another thread of the
    // parent may hold but what it is about to be refused, and ends without unwinding or handlers.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "no fork");
    if child == 0 {
        let code = work();
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(code) }
    }
    let runtime = Runtime::system();
    for _ in 0..2000 {
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        if unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } == child {
            return libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
        }
        runtime.sleep(Duration::from_millis(10)).unwrap();
    }
    // SAFETY: the child is ours and was not waited for yet.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }
    None
}

#[test]
fn a_fork_is_refused_in_words_and_harms_nothing() {
    let tiers = TempTiers::new(1 << 20);
    let transfer = tiers.transfer();
    let body = vec![7; 1000];
    let (key, digest) = (key("shards/a"), Digest::of(&body));
    tiers.lake.write(&key, Purpose::Shard, &body).unwrap();
    let object = Object::whole(key, digest, 1000, Purpose::Shard);
    let plan = Arc::new(Endless(object.clone()));
    let settings = PrefetchSettings { threads: 2, lookahead_bytes: 1000 };
    let prefetcher = Prefetcher::start(&transfer, plan, 0, settings);
    let scratch = tiers.local.scratch("work").unwrap();
    let mut landing = tiers.local.land(Digest::of(b"x"), 1).unwrap();

    let code = in_fork(|| {
        let refused = |error: Error| {
            error.kind() == ErrorKind::Invalid
                && error.to_string().ends_with("open them in the child")
        };
        let all = transfer.fetch(&object).is_err_and(refused)
            && transfer.cached(&object).is_err_and(refused)
            && transfer.refetch(&object).is_err_and(refused)
            && transfer.require_room(1).is_err_and(refused)
            && transfer
                .drain(&object.key, &object.key, digest, StagedBytes::Found, None)
                .is_err_and(refused);
        prefetcher.advance(5);
        let _stats = prefetcher.stats();
        // SAFETY: copies for this process alone, which ends without dropping the originals.
        unsafe {
            drop(std::ptr::read(&raw const prefetcher));
            drop(std::ptr::read(&raw const scratch));
            drop(std::ptr::read(&raw const landing));
        }
        i32::from(!all)
    });
    assert_eq!(code, Some(0));
    assert!(scratch.path().exists(), "the parent works there");
    landing.write_all(b"x").unwrap();
    landing.finish().unwrap();
    assert!(*transfer.fetch(&object).unwrap() == *body);
}

/// A fork inherits open files, and with them the locks that its parent holds at that moment.
#[test]
fn a_lock_is_free_when_the_parent_lets_it_go_though_a_fork_lives() {
    let tiers = TempTiers::new(1 << 20);
    let lock = tiers.local.lock(Digest::of(b"x")).unwrap();
    let runtime = Runtime::system();
    let task = runtime.spawn("fork", || {
        in_fork(|| {
            let _cancelled = Runtime::system().sleep(Duration::from_secs(3));
            0
        })
    });
    runtime.sleep(Duration::from_millis(300)).unwrap();
    drop(lock);
    let budget_bytes = tiers.local.budget_bytes();
    let other = LocalTier::open(&tiers.local_path(), budget_bytes, &runtime).unwrap();
    drop(other.lock(Digest::of(b"x")).unwrap());
    assert!(!task.is_finished(), "the fork was there all the time");
    task.join().unwrap();
}
