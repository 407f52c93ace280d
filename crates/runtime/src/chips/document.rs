//! A catalog file as tables that know the line of everything in them. Knows TOML, but not which keys
//! there are.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{CatalogError, Problem};
use super::names::nearest;
use super::quantity::{self, Dimension};

/// A file under way, for messages.
#[derive(Clone, Copy)]
pub(super) struct File<'a> {
    pub name: &'a str,
    pub text: &'a str,
}

impl<'a> File<'a> {
    pub fn wrong(&self, at: usize, problem: Problem) -> CatalogError {
        CatalogError::Wrong {
            file: self.name.to_string(),
            line: self.line(at),
            problem: Box::new(problem),
        }
    }

    pub fn line(&self, at: usize) -> usize {
        self.text.as_bytes().iter().take(at).filter(|&&byte| byte == b'\n').count() + 1
    }

    pub fn parse(&self) -> Result<Spanned<DeTable<'a>>, CatalogError> {
        DeTable::parse(self.text).map_err(|error| {
            let at = error.span().map_or(self.text.len(), |span| span.start);
            self.wrong(at, Problem::Syntax(error.message().trim().replace('\n', "; ")))
        })
    }
}

/// One table of a file.
#[derive(Clone)]
pub(super) struct Section<'a> {
    pub file: File<'a>,
    pub at: usize,
    /// As messages call it, such as `the chip h100`.
    pub name: String,
    table: &'a DeTable<'a>,
}

/// A text of a file with its place.
#[derive(Clone, Copy)]
pub(super) struct Text<'a> {
    pub text: &'a str,
    pub at: usize,
}

impl<'a> Section<'a> {
    pub fn new(file: File<'a>, at: usize, name: String, table: &'a DeTable<'a>) -> Section<'a> {
        Section { file, at, name, table }
    }

    /// # Errors
    /// A key that is not among these.
    pub fn only(&self, known: &[&str]) -> Result<(), CatalogError> {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            let nearest = nearest(name, known.iter().copied()).unwrap_or_default();
            let hint = format!("did you mean `{nearest}`? Known: {}", known.join(", "));
            let (unknown, section) = (name.to_string(), self.name.clone());
            let problem = Problem::UnknownKey { key: unknown, section, hint };
            return Err(self.file.wrong(key.span().start, problem));
        }
        Ok(())
    }

    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    pub fn keys(&self) -> impl Iterator<Item = Text<'a>> {
        self.table.keys().map(|key| Text { text: key.get_ref().as_ref(), at: key.span().start })
    }

    fn get(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table.get(key)
    }

    pub fn text(&self, key: &str) -> Result<Option<Text<'a>>, CatalogError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.get_ref() {
            DeValue::String(text) => Ok(Some(Text { text: text.as_ref(), at: value.span().start })),
            _ => Err(self.type_error(key, value, "a text in quotes")),
        }
    }

    /// # Errors
    /// When it is not there, or no text.
    pub fn required_text(&self, key: &'static str) -> Result<Text<'a>, CatalogError> {
        self.text(key)?.ok_or_else(|| self.missing(key, "add it"))
    }

    pub fn boolean(&self, key: &str) -> Result<Option<bool>, CatalogError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.get_ref() {
            DeValue::Boolean(value) => Ok(Some(*value)),
            _ => Err(self.type_error(key, value, "true or false")),
        }
    }

    pub fn count(&self, key: &str) -> Result<Option<usize>, CatalogError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        self.count_of(key, value).map(Some)
    }

    fn count_of(&self, key: &str, value: &Spanned<DeValue<'a>>) -> Result<usize, CatalogError> {
        let number = match value.get_ref() {
            DeValue::Integer(number) => usize::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        // As many chips as there are in no machine; larger numbers would only overflow later.
        match number.filter(|number| (1..=1 << 24).contains(number)) {
            Some(number) => Ok(number),
            None => Err(self.type_error(key, value, "a whole number of at least 1")),
        }
    }

    fn array(
        &self,
        key: &str,
        expected: &str,
    ) -> Result<Option<impl Iterator<Item = &'a Spanned<DeValue<'a>>>>, CatalogError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.get_ref() {
            DeValue::Array(elements) => Ok(Some(elements.iter())),
            _ => Err(self.type_error(key, value, expected)),
        }
    }

    pub fn texts(&self, key: &str) -> Result<Option<Vec<String>>, CatalogError> {
        let Some(elements) = self.array(key, "a list of texts")? else { return Ok(None) };
        let text = |element: &Spanned<DeValue<'a>>| match element.get_ref() {
            DeValue::String(text) => Ok(text.to_string()),
            _ => Err(self.type_error(key, element, "a list of texts")),
        };
        elements.map(text).collect::<Result<_, _>>().map(Some)
    }

    pub fn counts(&self, key: &str) -> Result<Option<Vec<usize>>, CatalogError> {
        let Some(elements) = self.array(key, "a list of whole numbers")? else { return Ok(None) };
        elements.map(|element| self.count_of(key, element)).collect::<Result<_, _>>().map(Some)
    }

    pub fn section(&self, key: &str, name: String) -> Result<Option<Section<'a>>, CatalogError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.get_ref() {
            DeValue::Table(table) => {
                Ok(Some(Section::new(self.file, value.span().start, name, table)))
            }
            _ => Err(self.type_error(key, value, "a table")),
        }
    }

    /// The tables of `[[key]]`.
    pub fn sections(&self, key: &str) -> Result<Vec<Section<'a>>, CatalogError> {
        let expected = format!("tables, each headed [[{key}]]");
        let Some(elements) = self.array(key, &expected)? else { return Ok(Vec::new()) };
        let section = |element: &'a Spanned<DeValue<'a>>| match element.get_ref() {
            DeValue::Table(table) => {
                Ok(Section::new(self.file, element.span().start, format!("[[{key}]]"), table))
            }
            _ => Err(self.type_error(key, element, &expected)),
        };
        elements.map(section).collect()
    }

    /// A figure: its text as it was written, its number, and the table that says more of it, if it
    /// is one.
    pub fn quantity(
        &self,
        key: &str,
        dimension: Dimension,
    ) -> Result<Option<(f64, Text<'a>, Option<Section<'a>>)>, CatalogError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let at = value.span().start;
        match value.get_ref() {
            DeValue::String(text) => {
                let text = Text { text: text.as_ref(), at };
                Ok(Some((self.number(key, text, dimension)?, text, None)))
            }
            DeValue::Integer(number) => {
                Err(self.file.wrong(at, quantity::no_unit(key, number.as_str(), dimension)))
            }
            DeValue::Float(number) => {
                Err(self.file.wrong(at, quantity::no_unit(key, number.as_str(), dimension)))
            }
            DeValue::Table(table) => {
                let more = Section::new(self.file, at, format!("`{key}` of {}", self.name), table);
                match more.quantity("value", dimension)? {
                    Some((number, text, None)) => Ok(Some((number, text, Some(more)))),
                    _ => Err(more.missing("value", "write it as a number with its unit")),
                }
            }
            _ => Err(self.type_error(key, value, "a number with a unit in quotes")),
        }
    }

    fn number(&self, key: &str, text: Text<'_>, dimension: Dimension) -> Result<f64, CatalogError> {
        quantity::parse(key, text.text, dimension)
            .map_err(|problem| self.file.wrong(text.at, problem))
    }

    pub fn missing(&self, key: &'static str, hint: &str) -> CatalogError {
        let (section, hint) = (self.name.clone(), hint.to_string());
        self.file.wrong(self.at, Problem::Missing { key, section, hint })
    }

    pub fn illegal(&self, at: usize, message: impl Into<String>) -> CatalogError {
        self.file.wrong(at, Problem::Illegal(message.into()))
    }

    fn type_error(&self, key: &str, value: &Spanned<DeValue<'a>>, expected: &str) -> CatalogError {
        let found = match value.get_ref() {
            DeValue::String(text) => format!("{text:?}"),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            DeValue::Boolean(value) => value.to_string(),
            DeValue::Datetime(date) => format!("the date {date}"),
            DeValue::Array(_) => "a list".to_string(),
            DeValue::Table(_) => "a table".to_string(),
        };
        let (key, expected) = (key.to_string(), expected.to_string());
        self.file.wrong(value.span().start, Problem::WrongType { key, found, expected })
    }
}
