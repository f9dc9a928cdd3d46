//! Seeded worlds around the log: what it acknowledged is still there after any power cut.
//!
//! A [`Case`] is a list of steps drawn from one seed. [`run`] does them on the real log over
//! a disk in memory that loses, tears and reorders what was not synced and fails calls, and
//! compares with [`history`], the plainest model of a log. What fails is made small
//! ([`minimise`]) and told ([`transcript`]).
//!
//! Deliberately absent: threads, real time, a network; the whole broker is simulated by its
//! own tests. [`sabotage`] breaks the disk's promises on purpose, so that one can see that
//! the simulation would notice.

pub mod compacted;
pub mod every_step;
pub mod flips;
pub mod history;
pub mod sabotage;

mod minimise;
mod step;
mod world;

pub use minimise::{minimise, transcript};
pub use sabotage::Sabotage;
pub use step::{Case, Planned, PowerCut, Step};
pub use world::{Stats, Violation, run};
