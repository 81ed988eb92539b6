//! Which shards an object is needed for, remembered longer than the page that lists it.
//!
//! An eviction asks when each cached object is needed next, and a large tier holds more objects than
//! the pages in memory list: a thousand times as many, for 10^6 shards. So what a page says is kept
//! when the page goes, in 13 bytes an object, and each page that is read teaches all its objects: a
//! few thousand reads suffice for a million shards.
//!
//! Objects are told apart by 32 bits of their digests. Where two share them, one of them is evicted
//! too early or too late, and no more comes of it.
//!
//! Memory: two generations of at most [`OBJECTS_PER_GENERATION`], 14 MiB each. When the younger one
//! is full the older one is forgotten, but for what was read again meanwhile.

use std::{
    collections::HashMap,
    ops::RangeInclusive,
    sync::{Mutex, MutexGuard, PoisonError},
};

use forebay_types::Digest;

/// What a hash table of 2^20 places holds before it grows.
const OBJECTS_PER_GENERATION: usize = (1 << 20) / 8 * 7;

#[derive(Debug, Default)]
pub(crate) struct Known {
    generations: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<u32, (u32, u32)>,
    old: HashMap<u32, (u32, u32)>,
}

impl Known {
    /// Remembers the first and last shard that each object is needed for.
    pub(crate) fn learn(&self, objects: impl Iterator<Item = (Digest, RangeInclusive<u32>)>) {
        let mut generations = self.lock();
        for (digest, shards) in objects {
            if generations.young.len() == OBJECTS_PER_GENERATION {
                generations.old = std::mem::take(&mut generations.young);
            }
            generations.young.insert(brief(digest), shards.into_inner());
        }
    }

    pub(crate) fn shards_of(&self, digest: Digest) -> Option<RangeInclusive<u32>> {
        let (generations, brief) = (self.lock(), brief(digest));
        let found = generations.young.get(&brief).or_else(|| generations.old.get(&brief));
        found.map(|&(first, last)| first..=last)
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn brief(digest: Digest) -> u32 {
    let [a, b, c, d, ..] = *digest.as_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_known_until_two_generations_have_followed() {
        let known = Known::default();
        let digest = |number: u32| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&number.to_le_bytes());
            Digest::from_bytes(bytes)
        };
        let generation = OBJECTS_PER_GENERATION as u32;
        let learn = |numbers: std::ops::Range<u32>| {
            known.learn(numbers.map(|number| (digest(number), number..=number + 1)));
        };
        learn(0..2 * generation);
        assert_eq!(known.shards_of(digest(0)), Some(0..=1));
        learn(2 * generation..2 * generation + 1);
        assert_eq!(known.shards_of(digest(0)), None);
        for number in [generation, 2 * generation] {
            assert_eq!(known.shards_of(digest(number)), Some(number..=number + 1));
        }
    }
}
