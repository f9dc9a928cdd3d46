//! One connection: requests out, answers in, in order.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use bytes::{Buf, BytesMut};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::wire::{Request, decode_response, encode_request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CLIENT_ID: &str = "coordinator_bench";
const LENGTH_BYTES: usize = 4;

/// Requests are answered in the order they were sent.
pub struct Connection {
    stream: TcpStream,
    input: BytesMut,
    sent: i32,
    answered: i32,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, input: BytesMut::new(), sent: 0, answered: 0 })
    }

    pub async fn call<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response> {
        self.send(version, request).await?;
        self.receive::<R>(version).await
    }

    pub async fn send<R: Request>(&mut self, version: i16, request: &R) -> Result<()> {
        let frame = encode_request(request, version, self.sent, Some(CLIENT_ID))?;
        self.sent += 1;
        self.stream.write_all(&frame).await.with_context(|| format!("send {}", R::NAME))
    }

    /// The answer to the earliest request that has none yet; it must be an `R`.
    pub async fn receive<R: Request>(&mut self, version: i16) -> Result<R::Response> {
        loop {
            if self.input.len() >= LENGTH_BYTES {
                let length = usize::try_from(i32::from_be_bytes(self.input[..LENGTH_BYTES].try_into()?))?;
                if self.input.len() >= LENGTH_BYTES + length {
                    self.input.advance(LENGTH_BYTES);
                    let frame = self.input.split_to(length).freeze();
                    let (correlation_id, response) = decode_response(frame, R::API_KEY, version)?;
                    if correlation_id != self.answered {
                        bail!("an answer to request {correlation_id}, not to {}", self.answered);
                    }
                    self.answered += 1;
                    return Ok(response);
                }
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                bail!("the broker closed the connection instead of answering {}", R::NAME);
            }
        }
    }
}

/// An error but for NONE.
pub fn expect_success(what: &str, code: i16) -> Result<()> {
    match ErrorCode::from_code(code) {
        Some(ErrorCode::None) => Ok(()),
        Some(error) => bail!("{what}: {error:?}"),
        None => bail!("{what}: error {code}"),
    }
}

/// Not there yet, but soon: the topic of offsets is being created, or its partition loaded.
pub fn is_coordinator_coming(code: i16) -> bool {
    matches!(
        ErrorCode::from_code(code),
        Some(
            ErrorCode::CoordinatorLoadInProgress
                | ErrorCode::CoordinatorNotAvailable
                | ErrorCode::NotCoordinator
        )
    )
}
