//! Headers and whole frames: four bytes of length, a header, a body.

use bytes::Bytes;

use super::{DecodeError, Decoder, EncodeError, Encoder, Message, Part, Request, Sink, Source, WireStr};
use crate::api_key::ApiKey;

/// What every request begins with. Version 1, or 2 with tagged fields; the API's version decides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestHeader {
    /// See [`ApiKey::from_code`].
    pub api_key: i16,
    /// Of the body.
    pub api_version: i16,
    /// Comes back in the response.
    pub correlation_id: i32,
    /// What the client calls itself.
    pub client_id: Option<WireStr>,
}

impl RequestHeader {
    /// Reads a header and leaves `d` at the body. When the key or the version is unknown, where
    /// the body begins is unknown as well, but the first eight bytes are the same for ever:
    /// key, version and correlation id come back, so that the caller can answer or close.
    ///
    /// # Errors
    /// Fewer than eight bytes, or a broken header of a known key and version.
    pub fn decode(d: &mut Decoder) -> Result<Self, DecodeError> {
        let (api_key, api_version, correlation_id) = (d.i16()?, d.i16()?, d.i32()?);
        let known = ApiKey::from_code(api_key).filter(|key| key.versions().contains(&api_version));
        let Some(key) = known else {
            // Every header so far had its client id here, never with a compact length.
            let client_id = d.nullable_string(false).unwrap_or(None);
            return Ok(Self { api_key, api_version, correlation_id, client_id });
        };
        let client_id = d.nullable_string(false)?;
        if key.request_header_version(api_version) >= 2 {
            d.no_tagged_fields()?;
        }
        Ok(Self { api_key, api_version, correlation_id, client_id })
    }
}

/// Reads the body that follows a header. Bytes behind it are ignored, as Kafka does and librdkafka needs: its
/// Metadata request for all topics leaves the room of a four-byte count behind in flexible versions.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_request_body<R: Request>(d: &mut Decoder, version: i16) -> Result<R, DecodeError> {
    R::decode(d, version)
}

/// A whole frame with its length. Records above [`super::INLINE_RECORDS_BYTES_MAX`] are parts of their own.
///
/// # Errors
/// When `version` cannot carry `body`.
pub fn encode_response<M: Message>(
    body: &M,
    api: ApiKey,
    version: i16,
    correlation_id: i32,
) -> Result<Vec<Part>, EncodeError> {
    let is_tagged = api.response_header_version(version) >= 1;
    let header_bytes = 4 + usize::from(is_tagged);
    let size = body.size(version)?;
    let mut e = Encoder::with_parts(4 + header_bytes, size);
    e.i32(frame_length(header_bytes + size.total_bytes())?);
    e.i32(correlation_id);
    if is_tagged {
        e.tag_count([]);
    }
    body.encode(&mut e, version);
    Ok(e.into_parts())
}

/// A whole frame with its length, in one piece.
///
/// # Errors
/// When `version` cannot carry `body`, or its records are not in memory.
pub fn encode_request<R: Request>(
    body: &R,
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
) -> Result<Bytes, EncodeError> {
    let is_tagged = R::API_KEY.request_header_version(version) >= 2;
    let client_id = client_id.map(|text| WireStr::from(text.to_owned()));
    let header_bytes = 10 + client_id.as_ref().map_or(0, |text| text.len()) + usize::from(is_tagged);
    let size = body.size(version)?;
    let mut e = Encoder::in_one_buffer(4 + header_bytes, size)?;
    e.i32(frame_length(header_bytes + size.total_bytes())?);
    e.i16(R::API_KEY.code());
    e.i16(version);
    e.i32(correlation_id);
    e.nullable_string(client_id.as_ref(), false)?;
    if is_tagged {
        e.tag_count([]);
    }
    body.encode(&mut e, version);
    Ok(e.into_bytes())
}

/// Reads a response's frame (without its length): the correlation id and the body.
///
/// # Errors
/// [`DecodeError`], also for bytes behind the body.
pub fn decode_response<M: Message>(frame: Bytes, api: ApiKey, version: i16) -> Result<(i32, M), DecodeError> {
    let mut d = trusted_decoder(frame);
    let correlation_id = d.i32()?;
    if api.response_header_version(version) >= 1 {
        d.no_tagged_fields()?;
    }
    let body = M::decode(&mut d, version)?;
    d.finish()?;
    Ok((correlation_id, body))
}

/// The bytes of one message alone.
///
/// # Errors
/// When `version` cannot carry it.
pub fn encode_data<M: Message>(message: &M, version: i16) -> Result<Bytes, EncodeError> {
    let mut e = Encoder::in_one_buffer(0, message.size(version)?)?;
    message.encode(&mut e, version);
    Ok(e.into_bytes())
}

/// Reads one message that fills `bytes`.
///
/// # Errors
/// [`DecodeError`], also for bytes behind it.
pub fn decode_data<M: Message>(bytes: Bytes, version: i16) -> Result<M, DecodeError> {
    let mut d = trusted_decoder(bytes);
    let message = M::decode(&mut d, version)?;
    d.finish()?;
    Ok(message)
}

/// A message behind the two bytes of its version: group records, consumer protocol.
///
/// # Errors
/// When `version` cannot carry it.
pub fn encode_versioned<M: Message>(message: &M, version: i16) -> Result<Bytes, EncodeError> {
    let mut e = Encoder::in_one_buffer(2, message.size(version)?)?;
    e.i16(version);
    message.encode(&mut e, version);
    Ok(e.into_bytes())
}

/// Reads the version, then the message that fills the rest.
///
/// # Errors
/// [`DecodeError`], also for bytes behind it.
pub fn decode_versioned<M: Message>(bytes: Bytes) -> Result<(i16, M), DecodeError> {
    let mut d = trusted_decoder(bytes);
    let version = d.i16()?;
    let message = M::decode(&mut d, version)?;
    d.finish()?;
    Ok((version, message))
}

/// For bytes of a peer or of our own disk: a budget that every honest message of this size meets.
fn trusted_decoder(bytes: Bytes) -> Decoder {
    const EXPANSION_MAX: usize = 64; // an empty string is one byte on the wire, a WireStr has 32
    let budget_bytes = bytes.len().saturating_mul(EXPANSION_MAX).saturating_add(4096);
    Decoder::new(bytes, budget_bytes)
}

fn frame_length(size_bytes: usize) -> Result<i32, EncodeError> {
    i32::try_from(size_bytes).map_err(|_| EncodeError::FrameTooLarge { size_bytes })
}
