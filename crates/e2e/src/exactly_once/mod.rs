//! A check of exactly-once in the manner of Jepsen's Kafka workload, over real processes.
//!
//! Generators write numbered records to input partitions, copiers move them to output partitions with their offsets in
//! the same transaction, some transactions abort on purpose, some clients vanish or are replaced behind their backs,
//! and the broker is killed and suspended meanwhile. At the end everything is read, and what was seen is judged.
//!
//! `history` is what was done and seen, `check` judges it (pure, with `order` for cycles); `round` makes one, with
//! `generator`, `copier` and `java_copier` over `client`, `faults` and `reader`; `series` runs many.

pub mod check;
mod client;
mod copier;
pub mod faults;
mod generator;
pub mod history;
mod java_copier;
mod journal;
mod order;
mod reader;
pub mod round;
pub mod series;
