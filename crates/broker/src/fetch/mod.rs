//! Fetch: sessions (pure) and the reads behind a request.

pub(crate) mod plan;
pub(crate) mod rooms;
pub(crate) mod session;
