//! The network side: listeners, connections, frames, limits.
//!
//! A connection is one task. It deliberately knows no API: `handlers` decides what a
//! frame means.

pub(crate) mod connection;
#[cfg(test)]
mod connection_tests;
pub(crate) mod input;
pub(crate) mod limits;
pub(crate) mod listener;
pub(crate) mod memory;
mod seldom;
pub(crate) mod slots;
pub(crate) mod waker;

use std::fmt;

/// Why a connection ends. Told at debug level: a peer can cause every one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// The peer closed its side.
    PeerClosed,
    /// The socket failed.
    Io(String),
    /// The four length bytes of a frame are negative or above `socket.request.max.bytes`.
    FrameLength(i32),
    /// A frame that does not decode.
    Malformed(String),
    /// An API or version that is not served; the client cannot be answered.
    NotServed(String),
    /// A produce with acks=0 failed: closing is the only way to say so (as Kafka does).
    UnacknowledgedFailure,
    /// Nothing arrived for `connections.max.idle.ms`.
    Idle,
    /// The broker stops.
    Stopping,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeerClosed => f.write_str("closed by the peer"),
            Self::Io(error) => write!(f, "socket: {error}"),
            Self::FrameLength(length) => write!(f, "a frame of {length} bytes is announced"),
            Self::Malformed(what) => write!(f, "malformed request: {what}"),
            Self::NotServed(what) => write!(f, "not served: {what}"),
            Self::UnacknowledgedFailure => f.write_str("a produce with acks=0 failed"),
            Self::Idle => f.write_str("idle"),
            Self::Stopping => f.write_str("the broker stops"),
        }
    }
}
