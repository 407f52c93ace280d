//! TPUs: chips in a grid with links to their neighbours. Which links a group of devices can use
//! follows from where its chips are. Knows no program.

use std::collections::{BTreeSet, HashMap};

use crate::chips::{Chip, Slice};

use super::efficiency::{DIE_TO_DIE_LINKS, Efficiency, HOP_SECONDS, TORUS_START_SECONDS};
use super::links::{Collective, Job, Passage};

/// Chips of a row of v5e and v6e that is closed to a ring; shorter ones are open.
const FLAT_RING: usize = 16;
/// A side of a cube of the others; slices of whole cubes are closed in every direction.
const CUBE_SIDE: usize = 4;
/// Hops of a route that are followed; longer ones are damage.
const ROUTE_MAX: usize = 64;

/// A slice. Devices are numbered with the first axis innermost, those of one chip next to each other,
/// as libtpu does.
#[derive(Clone, Debug, PartialEq)]
pub struct Torus {
    sizes: Vec<usize>,
    closed: Vec<bool>,
    devices_per_chip: usize,
    /// Of one link, one way, in bytes per second.
    link: f64,
}

/// A group along one axis.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Side {
    extent: usize,
    /// From one chip of the group to the next.
    stride: usize,
    ring: bool,
}

impl Side {
    /// Links into a chip at the end of the side, as a share of one: chips in between that belong to
    /// other groups send over the same.
    fn links(&self) -> f64 {
        let links = if self.ring { 2.0 } else { 1.0 };
        links / self.stride as f64
    }

    fn hops(&self) -> usize {
        let steps = self.extent - 1;
        self.stride * if self.ring { steps.div_ceil(2) } else { steps }
    }
}

impl Torus {
    pub fn of(chip: &Chip, slices: &[Slice], chips: usize) -> Torus {
        let slice = slices.iter().find(|slice| slice.chips == chips).or(slices.first());
        let bounds = slice.map_or("1", |slice| slice.bounds.as_str());
        let sizes: Vec<usize> =
            bounds.split('x').map(|size| size.parse().unwrap_or(1).max(1)).collect();
        let cubes = sizes.iter().all(|size| size % CUBE_SIDE == 0);
        let flat = sizes.len() < 3;
        let closed = |&size: &usize| if flat { size >= FLAT_RING } else { cubes };
        let links = 2.0 * sizes.len() as f64;
        Torus {
            closed: sizes.iter().map(closed).collect(),
            devices_per_chip: chip.devices_per_chip.max(1),
            link: chip.link_bytes_per_second / links * Efficiency::of(chip).ring,
            sizes,
        }
    }

    pub fn passage(&self, job: &Job<'_>) -> Passage {
        if job.collective == Collective::Send {
            return self.send(job);
        }
        let chips: BTreeSet<usize> =
            job.members.iter().map(|id| id / self.devices_per_chip).collect();
        let shared = job.members.len() as f64 / chips.len().max(1) as f64;
        if chips.len() < 2 {
            let moving = job.moved(job.members.len() as f64) / (self.link * DIE_TO_DIE_LINKS);
            return passage(TORUS_START_SECONDS, moving);
        }
        // What one device of a chip gets the other can have over the die-to-die link; if the group has
        // only one of them, there is a second group that uses the same links.
        let groups = self.devices_per_chip as f64 / shared.max(1.0);
        let sides = self.sides(&chips);
        let hops: usize = match job.one_ring {
            true => chips.len().div_ceil(2),
            false => sides.iter().map(Side::hops).sum(),
        };
        let twice = if job.collective == Collective::AllReduce { 2.0 } else { 1.0 };
        let latency = TORUS_START_SECONDS + twice * hops as f64 * HOP_SECONDS;
        let moving = match job.collective {
            // On a closed ring every byte passes a quarter of the devices on average, in both
            // directions; on an open line the middle link is passed by half of all.
            Collective::AllToAll => {
                let load = |side: &Side| {
                    let share = if side.ring { 8.0 } else { 4.0 };
                    (side.extent * side.stride) as f64 / share
                };
                let busiest = sides.iter().map(load).fold(0.0, f64::max);
                job.bytes * shared * busiest / self.link
            }
            _ => job.moved(chips.len() as f64) / (self.links(&sides, job.one_ring) * self.link),
        };
        passage(latency, moving * groups)
    }

    /// Links that bring data into a chip of the group. One ring can be laid through any rectangle of
    /// chips with an even side, and has two.
    fn links(&self, sides: &[Side], one_ring: bool) -> f64 {
        let along_all: f64 = sides.iter().map(Side::links).sum();
        let two_ways = sides.len() > 1 && sides.iter().any(|side| side.extent % 2 == 0);
        match one_ring {
            true if two_ways => along_all.min(2.0),
            true => sides.iter().map(Side::links).fold(0.0, f64::max),
            false => along_all,
        }
    }

    fn coordinates(&self, chip: usize) -> Vec<usize> {
        let mut rest = chip;
        let coordinate = |&size: &usize| {
            let coordinate = rest % size;
            rest /= size;
            coordinate
        };
        self.sizes.iter().map(coordinate).collect()
    }

    /// The axes along which a group's chips differ.
    fn sides(&self, chips: &BTreeSet<usize>) -> Vec<Side> {
        let mut places = vec![BTreeSet::new(); self.sizes.len()];
        for &chip in chips {
            for (axis, coordinate) in self.coordinates(chip).into_iter().enumerate() {
                places[axis].insert(coordinate);
            }
        }
        let side = |(axis, places): (usize, &BTreeSet<usize>)| {
            let steps = places.iter().zip(places.iter().skip(1)).map(|(from, to)| to - from);
            let stride = steps.min()?;
            let extent = places.len();
            let ring = self.closed[axis] && extent * stride == self.sizes[axis];
            Some(Side { extent, stride, ring })
        };
        places.iter().enumerate().filter_map(side).collect()
    }

    /// Every device sends at once; the busiest link decides. Routes go axis by axis, the shorter way.
    fn send(&self, job: &Job<'_>) -> Passage {
        let mut loads: HashMap<(usize, usize, bool), f64> = HashMap::new();
        let (mut far, mut aside) = (0, 0.0);
        for pair in job.pairs {
            let ends = [pair.source, pair.target].map(|id| usize::try_from(id).unwrap_or(0));
            let [source, target] = ends.map(|id| id / self.devices_per_chip);
            if source == target {
                aside = 1.0 / DIE_TO_DIE_LINKS;
                continue;
            }
            let route = self.route(source, target);
            far = route.len().max(far);
            for link in route {
                *loads.entry(link).or_default() += 1.0;
            }
        }
        let neighbours: f64 = if job.pairs.is_empty() { 1.0 } else { aside };
        let busiest = loads.into_values().fold(neighbours, f64::max);
        let latency = TORUS_START_SECONDS + far.max(1) as f64 * HOP_SECONDS;
        passage(latency, job.bytes * busiest / self.link)
    }

    /// The links on the way: the chip that sends, the axis, and whether upwards.
    fn route(&self, source: usize, target: usize) -> Vec<(usize, usize, bool)> {
        let (mut at, to) = (self.coordinates(source), self.coordinates(target));
        let mut route = Vec::new();
        for axis in 0..self.sizes.len() {
            let size = self.sizes[axis];
            let up = (to[axis] + size - at[axis]) % size;
            let upwards = match self.closed[axis] {
                true => up <= size - up,
                false => to[axis] > at[axis],
            };
            while at[axis] != to[axis] && route.len() < ROUTE_MAX {
                route.push((self.chip(&at), axis, upwards));
                at[axis] =
                    if upwards { (at[axis] + 1) % size } else { (at[axis] + size - 1) % size };
            }
        }
        route
    }

    fn chip(&self, coordinates: &[usize]) -> usize {
        let sizes = self.sizes.iter().zip(coordinates).rev();
        sizes.fold(0, |chip, (&size, &coordinate)| chip * size + coordinate)
    }
}

fn passage(latency_seconds: f64, moving_seconds: f64) -> Passage {
    Passage { seconds: latency_seconds + moving_seconds, latency_seconds }
}

#[cfg(test)]
mod tests {
    use super::super::proto::SourceTarget;
    use super::*;
    use crate::chips::Hosting;
    use crate::targets::Target;

    fn torus(target: &str) -> Torus {
        let target: Target = target.parse().unwrap();
        let Hosting::Torus { slices, .. } = &target.chip.hosting else { panic!("no torus") };
        Torus::of(target.chip, slices, target.chips)
    }

    fn moving(target: &str, collective: Collective, members: &[usize], one_ring: bool) -> f64 {
        let job = Job { collective, bytes: 1e9, members, pairs: &[], one_ring };
        let passage = torus(target).passage(&job);
        passage.seconds - passage.latency_seconds
    }

    fn assert_close(found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() < 1e-6, "{found}, not {expected}");
    }

    const LINK: f64 = 100e9 * 0.89;

    #[test]
    fn a_group_has_the_links_of_the_axes_it_spans() {
        let gather =
            |target, members: &[usize]| moving(target, Collective::AllGather, members, false);
        let all: Vec<usize> = (0..256).collect();
        // Both axes of a pod, closed: four links. One row: two.
        assert_close(gather("v6e-256", &all), 255e9 / (4.0 * LINK));
        assert_close(gather("v6e-256", &all[..16]), 15e9 / (2.0 * LINK));
        let column: Vec<usize> = (0..16).map(|row| row * 16).collect();
        assert_close(gather("v6e-256", &column), 15e9 / (2.0 * LINK));
        // Four rows: closed along one axis, open along the other.
        assert_close(gather("v6e-256", &all[..64]), 63e9 / (3.0 * LINK));
        // Half a row is open; every second chip of one shares its links with the others.
        assert_close(gather("v6e-256", &all[..8]), 7e9 / LINK);
        let second: Vec<usize> = (0..8).map(|chip| 2 * chip).collect();
        assert_close(gather("v6e-256", &second), 7e9 / LINK);
        // No rows of 16, no wrap-around.
        assert_close(gather("v6e-16", &all[..16]), 15e9 / (2.0 * LINK));
    }

    #[test]
    fn cubes_are_closed() {
        let gather =
            |target, members: &[usize]| moving(target, Collective::AllGather, members, false);
        let all: Vec<usize> = (0..64).collect();
        assert_close(gather("v5p-64", &all), 63e9 / (6.0 * LINK));
        assert_close(gather("v5p-16", &all[..16]), 15e9 / (3.0 * LINK));
    }

    #[test]
    fn the_compiler_may_use_one_ring_only() {
        let all: Vec<usize> = (0..256).collect();
        let gather =
            |members, one_ring| moving("v6e-256", Collective::AllGather, members, one_ring);
        assert_close(gather(&all, true), 2.0 * gather(&all, false));
        assert_close(gather(&all[..16], true), gather(&all[..16], false));
    }

    /// Ironwood's all-gather over 4 chips, once for each of their devices: 402 653 184 bytes into
    /// every chip at 178.77 GB/s.
    #[test]
    fn what_was_measured_on_tpu7x() {
        let first_of_each: Vec<usize> = (0..4).map(|chip| 2 * chip).collect();
        let bytes = 402_653_184.0 / 2.0 / 3.0;
        let job = Job {
            collective: Collective::AllGather,
            bytes,
            members: &first_of_each,
            pairs: &[],
            one_ring: false,
        };
        let seconds = torus("tpu7x-4").passage(&job).seconds;
        let measured = 402_653_184.0 / 178.77e9;
        assert!((seconds / measured - 1.0).abs() < 0.02, "{seconds}, not {measured}");
    }

    #[test]
    fn both_devices_of_a_chip_take_the_same_bytes_once() {
        let all: Vec<usize> = (0..8).collect();
        let whole = moving("tpu7x-4", Collective::AllGather, &all, false);
        assert_close(whole, 8e9 * 0.75 / (2.0 * LINK));
        let pair = moving("tpu7x-4", Collective::AllGather, &all[..2], false);
        assert_close(pair, 1e9 / (6.0 * LINK));
    }

    #[test]
    fn sums_go_twice_and_exchanges_cross_the_middle() {
        let row: Vec<usize> = (0..16).collect();
        let all = moving("v6e-256", Collective::AllReduce, &row, false);
        assert_close(all, 2.0 * moving("v6e-256", Collective::ReduceScatter, &row, false));
        let exchange = moving("v6e-256", Collective::AllToAll, &row, false);
        assert_close(exchange, 1e9 * 2.0 / LINK);
    }

    #[test]
    fn what_is_sent_far_shares_links() {
        let send = |pairs: &[(i64, i64)]| {
            let pairs: Vec<SourceTarget> =
                pairs.iter().map(|&(source, target)| SourceTarget { source, target }).collect();
            let job = Job {
                collective: Collective::Send,
                bytes: 1e9,
                members: &[0, 1],
                pairs: &pairs,
                one_ring: false,
            };
            let passage = torus("v6e-16").passage(&job);
            passage.seconds - passage.latency_seconds
        };
        assert_close(send(&[]), 1e9 / LINK);
        assert_close(send(&[(0, 1), (1, 2), (2, 3)]), 1e9 / LINK);
        // The way back from the end of an open row is free; two that go the same way share it.
        assert_close(send(&[(0, 1), (1, 2), (2, 3), (3, 0)]), 1e9 / LINK);
        assert_close(send(&[(0, 2), (1, 3)]), 2e9 / LINK);
    }
}
