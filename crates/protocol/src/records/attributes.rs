//! The attribute bits of a batch: codec, timestamp type, transactional, control, delete horizon.

use super::codec::Codec;

/// What a record's timestamp means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum TimestampType {
    /// The producer's time, one per record.
    #[default]
    CreateTime,
    /// The broker's time at the append, one per batch: its max timestamp.
    LogAppendTime,
}

/// A codec number that no codec has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("compression type {0} does not exist")]
pub struct UnknownCodec(pub u8);

/// Attributes of a batch: bits 0-2 codec, 3 timestamp type, 4 transactional, 5 control,
/// 6 delete horizon. The other bits are unused and kept as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Attributes(pub i16);

impl Attributes {
    const CODEC: i16 = 0x07;
    const LOG_APPEND_TIME: i16 = 0x08;
    const TRANSACTIONAL: i16 = 0x10;
    const CONTROL: i16 = 0x20;
    const DELETE_HORIZON: i16 = 0x40;

    /// How the records are compressed.
    ///
    /// # Errors
    /// [`UnknownCodec`] for the numbers 5, 6 and 7.
    pub fn compression(self) -> Result<Codec, UnknownCodec> {
        let id = (self.0 & Self::CODEC) as u8;
        Codec::from_id(id).ok_or(UnknownCodec(id))
    }

    /// What the records' timestamps mean.
    #[must_use]
    pub fn timestamp_type(self) -> TimestampType {
        if self.has(Self::LOG_APPEND_TIME) { TimestampType::LogAppendTime } else { TimestampType::CreateTime }
    }

    /// True for a batch that belongs to a transaction (KIP-98).
    #[must_use]
    pub fn is_transactional(self) -> bool {
        self.has(Self::TRANSACTIONAL)
    }

    /// True for a batch of control records: transaction markers and the quorum's own.
    #[must_use]
    pub fn is_control(self) -> bool {
        self.has(Self::CONTROL)
    }

    /// True where the base timestamp holds a delete horizon instead (KIP-534).
    #[must_use]
    pub fn has_delete_horizon(self) -> bool {
        self.has(Self::DELETE_HORIZON)
    }

    /// With the codec replaced.
    #[must_use]
    pub fn with_compression(self, codec: Codec) -> Self {
        Self(self.0 & !Self::CODEC | i16::from(codec.id()))
    }

    /// With the timestamp type replaced.
    #[must_use]
    pub fn with_timestamp_type(self, timestamp_type: TimestampType) -> Self {
        self.with(Self::LOG_APPEND_TIME, timestamp_type == TimestampType::LogAppendTime)
    }

    /// With the transactional bit set or cleared.
    #[must_use]
    pub fn with_transactional(self, on: bool) -> Self {
        self.with(Self::TRANSACTIONAL, on)
    }

    /// With the control bit set or cleared.
    #[must_use]
    pub fn with_control(self, on: bool) -> Self {
        self.with(Self::CONTROL, on)
    }

    /// With the delete horizon bit set or cleared.
    #[must_use]
    pub fn with_delete_horizon(self, on: bool) -> Self {
        self.with(Self::DELETE_HORIZON, on)
    }

    fn has(self, bit: i16) -> bool {
        self.0 & bit != 0
    }

    fn with(self, bit: i16, on: bool) -> Self {
        Self(if on { self.0 | bit } else { self.0 & !bit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_is_its_own() {
        let all = Attributes::default()
            .with_compression(Codec::Zstd)
            .with_timestamp_type(TimestampType::LogAppendTime)
            .with_transactional(true)
            .with_control(true)
            .with_delete_horizon(true);
        assert_eq!(all, Attributes(0x7c));
        assert_eq!(all.compression(), Ok(Codec::Zstd));
        assert!(all.is_transactional() && all.is_control() && all.has_delete_horizon());
        assert_eq!(all.timestamp_type(), TimestampType::LogAppendTime);
        let fewer = all.with_control(false).with_timestamp_type(TimestampType::CreateTime);
        assert_eq!(fewer, Attributes(0x54));
        assert_eq!(Attributes(7).compression(), Err(UnknownCodec(7)));
        assert_eq!(Attributes(-1).with_compression(Codec::None), Attributes(-8));
    }
}
