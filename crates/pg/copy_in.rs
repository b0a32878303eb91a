//! Rows into a table: `COPY … FROM STDIN` over a SQL connection.

use bytes::Bytes;
use futures_util::SinkExt;

use crate::client::Client;
use crate::error::Error;

/// Large enough that a message's frame costs nothing, small enough that the server reads while more is on its way.
const PIECE_BYTES: usize = 128 << 10;

/// Runs `statement`, a COPY from standard input, with these bytes; gives the number of rows.
///
/// # Errors
/// The connection's, or the server's for the statement or a row. Cancelled, the COPY fails on the server.
pub async fn copy_in(client: &Client, statement: &str, mut rows: Bytes) -> Result<u64, Error> {
    let sink = client.copy_in::<_, Bytes>(statement).await?;
    let mut sink = std::pin::pin!(sink);
    while !rows.is_empty() {
        let piece = rows.split_to(rows.len().min(PIECE_BYTES));
        sink.feed(piece).await?;
    }
    Ok(sink.finish().await?)
}
