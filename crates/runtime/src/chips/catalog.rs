//! The catalog as a whole: what is built in, with a user's file over it, read once and then the same
//! for the whole process. Knows not how a file is written (`read`).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::document::File;
use super::error::CatalogError;
use super::price::Provider;
use super::read::Draft;
use super::{Chip, names};

/// The variable that names a user's file.
pub const CATALOG_VARIABLE: &str = "FUNGIBLE_CHIPS";

const BUILT_IN: [File<'static>; 2] = [
    File { name: "catalog.toml", text: include_str!("catalog.toml") },
    File { name: "prices.toml", text: include_str!("prices.toml") },
];

/// Every chip, its prices, and those who rent it out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalog {
    /// In the order of the files.
    pub chips: Vec<Chip>,
    pub(super) providers: Vec<Provider>,
    /// The user's file that is in it.
    pub file: Option<PathBuf>,
}

static CATALOG: OnceLock<Catalog> = OnceLock::new();

/// The catalog of this process: as [`use_file`] left it, else what is built in.
pub fn catalog() -> &'static Catalog {
    // The text is part of the program and a test reads it, so an empty catalog is never seen.
    CATALOG.get_or_init(|| Catalog::built_in().unwrap_or_default())
}

/// Takes a user's file over the built-in catalog, for the whole process: the one that is given, else
/// the one that `FUNGIBLE_CHIPS` names, else none. To be called before anything looks at a chip; the
/// same file again changes nothing.
///
/// # Errors
/// A file that cannot be read, or what is wrong in it with its line; and another catalog that is in
/// use already.
pub fn use_file(given: Option<&Path>) -> Result<(), CatalogError> {
    let given = given.map(Path::to_path_buf);
    let path = given.or_else(|| std::env::var_os(CATALOG_VARIABLE).map(PathBuf::from));
    // An empty variable is as good as none, as elsewhere.
    let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else { return Ok(()) };
    if CATALOG.get().is_some_and(|catalog| catalog.file.as_ref() == Some(&path)) {
        return Ok(());
    }
    let text = fs::read_to_string(&path)
        .map_err(|source| CatalogError::Read { path: path.clone(), source })?;
    let merged = Catalog::with(&path, &text)?;
    CATALOG.set(merged).map_err(|_| CatalogError::InUse { path })
}

impl Catalog {
    /// What comes with the program.
    ///
    /// # Errors
    /// None that a test would not have seen.
    pub fn built_in() -> Result<Catalog, CatalogError> {
        Draft::of(&BUILT_IN)?.finish()
    }

    /// The built-in catalog with the text of a user's file over it.
    ///
    /// # Errors
    /// What is wrong with the text, with its line.
    pub fn with(path: &Path, text: &str) -> Result<Catalog, CatalogError> {
        let mut draft = Draft::of(&BUILT_IN)?;
        draft.apply(File { name: &path.display().to_string(), text })?;
        let mut catalog = draft.finish()?;
        catalog.file = Some(path.to_path_buf());
        Ok(catalog)
    }

    pub fn find(&self, name: &str) -> Option<&Chip> {
        self.chips.iter().find(|chip| chip.name == name)
    }

    /// The chip whose name is the fewest edits away.
    pub fn nearest(&self, name: &str) -> Option<&Chip> {
        let known = self.chips.iter().map(|chip| chip.name.as_str());
        self.find(names::nearest(name, known)?)
    }

    /// What is known of a provider: its own row, and what it does not state from the row of all.
    pub fn provider(&self, name: &str) -> Provider {
        let row = |name: &str| self.providers.iter().find(|provider| provider.name == name);
        let own = row(name).cloned().unwrap_or_else(|| Provider::unknown(name));
        match row("*") {
            Some(all) => own.or(all),
            None => own,
        }
    }

    /// Every provider that has a row of its own or a price, by name.
    pub fn providers(&self) -> Vec<Provider> {
        let priced = self.chips.iter().flat_map(|chip| &chip.prices).map(|price| &price.provider);
        let rows = self.providers.iter().map(|provider| &provider.name).filter(|name| *name != "*");
        let mut names: Vec<&String> = priced.chain(rows).collect();
        names.sort();
        names.dedup();
        names.into_iter().map(|name| self.provider(name)).collect()
    }
}
