//! Records as a Parquet file: the columns of the CSV, with types. Times are timestamps in UTC.

use std::io::Write;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int32Type, Int64Type,
};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use crate::record::Record;

/// Why a Parquet file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("the Parquet file cannot be written")]
pub struct ParquetError(#[from] parquet::errors::ParquetError);

const SCHEMA: &str = "\
message records {
    required binary id (UTF8);
    required int64 time (TIMESTAMP(MILLIS, true));
    required binary tenant (UTF8);
    required binary key (UTF8);
    required binary model (UTF8);
    required binary path (UTF8);
    required binary pool (UTF8);
    required binary backend (UTF8);
    required int32 status;
    required binary outcome (UTF8);
    required boolean streamed;
    required int64 prompt_tokens;
    required int64 completion_tokens;
    required int64 cached_tokens;
    required boolean tokens_estimated;
    required int64 duration_milliseconds;
    optional int64 first_byte_milliseconds;
    required int64 attempts;
    required int64 continuations;
    required int64 cost_billionths_usd;
    required int64 saved_billionths_usd;
    optional double energy_joules;
}";

/// A file that is being written.
pub struct ParquetFile<W: Write + Send> {
    writer: SerializedFileWriter<W>,
}

impl<W: Write + Send> ParquetFile<W> {
    /// # Errors
    /// What writing says.
    pub fn begin(output: W) -> Result<ParquetFile<W>, ParquetError> {
        let schema = Arc::new(parse_message_type(SCHEMA)?);
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let writer = SerializedFileWriter::new(output, schema, Arc::new(properties))?;
        Ok(ParquetFile { writer })
    }

    /// Some ten thousand at once are best: they are one group of rows, which readers take or skip
    /// as a whole.
    ///
    /// # Errors
    /// What writing says.
    pub fn write(&mut self, records: &[Record]) -> Result<(), ParquetError> {
        let mut group = self.writer.next_row_group()?;
        let mut columns = Columns { group: &mut group, records };
        columns.texts(|record| &record.id)?;
        columns.integers(|record| record.time_milliseconds)?;
        columns.texts(|record| &record.tenant)?;
        columns.texts(|record| &record.key)?;
        columns.texts(|record| &record.model)?;
        columns.texts(|record| &record.path)?;
        columns.texts(|record| &record.pool)?;
        columns.texts(|record| &record.backend)?;
        columns.all::<Int32Type>(|record| i32::from(record.status))?;
        columns.texts(|record| record.outcome.name())?;
        columns.all::<BoolType>(|record| record.streamed)?;
        columns.integers(|record| whole(record.prompt_tokens))?;
        columns.integers(|record| whole(record.completion_tokens))?;
        columns.integers(|record| whole(record.cached_tokens))?;
        columns.all::<BoolType>(|record| record.tokens_estimated)?;
        columns.integers(|record| whole(record.duration_milliseconds))?;
        columns.some::<Int64Type>(|record| record.first_byte_milliseconds.map(whole))?;
        columns.integers(|record| i64::from(record.attempts))?;
        columns.integers(|record| i64::from(record.continuations))?;
        columns.integers(|record| record.cost.0)?;
        columns.integers(|record| record.saved.0)?;
        columns.some::<DoubleType>(|record| record.energy_joules)?;
        group.close()?;
        Ok(())
    }

    /// Without it, no reader takes the file.
    ///
    /// # Errors
    /// What writing says.
    pub fn end(self) -> Result<(), ParquetError> {
        self.writer.close()?;
        Ok(())
    }
}

/// Writes one column after the other, in the schema's order.
struct Columns<'a, 'b, W: Write + Send> {
    group: &'a mut SerializedRowGroupWriter<'b, W>,
    records: &'a [Record],
}

impl<W: Write + Send> Columns<'_, '_, W> {
    fn texts(&mut self, text: impl Fn(&Record) -> &str) -> Result<(), ParquetError> {
        self.all::<ByteArrayType>(|record| ByteArray::from(text(record)))
    }

    fn integers(&mut self, integer: impl Fn(&Record) -> i64) -> Result<(), ParquetError> {
        self.all::<Int64Type>(integer)
    }

    fn all<T: DataType>(&mut self, value: impl Fn(&Record) -> T::T) -> Result<(), ParquetError> {
        let values: Vec<T::T> = self.records.iter().map(value).collect();
        self.column::<T>(&values, None)
    }

    fn some<T: DataType>(
        &mut self,
        value: impl Fn(&Record) -> Option<T::T>,
    ) -> Result<(), ParquetError> {
        let found: Vec<Option<T::T>> = self.records.iter().map(value).collect();
        let levels: Vec<i16> = found.iter().map(|value| i16::from(value.is_some())).collect();
        let values: Vec<T::T> = found.into_iter().flatten().collect();
        self.column::<T>(&values, Some(&levels))
    }

    fn column<T: DataType>(
        &mut self,
        values: &[T::T],
        levels: Option<&[i16]>,
    ) -> Result<(), ParquetError> {
        if let Some(mut column) = self.group.next_column()? {
            column.typed::<T>().write_batch(values, levels, None)?;
            column.close()?;
        }
        Ok(())
    }
}

fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
