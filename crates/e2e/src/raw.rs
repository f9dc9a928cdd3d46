//! Bytes on a socket, for tests of what no well-behaved client sends.
//!
//! Frames are built by hand here: a broken message must not depend on an encoder that refuses to make one.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a broker may take to answer or close.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// A whole response frame, without its length.
    Frame(Vec<u8>),
    /// The broker closed the connection.
    Closed,
    /// Neither, within the time allowed.
    Silence,
}

/// Connects, with time limits on both directions.
///
/// # Panics
/// When the broker does not accept.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT).expect("connect");
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).expect("a read timeout");
    stream.set_write_timeout(Some(ANSWER_TIMEOUT)).expect("a write timeout");
    stream.set_nodelay(true).expect("no delay");
    stream
}

/// Writes all; a broker that closes in the middle is no failure.
pub fn write(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).ok();
}

/// Reads one frame or the end.
pub fn read(stream: &mut TcpStream) -> Answer {
    let mut length = [0; 4];
    if let Err(answer) = fill(stream, &mut length) {
        return answer;
    }
    let Ok(length) = usize::try_from(i32::from_be_bytes(length)) else { return Answer::Closed };
    let mut frame = vec![0; length];
    match fill(stream, &mut frame) {
        Ok(()) => Answer::Frame(frame),
        Err(answer) => answer,
    }
}

/// One connection, these bytes, and what comes back.
///
/// # Panics
/// When the broker does not accept.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = connect(address);
    write(&mut stream, bytes);
    read(&mut stream)
}

/// A frame: length, header of version 1 with the client id `raw`, body.
///
/// # Panics
/// When it passes 2 GiB.
pub fn request(api_key: i16, version: i16, correlation_id: i32, body: &[u8]) -> Vec<u8> {
    let mut frame = Bytes::default();
    frame.i16(api_key).i16(version).i32(correlation_id).i16(3).raw(b"raw").raw(body);
    framed(&frame.0)
}

/// As [`request`] with the tagged fields that a header of version 2 ends with.
///
/// # Panics
/// When it passes 2 GiB.
pub fn flexible_request(api_key: i16, version: i16, correlation_id: i32, body: &[u8]) -> Vec<u8> {
    let mut with_tags = vec![0];
    with_tags.extend_from_slice(body);
    request(api_key, version, correlation_id, &with_tags)
}

/// Puts the length in front.
///
/// # Panics
/// When it passes 2 GiB.
pub fn framed(content: &[u8]) -> Vec<u8> {
    let mut out = Bytes::default();
    out.i32(i32::try_from(content.len()).expect("below 2 GiB")).raw(content);
    out.0
}

/// Big-endian bytes, one after the other.
#[derive(Default)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    /// Appends.
    pub fn i8(&mut self, value: i8) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// Appends.
    pub fn i16(&mut self, value: i16) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// Appends.
    pub fn i32(&mut self, value: i32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// Appends.
    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// Appends as it is.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Appends a string with a two-byte length.
    ///
    /// # Panics
    /// When it is longer than that can say.
    pub fn string(&mut self, text: &str) -> &mut Self {
        self.i16(i16::try_from(text.len()).expect("a short string")).raw(text.as_bytes())
    }
}

fn fill(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<(), Answer> {
    stream.read_exact(buffer).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Answer::Silence,
        _ => Answer::Closed,
    })
}

/// A Produce request of version 3 with `acks=1` and one partition, framed.
///
/// # Panics
/// When it passes 2 GiB.
pub fn produce_request(topic: &str, correlation_id: i32, records: &[u8]) -> Vec<u8> {
    let mut body = Bytes::default();
    body.i16(-1).i16(1).i32(10_000); // no transactional id, acks, timeout
    body.i32(1).string(topic).i32(1).i32(0); // one topic, one partition, index 0
    body.i32(i32::try_from(records.len()).expect("below 2 GiB")).raw(records);
    request(0, 3, correlation_id, &body.0)
}

/// The error code and base offset of the one partition in a Produce response of version 3.
///
/// # Panics
/// When it is no such response.
pub fn produce_result(frame: &[u8], topic: &str) -> (i16, i64) {
    // correlation id, one topic, its name, one partition, its index
    let at = 4 + 4 + 2 + topic.len() + 4 + 4;
    let error = i16::from_be_bytes(frame[at..at + 2].try_into().expect("two bytes"));
    let base_offset = i64::from_be_bytes(frame[at + 2..at + 10].try_into().expect("eight bytes"));
    (error, base_offset)
}

/// A record batch whose every field may lie; the defaults are right.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Should be 0 from a producer.
    pub base_offset: i64,
    /// Added to the true length.
    pub length_error: i32,
    /// Should be 2.
    pub magic: i8,
    /// XORed into the true checksum.
    pub crc_error: u32,
    /// Codec in the low three bits.
    pub attributes: i16,
    /// Should be the count less one.
    pub last_offset_delta: i32,
    /// How many records there are said to be.
    pub count: i32,
    /// The records, compressed where the attributes say so.
    pub records: Vec<u8>,
}

impl Batch {
    /// One uncompressed record with the value `x`.
    pub fn of_one_record() -> Self {
        Self::of(vec![14, 0, 0, 0, 1, 2, b'x', 0])
    }

    /// One record in these bytes.
    pub fn of(records: Vec<u8>) -> Self {
        Self {
            base_offset: 0,
            length_error: 0,
            magic: 2,
            crc_error: 0,
            attributes: 0,
            last_offset_delta: 0,
            count: 1,
            records,
        }
    }

    /// The bytes on the wire.
    ///
    /// # Panics
    /// When it passes 2 GiB.
    pub fn bytes(&self) -> Vec<u8> {
        let mut covered = Bytes::default();
        covered.i16(self.attributes).i32(self.last_offset_delta);
        covered.i64(1_700_000_000_000).i64(1_700_000_000_000); // base and maximal timestamp
        covered.i64(-1).i16(-1).i32(-1); // no producer id, epoch, sequence
        covered.i32(self.count).raw(&self.records);
        let crc = crc_32c(&covered.0) ^ self.crc_error;
        let length = i32::try_from(covered.0.len() + 9).expect("below 2 GiB");
        let mut batch = Bytes::default();
        batch.i64(self.base_offset).i32(length.wrapping_add(self.length_error)).i32(-1).i8(self.magic);
        batch.raw(&crc.to_be_bytes()).raw(&covered.0);
        batch.0
    }
}

/// One record with a value of `value_bytes` zeros, written piece by piece.
///
/// # Errors
/// As `to`.
///
/// # Panics
/// When it passes 2 GiB.
pub fn write_record_of_zeros(to: &mut impl Write, value_bytes: usize) -> std::io::Result<()> {
    let value_length = varint(i64::try_from(value_bytes).expect("below 2 GiB"));
    // attributes, timestamp delta, offset delta, null key, value, no headers
    let body_bytes = 4 + value_length.len() + value_bytes + 1;
    to.write_all(&varint(i64::try_from(body_bytes).expect("below 2 GiB")))?;
    to.write_all(&[0, 0, 0, 1])?;
    to.write_all(&value_length)?;
    let zeros = [0; 64 * 1024];
    let mut left = value_bytes;
    while left > 0 {
        let now = left.min(zeros.len());
        to.write_all(&zeros[..now])?;
        left -= now;
    }
    to.write_all(&[0])
}

/// Zigzag, seven bits a byte.
fn varint(value: i64) -> Vec<u8> {
    let mut left = (value << 1 ^ value >> 63).cast_unsigned();
    let mut out = Vec::new();
    while left >= 0x80 {
        out.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
    out
}

/// Bit by bit: slow, short, and not the broker's.
fn crc_32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc_32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn lengths_are_zigzag() {
        assert_eq!(varint(0), [0]);
        assert_eq!(varint(-1), [1]);
        assert_eq!(varint(7), [14]);
        assert_eq!(varint(64), [0x80, 1]);
    }
}
