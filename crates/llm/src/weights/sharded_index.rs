//! `model.safetensors.index.json`: which shard holds which tensor.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde::Deserialize;

use super::safetensors::{self, Tensors};
use super::{TensorFile, WeightsError};

/// Names of tensors, each with the file name of its shard.
pub type WeightMap = BTreeMap<String, String>;

/// Far above the tables of the largest checkpoints.
const INDEX_BYTES_MAX: u64 = 100_000_000;

#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

/// Parses the table and checks that every shard is a plain file name, so that a table cannot reach
/// outside its folder.
///
/// # Errors
/// A sentence fragment saying what is wrong.
pub fn parse(text: &str) -> Result<WeightMap, String> {
    let index: Index = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if index.weight_map.is_empty() {
        return Err("its `weight_map` is empty".to_owned());
    }
    for (name, file) in &index.weight_map {
        let mut components = Path::new(file).components();
        let plain =
            matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
        if !plain || file.contains(['/', '\\', '\0']) {
            return Err(format!(
                "it places tensor `{name}` in `{file}`, which is not a plain file name"
            ));
        }
    }
    Ok(index.weight_map)
}

/// Opens every shard and checks that each holds the tensors that the table places in it.
pub(super) fn open(
    folder: &Path,
    index_path: &Path,
) -> Result<(Vec<TensorFile>, Tensors), WeightsError> {
    let unreadable = |source| WeightsError::Open { path: index_path.to_owned(), source };
    let invalid = |reason: String| WeightsError::Index { path: index_path.to_owned(), reason };
    let index_bytes = std::fs::metadata(index_path).map_err(unreadable)?.len();
    if index_bytes > INDEX_BYTES_MAX {
        return Err(invalid(format!(
            "it has {index_bytes} bytes, more than {INDEX_BYTES_MAX} is taken as corrupt"
        )));
    }
    let text = std::fs::read_to_string(index_path).map_err(unreadable)?;
    let weight_map = parse(&text).map_err(invalid)?;

    let mut shards: Vec<&String> = weight_map.values().collect();
    shards.sort();
    shards.dedup();
    let mut files = Vec::new();
    let mut tensors = Tensors::new();
    for shard in shards {
        let path = folder.join(shard);
        if !path.is_file() {
            return Err(WeightsError::MissingShard {
                path: index_path.to_owned(),
                file: shard.clone(),
            });
        }
        let (file, found) = safetensors::open(&path, files.len())?;
        files.push(file);
        for (name, info) in found {
            match weight_map.get(&name) {
                Some(place) if place == shard => {
                    tensors.insert(name, info);
                }
                Some(place) => {
                    return Err(invalid(format!(
                        "it places tensor `{name}` in `{place}`, but `{shard}` holds it too"
                    )));
                }
                None => {
                    return Err(invalid(format!(
                        "`{shard}` holds tensor `{name}`, which it does not list"
                    )));
                }
            }
        }
    }
    match weight_map.iter().find(|(name, _)| !tensors.contains_key(*name)) {
        Some((name, shard)) => {
            Err(invalid(format!("it places tensor `{name}` in `{shard}`, which does not hold it")))
        }
        None => Ok((files, tensors)),
    }
}
