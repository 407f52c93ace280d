//! Parquet: a row is a document. Only the columns that are needed are decoded.

mod schema;

use std::collections::VecDeque;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::{ReadOptionsBuilder, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;
use serde_json::{Map, Value};

use super::{Item, column_name, document, list, wanted};
use crate::data::DataError;

pub(super) struct Rows {
    path: PathBuf,
    rows: RowIter<'static>,
    column: String,
    row: u64,
    rows_total: u64,
    bytes_total: u64,
    /// Pieces of a long document.
    waiting: VecDeque<Item>,
}

impl Rows {
    pub(super) fn open(path: &Path, bytes: u64, column: Option<&str>) -> Result<Rows, DataError> {
        let path = path.to_path_buf();
        let unreadable = |source: ParquetError| unreadable(&path, source);
        let file =
            File::open(&path).map_err(|source| DataError::Read { path: path.clone(), source })?;
        let reader = survived(|| {
            // Given the schema, the library builds no other that the footer may have.
            let schema = ParquetMetaDataReader::decode_schema(&schema::checked(&file)?)?;
            let options = ReadOptionsBuilder::new().with_parquet_schema(schema).build();
            SerializedFileReader::new_with_options(file, options)
        });
        let reader = reader.map_err(unreadable)?;
        let metadata = reader.metadata().file_metadata();
        let rows_total = u64::try_from(metadata.num_rows()).unwrap_or(0);
        let schema = metadata.schema();
        let names: Vec<String> =
            schema.get_fields().iter().map(|field| field.name().to_owned()).collect();
        let has = |name: &str| names.iter().any(|field| field == name);
        let Some(column) = column_name(has, column).map(str::to_owned) else {
            let (wanted, found) = (wanted(column), list(names.iter()));
            return Err(DataError::NoColumn { path, wanted, found });
        };
        let fields = schema.get_fields().iter();
        let needed = fields.filter(|field| field.name() == column || field.name() == "tools");
        let projection = Type::group_type_builder(schema.name())
            .with_fields(needed.cloned().collect())
            .build()
            .map_err(unreadable)?;
        let rows = RowIter::from_file_into(Box::new(reader))
            .project(Some(projection))
            .map_err(unreadable)?;
        let waiting = VecDeque::new();
        Ok(Rows { path, rows, column, row: 0, rows_total, bytes_total: bytes, waiting })
    }

    fn read(&mut self) -> Result<Option<Vec<Item>>, DataError> {
        let row = survived(|| self.rows.next().transpose())
            .map_err(|source| unreadable(&self.path, source))?;
        let Some(row) = row else { return Ok(None) };
        self.row += 1;
        let fields = row.into_columns().into_iter().map(|(name, field)| (name, json(field)));
        let fields: Map<String, Value> = fields.collect();
        // The file does not say which bytes belong to a row.
        let part = self.row as f64 / self.rows_total.max(1) as f64;
        let bytes_done = (self.bytes_total as f64 * part.min(1.0)) as u64;
        document(fields, Some(&self.column), &self.path, self.row, bytes_done).map(Some)
    }
}

/// The library asserts some of what a damaged file gets wrong, such as negative lengths. Such a file
/// is an error like any other; what the library left behind is not used any more.
fn survived<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()));
        Err(ParquetError::General(said.unwrap_or_else(|| "it contradicts itself".to_owned())))
    })
}

fn unreadable(path: &Path, source: ParquetError) -> DataError {
    DataError::Parquet { path: path.to_path_buf(), source: Box::new(source) }
}

/// What a message can consist of; other kinds of fields count as absent.
fn json(field: Field) -> Value {
    match field {
        Field::Str(text) => text.into(),
        Field::Bool(value) => value.into(),
        Field::Byte(number) => number.into(),
        Field::Short(number) => number.into(),
        Field::Int(number) => number.into(),
        Field::Long(number) => number.into(),
        Field::UByte(number) => number.into(),
        Field::UShort(number) => number.into(),
        Field::UInt(number) => number.into(),
        Field::ULong(number) => number.into(),
        Field::Float(number) => number.into(),
        Field::Double(number) => number.into(),
        // Files of some writers do not say that their bytes are text.
        Field::Bytes(bytes) => bytes.as_utf8().map_or(Value::Null, Value::from),
        // A column's rows share one set of fields: what a message lacks is null there, and absent
        // where it was written.
        Field::Group(row) => {
            let fields = row.into_columns().into_iter().map(|(name, field)| (name, json(field)));
            Value::Object(fields.filter(|(_, value)| !value.is_null()).collect())
        }
        Field::ListInternal(list) => list.elements().iter().cloned().map(json).collect(),
        _ => Value::Null,
    }
}

impl Iterator for Rows {
    type Item = Result<Item, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.waiting.is_empty() {
            match self.read() {
                Ok(items) => self.waiting.extend(items?),
                Err(error) => return Some(Err(error)),
            }
        }
        self.waiting.pop_front().map(Ok)
    }
}
