//! Where nonces come from.

use std::sync::{Mutex, PoisonError};

use forebay_types::Nonce;

use crate::Random;

pub(crate) enum NonceSource {
    System,
    Seeded(Mutex<Random>),
}

impl NonceSource {
    pub(crate) const fn system() -> Self {
        Self::System
    }

    pub(crate) fn seeded(seed: u64) -> Self {
        Self::Seeded(Mutex::new(Random::new(seed)))
    }

    pub(crate) fn next(&self) -> Nonce {
        match self {
            Self::System => {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes).expect("the operating system gives randomness");
                Nonce::from_bits(u128::from_le_bytes(bytes))
            }
            Self::Seeded(random) => {
                let mut random = random.lock().unwrap_or_else(PoisonError::into_inner);
                let high = u128::from(random.next_u64());
                Nonce::from_bits(high << 64 | u128::from(random.next_u64()))
            }
        }
    }
}
