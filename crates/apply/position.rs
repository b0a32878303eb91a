//! Where a record stands in its source: what tells a repeated or older record from a newer one.
//!
//! ```text
//! headwater.id  <commit LSN>/<n>                 (commit LSN, 2n + 2)
//!               <LSN>/r<owner>.<chunk>/<row>     (LSN, 0): all before LSN is in it, nothing behind
//! Debezium      sequence ["<last commit>","<own>"]   (last commit, 2·own + 2); of a snapshot (own, 0)
//! neither       the last one of its partition      (LSN, ordinal + 1)
//! ```
//!
//! Ordinals of records that say themselves where they stand are even. An odd one is inherited: such a record is only
//! known to stand behind the one before it, so it may also replace what has the very same position.

use headwater_avro::reading::SourceMark;

/// A position; the order is the source's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) lsn: u64,
    pub(crate) ordinal: i64,
}

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Streamed(i64),
    Copied,
}

impl Position {
    /// From the header `headwater.id`.
    pub(crate) fn of_header(id: &[u8]) -> Option<Position> {
        let id = std::str::from_utf8(id).ok()?;
        let mut parts = id.split('/');
        let (high, low, place) = (parts.next()?, parts.next()?, parts.next()?);
        let half = |text: &str| u32::from_str_radix(text, 16).ok().map(u64::from);
        let lsn = half(high)? << 32 | half(low)?;
        let place = match place.strip_prefix('r') {
            Some(_) => Place::Copied,
            None => Place::Streamed(place.parse().ok()?),
        };
        let ordinal = match place {
            Place::Copied => 0,
            Place::Streamed(ordinal) => doubled(u64::try_from(ordinal).ok()?)?,
        };
        Some(Position { lsn, ordinal })
    }

    /// From Debezium's source block.
    pub(crate) fn of_source(mark: &SourceMark, copied: bool) -> Option<Position> {
        let own = mark.sequence.1.or(mark.lsn)?;
        if copied {
            return Some(Position { lsn: own, ordinal: 0 });
        }
        // Before the first commit that Debezium saw there is no last one; its own position lies before that commit.
        Some(Position { lsn: mark.sequence.0.unwrap_or(own), ordinal: doubled(own)? })
    }

    /// The position of a record that has none, behind this one.
    pub(crate) fn inherited(self) -> Position {
        Position { lsn: self.lsn, ordinal: self.ordinal | 1 }
    }

    /// Whether a record of this position replaces what has the other one.
    pub(crate) fn replaces(self, other: Position) -> bool {
        self > other || self == other && self.ordinal & 1 == 1
    }

    /// The LSN as Postgres writes it.
    pub(crate) fn lsn_text(self) -> String {
        format!("{:X}/{:X}", self.lsn >> 32, self.lsn as u32)
    }
}

fn doubled(ordinal: u64) -> Option<i64> {
    i64::try_from(ordinal).ok()?.checked_mul(2)?.checked_add(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_headwater() {
        for (id, expected) in [
            ("0/16B3748/0", Some((0x16B_3748, 2))),
            ("1A/FFFFFFFF/17", Some((0x1A_FFFF_FFFF, 36))),
            ("0/16B3748/r1.2/3", Some((0x16B_3748, 0))),
            ("0/16B3748/begin", None),
            ("0/16B3748", None),
            ("", None),
        ] {
            let position =
                Position::of_header(id.as_bytes()).map(|position| (position.lsn, position.ordinal));
            assert_eq!(position, expected, "{id}");
        }
    }

    #[test]
    fn the_order_is_the_sources() {
        let header = |id: &str| Position::of_header(id.as_bytes()).expect("an id");
        let debezium = |last: Option<u64>, own: u64, copied| {
            let mark = SourceMark { sequence: (last, Some(own)), ..SourceMark::default() };
            Position::of_source(&mark, copied).expect("a sequence")
        };
        // A copied row: everything before its LSN is in it, what comes at its LSN and behind is newer.
        let order =
            [header("0/10/5"), header("0/20/r1.0/9"), header("0/20/0"), header("0/20/1"), header("0/21/0")];
        assert!(order.is_sorted_by(|a, b| b.replaces(*a) && !a.replaces(*b)));
        let order = [
            debezium(None, 100, true),
            debezium(None, 110, false),
            debezium(Some(120), 115, false),
            debezium(Some(120), 116, false),
            debezium(Some(130), 112, false),
        ];
        assert!(order.is_sorted_by(|a, b| b.replaces(*a) && !a.replaces(*b)), "{order:?}");
    }

    #[test]
    fn inherited_ones_repeat_and_yield() {
        let own = Position { lsn: 5, ordinal: 4 };
        let inherited = own.inherited();
        assert!(!own.replaces(own), "a repeated record changes nothing");
        assert!(inherited.replaces(own) && inherited.replaces(inherited));
        assert_eq!(inherited.inherited(), inherited);
        assert!(Position { lsn: 5, ordinal: 6 }.replaces(inherited));
    }
}
