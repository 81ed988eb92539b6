//! One verb a file.

pub mod archive;
pub mod bench;
pub mod checkpoint;
pub mod clear;
pub mod config;
pub mod day;
mod day_summary;
pub mod doctor;
pub mod evaluate;
pub mod index;
pub mod prepare;
pub mod trace;
pub mod train;
mod train_process;
