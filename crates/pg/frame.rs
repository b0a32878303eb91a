//! Bytes from the server become protocol messages ("frames").
//!
//! ```text
//! byte 0     tag
//! byte 1..5  length of the rest, itself included, big endian (so at least 4)
//! byte 5..   body
//! ```
//!
//! The buffer is a field: a read that is dropped half way loses nothing, and the next one goes on where it stopped.
//! Frames leave as handles into the block that they were read into. Blocks have one size, are never written twice
//! while a handle lives, and a few that are free again are kept: what is pinned is what is alive plus one block.

use std::collections::VecDeque;

use bytes::BytesMut;
use postgres_protocol::message::backend::Message;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::Error;

pub(crate) const HEADER_BYTES: usize = 5;

/// One block. A walsender that is ahead fills the socket's buffer with some hundred kilobytes: one read takes them.
const BLOCK_BYTES: usize = 256 << 10;
/// With less room than this left in a block the next read goes into a new one, so that reads stay large.
const ROOM_BYTES_MIN: usize = BLOCK_BYTES / 8;
/// Used blocks that are watched until all handles into them are gone. More would be needed only if frames were kept
/// for longer than four blocks take to arrive; then new ones are allocated.
const RETIRED_BLOCKS_MAX: usize = 4;

/// Tag and length of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) tag: u8,
    /// The whole frame, header included.
    pub(crate) frame_bytes: u64,
}

impl Header {
    /// Reads the header at the front of `bytes`; `None` if it is not complete.
    #[inline]
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Header>, Error> {
        let Some((&[tag, a, b, c, d], _)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]);
        if !(4..=i32::MAX as u32).contains(&length) {
            return Err(Error::protocol(format!(
                "a frame with tag 0x{tag:02x} has the impossible length {length}"
            )));
        }
        Ok(Some(Header { tag, frame_bytes: u64::from(length) + 1 }))
    }
}

/// One whole frame.
#[derive(Debug)]
pub(crate) struct RawFrame {
    pub(crate) tag: u8,
    bytes: BytesMut,
}

impl RawFrame {
    /// Parses the body. A tag that postgres-protocol does not know is an error.
    pub(crate) fn message(mut self) -> Result<Message, Error> {
        match Message::parse(&mut self.bytes) {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(Error::protocol("a frame is shorter than it says")),
            Err(cause) => {
                let phrase = format!("a frame with tag 0x{:02x} cannot be read", self.tag);
                Err(Error::because(crate::ErrorKind::Protocol, phrase, cause))
            }
        }
    }
}

/// Collects bytes until a frame is whole.
pub(crate) struct FrameReader {
    buffer: BytesMut,
    /// The size that the buffer's block was allocated with.
    block_bytes: usize,
    retired: VecDeque<BytesMut>,
    max_frame_bytes: u64,
}

impl FrameReader {
    pub(crate) fn new(max_frame_bytes: u64) -> FrameReader {
        FrameReader { buffer: BytesMut::new(), block_bytes: 0, retired: VecDeque::new(), max_frame_bytes }
    }

    /// Sets the length above which a frame is refused, header included.
    pub(crate) fn set_max_frame_bytes(&mut self, bytes: u64) {
        self.max_frame_bytes = bytes;
    }

    pub(crate) fn max_frame_bytes(&self) -> u64 {
        self.max_frame_bytes
    }

    /// What was read and not yet taken.
    pub(crate) fn buffered(&self) -> &[u8] {
        &self.buffer
    }

    /// Takes the first `count` bytes that are buffered, without copying them.
    pub(crate) fn take(&mut self, count: usize) -> BytesMut {
        self.buffer.split_to(count)
    }

    /// Reads once, as much as there is and has room. Cancel-safe.
    pub(crate) async fn fill<R: AsyncRead + Unpin>(&mut self, source: &mut R) -> Result<usize, Error> {
        self.make_room();
        match source.read_buf(&mut self.buffer).await {
            Ok(0) => Err(Error::closed()),
            Ok(count) => Ok(count),
            Err(cause) => Err(Error::io(cause)),
        }
    }

    /// Waits for one whole frame. Cancel-safe.
    pub(crate) async fn read_frame<R: AsyncRead + Unpin>(
        &mut self,
        source: &mut R,
    ) -> Result<RawFrame, Error> {
        loop {
            if let Some(frame) = self.next_buffered()? {
                return Ok(frame);
            }
            self.fill(source).await?;
        }
    }

    /// Takes the first frame if it is whole.
    pub(crate) fn next_buffered(&mut self) -> Result<Option<RawFrame>, Error> {
        let Some(header) = Header::parse(&self.buffer)? else { return Ok(None) };
        if header.frame_bytes > self.max_frame_bytes {
            return Err(Error::protocol(format!(
                "a frame with tag 0x{:02x} has {} bytes; the limit is {}",
                header.tag, header.frame_bytes, self.max_frame_bytes
            )));
        }
        if (self.buffer.len() as u64) < header.frame_bytes {
            return Ok(None);
        }
        Ok(Some(RawFrame { tag: header.tag, bytes: self.take(header.frame_bytes as usize) }))
    }

    /// Makes sure that the next read is worth its system call.
    ///
    /// The buffer doubles towards the length that a header announces, it does not jump there: the length is the
    /// server's word, the bytes are its deed.
    fn make_room(&mut self) {
        let announced = match Header::parse(&self.buffer) {
            Ok(Some(header)) => header.frame_bytes.min(self.max_frame_bytes) as usize,
            _ => 0,
        };
        let room = self.buffer.capacity() - self.buffer.len();
        let rest_fits = announced > self.buffer.len() && self.buffer.capacity() >= announced;
        if room >= ROOM_BYTES_MIN || rest_fits {
            return;
        }
        let wanted = announced.min(2 * self.buffer.len()).max(BLOCK_BYTES);
        let mut block = self.free_block(wanted);
        block.extend_from_slice(&self.buffer);
        let mut full = std::mem::replace(&mut self.buffer, block);
        let full_bytes = std::mem::replace(&mut self.block_bytes, wanted);
        if full_bytes == BLOCK_BYTES {
            full.clear();
            if self.retired.len() == RETIRED_BLOCKS_MAX {
                self.retired.pop_front();
            }
            self.retired.push_back(full);
        }
    }

    fn free_block(&mut self, wanted: usize) -> BytesMut {
        // Handles are dropped about in the order in which they were given out, so the oldest block is free first.
        // A block in which nothing was read whole is its own only handle: it holds what is being copied out of it.
        if wanted == BLOCK_BYTES
            && let Some(mut oldest) = self.retired.pop_front()
        {
            if oldest.try_reclaim(BLOCK_BYTES) {
                return oldest;
            }
            self.retired.push_front(oldest);
        }
        BytesMut::with_capacity(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;
    use tokio::io::AsyncWriteExt;

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        out.extend((body.len() as u32 + 4).to_be_bytes());
        out.extend(body);
        out
    }

    #[tokio::test]
    async fn fragments_of_one_byte_and_cancelled_reads_lose_nothing() {
        let (mut server, mut client) = tokio::io::duplex(1);
        let sent: Vec<u8> = (0..50u8).flat_map(|n| frame(b'd', &vec![n; usize::from(n)])).collect();
        tokio::spawn(async move {
            for byte in sent {
                server.write_all(&[byte]).await.expect("the reader lives");
                tokio::time::sleep(Duration::from_micros(20)).await;
            }
        });
        let mut reader = FrameReader::new(1000);
        for n in 0..50u8 {
            let frame = loop {
                // Most of these give up in the middle of a frame.
                let patience = Duration::from_micros(30);
                if let Ok(frame) = tokio::time::timeout(patience, reader.read_frame(&mut client)).await {
                    break frame.expect("a frame");
                }
            };
            assert_eq!(frame.bytes[HEADER_BYTES..], vec![n; usize::from(n)]);
        }
        assert!(
            matches!(reader.read_frame(&mut client).await, Err(error) if error.kind() == crate::ErrorKind::Closed)
        );
    }

    #[tokio::test]
    async fn a_frame_over_the_limit_is_refused_before_it_arrives() {
        let mut source: &[u8] = &frame(b'D', &[0; 2000])[..100];
        let error = FrameReader::new(1000).read_frame(&mut source).await.expect_err("refused");
        assert_eq!(error.kind(), crate::ErrorKind::Protocol);
        let mut source: &[u8] = &[b'D', 0, 0, 0, 3];
        assert!(FrameReader::new(1000).read_frame(&mut source).await.is_err());
        let mut source: &[u8] = &[b'D', 0xff, 0xff, 0xff, 0xff];
        assert!(FrameReader::new(u64::MAX).read_frame(&mut source).await.is_err());
    }

    #[tokio::test]
    async fn a_large_frame_grows_the_buffer_by_what_has_come() {
        let body: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
        let bytes = frame(b'd', &body);
        let mut reader = FrameReader::new(u64::MAX);
        // Only the header of a gigabyte comes: no gigabyte is allocated.
        let mut source: &[u8] = &[b'd', 0x3f, 0xff, 0xff, 0xff, 1, 2, 3];
        assert!(reader.read_frame(&mut source).await.is_err());
        assert!(reader.buffer.capacity() <= BLOCK_BYTES);
        let mut reader = FrameReader::new(u64::MAX);
        let mut source = bytes.as_slice();
        let frame = reader.read_frame(&mut source).await.expect("a frame");
        assert_eq!(frame.bytes, bytes);
    }

    #[tokio::test]
    async fn blocks_are_used_again_once_their_frames_are_gone() {
        let bytes: Vec<u8> = (0..20_000u32).flat_map(|n| frame(b'd', &n.to_be_bytes().repeat(20))).collect();
        let mut source = bytes.as_slice();
        let mut reader = FrameReader::new(1000);
        let mut blocks = std::collections::BTreeSet::new();
        for n in 0..20_000u32 {
            let frame = reader.read_frame(&mut source).await.expect("a frame");
            assert_eq!(frame.bytes[HEADER_BYTES..HEADER_BYTES + 4], n.to_be_bytes());
            blocks.insert(frame.bytes.as_ptr() as usize / BLOCK_BYTES);
        }
        // 1.7 MB went through two blocks, each of which may touch two aligned ones.
        assert!(blocks.len() <= 4, "{} blocks", blocks.len());
    }

    #[tokio::test]
    async fn a_block_with_a_living_frame_is_not_written_again() {
        let bytes: Vec<u8> = (0..20_000u32).flat_map(|n| frame(b'd', &n.to_be_bytes().repeat(20))).collect();
        let mut source = bytes.as_slice();
        let mut reader = FrameReader::new(1000);
        let mut kept = Vec::new();
        for n in 0..20_000u32 {
            let frame = reader.read_frame(&mut source).await.expect("a frame");
            if n % 1000 == 0 {
                kept.push((n, frame.bytes.freeze()));
            }
        }
        for (n, bytes) in kept {
            assert_eq!(bytes[HEADER_BYTES..], n.to_be_bytes().repeat(20));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async {
                let mut source = bytes.as_slice();
                let mut reader = FrameReader::new(200);
                while let Ok(frame) = reader.read_frame(&mut source).await {
                    let _ = frame.message();
                }
            });
        }
    }
}
