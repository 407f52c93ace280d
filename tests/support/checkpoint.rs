//! Model folders for tests: copies of small checkpoints with one thing changed, and checkpoints
//! written from numbers. Format: <https://huggingface.co/docs/safetensors>.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

const FILE: &str = "model.safetensors";
const LENGTH_BYTES: usize = 8;

/// Copies the files of a model folder.
pub fn copy_model(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Changes a folder's `config.json`.
pub fn change_config(folder: &Path, change: impl FnOnce(&mut Map<String, Value>)) {
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(config.as_object_mut().unwrap());
    fs::write(&path, config.to_string()).unwrap();
}

/// Changes the header and the bytes of a folder's `model.safetensors`.
pub fn change_checkpoint(folder: &Path, change: impl FnOnce(&mut Map<String, Value>, &mut [u8])) {
    let path = folder.join(FILE);
    let mut bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..LENGTH_BYTES].try_into().unwrap()) as usize;
    let mut data = bytes.split_off(LENGTH_BYTES + length);
    let mut header: Value = serde_json::from_slice(&bytes[LENGTH_BYTES..]).unwrap();
    change(header.as_object_mut().unwrap(), &mut data);
    write(&path, &header, &data);
}

/// Writes a folder's `model.safetensors` of f32 tensors: name, shape, values.
pub fn write_checkpoint(folder: &Path, tensors: &[(&str, Vec<usize>, Vec<f32>)]) {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape, values) in tensors {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{name}");
        let start = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert((*name).to_string(), entry);
    }
    write(&folder.join(FILE), &Value::Object(header), &data);
}

fn write(path: &Path, header: &Value, data: &[u8]) {
    let header = header.to_string();
    let length = (header.len() as u64).to_le_bytes();
    fs::write(path, [&length, header.as_bytes(), data].concat()).unwrap();
}
