//! TensorBoard's event files: TFRecord framing around `Event` messages, of which this is the part
//! that carries scalars and texts (tensorflow/core/util/event.proto, summary.proto, tensor.proto).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use super::growing::Growing;
use super::{MetricsError, Sample, StepRecord};

/// An event file that grows.
#[derive(Debug)]
pub struct TensorBoard {
    file: Growing,
}

impl TensorBoard {
    /// Starts a file in the folder, for a run that goes on after step `through` (0: a new run).
    /// TensorBoard then forgets what older files in the folder say of later steps: of a new run, all
    /// that an earlier one left there.
    ///
    /// # Errors
    /// When the folder or the file cannot be made.
    pub fn create(folder: &Path, through: usize) -> Result<TensorBoard, MetricsError> {
        fs::create_dir_all(folder).map_err(|source| MetricsError::write(folder, source))?;
        let now = seconds_since_1970();
        let (path, file) = new_file(folder, now as u64)?;
        let mut board = TensorBoard { file: Growing::new(path, file) };
        let version = Event {
            wall_time: now,
            file_version: Some("brain.Event:2".to_string()),
            ..Event::default()
        };
        board.write(&version)?;
        board.write(&Event {
            wall_time: now,
            step: through as i64 + 1,
            session_log: Some(SessionLog { status: SESSION_START }),
            ..Event::default()
        })?;
        Ok(board)
    }

    /// Writes what the record holds, under `train/` and `validation/`.
    ///
    /// # Errors
    /// When the disk is full, or the file cannot be written. The event waits then, as it does in
    /// [`TensorBoard::sample`].
    pub fn record(&mut self, record: &StepRecord) -> Result<(), MetricsError> {
        let always = [
            ("train/loss", record.loss),
            ("train/grad_norm", record.grad_norm),
            ("train/learning_rate", record.lr),
            ("train/tokens_per_second", record.tokens_per_second),
            ("train/skipped", f64::from(u8::from(record.skipped))),
        ];
        let sometimes = [
            ("train/mfu", record.mfu),
            ("validation/loss", record.validation_loss),
            ("validation/bits_per_byte", record.bits_per_byte),
        ];
        let sometimes = sometimes.into_iter().filter_map(|(tag, value)| Some((tag, value?)));
        let value = always.into_iter().chain(sometimes).map(|(tag, value)| scalar(tag, value));
        self.summary(record.step, value.collect())
    }

    /// Writes a text under `samples/` and its prompt.
    ///
    /// # Errors
    /// When the disk is full, or the file cannot be written.
    pub fn sample(&mut self, sample: &Sample) -> Result<(), MetricsError> {
        let tag = format!("samples/{}", sample.prompt);
        // TensorBoard shows Markdown: four spaces keep a text as it is.
        let text = format!("{}{}", sample.prompt, sample.text).replace('\n', "\n    ");
        self.summary(sample.step, vec![text_value(&tag, &format!("    {text}"))])
    }

    fn summary(&mut self, step: usize, value: Vec<SummaryValue>) -> Result<(), MetricsError> {
        self.write(&Event {
            wall_time: seconds_since_1970(),
            step: step as i64,
            summary: Some(Summary { value }),
            ..Event::default()
        })
    }

    fn write(&mut self, event: &Event) -> Result<(), MetricsError> {
        self.file.append(&framed(&event.encode_to_vec()))
    }
}

/// A name that sorts by time and that no run before has taken.
fn new_file(folder: &Path, seconds: u64) -> Result<(PathBuf, File), MetricsError> {
    let mut number = 0;
    loop {
        let path = folder.join(format!("events.out.tfevents.{seconds:010}.fungible.{number}"));
        match File::create_new(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(source) => return Err(MetricsError::write(&path, source)),
        }
    }
}

fn seconds_since_1970() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SESSION_START: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<SummaryValue>,
}

#[derive(Clone, PartialEq, Message)]
struct SummaryValue {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "8")]
    tensor: Option<TensorProto>,
    #[prost(message, optional, tag = "9")]
    metadata: Option<SummaryMetadata>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int32, tag = "1")]
    dtype: i32,
    /// Absent axes are a scalar.
    #[prost(message, optional, tag = "2")]
    tensor_shape: Option<TensorShape>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    string_val: Vec<Vec<u8>>,
}

const DTYPE_STRING: i32 = 7;

#[derive(Clone, PartialEq, Message)]
struct TensorShape {}

#[derive(Clone, PartialEq, Message)]
struct SummaryMetadata {
    #[prost(message, optional, tag = "1")]
    plugin_data: Option<PluginData>,
    #[prost(int32, tag = "4")]
    data_class: i32,
}

const DATA_CLASS_TENSOR: i32 = 2;

#[derive(Clone, PartialEq, Message)]
struct PluginData {
    #[prost(string, tag = "1")]
    plugin_name: String,
}

fn scalar(tag: &str, value: f64) -> SummaryValue {
    SummaryValue {
        tag: tag.to_string(),
        simple_value: Some(value as f32),
        ..SummaryValue::default()
    }
}

fn text_value(tag: &str, text: &str) -> SummaryValue {
    let plugin_data = Some(PluginData { plugin_name: "text".to_string() });
    SummaryValue {
        tag: tag.to_string(),
        tensor: Some(TensorProto {
            dtype: DTYPE_STRING,
            tensor_shape: Some(TensorShape {}),
            string_val: vec![text.as_bytes().to_vec()],
        }),
        metadata: Some(SummaryMetadata { plugin_data, data_class: DATA_CLASS_TENSOR }),
        ..SummaryValue::default()
    }
}

/// TFRecord: length, its checksum, the bytes, their checksum; all little-endian.
fn framed(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(bytes.len() + 16);
    record.extend_from_slice(&length);
    record.extend_from_slice(&masked_checksum(&length).to_le_bytes());
    record.extend_from_slice(bytes);
    record.extend_from_slice(&masked_checksum(bytes).to_le_bytes());
    record
}

/// TFRecord stores checksums rotated and shifted, so that a checksum of bytes that hold checksums
/// stays a good one (tensorflow/core/lib/hash/crc32c.h).
fn masked_checksum(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit-reflected polynomial 0x82f63b78. A few hundred bytes per step: a table
/// is fast enough.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut value = byte as u32;
            let mut bit = 0;
            while bit < 8 {
                value = (value >> 1) ^ (0x82f6_3b78 & (value & 1).wrapping_neg());
                bit += 1;
            }
            table[byte] = value;
            byte += 1;
        }
        table
    };
    !bytes
        .iter()
        .fold(!0, |crc, &byte| (crc >> 8) ^ TABLE[((crc ^ u32::from(byte)) & 255) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The check value of the algorithm's catalogue, and those of RFC 3720, B.4.
    #[test]
    fn checksums_are_the_published_ones() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    /// What TensorBoard's own `RecordWriter` makes of the same messages.
    #[test]
    fn bytes_are_those_of_tensorboard_itself() {
        let event = Event { wall_time: 1.5, step: 7, ..Event::default() };
        let scalars = Event {
            summary: Some(Summary { value: vec![scalar("train/loss", 2.5)] }),
            ..event.clone()
        };
        let texts = Event {
            summary: Some(Summary { value: vec![text_value("samples/A", "    hi")] }),
            ..event
        };
        assert_eq!(
            hex(&framed(&scalars.encode_to_vec())),
            "200000000000000029eda95009000000000000f83f10072a130a110a0a747261696e2f6c6f737315000020402508fb34"
        );
        assert_eq!(
            hex(&framed(&texts.encode_to_vec())),
            "34000000000000005e33175c09000000000000f83f10072a270a250a0973616d706c65732f41420c0807120042062020202068694a0a0a060a04746578742002e4141c1d"
        );
    }
}
