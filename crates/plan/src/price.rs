//! What a job costs where: from chip-hours, the catalog's prices, and what comes on top of them. Knows
//! durations and chips, no job.

use runtime::Target;
use runtime::chips::{Basis, Chip, Price, Provider, Purchase, catalog};
use serde::Serialize;

use crate::row::{Money, MoneyPart, OfferCost};

const SECONDS_PER_HOUR: f64 = 3600.0;

/// Offers that a plan lists.
const OFFERS: usize = 8;

/// Which offers a plan may take.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wish {
    pub purchase: Kind,
    /// Of this provider only.
    pub provider: Option<String>,
}

/// How capacity is bought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    #[default]
    OnDemand,
    Spot,
    Committed,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::OnDemand => "on-demand",
            Kind::Spot => "spot",
            Kind::Committed => "committed",
        }
    }

    fn of(purchase: &Purchase) -> Kind {
        match purchase {
            Purchase::OnDemand => Kind::OnDemand,
            Purchase::Spot => Kind::Spot,
            Purchase::Committed { .. } => Kind::Committed,
        }
    }
}

/// A price of the catalog.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Offer {
    pub provider: String,
    pub region: Option<String>,
    /// `on-demand`, `spot`, `committed for 1 year`.
    pub purchase: String,
    pub dollars_per_chip_hour: f64,
    /// Where the price is from, and when it was read.
    pub source: String,
    /// An address that shows it.
    pub link: Option<String>,
    /// The day of reading alone, such as `2026-11-23`.
    pub date: Option<String>,
}

impl Offer {
    fn of(price: &Price) -> Offer {
        Offer {
            provider: price.provider.clone(),
            region: price.region.clone(),
            purchase: price.purchase.to_string(),
            dollars_per_chip_hour: price.dollars_per_chip_hour,
            source: price.basis.to_string(),
            link: price.basis.link.clone(),
            date: price.basis.date.clone(),
        }
    }
}

/// What is to be paid for.
#[derive(Clone, Copy, Debug)]
pub struct Rental {
    pub chips: usize,
    pub hosts: usize,
    /// Of the work itself.
    pub seconds: f64,
    pub tokens: f64,
    /// Work that is done again when machines are taken away.
    pub lost_seconds: f64,
    /// Of what is fetched from the provider at the end, such as the model.
    pub egress_bytes: f64,
    /// Whether it ends: then starting up is a part of it. A server that stays is started once.
    pub ends: bool,
}

impl Rental {
    pub fn of(target: &Target, seconds: f64, tokens: f64) -> Rental {
        Rental {
            chips: target.chips,
            hosts: target.hosts(),
            seconds,
            tokens,
            lost_seconds: 0.0,
            egress_bytes: 0.0,
            ends: true,
        }
    }
}

/// What a rental costs at every offer, and in detail at the cheapest that is wished for.
pub fn money(chip: &Chip, rental: &Rental, wish: &Wish) -> Money {
    let mut costs: Vec<(Price, Vec<MoneyPart>, f64)> = chip
        .prices
        .iter()
        .filter(|price| wish.provider.as_ref().is_none_or(|wanted| *wanted == price.provider))
        .filter_map(|price| {
            let parts = parts(price, &provider(&price.provider), rental)?;
            let total = parts.iter().map(|part| part.dollars).sum();
            Some((price.clone(), parts, total))
        })
        .collect();
    costs.sort_by(|a, b| a.2.total_cmp(&b.2));
    let per_million = |dollars: f64| dollars / rental.tokens * 1e6;
    let best = costs.iter().find(|(price, ..)| Kind::of(&price.purchase) == wish.purchase);
    Money {
        offer: best.map(|(price, ..)| Offer::of(price)),
        dollars_per_million_tokens: best.map(|&(.., total)| per_million(total)),
        total_dollars: best.map(|&(.., total)| total),
        parts: best.map(|(_, parts, _)| parts.clone()).unwrap_or_default(),
        offers: costs
            .iter()
            .take(OFFERS)
            .map(|(price, _, total)| OfferCost {
                offer: Offer::of(price),
                dollars_per_million_tokens: per_million(*total),
            })
            .collect(),
    }
}

fn provider(name: &str) -> Provider {
    catalog().provider(name)
}

/// What a rental is made of at a price, the largest first; nothing where machines are taken away faster
/// than the work gets ahead.
fn parts(price: &Price, provider: &Provider, rental: &Rental) -> Option<Vec<MoneyPart>> {
    let an_hour = rental.chips as f64 * price.dollars_per_chip_hour;
    let of = |seconds: f64| seconds / SECONDS_PER_HOUR * an_hour;
    let assumed = |basis: &Basis| basis.assumed;
    let mut parts = vec![MoneyPart {
        name: "the work itself".to_string(),
        dollars: of(rental.seconds),
        assumed: price.basis.assumed,
    }];
    let startup = provider.startup_seconds.as_ref();
    if rental.ends
        && let Some(startup) = startup
    {
        parts.push(MoneyPart {
            name: "start-up".to_string(),
            dollars: of(startup.value),
            assumed: assumed(&startup.basis),
        });
    }
    if price.purchase == Purchase::Spot
        && let Some(rate) = &provider.spot_preemptions_per_host_hour
    {
        // Any host that goes stops all of them.
        let per_second = rate.value * rental.hosts as f64 / SECONDS_PER_HOUR;
        let each = rental.lost_seconds + startup.map_or(0.0, |startup| startup.value);
        let share = per_second * each;
        if share >= 1.0 {
            return None;
        }
        parts.push(MoneyPart {
            name: "work and time lost to preemptions".to_string(),
            dollars: of(rental.seconds * share / (1.0 - share)),
            assumed: assumed(&rate.basis),
        });
    }
    if let Some(egress) = &provider.egress_dollars_per_byte
        && rental.egress_bytes > 0.0
    {
        parts.push(MoneyPart {
            name: "fetching what was made".to_string(),
            dollars: rental.egress_bytes * egress.value,
            assumed: assumed(&egress.basis),
        });
    }
    parts.sort_by(|a, b| b.dollars.total_cmp(&a.dollars));
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basis() -> Basis {
        Basis { source: "a list".to_string(), link: None, date: None, note: None, assumed: false }
    }

    fn stated(value: f64) -> Option<runtime::chips::Stated<f64>> {
        Some(runtime::chips::Stated { value, basis: basis() })
    }

    fn here(spot_preemptions: f64) -> Provider {
        Provider {
            name: "here".to_string(),
            title: "Here".to_string(),
            startup_seconds: stated(600.0),
            egress_dollars_per_byte: stated(1e-10),
            spot_preemptions_per_host_hour: stated(spot_preemptions),
            hosts_included: None,
        }
    }

    fn price(purchase: Purchase) -> Price {
        let (provider, region) = ("here".to_string(), None);
        Price { provider, region, purchase, dollars_per_chip_hour: 2.0, basis: basis() }
    }

    const RENTAL: Rental = Rental {
        chips: 16,
        hosts: 2,
        seconds: 36_000.0,
        tokens: 1e9,
        lost_seconds: 300.0,
        egress_bytes: 1e10,
        ends: true,
    };

    fn dollars(purchase: Purchase, provider: &Provider) -> Option<Vec<(String, i64)>> {
        let parts = parts(&price(purchase), provider, &RENTAL)?;
        Some(parts.into_iter().map(|part| (part.name, part.dollars.round() as i64)).collect())
    }

    #[test]
    fn a_rental_is_more_than_the_hours_of_its_work() {
        let name = |name: &str, dollars| (name.to_string(), dollars);
        // 10 hours of 16 chips at 2 dollars; ten minutes more; 10 GB.
        let on_demand = vec![
            name("the work itself", 320),
            name("start-up", 5),
            name("fetching what was made", 1),
        ];
        assert_eq!(dollars(Purchase::OnDemand, &here(0.5)), Some(on_demand));
        // Once an hour something goes, and takes a quarter of an hour each time.
        let spot = dollars(Purchase::Spot, &here(0.5)).unwrap();
        assert_eq!(spot[1], name("work and time lost to preemptions", 107));
        // With four times as many, nothing is left of an hour.
        assert_eq!(dollars(Purchase::Spot, &here(2.0)), None);
    }
}
