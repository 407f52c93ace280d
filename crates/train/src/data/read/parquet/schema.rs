//! Checks how deep the schema in a Parquet footer nests, before the library builds a tree of it:
//! the library does that by recursion, and a stack that overflows ends the process. Knows of the
//! footer no more than where its schema ends.
//!
//! A footer is a struct in Thrift's compact protocol, the schema in it a flat list in depth-first
//! order, each element with its number of children (apache/parquet-format, `parquet.thrift`).

use std::fs::File;
use std::os::unix::fs::FileExt;

use parquet::errors::ParquetError;
use parquet::file::metadata::FooterTail;

/// Columns of real data sets nest a few levels; this is far above and far from a stack's end.
const DEPTH_MAX: usize = 64;
const FIELD_MAX: u64 = 1000;
const TAIL_BYTES: u64 = 8;

type Result<T> = std::result::Result<T, ParquetError>;

/// The beginning of a file's footer up to the end of its schema, as a footer of its own: one whose
/// schema can be built.
pub(super) fn checked(file: &File) -> Result<Vec<u8>> {
    let file_bytes = file.metadata()?.len();
    let tail_start = file_bytes.checked_sub(TAIL_BYTES).ok_or_else(|| wrong("it is too short"))?;
    let mut tail = [0; TAIL_BYTES as usize];
    file.read_exact_at(&mut tail, tail_start)?;
    let footer_bytes = FooterTail::try_new(&tail)?.metadata_length();
    let start = tail_start
        .checked_sub(footer_bytes as u64)
        .ok_or_else(|| wrong("its footer is longer than the file"))?;
    let mut footer = vec![0; footer_bytes];
    file.read_exact_at(&mut footer, start)?;
    let end = schema_end(&footer)?;
    footer.truncate(end);
    footer.push(STOP);
    Ok(footer)
}

fn wrong(what: &str) -> ParquetError {
    ParquetError::General(what.to_owned())
}

const STOP: u8 = 0;
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I16: u8 = 4;
const I32: u8 = 5;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

fn schema_end(footer: &[u8]) -> Result<usize> {
    let mut reader = Reader { footer, at: 0 };
    let mut last = 0;
    while let Some((id, kind)) = reader.field(last)? {
        if id == 2 {
            expect(kind, LIST)?;
            reader.schema()?;
            return Ok(reader.at);
        }
        reader.skip(kind, DEPTH_MAX)?;
        last = id;
    }
    Err(wrong("its footer has no schema"))
}

/// The library reads a known field as what it should be, whatever the file says that it is. Where
/// the two differ, what follows would not be what was checked.
fn expect(found: u8, expected: u8) -> Result<()> {
    let same = found == expected || (found == FALSE && expected == TRUE);
    if same { Ok(()) } else { Err(wrong("a field of its schema is of another type")) }
}

struct Reader<'a> {
    footer: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn schema(&mut self) -> Result<()> {
        let (kind, count) = self.list()?;
        if count > 0 {
            expect(kind, STRUCT)?;
        }
        // How many children the groups that are open still lack.
        let mut open: Vec<u64> = Vec::new();
        for index in 0..count {
            let children = self.element()?;
            if children > count - index - 1 {
                return Err(wrong("its schema lacks columns that it counts"));
            }
            if let Some(missing) = open.last_mut() {
                *missing -= 1;
            }
            open.push(children);
            if open.len() > DEPTH_MAX {
                return Err(ParquetError::General(format!(
                    "its columns nest more than {DEPTH_MAX} levels deep"
                )));
            }
            while open.last() == Some(&0) {
                open.pop();
            }
        }
        Ok(())
    }

    /// The number of children of the next element of the schema.
    fn element(&mut self) -> Result<u64> {
        let (mut last, mut children) = (0, 0);
        while let Some((id, kind)) = self.field(last)? {
            match id {
                5 => {
                    expect(kind, I32)?;
                    let number = self.number()?;
                    // With signs, as above.
                    children = if number % 2 == 0 { number / 2 } else { u64::MAX };
                }
                1..=3 | 6..=9 => {
                    expect(kind, I32)?;
                    self.number()?;
                }
                4 => {
                    expect(kind, BINARY)?;
                    self.skip(kind, DEPTH_MAX)?;
                }
                10 => {
                    expect(kind, STRUCT)?;
                    self.logical_type()?;
                }
                _ => self.skip(kind, DEPTH_MAX)?,
            }
            last = id;
        }
        Ok(children)
    }

    /// A union of structs, each with its own fields.
    fn logical_type(&mut self) -> Result<()> {
        let mut last = 0;
        while let Some((variant, kind)) = self.field(last)? {
            expect(kind, STRUCT)?;
            let mut inner = 0;
            while let Some((id, kind)) = self.field(inner)? {
                let known = match (variant, id) {
                    // Decimal numbers; the edges of geographies.
                    (5, 1 | 2) | (18, 2) => Some(I32),
                    // Times: whether in UTC, and the unit.
                    (7 | 8, 1) | (10, 2) => Some(TRUE),
                    (7 | 8, 2) => Some(STRUCT),
                    // Widths of whole numbers; the version of variants.
                    (10 | 16, 1) => Some(BYTE),
                    // Reference systems.
                    (17 | 18, 1) => Some(BINARY),
                    _ => None,
                };
                known.map_or(Ok(()), |known| expect(kind, known))?;
                if known == Some(STRUCT) {
                    let mut unit = 0;
                    while let Some((id, kind)) = self.field(unit)? {
                        expect(kind, STRUCT)?;
                        self.skip(kind, DEPTH_MAX)?;
                        unit = id;
                    }
                } else {
                    self.skip(kind, DEPTH_MAX)?;
                }
                inner = id;
            }
            last = variant;
        }
        Ok(())
    }

    /// Number and type of the next field of a struct, `last` being the number of the one before;
    /// none at the struct's end.
    fn field(&mut self, last: u64) -> Result<Option<(u64, u8)>> {
        let header = self.byte()?;
        let kind = header & 0xf;
        if kind == STOP {
            return Ok(None);
        }
        let id = match u64::from(header >> 4) {
            // With signs: odd numbers are negative ones.
            0 => Some(self.number()?).filter(|number| number % 2 == 0).map(|number| number / 2),
            step => Some(last + step),
        };
        // No number of the format is so large, and those that the library wraps are not either.
        match id.filter(|id| *id <= FIELD_MAX) {
            Some(id) => Ok(Some((id, kind))),
            None => Err(wrong("its footer numbers its fields wrongly")),
        }
    }

    /// The type and the number of a list's elements.
    fn list(&mut self) -> Result<(u8, u64)> {
        let header = self.byte()?;
        let count = match header >> 4 {
            15 => self.number()?,
            count => u64::from(count),
        };
        let kind = header & 0xf;
        let rest = (self.footer.len() - self.at) as u64;
        if count > rest {
            Err(wrong("a list in its footer is too long"))
        } else {
            Ok((kind, count))
        }
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Result<()> {
        let depth = depth.checked_sub(1).ok_or_else(|| wrong("its footer nests too deep"))?;
        match kind {
            TRUE | FALSE => Ok(()),
            BYTE => self.advance(1),
            I16 | I32 | I64 => self.number().map(|_| ()),
            DOUBLE => self.advance(8),
            BINARY => {
                let count = self.number()?;
                self.advance(count)
            }
            LIST => match self.list()? {
                // The library skips truth values in lists as those of structs, which have no byte.
                (TRUE | FALSE, _) => Ok(()),
                (kind, count) => (0..count).try_for_each(|_| self.skip(kind, depth)),
            },
            STRUCT => {
                while let Some((_, kind)) = self.field(0)? {
                    self.skip(kind, depth)?;
                }
                Ok(())
            }
            // The format has no sets, maps or such.
            _ => Err(wrong("its footer has a field of no known type")),
        }
    }

    /// An unsigned number, seven bits in each byte, the lowest first.
    fn number(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(wrong("a number in its footer is too long"))
    }

    fn byte(&mut self) -> Result<u8> {
        let byte = self.footer.get(self.at).copied();
        self.at += 1;
        byte.ok_or_else(|| wrong("its footer ends too early"))
    }

    fn advance(&mut self, count: u64) -> Result<()> {
        match count <= (self.footer.len() - self.at) as u64 {
            true => self.at += count as usize,
            false => return Err(wrong("its footer ends too early")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A footer whose schema is a list of elements with a name and so many children each.
    fn footer(children: &[u8]) -> Vec<u8> {
        let count = children.len() as u64;
        // The version, then the list, with its length in seven bits a byte.
        let mut bytes = vec![0x15, 2, 0x19, 0xfc];
        bytes.extend((0..4).map(|part| (count >> (7 * part) & 0x7f) as u8 | 0x80));
        bytes.push(0);
        for children in children {
            bytes.extend([0x35, 0, 0x18, 1, b'a', 0x15, children * 2, STOP]);
        }
        bytes.push(STOP);
        bytes
    }

    #[test]
    fn schemas_end_where_they_end() {
        for children in [&[0][..], &[1, 0], &[2, 1, 0, 0], &[1, 1, 3, 0, 1, 0, 0]] {
            let footer = footer(children);
            assert_eq!(schema_end(&footer).unwrap(), footer.len() - 1, "{children:?}");
        }
    }

    #[test]
    fn deep_and_contradictory_schemas_are_refused() {
        let refusal = |children: &[u8]| schema_end(&footer(children)).unwrap_err().to_string();
        let chain = |groups: usize| [vec![1; groups], vec![0]].concat();
        assert!(schema_end(&footer(&chain(DEPTH_MAX - 1))).is_ok());
        assert!(refusal(&chain(DEPTH_MAX)).contains("64 levels deep"));
        assert!(refusal(&chain(300_000)).contains("64 levels deep"));
        assert!(refusal(&[3, 0, 0]).contains("lacks columns"));
        // What the library would read as a number though the file says otherwise.
        let mut other = footer(&[1, 0]);
        let at = other.iter().position(|byte| *byte == 0x18).unwrap() + 3;
        other[at] = 0x18;
        assert!(schema_end(&other).unwrap_err().to_string().contains("another type"));
        assert!(schema_end(&[]).is_err() && schema_end(&[0x15]).is_err());
    }
}
