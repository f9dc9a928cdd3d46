//! The two sides of every generated structure, and the types its fields have.
//!
//! A [`Source`] and a [`Sink`] speak of strings and arrays, not of bytes; `flexible`
//! says which of Kafka's two encodings is meant (KIP-482).

use bytes::Bytes;

use super::{DecodeError, EncodeError, WireStr};
use crate::ids::Uuid;

/// What `records` fields hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Records {
    /// In memory. Decoding always gives this: a slice of the frame.
    Inline(Bytes),
    /// Bytes that the sender of the response knows where to find.
    External {
        /// How many there are.
        len_bytes: u32,
        /// Names them to the sender; comes back in the response's parts.
        tag: u32,
    },
}

impl Records {
    /// How many bytes go to the wire.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        match self {
            Self::Inline(bytes) => bytes.len(),
            Self::External { len_bytes, .. } => *len_bytes as usize,
        }
    }

    /// The bytes, if they are in memory.
    #[must_use]
    pub fn as_inline(&self) -> Option<&Bytes> {
        match self {
            Self::Inline(bytes) => Some(bytes),
            Self::External { .. } => None,
        }
    }
}

impl From<Bytes> for Records {
    fn from(bytes: Bytes) -> Self {
        Self::Inline(bytes)
    }
}

/// Fields in the order of the schema.
pub trait Structure: Sized + Default + Clone + std::fmt::Debug + PartialEq {
    /// The fewest bytes it can have, in any version.
    const SIZE_MIN: usize;

    /// Reads the fields that `version` has; the others get their defaults.
    ///
    /// # Errors
    /// Whatever `d` refuses.
    fn read<D: Source>(d: &mut D, version: i16) -> Result<Self, DecodeError>;

    /// Writes the fields that `version` has.
    ///
    /// # Errors
    /// A value that `version` cannot carry and that may not be left out.
    fn write<S: Sink>(&self, s: &mut S, version: i16) -> Result<(), EncodeError>;
}

/// The type of an array's element or of a tagged field: always in its one encoding.
pub trait Value: Sized {
    /// The fewest bytes it can have.
    const SIZE_MIN: usize;

    /// Reads one.
    ///
    /// # Errors
    /// Whatever `d` refuses.
    fn get<D: Source>(d: &mut D, flexible: bool, version: i16) -> Result<Self, DecodeError>;

    /// Writes one.
    ///
    /// # Errors
    /// As [`Structure::write`].
    fn put<S: Sink>(&self, s: &mut S, flexible: bool, version: i16) -> Result<(), EncodeError>;

    /// Reads `count` in a row. The caller has checked that they fit and charged their memory.
    ///
    /// # Errors
    /// As [`Value::get`].
    #[inline]
    fn get_many<D: Source>(
        d: &mut D,
        count: usize,
        flexible: bool,
        version: i16,
    ) -> Result<Vec<Self>, DecodeError> {
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            all.push(Self::get(d, flexible, version)?);
        }
        Ok(all)
    }

    /// Writes all in a row.
    ///
    /// # Errors
    /// As [`Value::put`].
    #[inline]
    fn put_many<S: Sink>(all: &[Self], s: &mut S, flexible: bool, version: i16) -> Result<(), EncodeError> {
        all.iter().try_for_each(|one| one.put(s, flexible, version))
    }
}

/// Yields the fields of a structure, one after the other.
#[allow(missing_docs, clippy::missing_errors_doc)] // named after the types of the schema
pub trait Source: Sized {
    fn bool(&mut self) -> Result<bool, DecodeError>;
    fn i8(&mut self) -> Result<i8, DecodeError>;
    fn i16(&mut self) -> Result<i16, DecodeError>;
    fn u16(&mut self) -> Result<u16, DecodeError>;
    fn i32(&mut self) -> Result<i32, DecodeError>;
    fn u32(&mut self) -> Result<u32, DecodeError>;
    fn i64(&mut self) -> Result<i64, DecodeError>;
    fn f64(&mut self) -> Result<f64, DecodeError>;
    fn uuid(&mut self) -> Result<Uuid, DecodeError>;
    fn nullable_string(&mut self, flexible: bool) -> Result<Option<WireStr>, DecodeError>;
    fn nullable_bytes(&mut self, flexible: bool) -> Result<Option<Bytes>, DecodeError>;
    fn nullable_array<T: Value>(
        &mut self,
        flexible: bool,
        version: i16,
    ) -> Result<Option<Vec<T>>, DecodeError>;
    /// Whether a nullable structure is there. Kafka says it in two ways.
    fn presence(&mut self, in_tag: bool) -> Result<bool, DecodeError>;
    /// Calls `field` for every tag; it answers whether it knew the tag and read its value.
    fn tagged_fields(
        &mut self,
        field: impl FnMut(&mut Self, u32) -> Result<bool, DecodeError>,
    ) -> Result<(), DecodeError>;

    #[inline]
    fn i32_many(&mut self, count: usize) -> Result<Vec<i32>, DecodeError> {
        (0..count).map(|_| self.i32()).collect()
    }

    #[inline]
    fn no_tagged_fields(&mut self) -> Result<(), DecodeError> {
        self.tagged_fields(|_, _| Ok(false))
    }

    #[inline]
    fn string(&mut self, flexible: bool) -> Result<WireStr, DecodeError> {
        self.nullable_string(flexible)?.ok_or(DecodeError::NullNotAllowed)
    }

    #[inline]
    fn bytes(&mut self, flexible: bool) -> Result<Bytes, DecodeError> {
        self.nullable_bytes(flexible)?.ok_or(DecodeError::NullNotAllowed)
    }

    #[inline]
    fn nullable_records(&mut self, flexible: bool) -> Result<Option<Records>, DecodeError> {
        Ok(self.nullable_bytes(flexible)?.map(Records::Inline))
    }

    #[inline]
    fn records(&mut self, flexible: bool) -> Result<Records, DecodeError> {
        Ok(Records::Inline(self.bytes(flexible)?))
    }

    #[inline]
    fn array<T: Value>(&mut self, flexible: bool, version: i16) -> Result<Vec<T>, DecodeError> {
        self.nullable_array(flexible, version)?.ok_or(DecodeError::NullNotAllowed)
    }

    #[inline]
    fn nullable_struct<T: Structure>(&mut self, version: i16) -> Result<Option<T>, DecodeError> {
        if self.presence(false)? { T::read(self, version).map(Some) } else { Ok(None) }
    }
}

/// Takes the fields of a structure, one after the other.
#[allow(missing_docs, clippy::missing_errors_doc)] // named after the types of the schema
pub trait Sink: Sized {
    fn fixed<const N: usize>(&mut self, bytes: [u8; N]);
    fn raw(&mut self, bytes: &[u8]);
    fn uvarint(&mut self, value: u32);
    fn i32_many(&mut self, all: &[i32]);
    fn records_content(&mut self, records: &Records);
    /// One tagged field: its tag, its size, its value.
    fn tagged<T: Value>(&mut self, tag: u32, value: &T, version: i16) -> Result<(), EncodeError>;

    #[inline]
    fn bool(&mut self, value: bool) {
        self.fixed([u8::from(value)]);
    }

    #[inline]
    fn i8(&mut self, value: i8) {
        self.fixed(value.to_be_bytes());
    }

    #[inline]
    fn i16(&mut self, value: i16) {
        self.fixed(value.to_be_bytes());
    }

    #[inline]
    fn u16(&mut self, value: u16) {
        self.fixed(value.to_be_bytes());
    }

    #[inline]
    fn i32(&mut self, value: i32) {
        self.fixed(value.to_be_bytes());
    }

    #[inline]
    fn u32(&mut self, value: u32) {
        self.fixed(value.to_be_bytes());
    }

    #[inline]
    fn i64(&mut self, value: i64) {
        self.fixed(value.to_be_bytes());
    }

    #[inline]
    fn f64(&mut self, value: f64) {
        self.fixed(value.to_be_bytes());
    }

    #[inline]
    fn uuid(&mut self, value: Uuid) {
        self.fixed(value.to_bytes());
    }

    #[inline]
    fn string(&mut self, value: &WireStr, flexible: bool) -> Result<(), EncodeError> {
        let length = i16::try_from(value.len())
            .map_err(|_| EncodeError::StringTooLong { length_bytes: value.len() })?;
        if flexible {
            self.uvarint(length as u32 + 1);
        } else {
            self.i16(length);
        }
        self.raw(value.as_bytes());
        Ok(())
    }

    #[inline]
    fn nullable_string(&mut self, value: Option<&WireStr>, flexible: bool) -> Result<(), EncodeError> {
        match value {
            Some(value) => return self.string(value, flexible),
            None if flexible => self.uvarint(0),
            None => self.i16(-1),
        }
        Ok(())
    }

    /// The count of an array or the length of a byte string; `None` is null.
    #[inline]
    fn length(&mut self, length: Option<usize>, flexible: bool) -> Result<(), EncodeError> {
        let Some(length) = length else {
            if flexible {
                self.uvarint(0);
            } else {
                self.i32(-1);
            }
            return Ok(());
        };
        let signed = i32::try_from(length).map_err(|_| EncodeError::TooLong { length })?;
        if flexible {
            self.uvarint(signed as u32 + 1);
        } else {
            self.i32(signed);
        }
        Ok(())
    }

    #[inline]
    fn bytes(&mut self, value: &Bytes, flexible: bool) -> Result<(), EncodeError> {
        self.length(Some(value.len()), flexible)?;
        self.raw(value);
        Ok(())
    }

    #[inline]
    fn nullable_bytes(&mut self, value: Option<&Bytes>, flexible: bool) -> Result<(), EncodeError> {
        match value {
            Some(value) => self.bytes(value, flexible),
            None => self.length(None, flexible),
        }
    }

    #[inline]
    fn nullable_records(&mut self, value: Option<&Records>, flexible: bool) -> Result<(), EncodeError> {
        self.length(value.map(Records::len_bytes), flexible)?;
        if let Some(records) = value {
            self.records_content(records);
        }
        Ok(())
    }

    /// Where null is not allowed, no records are zero bytes of them.
    #[inline]
    fn records(&mut self, value: Option<&Records>, flexible: bool) -> Result<(), EncodeError> {
        match value {
            Some(_) => self.nullable_records(value, flexible),
            None => self.length(Some(0), flexible),
        }
    }

    #[inline]
    fn array<T: Value>(&mut self, all: &[T], flexible: bool, version: i16) -> Result<(), EncodeError> {
        self.length(Some(all.len()), flexible)?;
        T::put_many(all, self, flexible, version)
    }

    #[inline]
    fn nullable_array<T: Value>(
        &mut self,
        all: Option<&Vec<T>>,
        flexible: bool,
        version: i16,
    ) -> Result<(), EncodeError> {
        match all {
            Some(all) => self.array(all, flexible, version),
            None => self.length(None, flexible),
        }
    }

    #[inline]
    fn nullable_struct<T: Structure>(&mut self, value: Option<&T>, version: i16) -> Result<(), EncodeError> {
        match value {
            Some(value) => {
                self.i8(1);
                value.write(self, version)
            }
            None => {
                self.i8(-1);
                Ok(())
            }
        }
    }

    /// How many of the tagged fields follow.
    #[inline]
    fn tag_count<const N: usize>(&mut self, present: [bool; N]) {
        self.uvarint(present.into_iter().map(u32::from).sum());
    }
}

macro_rules! scalar_value {
    ($($type:ty: $method:ident, $size:literal;)*) => {$(
        impl Value for $type {
            const SIZE_MIN: usize = $size;

            #[inline]
            fn get<D: Source>(d: &mut D, _flexible: bool, _version: i16) -> Result<Self, DecodeError> {
                d.$method()
            }

            #[inline]
            fn put<S: Sink>(&self, s: &mut S, _flexible: bool, _version: i16) -> Result<(), EncodeError> {
                s.$method(*self);
                Ok(())
            }
        }
    )*};
}

scalar_value! {
    bool: bool, 1;
    i8: i8, 1;
    i16: i16, 2;
    u16: u16, 2;
    u32: u32, 4;
    i64: i64, 8;
    f64: f64, 8;
    Uuid: uuid, 16;
}

impl Value for i32 {
    const SIZE_MIN: usize = 4;

    #[inline]
    fn get<D: Source>(d: &mut D, _flexible: bool, _version: i16) -> Result<Self, DecodeError> {
        d.i32()
    }

    #[inline]
    fn put<S: Sink>(&self, s: &mut S, _flexible: bool, _version: i16) -> Result<(), EncodeError> {
        s.i32(*self);
        Ok(())
    }

    // Replica lists make up most of a large Metadata response.
    #[inline]
    fn get_many<D: Source>(
        d: &mut D,
        count: usize,
        _flexible: bool,
        _version: i16,
    ) -> Result<Vec<Self>, DecodeError> {
        d.i32_many(count)
    }

    #[inline]
    fn put_many<S: Sink>(all: &[Self], s: &mut S, _flexible: bool, _version: i16) -> Result<(), EncodeError> {
        s.i32_many(all);
        Ok(())
    }
}

impl<T: Structure> Value for T {
    const SIZE_MIN: usize = <T as Structure>::SIZE_MIN;

    #[inline]
    fn get<D: Source>(d: &mut D, _flexible: bool, version: i16) -> Result<Self, DecodeError> {
        T::read(d, version)
    }

    #[inline]
    fn put<S: Sink>(&self, s: &mut S, _flexible: bool, version: i16) -> Result<(), EncodeError> {
        self.write(s, version)
    }
}

macro_rules! long_value {
    ($($type:ty $(where $param:ident: $bound:ident)?:
        |$get_from:ident, $flexible:ident, $version:ident| $get:expr,
        |$value:ident, $put_to:ident| $put:expr;)*) => {$(
        impl $(<$param: $bound>)? Value for $type {
            const SIZE_MIN: usize = 1;

            #[inline]
            #[allow(unused_variables)]
            fn get<D: Source>($get_from: &mut D, $flexible: bool, $version: i16) -> Result<Self, DecodeError> {
                $get
            }

            #[inline]
            #[allow(unused_variables)]
            fn put<S: Sink>(&self, $put_to: &mut S, $flexible: bool, $version: i16) -> Result<(), EncodeError> {
                let $value = self;
                $put
            }
        }
    )*};
}

long_value! {
    WireStr: |d, flexible, version| d.string(flexible), |x, s| s.string(x, flexible);
    Option<WireStr>: |d, flexible, version| d.nullable_string(flexible), |x, s| s.nullable_string(x.as_ref(), flexible);
    Bytes: |d, flexible, version| d.bytes(flexible), |x, s| s.bytes(x, flexible);
    Option<Bytes>: |d, flexible, version| d.nullable_bytes(flexible), |x, s| s.nullable_bytes(x.as_ref(), flexible);
    Vec<T> where T: Value: |d, flexible, version| d.array(flexible, version), |x, s| s.array(x, flexible, version);
    Option<Vec<T>> where T: Value: |d, flexible, version| d.nullable_array(flexible, version), |x, s| s.nullable_array(x.as_ref(), flexible, version);
}

/// As a tagged field only: there, presence is a varint, 0 or 1, and not the -1 or 1 of
/// [`Sink::nullable_struct`].
impl<T: Structure> Value for Option<T> {
    const SIZE_MIN: usize = 1;

    #[inline]
    fn get<D: Source>(d: &mut D, _flexible: bool, version: i16) -> Result<Self, DecodeError> {
        if d.presence(true)? { T::read(d, version).map(Some) } else { Ok(None) }
    }

    #[inline]
    fn put<S: Sink>(&self, s: &mut S, _flexible: bool, version: i16) -> Result<(), EncodeError> {
        s.uvarint(u32::from(self.is_some()));
        self.as_ref().map_or(Ok(()), |value| value.write(s, version))
    }
}
