//! How Kafka's messages lie on the wire.
//!
//! A [`Source`] yields values and a [`Sink`] takes them; every generated structure
//! reads from the one and writes to the other, field by field, for one version.
//! [`Decoder`] is the source for bytes from outside, [`Sizer`] and [`Encoder`] are
//! the sinks: a message is measured first, then written into one buffer of exactly
//! that size. Record bytes are slices on the way in and travel beside the buffer
//! on the way out.
//!
//! Not here: record batches, sockets, which error code answers a bad request.
//!
//! **Invariant:** no length from the wire sizes an allocation. A count has to fit
//! into the bytes that are left, and what it would expand to is charged to a budget.

mod decoder;
mod encoder;
mod frame;
mod sizer;
mod text;
mod value;

#[cfg(any(test, feature = "arbitrary"))]
pub mod arbitrary;
#[cfg(test)]
mod frame_tests;
#[cfg(test)]
mod tests;

pub use decoder::{DecodeError, Decoder};
pub use encoder::{Encoder, INLINE_RECORDS_BYTES_MAX, Part};
pub use frame::{
    RequestHeader, decode_data, decode_request_body, decode_response, decode_versioned, encode_data,
    encode_request, encode_response, encode_versioned,
};
pub use sizer::{EncodeError, MessageSize, Sizer};
pub use text::WireStr;
pub use value::{Records, Sink, Source, Structure, Value};

use std::ops::RangeInclusive;

use crate::api_key::ApiKey;

/// A whole message: the body of a request or response, or the value of a record.
pub trait Message: Structure {
    /// Kafka's name, for logs and errors.
    const NAME: &'static str;
    /// Every version the schema knows, unstable ones too; what is served is [`ApiKey::versions`].
    const VERSIONS: RangeInclusive<i16>;

    /// Reads one message and leaves `d` behind it.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not such a message; never a panic.
    fn decode(d: &mut Decoder, version: i16) -> Result<Self, DecodeError>;

    /// The exact size in `version`.
    ///
    /// # Errors
    /// [`EncodeError`] when `version` cannot carry the values.
    fn size(&self, version: i16) -> Result<MessageSize, EncodeError>;

    /// Writes a message that [`Message::size`] has accepted for this version.
    ///
    /// # Panics
    /// When it was not accepted.
    fn encode(&self, e: &mut Encoder, version: i16);
}

/// The body of a request, with what answers it.
pub trait Request: Message {
    /// The API it belongs to.
    const API_KEY: ApiKey;
    /// The body of the answer, in the same version.
    type Response: Message;
}

/// Makes a generated structure a [`Message`]; here, so that its code is compiled in this crate.
macro_rules! message {
    ($name:ident, $versions:expr) => {
        impl $crate::wire::Message for $name {
            const NAME: &'static str = stringify!($name);
            const VERSIONS: std::ops::RangeInclusive<i16> = $versions;

            fn decode(
                d: &mut $crate::wire::Decoder,
                version: i16,
            ) -> Result<Self, $crate::wire::DecodeError> {
                d.check_version::<Self>(version)?;
                Self::read(d, version)
            }

            fn size(&self, version: i16) -> Result<$crate::wire::MessageSize, $crate::wire::EncodeError> {
                $crate::wire::Sizer::measure(self, version)
            }

            fn encode(&self, e: &mut $crate::wire::Encoder, version: i16) {
                self.write(e, version).expect("size() has accepted the message");
            }
        }
    };
}
pub(crate) use message;
