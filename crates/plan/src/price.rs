//! What a job costs where: from chip-hours, the catalog's prices, and what comes on top of them. Knows
//! durations and chips, no job.

use runtime::Target;
use runtime::chips::{Basis, Chip, Price, Provider, Purchase, catalog};
use serde::Serialize;

use crate::row::{Money, MoneyPart, OfferCost, RunTime};

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
    let of_provider =
        |price: &&Price| wish.provider.as_ref().is_none_or(|wanted| *wanted == price.provider);
    let mut costs: Vec<(&Price, Bill, f64)> = Vec::new();
    let mut lost: Vec<&Price> = Vec::new();
    for price in chip.prices.iter().filter(of_provider) {
        match bill(price, &provider(&price.provider), rental) {
            Some(bill) => {
                let total = bill.parts.iter().map(|part| part.dollars).sum();
                costs.push((price, bill, total));
            }
            None => lost.push(price),
        }
    }
    costs.sort_by(|a, b| a.2.total_cmp(&b.2));
    let per_million = |dollars: f64| dollars / rental.tokens * 1e6;
    let best = costs.iter().find(|(price, ..)| Kind::of(&price.purchase) == wish.purchase);
    Money {
        offer: best.map(|(price, ..)| Offer::of(price)),
        no_offer: best.is_none().then(|| no_offer(chip, wish, &lost)),
        dollars_per_million_tokens: best.map(|&(.., total)| per_million(total)),
        total_dollars: best.map(|&(.., total)| total),
        parts: best.map(|(_, bill, _)| bill.parts.clone()).unwrap_or_default(),
        run: best.filter(|_| rental.ends).map(|(_, bill, _)| bill.run.clone()),
        offers: costs
            .iter()
            .take(OFFERS)
            .map(|(price, _, total)| OfferCost {
                offer: Offer::of(price),
                dollars_per_million_tokens: per_million(*total),
            })
            .collect(),
        left_out: lost.into_iter().map(left_out).collect(),
    }
}

/// Why nothing that is wished for can be had.
fn no_offer(chip: &Chip, wish: &Wish, lost: &[&Price]) -> String {
    let kind = wish.purchase.name();
    if let Some(price) = lost.iter().find(|price| Kind::of(&price.purchase) == wish.purchase) {
        return format!("no {kind} for so long at {}", price.provider);
    }
    match &wish.provider {
        _ if chip.prices.is_empty() => "none known".to_string(),
        Some(provider) => format!("no {kind} price of {} at {provider}", chip.name),
        None => format!("no {kind} price of {}", chip.name),
    }
}

/// A price at which machines are taken away faster than the work gets ahead.
fn left_out(price: &Price) -> String {
    let region = price.region.as_ref().map(|region| format!(" in {region}")).unwrap_or_default();
    format!(
        "{} at {}{region}: so many hosts would be taken away faster than the run gets ahead; save more often (`checkpoint.every`) or take fewer",
        price.purchase, price.provider
    )
}

fn provider(name: &str) -> Provider {
    catalog().provider(name)
}

/// What a rental comes to at a price.
struct Bill {
    /// The largest first.
    parts: Vec<MoneyPart>,
    run: RunTime,
}

/// What a rental comes to at a price; nothing where machines are taken away faster than the work gets
/// ahead.
fn bill(price: &Price, provider: &Provider, rental: &Rental) -> Option<Bill> {
    let an_hour = rental.chips as f64 * price.dollars_per_chip_hour;
    let of = |seconds: f64| seconds / SECONDS_PER_HOUR * an_hour;
    let assumed = |basis: &Basis| basis.assumed;
    let mut parts = vec![MoneyPart {
        name: "the work itself".to_string(),
        dollars: of(rental.seconds),
        assumed: price.basis.assumed,
    }];
    let startup = provider.startup_seconds.as_ref();
    let mut run = RunTime {
        work_seconds: rental.seconds,
        startup_seconds: startup.map_or(0.0, |startup| startup.value),
        ..RunTime::default()
    };
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
        run.lost_seconds = rental.seconds * share / (1.0 - share);
        run.preemptions = (rental.seconds + run.lost_seconds) * per_second;
        parts.push(MoneyPart {
            name: "work and time lost to preemptions".to_string(),
            dollars: of(run.lost_seconds),
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
    Some(Bill { parts, run })
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
        let parts = bill(&price(purchase), provider, &RENTAL)?.parts;
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

    #[test]
    fn a_run_takes_longer_than_its_steps() {
        let run = |purchase| bill(&price(purchase), &here(0.5), &RENTAL).unwrap().run;
        let kept = run(Purchase::OnDemand);
        assert_eq!(kept.seconds(), 36_600.0);
        assert_eq!((kept.lost_seconds, kept.preemptions), (0.0, 0.0));
        // Two hosts, each gone every other hour; five minutes of work and ten of starting each time: of
        // an hour three quarters are work, so ten take thirteen and a third.
        let spot = run(Purchase::Spot);
        assert!((spot.lost_seconds - 12_000.0).abs() < 1e-6, "{spot:?}");
        assert!((spot.preemptions - 48_000.0 / 3600.0).abs() < 1e-9, "{spot:?}");
        assert!((spot.seconds() - 48_600.0).abs() < 1e-6, "{spot:?}");
        // A server has no end to wait for.
        let chip = runtime::chips::find("v5e").unwrap();
        let stays = Rental { ends: false, ..RENTAL };
        assert!(money(chip, &stays, &Wish::default()).run.is_none());
    }

    #[test]
    fn what_cannot_be_bought_is_told() {
        let chip = runtime::chips::find("v5e").unwrap();
        let wish = |purchase, provider: Option<&str>| Wish {
            purchase,
            provider: provider.map(ToString::to_string),
        };
        let found = |rental: &Rental, wish: Wish| money(chip, rental, &wish);
        let none = found(&RENTAL, wish(Kind::Spot, Some("aws")));
        assert_eq!(none.no_offer.as_deref(), Some("no spot price of v5e at aws"));
        assert!(none.offer.is_none() && none.left_out.is_empty());
        let some = found(&RENTAL, wish(Kind::OnDemand, None));
        assert!(some.offer.is_some() && some.no_offer.is_none());
        // A run that is never saved, on very many hosts.
        let endless = Rental { hosts: 100_000, lost_seconds: 1e7, ..RENTAL };
        let lost = found(&endless, wish(Kind::Spot, None));
        assert_eq!(lost.no_offer.as_deref(), Some("no spot for so long at gcp"));
        assert!(lost.left_out[0].starts_with("spot at gcp"), "{:?}", lost.left_out);
        let mut bare = chip.clone();
        bare.prices.clear();
        let unknown = money(&bare, &RENTAL, &wish(Kind::OnDemand, None));
        assert_eq!(unknown.no_offer.as_deref(), Some("none known"));
    }
}
