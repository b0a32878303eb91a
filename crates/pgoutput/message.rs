//! The messages of protocol 1, each drawn where it is parsed.
//!
//! Integers are in network byte order. A String is UTF-8 closed by a zero byte; the replication session asks
//! for UTF-8 whatever the encoding of the database is. LSNs and times are Int64.
//! A transaction is Begin, perhaps Origin, then rows with the Relation and Type messages they need, Truncate
//! and transactional Logical messages, then Commit. A Logical message that is not transactional stands anywhere.

use std::fmt;
use std::iter::FusedIterator;

use crate::reader::Reader;
use crate::relation::{self, RelationId, TableSchema};
use crate::{DecodeError, Lsn, PgTimestamp, Reason, Tuple};

/// One message, borrowing from the bytes it was decoded from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// A transaction starts.
    Begin(Begin),
    /// The transaction is complete.
    Commit(Commit),
    /// The transaction was replicated here from elsewhere.
    Origin(Origin<'a>),
    /// How the following rows of a table look.
    Relation(TableSchema),
    /// The name of a type that is not built in.
    Type(TypeName<'a>),
    /// A row was inserted.
    Insert(Insert<'a>),
    /// A row was updated.
    Update(Update<'a>),
    /// A row was deleted.
    Delete(Delete<'a>),
    /// Tables were emptied.
    Truncate(Truncate<'a>),
    /// Something written by `pg_logical_emit_message`.
    Logical(Logical<'a>),
}

/// The name of the message that starts with `tag`.
pub(crate) fn name_of_tag(tag: u8) -> Option<&'static str> {
    Some(match tag {
        b'B' => "Begin",
        b'C' => "Commit",
        b'O' => "Origin",
        b'R' => "Relation",
        b'Y' => "Type",
        b'I' => "Insert",
        b'U' => "Update",
        b'D' => "Delete",
        b'T' => "Truncate",
        b'M' => "Logical",
        _ => return None,
    })
}

impl<'a> Message<'a> {
    /// Reads one message, which must take the whole of `body`.
    ///
    /// # Errors
    /// `body` is anything else than one message of protocol 1.
    pub fn decode(body: &'a [u8]) -> Result<Message<'a>, DecodeError> {
        let mut reader = Reader::new(body);
        let message = match reader.u8()? {
            b'I' => Message::Insert(Insert::decode(&mut reader)?),
            b'U' => Message::Update(Update::decode(&mut reader)?),
            b'D' => Message::Delete(Delete::decode(&mut reader)?),
            b'B' => Message::Begin(Begin::decode(&mut reader)?),
            b'C' => Message::Commit(Commit::decode(&mut reader)?),
            b'O' => Message::Origin(Origin::decode(&mut reader)?),
            b'R' => Message::Relation(relation::decode(&mut reader)?),
            b'Y' => Message::Type(TypeName::decode(&mut reader)?),
            b'T' => Message::Truncate(Truncate::decode(&mut reader)?),
            b'M' => Message::Logical(Logical::decode(&mut reader)?),
            _ => return Err(reader.error_at(body, Reason::UnknownTag)),
        };
        reader.finish()?;
        Ok(message)
    }
}

/// A transaction starts. Transactions come one after the other, in the order of their commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// Where its commit record starts; equals [`Commit::commit_lsn`].
    pub commit_lsn: Lsn,
    /// When it was committed; if an [`Origin`] follows, there and not here. So it can go backwards.
    pub commit_time: PgTimestamp,
    /// Its transaction id. Rows changed in a savepoint come under this one too.
    pub xid: u32,
}

impl Begin {
    /// ```text
    /// Byte1('B')
    /// Int64    LSN of the commit record
    /// Int64    commit time
    /// Int32    xid
    /// ```
    fn decode(reader: &mut Reader<'_>) -> Result<Begin, DecodeError> {
        Ok(Begin { commit_lsn: reader.lsn()?, commit_time: reader.timestamp()?, xid: reader.u32()? })
    }
}

/// The transaction that began last is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// Where its commit record starts. Can equal the `end_lsn` of the transaction before it.
    pub commit_lsn: Lsn,
    /// Where its commit record ends: the position to confirm.
    pub end_lsn: Lsn,
    /// When it was committed, as in [`Begin::commit_time`].
    pub commit_time: PgTimestamp,
}

impl Commit {
    /// ```text
    /// Byte1('C')
    /// Int8     flags, 0: none are defined
    /// Int64    LSN of the commit record
    /// Int64    LSN of its end
    /// Int64    commit time
    /// ```
    fn decode(reader: &mut Reader<'_>) -> Result<Commit, DecodeError> {
        reader.marker("flags byte", "0", |flags| (flags == 0).then_some(()))?;
        Ok(Commit { commit_lsn: reader.lsn()?, end_lsn: reader.lsn()?, commit_time: reader.timestamp()? })
    }
}

/// The transaction was replicated to this server from another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a> {
    /// LSN of its commit on that other server; 0/0 if it set none.
    pub commit_lsn: Lsn,
    /// Name of the replication origin.
    pub name: &'a str,
}

impl<'a> Origin<'a> {
    /// ```text
    /// Byte1('O')
    /// Int64    LSN of the commit on the origin server
    /// String   name of the origin
    /// ```
    fn decode(reader: &mut Reader<'a>) -> Result<Origin<'a>, DecodeError> {
        Ok(Origin { commit_lsn: reader.lsn()?, name: reader.name()? })
    }
}

/// The name of a column type that is not built in; comes before the Relation message that uses it.
///
/// For a domain it is not the domain's name but that of the type under it, beside the domain's own oid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeName<'a> {
    /// The type's oid.
    pub oid: u32,
    /// Its schema. `pg_catalog`, which is empty on the wire, is spelled out.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
}

impl<'a> TypeName<'a> {
    /// ```text
    /// Byte1('Y')
    /// Int32    oid of the type
    /// String   namespace, empty for pg_catalog
    /// String   name
    /// ```
    fn decode(reader: &mut Reader<'a>) -> Result<TypeName<'a>, DecodeError> {
        Ok(TypeName { oid: reader.u32()?, namespace: reader.namespace()?, name: reader.name()? })
    }
}

/// A row was inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insert<'a> {
    /// The table.
    pub relation: RelationId,
    /// The row.
    pub new: Tuple<'a>,
}

impl<'a> Insert<'a> {
    /// ```text
    /// Byte1('I')
    /// Int32    oid of the table
    /// Byte1('N')
    /// Tuple    the row
    /// ```
    fn decode(reader: &mut Reader<'a>) -> Result<Insert<'a>, DecodeError> {
        let relation = RelationId(reader.u32()?);
        reader.marker("tuple marker", "N", |marker| (marker == b'N').then_some(()))?;
        Ok(Insert { relation, new: Tuple::decode(reader)? })
    }
}

/// The row before an update or delete, as far as the replica identity tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldTuple<'a> {
    /// `K`: only the columns of the replica identity are filled, all others are Null.
    Key(Tuple<'a>),
    /// `O`: the whole row (REPLICA IDENTITY FULL).
    Full(Tuple<'a>),
}

impl<'a> OldTuple<'a> {
    /// The columns, whichever of them are filled.
    #[inline]
    pub fn tuple(&self) -> &Tuple<'a> {
        match self {
            OldTuple::Key(tuple) | OldTuple::Full(tuple) => tuple,
        }
    }

    /// Every column is filled.
    #[inline]
    pub fn is_full(&self) -> bool {
        matches!(self, OldTuple::Full(_))
    }
}

/// What a marker byte says of the tuple behind it.
enum TupleMarker {
    Key,
    Full,
    New,
}

/// A row was updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Update<'a> {
    /// The table.
    pub relation: RelationId,
    /// The row before; `None` unless the replica identity is FULL or one of its columns changed.
    pub old: Option<OldTuple<'a>>,
    /// The row after.
    pub new: Tuple<'a>,
}

impl<'a> Update<'a> {
    /// ```text
    /// Byte1('U')
    /// Int32    oid of the table
    /// Byte1    'K' or 'O', if the old row is sent, followed by
    ///   Tuple    its key, or all of it
    /// Byte1('N')
    /// Tuple    the new row
    /// ```
    fn decode(reader: &mut Reader<'a>) -> Result<Update<'a>, DecodeError> {
        let relation = RelationId(reader.u32()?);
        let first = reader.marker("tuple marker", "K, O or N", |marker| match marker {
            b'N' => Some(TupleMarker::New),
            b'K' => Some(TupleMarker::Key),
            b'O' => Some(TupleMarker::Full),
            _ => None,
        })?;
        let old = match first {
            TupleMarker::New => return Ok(Update { relation, old: None, new: Tuple::decode(reader)? }),
            TupleMarker::Key => OldTuple::Key(Tuple::decode(reader)?),
            TupleMarker::Full => OldTuple::Full(Tuple::decode(reader)?),
        };
        reader.marker("tuple marker", "N", |marker| (marker == b'N').then_some(()))?;
        Ok(Update { relation, old: Some(old), new: Tuple::decode(reader)? })
    }
}

/// A row was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delete<'a> {
    /// The table.
    pub relation: RelationId,
    /// The row that is gone.
    pub old: OldTuple<'a>,
}

impl<'a> Delete<'a> {
    /// ```text
    /// Byte1('D')
    /// Int32    oid of the table
    /// Byte1    'K' or 'O'
    /// Tuple    the row's key, or all of it
    /// ```
    fn decode(reader: &mut Reader<'a>) -> Result<Delete<'a>, DecodeError> {
        let relation = RelationId(reader.u32()?);
        let is_full = reader.marker("tuple marker", "K or O", |marker| match marker {
            b'K' => Some(false),
            b'O' => Some(true),
            _ => None,
        })?;
        let tuple = Tuple::decode(reader)?;
        Ok(Delete { relation, old: if is_full { OldTuple::Full(tuple) } else { OldTuple::Key(tuple) } })
    }
}

const TRUNCATE_CASCADE: u8 = 1;
const TRUNCATE_RESTART_IDENTITY: u8 = 2;

/// Tables were emptied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truncate<'a> {
    /// Bits as sent: see [`Truncate::cascade`] and [`Truncate::restart_identity`].
    pub options: u8,
    /// The published ones among them.
    pub relations: RelationIds<'a>,
}

impl<'a> Truncate<'a> {
    /// ```text
    /// Byte1('T')
    /// Int32    number of tables
    /// Int8     options: 1 = CASCADE, 2 = RESTART IDENTITY
    /// Int32    oid of a table, for each
    /// ```
    fn decode(reader: &mut Reader<'a>) -> Result<Truncate<'a>, DecodeError> {
        let count = reader.length("number of tables")?;
        let known = TRUNCATE_CASCADE | TRUNCATE_RESTART_IDENTITY;
        let options = reader.marker("options byte", "0 to 3", |byte| (byte & !known == 0).then_some(byte))?;
        let (oids, _) = reader.bytes(count.saturating_mul(4))?.as_chunks();
        Ok(Truncate { options, relations: RelationIds { oids } })
    }

    /// TRUNCATE … CASCADE. The tables reached that way are among [`Truncate::relations`].
    pub fn cascade(&self) -> bool {
        self.options & TRUNCATE_CASCADE != 0
    }

    /// TRUNCATE … RESTART IDENTITY.
    pub fn restart_identity(&self) -> bool {
        self.options & TRUNCATE_RESTART_IDENTITY != 0
    }
}

/// The tables of a [`Truncate`].
#[derive(Clone, PartialEq, Eq)]
pub struct RelationIds<'a> {
    oids: &'a [[u8; 4]],
}

impl Iterator for RelationIds<'_> {
    type Item = RelationId;

    fn next(&mut self) -> Option<RelationId> {
        let (oid, rest) = self.oids.split_first()?;
        self.oids = rest;
        Some(RelationId(u32::from_be_bytes(*oid)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.oids.len(), Some(self.oids.len()))
    }
}

impl ExactSizeIterator for RelationIds<'_> {}
impl FusedIterator for RelationIds<'_> {}

impl fmt::Debug for RelationIds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

/// Something written by `pg_logical_emit_message`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Logical<'a> {
    /// It is part of the transaction it stands in. Otherwise it stands for itself, rolled back or not.
    pub transactional: bool,
    /// Where it was written.
    pub lsn: Lsn,
    /// What tells readers of messages apart.
    pub prefix: &'a str,
    /// Any bytes.
    pub content: &'a [u8],
}

impl<'a> Logical<'a> {
    /// ```text
    /// Byte1('M')
    /// Int8     flags: 1 = transactional
    /// Int64    LSN
    /// String   prefix
    /// Int32    length
    /// Byten    content
    /// ```
    fn decode(reader: &mut Reader<'a>) -> Result<Logical<'a>, DecodeError> {
        let transactional = reader.marker("flags byte", "0 or 1", |flags| match flags {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        })?;
        let (lsn, prefix) = (reader.lsn()?, reader.name()?);
        let length = reader.length("content length")?;
        Ok(Logical { transactional, lsn, prefix, content: reader.bytes(length)? })
    }
}

/// The length of the content in place of the content, which belongs in no log.
impl fmt::Debug for Logical<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logical")
            .field("transactional", &self.transactional)
            .field("lsn", &self.lsn)
            .field("prefix", &self.prefix)
            .field("content", &format_args!("{} bytes", self.content.len()))
            .finish()
    }
}
