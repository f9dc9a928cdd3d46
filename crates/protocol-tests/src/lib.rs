//! Empty: the tests beside it hold `klamm-protocol` against the `kafka-protocol` crate.
//!
//! A crate of its own, so that building and testing the protocol never waits for that
//! crate, and its features never reach the protocol's own dependencies.
