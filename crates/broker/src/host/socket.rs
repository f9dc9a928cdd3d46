//! Real sockets: vectored sends, `sendfile` for log regions.
//!
//! What only Linux has sits here, with a copying fallback elsewhere.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "implements Transport on real sockets"
)]

use std::future::{Future as _, poll_fn};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use rustix::net::SendFlags;
use tokio::io::{AsyncReadExt as _, Interest as TokioInterest};

use super::{Interest, Listener, OutPart, OutQueue, Sent, Transport};

/// How many byte parts one system call takes at most.
const IO_SLICES_MAX: usize = 64;
/// A region that no file descriptor stands for is copied in pieces of this size.
const COPY_BYTES_MAX: usize = 256 * 1024;
const SEND_FLAGS: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

/// A listening TCP socket.
pub struct TcpListener(tokio::net::TcpListener);

impl TcpListener {
    /// Connections that wait to be accepted (Kafka's `socket.listen.backlog.size` is 50;
    /// a higher number costs nothing and survives a storm of reconnects).
    const BACKLOG: u32 = 1_024;

    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() {
            tokio::net::TcpSocket::new_v4()?
        } else {
            tokio::net::TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self(socket.listen(Self::BACKLOG)?))
    }
}

impl Listener for TcpListener {
    type Transport = TcpTransport;

    fn local_address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    async fn accept(&mut self) -> io::Result<(TcpTransport, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        // A peer that is already gone shows at the first read.
        let _ = stream.set_nodelay(true);
        Ok((TcpTransport(stream), peer))
    }
}

/// A TCP connection.
pub struct TcpTransport(tokio::net::TcpStream);

impl Transport for TcpTransport {
    fn try_read(&mut self, into: &mut BytesMut) -> io::Result<usize> {
        // A read that does not fill the room has emptied the socket: tokio then waits for the next event, and the
        // system call that would only say so is not made. This poll wakes nobody: whoever waits, waits for `ready`; and
        // where tokio wants the task to yield, the `select!` around that does.
        let mut context = Context::from_waker(Waker::noop());
        match pin!(self.0.read_buf(into)).poll(&mut context) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn try_send(&mut self, queue: &mut OutQueue, bytes_max: usize) -> io::Result<Sent> {
        let mut sent = Sent::default();
        while !queue.is_empty() && sent.bytes < bytes_max {
            match self.0.try_io(TokioInterest::WRITABLE, || send_once(&self.0, queue, bytes_max - sent.bytes))
            {
                Ok(count) => {
                    queue.advance(count);
                    sent.bytes += count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    sent.is_full = true;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    async fn ready(&mut self, interest: Interest) -> io::Result<()> {
        // tokio's `ready` would join a list of waiters each time; one task waits here, and for that these have a place.
        poll_fn(|context| {
            if interest.read
                && let Poll::Ready(result) = self.0.poll_read_ready(context)
            {
                return Poll::Ready(result);
            }
            if interest.write { self.0.poll_write_ready(context) } else { Poll::Pending }
        })
        .await
    }
}

/// One system call's worth from the front of the queue.
fn send_once(stream: &tokio::net::TcpStream, queue: &OutQueue, bytes_max: usize) -> io::Result<usize> {
    match queue.parts().next() {
        None => Ok(0),
        Some(OutPart::File(region)) => {
            let count = (region.len_bytes as usize).min(bytes_max);
            send_region(stream, region, count)
        }
        Some(OutPart::Bytes(bytes)) if queue.len() == 1 => {
            let count = bytes.len().min(bytes_max);
            Ok(rustix::net::send(stream, &bytes[..count], SEND_FLAGS)?)
        }
        Some(OutPart::Bytes(_)) => {
            let mut slices = [IoSlice::new(&[]); IO_SLICES_MAX];
            let (mut used, mut room, mut is_followed_by_file) = (0, bytes_max, false);
            for part in queue.parts() {
                match part {
                    OutPart::Bytes(bytes) if used < IO_SLICES_MAX && room > 0 => {
                        let count = bytes.len().min(room);
                        slices[used] = IoSlice::new(&bytes[..count]);
                        (used, room) = (used + 1, room - count);
                    }
                    OutPart::Bytes(_) => break,
                    OutPart::File(_) => {
                        is_followed_by_file = true;
                        break;
                    }
                }
            }
            send_slices(stream, &slices[..used], is_followed_by_file)
        }
    }
}

fn send_slices(stream: &tokio::net::TcpStream, slices: &[IoSlice<'_>], more: bool) -> io::Result<usize> {
    let mut flags = SEND_FLAGS;
    #[cfg(target_os = "linux")]
    if more {
        // The response's header and the region behind it then share packets.
        flags |= SendFlags::MORE;
    }
    #[cfg(not(target_os = "linux"))]
    let _ = more;
    let mut control = rustix::net::SendAncillaryBuffer::default();
    Ok(rustix::net::sendmsg(stream, slices, &mut control, flags)?)
}

fn send_region(
    stream: &tokio::net::TcpStream,
    region: &klamm_log::FileRegion,
    count: usize,
) -> io::Result<usize> {
    #[cfg(target_os = "linux")]
    if let Some(file) = region.fd() {
        let mut position = region.position;
        let sent = rustix::fs::sendfile(stream, file, Some(&mut position), count)?;
        if sent == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the segment ends before the region"));
        }
        return Ok(sent);
    }
    let mut copy = vec![0; count.min(COPY_BYTES_MAX)];
    let read = region.read_at(&mut copy, region.position)?;
    if read == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the segment ends before the region"));
    }
    send_slices(stream, &[IoSlice::new(&copy[..read])], false)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[tokio::test]
    async fn one_call_sends_no_more_than_its_bytes_however_many_parts_wait() {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        stream.writable().await.unwrap();
        let mut queue = OutQueue::default();
        (0..4).for_each(|_| queue.push(OutPart::Bytes(Bytes::from_static(&[7; 1000]))));
        assert_eq!(TcpTransport(stream).try_send(&mut queue, 2500).unwrap().bytes, 2500);
        assert_eq!(queue.bytes(), 1500);
    }
}
