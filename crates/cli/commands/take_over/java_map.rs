//! The offset file of Connect's standalone worker and of Debezium Server: a Java-serialised `HashMap<byte[], byte[]>`.
//!
//! In: the file's bytes. Out: its entries, or what is wrong and where. Nothing is read beyond the bytes that are
//! there, and nothing is allocated for a length that the file can't hold.
//!
//! Java Object Serialization Specification, chapter 6, as far as such a map needs it:
//!
//! ```text
//! AC ED 00 05                                    magic, version
//! 73                                             TC_OBJECT
//!   72 <utf "java.util.HashMap"> <u64 uid>       TC_CLASSDESC                                  handle 0
//!      03 <u16 fields> [<type> <utf name>]…      flags: SC_SERIALIZABLE | SC_WRITE_METHOD
//!      78 70                                     no annotation, no superclass
//!   <float> <int>                                the fields' values                            handle 1
//!   77 08 <u32 buckets> <u32 entries>            TC_BLOCKDATA written by HashMap.writeObject
//!   key value key value …                        each TC_NULL, TC_ARRAY or TC_REFERENCE
//!     75 72 <utf "[B"> <u64 uid> 02 00 00 78 70  TC_ARRAY, the class once                      handle 2
//!        <u32 length> <bytes>                                                                  handle 3
//!     75 71 00 7E 00 02 <u32 length> <bytes>     … and then a reference to it                  handle 4 …
//!   78                                           TC_ENDBLOCKDATA
//! ```

/// A key and its value; either may be Java's `null`.
pub type Entry = (Option<Vec<u8>>, Option<Vec<u8>>);

const NULL: u8 = 0x70;
const REFERENCE: u8 = 0x71;
const CLASSDESC: u8 = 0x72;
const OBJECT: u8 = 0x73;
const ARRAY: u8 = 0x75;
const BLOCKDATA: u8 = 0x77;
const END: u8 = 0x78;
/// The first handle: `baseWireHandle`.
const HANDLES_FROM: u32 = 0x007E_0000;

/// Reads the whole file.
pub fn read(bytes: &[u8]) -> Result<Vec<Entry>, String> {
    let mut stream = Stream { bytes, at: 0, handles: Vec::new() };
    stream.map()
}

/// What a handle stands for.
enum Handle {
    Map,
    Class(String),
    Bytes(Vec<u8>),
}

struct Stream<'a> {
    bytes: &'a [u8],
    at: usize,
    handles: Vec<Handle>,
}

impl<'a> Stream<'a> {
    fn map(&mut self) -> Result<Vec<Entry>, String> {
        if self.take(4)? != [0xAC, 0xED, 0x00, 0x05] {
            self.at = 0;
            return self.wrong("this is no Java serialization stream (it would begin with AC ED 00 05)");
        }
        self.expect(OBJECT, "an object")?;
        self.expect(CLASSDESC, "a class")?;
        let (name, fields) = self.class()?;
        if name != "java.util.HashMap" {
            return self.wrong(&format!("the object is a {name}, not a java.util.HashMap"));
        }
        self.handles.push(Handle::Map);
        for size in fields {
            self.take(size)?;
        }
        self.expect(BLOCKDATA, "the map's size")?;
        if self.byte()? != 8 {
            return self.wrong("the block with the map's size does not have 8 bytes");
        }
        let _buckets = self.number()?;
        let entries = self.number()? as usize;
        // An entry takes two bytes at least, so a size that the file can't hold ends in an error before memory does.
        let mut map = Vec::with_capacity(entries.min(self.bytes.len() / 2));
        for _ in 0..entries {
            map.push((self.value()?, self.value()?));
        }
        self.expect(END, "the end of the map")?;
        if self.at != self.bytes.len() {
            return self.wrong("there is more after the map");
        }
        Ok(map)
    }

    /// A class after its tag: its name, and the sizes of its fields, which are all primitive.
    fn class(&mut self) -> Result<(String, Vec<usize>), String> {
        let name = self.utf()?;
        let _uid = self.take(8)?;
        let _flags = self.byte()?;
        let count = self.short()?;
        let mut sizes = Vec::new();
        for _ in 0..count {
            let size = match self.byte()? {
                b'B' | b'Z' => 1,
                b'C' | b'S' => 2,
                b'F' | b'I' => 4,
                b'D' | b'J' => 8,
                _ => return self.wrong("a field is no primitive"),
            };
            self.utf()?;
            sizes.push(size);
        }
        self.expect(END, "the end of the class")?;
        self.expect(NULL, "no superclass")?;
        self.handles.push(Handle::Class(name.clone()));
        Ok((name, sizes))
    }

    /// A key or a value.
    fn value(&mut self) -> Result<Option<Vec<u8>>, String> {
        match self.byte()? {
            NULL => Ok(None),
            REFERENCE => match self.referred()? {
                Handle::Bytes(bytes) => Ok(Some(bytes.clone())),
                _ => self.wrong("a key or value refers to something that is no byte[]"),
            },
            ARRAY => {
                let class = match self.byte()? {
                    CLASSDESC => self.class()?.0,
                    REFERENCE => match self.referred()? {
                        Handle::Class(name) => name.clone(),
                        _ => return self.wrong("an array's class refers to no class"),
                    },
                    _ => return self.wrong("an array has no class"),
                };
                if class != "[B" {
                    return self.wrong(&format!("a key or value is an array of {class}, not a byte[]"));
                }
                let length = self.number()? as usize;
                let bytes = self.take(length)?.to_vec();
                self.handles.push(Handle::Bytes(bytes.clone()));
                Ok(Some(bytes))
            }
            _ => self.wrong("a key or value is no byte[]"),
        }
    }

    fn referred(&mut self) -> Result<&Handle, String> {
        let number = self.number()?;
        let place = number.checked_sub(HANDLES_FROM).map(|place| place as usize);
        match place.filter(|place| *place < self.handles.len()) {
            Some(place) => Ok(&self.handles[place]),
            None => Err(format!("byte {}: a reference to nothing", self.at)),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else { return self.wrong("the file ends too early") };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn short(&mut self) -> Result<u16, String> {
        Ok(u16::from_be_bytes(self.take(2)?.try_into().expect("two bytes")))
    }

    fn number(&mut self) -> Result<u32, String> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    fn utf(&mut self) -> Result<String, String> {
        let length = self.short()?;
        let bytes = self.take(usize::from(length))?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => self.wrong("a name is no text"),
        }
    }

    fn expect(&mut self, tag: u8, what: &str) -> Result<(), String> {
        let at = self.at;
        if self.byte()? == tag {
            return Ok(());
        }
        self.at = at;
        self.wrong(&format!("{what} is not where it should be"))
    }

    fn wrong<T>(&self, what: &str) -> Result<T, String> {
        Err(format!("byte {}: {what}", self.at))
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A map as Java 21 writes it.
    pub fn written(entries: &[(&[u8], Option<&[u8]>)]) -> Vec<u8> {
        let mut bytes = b"\xAC\xED\x00\x05sr\x00\x11java.util.HashMap\x05\x07\xDA\xC1\xC3\x16\x60\xD1\x03\x00\x02F\x00\x0AloadFactorI\x00\x09thresholdxp\x3F\x40\x00\x00\x00\x00\x00\x0Cw\x08\x00\x00\x00\x10".to_vec();
        bytes.extend((entries.len() as u32).to_be_bytes());
        let mut class = &b"ur\x00\x02[B\xAC\xF3\x17\xF8\x06\x08T\xE0\x02\x00\x00xp"[..];
        for (key, value) in entries {
            for array in [Some(*key), *value] {
                let Some(array) = array else {
                    bytes.push(NULL);
                    continue;
                };
                bytes.extend(std::mem::replace(&mut class, b"uq\x00\x7E\x00\x02"));
                bytes.extend((array.len() as u32).to_be_bytes());
                bytes.extend(array);
            }
        }
        bytes.push(END);
        bytes
    }

    #[test]
    fn what_java_wrote_is_read() {
        let bytes =
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/debezium/connect.offsets"));
        let map = read(bytes).expect("a file of Connect 4.3.1");
        let [(Some(key), Some(value))] = &map[..] else { panic!("{map:?}") };
        assert_eq!(String::from_utf8_lossy(key), r#"["shop-connector",{"server":"shop"}]"#);
        assert!(value.starts_with(br#"{"lsn_proc":"#));
    }

    #[test]
    fn maps_of_any_size() {
        let check = |entries: &[(&[u8], Option<&[u8]>)]| {
            let expected: Vec<Entry> =
                entries.iter().map(|(k, v)| (Some(k.to_vec()), v.map(<[u8]>::to_vec))).collect();
            assert_eq!(read(&written(entries)), Ok(expected));
        };
        check(&[]);
        check(&[(b"a", Some(b"1"))]);
        check(&[(b"a", None), (b"b", Some(b"2")), (b"", Some(b""))]);
    }

    #[test]
    fn a_file_that_was_cut_or_changed_is_an_error_and_no_panic() {
        let whole = written(&[(b"key", Some(b"value")), (b"other", None)]);
        for cut in 0..whole.len() {
            assert!(read(&whole[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..whole.len() {
            for byte in 0..=255 {
                let mut changed = whole.clone();
                changed[at] = byte;
                read(&changed).ok();
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let check = |bytes: &[u8], expected: &str| {
            let error = read(bytes).expect_err("it is wrong");
            assert!(error.contains(expected), "{error}");
        };
        check(b"{\"a\": 1}", "byte 0: this is no Java serialization stream");
        check(&[], "byte 0: the file ends too early");
        let mut huge = written(&[(b"key", Some(b"value"))]);
        let at = huge.len() - 1 - 5 - 4;
        huge[at..at + 4].copy_from_slice(&[0xFF; 4]);
        check(&huge, "the file ends too early");
        let mut entries = written(&[]);
        let at = entries.len() - 5;
        entries[at..at + 4].copy_from_slice(&[0x7F, 0xFF, 0xFF, 0xFF]);
        check(&entries, "a key or value is no byte[]");
        let mut other = written(&[]);
        other[8..25].copy_from_slice(b"java.util.TreeMap");
        check(&other, "java.util.TreeMap");
        let mut more = written(&[]);
        more.push(0);
        check(&more, "more after the map");
    }
}
