//! [`Lsn`]: a position in the write-ahead log, and its text form.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A position in the write-ahead log, in bytes since its beginning.
///
/// Its text is Postgres' own: the upper and lower 32 bits in hexadecimal, `16/B374D848`.
/// Serialized as that text, since a JSON number cannot hold 64 bits everywhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// `0/0`, which is no position: Postgres' `InvalidXLogRecPtr`.
    pub const INVALID: Lsn = Lsn(0);
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lsn({self})")
    }
}

/// A text that is no LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no LSN: expected two hexadecimal numbers of 1 to 8 digits, as in 16/B374D848")]
pub struct ParseLsnError(String);

/// Reads what Postgres' `pg_lsn` reads and nothing else: no sign, no space, no prefix, 1 to 8 digits each.
impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Lsn, ParseLsnError> {
        text.split_once('/')
            .and_then(|(upper, lower)| Some(Lsn((half(upper)? << 32) | half(lower)?)))
            .ok_or_else(|| ParseLsnError(text.to_owned()))
    }
}

// `from_str_radix` alone takes a leading plus and any number of zeros.
fn half(text: &str) -> Option<u64> {
    let plain = (1..=8).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if plain { u64::from_str_radix(text, 16).ok() } else { None }
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Lsn, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_form() {
        let check = |lsn: u64, text: &str| {
            assert_eq!(Lsn(lsn).to_string(), text);
            assert_eq!(text.parse(), Ok(Lsn(lsn)), "{text}");
        };
        check(0, "0/0");
        check(0x16_B374_D848, "16/B374D848");
        check(0x1_0000_0000, "1/0");
        check(0x1_0000_000A, "1/A");
        check(u64::MAX, "FFFFFFFF/FFFFFFFF");
        assert_eq!(format!("{:?}", Lsn(0x16_B374_D848)), "Lsn(16/B374D848)");
        assert_eq!("16/b374d848".parse(), Ok(Lsn(0x16_B374_D848)), "as pg_lsn, either case");
        assert_eq!("0/0000000A".parse(), Ok(Lsn(10)), "as pg_lsn, leading zeros");
    }

    #[test]
    fn refuses_what_pg_lsn_refuses() {
        let check = |text: &str| assert_eq!(text.parse::<Lsn>(), Err(ParseLsnError(text.to_owned())));
        for text in
            ["", "/", "0", "0/", "/0", "1/2/3", "0//0", "+1/0", "0/+1", "-1/0", " 1/0", "1/0 ", "1 /0"]
        {
            check(text);
        }
        for text in ["0x1/0", "G/0", "123456789/0", "0/000000001", "1/0\n", "1\\0", "٣/0"] {
            check(text);
        }
    }

    #[test]
    fn serialized_as_its_text() {
        let json = serde_json::to_string(&Lsn(0x16_B374_D848)).unwrap();
        assert_eq!(json, r#""16/B374D848""#);
        assert_eq!(serde_json::from_str::<Lsn>(&json).unwrap(), Lsn(0x16_B374_D848));
        assert!(serde_json::from_str::<Lsn>("7").is_err());
        assert!(serde_json::from_str::<Lsn>(r#""7""#).is_err());
    }

    proptest! {
        #[test]
        fn any_position_survives_its_text(lsn: u64) {
            prop_assert_eq!(Lsn(lsn).to_string().parse(), Ok(Lsn(lsn)));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,20}") {
            if let Ok(lsn) = text.parse::<Lsn>() {
                prop_assert_eq!(lsn.to_string().parse(), Ok(lsn));
            }
        }
    }
}
