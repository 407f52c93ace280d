//! Reads catalog files, one over the other, into chips with their prices. Knows every key that a
//! file may have; knows neither where files come from nor what a chip is used for.

use std::collections::BTreeMap;

use super::catalog::Catalog;
use super::document::{File, Section, Text};
use super::draft::ChipDraft;
use super::error::{CatalogError, Problem};
use super::hardware::{read_gpu, read_slices};
use super::names::nearest;
use super::price::{Basis, Price, Provider, Purchase, Stated};
use super::quantity::{
    BYTES, BYTES_PER_SECOND, DOLLARS_PER_BYTE, DOLLARS_PER_CHIP_HOUR, Dimension, HERTZ,
    OPERATIONS_PER_SECOND, PER_HOST_HOUR, SECONDS, WATTS,
};
use super::{Chip, Figure, Slice};
use crate::discover::PluginKind;

/// What a file may say of a chip with a unit.
const FIGURES: [(&str, Dimension); 10] = [
    ("memory", BYTES),
    ("memory_bandwidth", BYTES_PER_SECOND),
    ("bf16", OPERATIONS_PER_SECOND),
    ("int8", OPERATIONS_PER_SECOND),
    ("fp8", OPERATIONS_PER_SECOND),
    ("links", BYTES_PER_SECOND),
    ("network", BYTES_PER_SECOND),
    ("clock", HERTZ),
    ("power", WATTS),
    ("idle_power", WATTS),
];

const CHIP_KEYS: [&str; 23] = [
    "name",
    "like",
    "description",
    "plugin",
    "device_kinds",
    "devices_per_chip",
    "source",
    "memory",
    "memory_bandwidth",
    "bf16",
    "int8",
    "fp8",
    "links",
    "network",
    "clock",
    "power",
    "idle_power",
    "clock_checked",
    "slices",
    "counts",
    "chips_per_host",
    "chips_per_domain",
    "compiler",
];

/// The catalog while files are laid over each other.
#[derive(Default)]
pub(super) struct Draft {
    sources: BTreeMap<String, Basis>,
    slices: BTreeMap<String, Vec<Slice>>,
    chips: Vec<ChipDraft>,
    /// With the chip's name, or `*` for all.
    prices: Vec<(String, Price)>,
    providers: Vec<Provider>,
}

impl Draft {
    /// # Errors
    /// As [`Draft::apply`].
    pub fn of(files: &[File<'_>]) -> Result<Draft, CatalogError> {
        let mut draft = Draft::default();
        for file in files {
            draft.apply(*file)?;
        }
        Ok(draft)
    }

    /// Takes what a file says over what was said before.
    ///
    /// # Errors
    /// What is wrong in it, with its line.
    pub fn apply(&mut self, file: File<'_>) -> Result<(), CatalogError> {
        let table = file.parse()?;
        let document = Section::new(file, 0, "the catalog".to_string(), table.get_ref());
        document.only(&["sources", "slices", "chip", "price", "provider"])?;
        if let Some(sources) = document.section("sources", "[sources]".to_string())? {
            for name in sources.keys() {
                let title = format!("[sources.{}]", name.text);
                let Some(source) = sources.section(name.text, title)? else { continue };
                self.sources.insert(name.text.to_string(), read_source(&source)?);
            }
        }
        if let Some(shapes) = document.section("slices", "[slices]".to_string())? {
            for name in shapes.keys() {
                let title = format!("[slices.{}]", name.text);
                let Some(shape) = shapes.section(name.text, title)? else { continue };
                self.slices.insert(name.text.to_string(), read_slices(&shape)?);
            }
        }
        for section in document.sections("chip")? {
            self.chip(section)?;
        }
        for section in document.sections("price")? {
            self.price(&section)?;
        }
        for section in document.sections("provider")? {
            self.provider(&section)?;
        }
        Ok(())
    }

    /// # Errors
    /// A chip of which too little is said, or two that a device's name could be of.
    pub fn finish(self) -> Result<Catalog, CatalogError> {
        let mut chips: Vec<Chip> = Vec::with_capacity(self.chips.len());
        for draft in self.chips {
            let prices = prices_of(&self.prices, &draft.name);
            let place = (draft.file.clone(), draft.line);
            let chip = draft.finish(prices)?;
            for other in &chips {
                for kind in &chip.device_kinds {
                    if other.is_called(kind) {
                        let problem = Problem::Illegal(format!(
                            "both {} and {} have the device kind {kind:?}; a device can be of one chip only",
                            other.name, chip.name
                        ));
                        let (file, line) = place;
                        return Err(CatalogError::Wrong { file, line, problem: Box::new(problem) });
                    }
                }
            }
            chips.push(chip);
        }
        Ok(Catalog { chips, providers: self.providers, file: None })
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.chips.iter().map(|chip| chip.name.as_str())
    }

    fn chip(&mut self, mut section: Section<'_>) -> Result<(), CatalogError> {
        let name = section.required_text("name")?;
        section.name = format!("the chip {}", name.text);
        section.only(&CHIP_KEYS)?;
        let known = self.chips.iter().position(|chip| chip.name == name.text);
        let index = match (known, section.text("like")?) {
            (Some(_), Some(like)) => {
                let message = format!("there is a chip `{}` already; leave out `like`", name.text);
                return Err(section.illegal(like.at, message));
            }
            (Some(index), None) => index,
            (None, like) => {
                let fresh = self.fresh(&section, name, like)?;
                self.chips.push(fresh);
                self.chips.len() - 1
            }
        };
        // Taken out and put back, since figures are looked up in the draft.
        let mut chip = std::mem::take(&mut self.chips[index]);
        let read = self.read_chip(&section, &mut chip);
        self.chips[index] = chip;
        read
    }

    fn fresh(
        &self,
        section: &Section<'_>,
        name: Text<'_>,
        like: Option<Text<'_>>,
    ) -> Result<ChipDraft, CatalogError> {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        let last = name.text.rsplit('-').next().unwrap_or_default();
        if name.text.is_empty() || !name.text.chars().all(legal) || last.parse::<usize>().is_ok() {
            let message = format!(
                "a chip cannot be called {:?}; use small letters, digits, dashes and points, and do not end with a dash and a number, which is how many of it are meant",
                name.text
            );
            return Err(section.illegal(name.at, message));
        }
        let Some(like) = like else {
            // Whoever knows the compiler's name for it can describe a chip from nothing.
            if section.has("plugin") {
                return Ok(ChipDraft {
                    name: name.text.to_string(),
                    compiles_as: name.text.to_string(),
                    devices_per_chip: 1,
                    ..ChipDraft::default()
                });
            }
            let nearest = nearest(name.text, self.names()).unwrap_or_default().to_string();
            let problem = Problem::UnknownChip { name: name.text.to_string(), nearest };
            return Err(section.file.wrong(name.at, problem));
        };
        match self.chips.iter().find(|chip| chip.name == like.text) {
            Some(base) => Ok(ChipDraft {
                name: name.text.to_string(),
                description: format!("a chip like {}", base.name),
                // A device of that name is still the other chip.
                device_kinds: Vec::new(),
                ..base.clone()
            }),
            None => Err(unknown_name(section, "chip", like, self.names())),
        }
    }

    fn read_chip(&self, section: &Section<'_>, chip: &mut ChipDraft) -> Result<(), CatalogError> {
        (chip.file, chip.line) = (section.file.name.to_string(), section.file.line(section.at));
        let shared = match section.text("source")? {
            Some(source) => Some(self.source(section, source)?),
            None => None,
        };
        for (key, dimension) in FIGURES {
            let Some((value, text, more)) = section.quantity(key, dimension)? else { continue };
            let basis = self.basis(section, text, more.as_ref(), shared.as_ref())?;
            let figure = Figure { name: key, value, text: text.text.to_string(), basis };
            match chip.figures.iter_mut().find(|figure| figure.name == key) {
                Some(known) => *known = figure,
                None => chip.figures.push(figure),
            }
        }
        if let Some(text) = section.text("description")? {
            chip.description = text.text.to_string();
        }
        if let Some(plugin) = section.text("plugin")? {
            chip.plugin = match plugin.text {
                "none" => None,
                name => match PluginKind::ALL.into_iter().find(|kind| kind.name() == name) {
                    Some(kind) => Some(kind),
                    None => {
                        let known = PluginKind::ALL.map(PluginKind::name);
                        let known = known.into_iter().chain(["none"]);
                        return Err(unknown_name(section, "plugin", plugin, known));
                    }
                },
            };
        }
        if let Some(kinds) = section.texts("device_kinds")? {
            chip.device_kinds = kinds;
        }
        if let Some(count) = section.count("devices_per_chip")? {
            chip.devices_per_chip = count;
        }
        if let Some(checked) = section.boolean("clock_checked")? {
            chip.clock_checked = checked;
        }
        self.read_hosts(section, chip, shared.as_ref())?;
        if let Some(compiler) =
            section.section("compiler", format!("{}'s compiler", section.name))?
        {
            match compiler.text("config")? {
                Some(config) => {
                    compiler.only(&["config"])?;
                    chip.config = Some(config.text.to_string());
                }
                None => chip.gpu = Some(read_gpu(&compiler)?),
            }
        }
        Ok(())
    }

    /// How many come together.
    fn read_hosts(
        &self,
        section: &Section<'_>,
        chip: &mut ChipDraft,
        shared: Option<&Basis>,
    ) -> Result<(), CatalogError> {
        if let Some(name) = section.text("slices")? {
            let Some(slices) = self.slices.get(name.text) else {
                let known = self.slices.keys().map(String::as_str);
                return Err(unknown_name(section, "list of slices", name, known));
            };
            chip.slices.clone_from(slices);
        }
        if let Some(counts) = section.counts("counts")? {
            chip.counts = counts;
        }
        if let Some(count) = section.count("chips_per_host")? {
            chip.chips_per_host = count;
        }
        if let Some(count) = section.count("chips_per_domain")? {
            chip.chips_per_domain = count;
        }
        if ["slices", "counts", "chips_per_host"].iter().any(|key| section.has(key)) {
            let here = Text { text: "", at: section.at };
            chip.hosts = Some(self.basis(section, here, None, shared)?);
        }
        Ok(())
    }

    /// Where a figure is from: what its own table says, else the source of all in the section, else
    /// the file itself.
    fn basis(
        &self,
        section: &Section<'_>,
        figure: Text<'_>,
        more: Option<&Section<'_>>,
        shared: Option<&Basis>,
    ) -> Result<Basis, CatalogError> {
        let stated = || Basis {
            source: format!("{}, line {}", section.file.name, section.file.line(figure.at)),
            link: None,
            date: None,
            note: None,
            assumed: false,
        };
        let Some(more) = more else { return Ok(shared.cloned().unwrap_or_else(stated)) };
        more.only(&["value", "source", "date", "note", "assumed", "reason"])?;
        let assumed = more.boolean("assumed")?.unwrap_or(false);
        let mut basis = match (more.text("source")?, more.text("reason")?) {
            (_, None) if assumed => {
                return Err(more.missing("reason", "say why it is assumed so"));
            }
            (_, Some(reason)) if assumed => {
                Basis { source: reason.text.to_string(), assumed, ..stated() }
            }
            (_, Some(reason)) => {
                let message = "a reason is given for what is not assumed; add assumed = true, or give a source";
                return Err(more.illegal(reason.at, message));
            }
            // With a date of its own it need not be in the list.
            (Some(source), None) if more.has("date") => {
                Basis { source: source.text.to_string(), ..stated() }
            }
            (Some(source), None) => self.source(more, source)?,
            (None, None) => shared.cloned().unwrap_or_else(stated),
        };
        if let Some(date) = more.text("date")? {
            basis.date = Some(date_of(more, date)?);
        }
        if let Some(note) = more.text("note")? {
            basis.note = Some(note.text.to_string());
        }
        Ok(basis)
    }

    fn source(&self, section: &Section<'_>, name: Text<'_>) -> Result<Basis, CatalogError> {
        let known = self.sources.keys().map(String::as_str);
        let found = self.sources.get(name.text).cloned();
        found.ok_or_else(|| unknown_name(section, "source", name, known))
    }

    fn price(&mut self, section: &Section<'_>) -> Result<(), CatalogError> {
        section.only(&["chip", "provider", "region", "purchase", "term", "price", "source"])?;
        let chip = section.required_text("chip")?;
        if chip.text != "*" && !self.names().any(|name| name == chip.text) {
            return Err(unknown_name(section, "chip", chip, self.names()));
        }
        let purchase = section.required_text("purchase")?;
        let term = section.text("term")?;
        let purchase = match (purchase.text, term) {
            ("on-demand", None) => Purchase::OnDemand,
            ("spot", None) => Purchase::Spot,
            ("committed", Some(term)) => Purchase::Committed { term: term.text.to_string() },
            ("committed", None) => {
                return Err(section.missing("term", "say for how long, such as \"1 year\""));
            }
            ("on-demand" | "spot", Some(term)) => {
                let message = "only a committed price has a term; leave it out";
                return Err(section.illegal(term.at, message));
            }
            _ => {
                let known = ["on-demand", "spot", "committed"].into_iter();
                return Err(unknown_name(section, "purchase", purchase, known));
            }
        };
        let shared = match section.text("source")? {
            Some(source) => Some(self.source(section, source)?),
            None => None,
        };
        let Some((dollars, text, more)) = section.quantity("price", DOLLARS_PER_CHIP_HOUR)? else {
            return Err(section.missing("price", "such as \"2.70 $/chip-hour\""));
        };
        let price = Price {
            provider: section.required_text("provider")?.text.to_string(),
            region: section.text("region")?.map(|region| region.text.to_string()),
            purchase,
            dollars_per_chip_hour: dollars,
            basis: self.basis(section, text, more.as_ref(), shared.as_ref())?,
        };
        let chip = chip.text.to_string();
        match self.prices.iter_mut().find(|(of, known)| *of == chip && same_offer(known, &price)) {
            Some((_, known)) => *known = price,
            None => self.prices.push((chip, price)),
        }
        Ok(())
    }

    fn provider(&mut self, section: &Section<'_>) -> Result<(), CatalogError> {
        section.only(&[
            "name",
            "title",
            "startup",
            "egress",
            "spot_preemptions",
            "hosts_included",
        ])?;
        let name = section.required_text("name")?.text;
        let known = self.providers.iter().position(|provider| provider.name == name);
        let mut provider =
            known.map_or_else(|| Provider::unknown(name), |index| self.providers[index].clone());
        if let Some(title) = section.text("title")? {
            provider.title = title.text.to_string();
        }
        let stated = |key, dimension| -> Result<Option<Stated<f64>>, CatalogError> {
            let Some((value, text, more)) = section.quantity(key, dimension)? else {
                return Ok(None);
            };
            let basis = self.basis(section, text, more.as_ref(), None)?;
            Ok(Some(Stated { value, basis }))
        };
        if let Some(startup) = stated("startup", SECONDS)? {
            provider.startup_seconds = Some(startup);
        }
        if let Some(egress) = stated("egress", DOLLARS_PER_BYTE)? {
            provider.egress_dollars_per_byte = Some(egress);
        }
        if let Some(preemptions) = stated("spot_preemptions", PER_HOST_HOUR)? {
            provider.spot_preemptions_per_host_hour = Some(preemptions);
        }
        let title = format!("`hosts_included` of the provider {name}");
        if let Some(more) = section.section("hosts_included", title)? {
            let Some(value) = more.boolean("value")? else {
                return Err(more.missing("value", "write true or false"));
            };
            let here = Text { text: "", at: more.at };
            let basis = self.basis(section, here, Some(&more), None)?;
            provider.hosts_included = Some(Stated { value, basis });
        }
        match known {
            Some(index) => self.providers[index] = provider,
            None => self.providers.push(provider),
        }
        Ok(())
    }
}

fn same_offer(one: &Price, other: &Price) -> bool {
    let key =
        |price: &Price| (price.provider.clone(), price.region.clone(), price.purchase.clone());
    key(one) == key(other)
}

/// A chip's own prices, and those of all chips that it has no own ones for.
fn prices_of(rows: &[(String, Price)], name: &str) -> Vec<Price> {
    let of = |chip: &str| {
        let chip = chip.to_string();
        rows.iter().filter(move |(of, _)| *of == chip).map(|(_, price)| price.clone())
    };
    let mut prices: Vec<Price> = of(name).collect();
    for price in of("*") {
        if !prices.iter().any(|own| same_offer(own, &price)) {
            prices.push(price);
        }
    }
    prices
}

fn read_source(section: &Section<'_>) -> Result<Basis, CatalogError> {
    section.only(&["title", "link", "date", "note"])?;
    let date = section.required_text("date")?;
    Ok(Basis {
        source: section.required_text("title")?.text.to_string(),
        link: section.text("link")?.map(|link| link.text.to_string()),
        date: Some(date_of(section, date)?),
        note: section.text("note")?.map(|note| note.text.to_string()),
        assumed: false,
    })
}

/// # Errors
/// What is no day, month or year.
fn date_of(section: &Section<'_>, date: Text<'_>) -> Result<String, CatalogError> {
    let parts: Vec<&str> = date.text.split('-').collect();
    let number = |part: &str, digits: usize, most: u32| {
        part.len() == digits && part.parse::<u32>().is_ok_and(|number| (1..=most).contains(&number))
    };
    let lengths = [(4, 9999), (2, 12), (2, 31)];
    let fits = parts.iter().zip(lengths).all(|(part, (digits, most))| number(part, digits, most));
    match fits && parts.len() <= lengths.len() {
        true => Ok(date.text.to_string()),
        false => {
            let message = format!(
                "{:?} is no date; write the day or the month it was read, such as 2026-11 or 2026-11-23",
                date.text
            );
            Err(section.illegal(date.at, message))
        }
    }
}

pub(super) fn unknown_name<'n>(
    section: &Section<'_>,
    kind: &'static str,
    name: Text<'_>,
    known: impl Iterator<Item = &'n str>,
) -> CatalogError {
    let known: Vec<&str> = known.collect();
    let problem = Problem::UnknownName {
        kind,
        name: name.text.to_string(),
        nearest: nearest(name.text, known.iter().copied()).unwrap_or_default().to_string(),
        known: known.join(", "),
    };
    section.file.wrong(name.at, problem)
}
