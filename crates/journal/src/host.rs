//! The machine that an entry or a record was made on.

use forebay_format::v1::journal::Host;

/// This machine, with `device` as what computes: `cpu (flex)`, `cuda`, …
#[must_use]
pub fn host(device: impl Into<String>) -> Host {
    Host {
        cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        device: device.into(),
        forebay: env!("CARGO_PKG_VERSION").to_owned(),
    }
}
