//! GPUs: all of a domain at full speed through NVLink's switches, domains over the network with an
//! adapter for each GPU. Knows no program.

use std::collections::HashMap;

use crate::chips::{Chip, Hosting};

use super::efficiency::{
    Efficiency, IN_SWITCH_GROUP_MIN, IN_SWITCH_SECONDS, NCCL_PROTOCOLS, NcclProtocol,
};
use super::links::{Collective, Job, Passage};

/// How the GPUs of a target are joined. Rates are one way, in bytes per second of each GPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Hosts {
    gpus_per_domain: usize,
    within: f64,
    sums_in_switch: Option<f64>,
    between: f64,
}

impl Hosts {
    pub fn of(chip: &Chip) -> Hosts {
        let reached = Efficiency::of(chip);
        let links = chip.link_bytes_per_second;
        let (gpus_per_domain, network) = match &chip.hosting {
            Hosting::Hosts { gpus_per_domain, network_bytes_per_second, .. } => {
                (*gpus_per_domain, *network_bytes_per_second)
            }
            Hosting::Torus { .. } | Hosting::Processor => (usize::MAX, links),
        };
        Hosts {
            gpus_per_domain: gpus_per_domain.max(1),
            within: links * reached.ring,
            sums_in_switch: reached.sum_in_switch.map(|share| links * share),
            between: network * reached.network,
        }
    }

    pub fn passage(&self, job: &Job<'_>) -> Passage {
        let size = job.members.len();
        let mut domains: HashMap<usize, usize> = HashMap::new();
        for id in job.members {
            *domains.entry(id / self.gpus_per_domain).or_default() += 1;
        }
        let together = domains.values().copied().max().unwrap_or(1);
        let domains = domains.len().max(1);
        let in_switch =
            job.collective == Collective::AllReduce && domains == 1 && size >= IN_SWITCH_GROUP_MIN;
        if in_switch && let Some(rate) = self.sums_in_switch {
            let summed = passage(IN_SWITCH_SECONDS, job.moved(size as f64) / rate);
            let ring = self.by_steps(job, together, domains);
            return if summed.seconds < ring.seconds { summed } else { ring };
        }
        self.by_steps(job, together, domains)
    }

    /// Around rings through all GPUs that cross from domain to domain at every GPU's adapter, or the
    /// same in stages: bytes between domains and within them are under way at once, so the longer
    /// counts.
    fn by_steps(&self, job: &Job<'_>, together: usize, domains: usize) -> Passage {
        let size = job.members.len() as f64;
        let crossing = match job.collective {
            Collective::AllToAll => job.bytes * (size - together as f64) / size.max(1.0),
            Collective::Send if self.crosses(job) => job.bytes,
            Collective::Send => 0.0,
            _ => job.moved(domains as f64) / together as f64,
        };
        let within = match job.collective {
            Collective::Send if crossing > 0.0 => 0.0,
            Collective::AllToAll => job.bytes * (together as f64 - 1.0) / size.max(1.0),
            _ if together > 1 => job.moved(size),
            _ => 0.0,
        };
        let moving = (crossing / self.between).max(within / self.within);
        let steps = |protocol: &NcclProtocol| {
            let (far, near) = steps(job.collective, together, domains, crossing > 0.0);
            let latency =
                protocol.begin + far * protocol.between_hosts + near * protocol.within_host;
            passage(latency, moving / protocol.rate)
        };
        let [short, long] = NCCL_PROTOCOLS.each_ref().map(steps);
        if short.seconds < long.seconds { short } else { long }
    }

    fn crosses(&self, job: &Job<'_>) -> bool {
        let domain = |id: i64| usize::try_from(id).unwrap_or(0) / self.gpus_per_domain;
        job.pairs.iter().any(|pair| domain(pair.source) != domain(pair.target))
    }
}

fn passage(latency_seconds: f64, moving_seconds: f64) -> Passage {
    Passage { seconds: latency_seconds + moving_seconds, latency_seconds }
}

/// Steps between hosts and within them, one after the other: of a ring; of sums, of a tree between
/// hosts.
fn steps(collective: Collective, together: usize, domains: usize, crosses: bool) -> (f64, f64) {
    let others = together.saturating_sub(1) as f64;
    match collective {
        Collective::AllReduce => (2.0 * (domains as f64).log2().ceil(), 2.0 * others),
        Collective::AllGather | Collective::ReduceScatter => {
            ((domains - 1) as f64, others * domains as f64)
        }
        Collective::AllToAll | Collective::Send => match crosses {
            true => (1.0, 0.0),
            false => (0.0, 1.0),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chips;

    fn seconds(chip: &str, collective: Collective, bytes: f64, members: &[usize]) -> f64 {
        let hosts = Hosts::of(chips::find(chip).unwrap());
        let job = Job { collective, bytes, members, pairs: &[], one_ring: false };
        hosts.passage(&job).seconds
    }

    /// What NCCL was measured to take for 1 GiB and more, within a tenth.
    #[test]
    fn long_messages_take_what_was_measured() {
        let gibibyte = f64::from(1 << 30);
        let eight: Vec<usize> = (0..8).collect();
        let four_hosts: Vec<usize> = (0..32).collect();
        let bus = |chip, collective, bytes: f64, members: &[usize], factor: f64| {
            bytes * factor / seconds(chip, collective, bytes, members) / 1e9
        };
        let measured = [
            (bus("a100", Collective::AllReduce, 16.0 * gibibyte, &eight, 1.75), 234.9),
            (bus("h200", Collective::AllReduce, 16.0 * gibibyte, &eight, 1.75), 480.0),
            (bus("h200", Collective::AllReduce, 8.0 * gibibyte, &eight[..4], 1.5), 363.3),
            (bus("h200", Collective::AllGather, 2.0 * gibibyte, &eight, 7.0), 361.4),
            (bus("h200", Collective::ReduceScatter, 16.0 * gibibyte, &eight, 0.875), 362.9),
            (bus("b200", Collective::AllReduce, 4.0 * gibibyte, &four_hosts, 62.0 / 32.0), 377.3),
        ];
        for (index, (modelled, measured)) in measured.into_iter().enumerate() {
            assert!((modelled / measured - 1.0).abs() < 0.1, "{index}: {modelled}, not {measured}");
        }
    }

    /// Short messages: within a factor of two of the 40 us that 32 KiB took on 8 H200, the framework's
    /// own time included.
    #[test]
    fn short_messages_wait_for_steps() {
        let eight: Vec<usize> = (0..8).collect();
        let seconds = seconds("h200", Collective::AllReduce, 32768.0, &eight);
        assert!((15e-6..45e-6).contains(&seconds), "{seconds}");
    }

    #[test]
    fn a_group_of_one_gpu_of_each_host_has_only_the_network() {
        let strided: Vec<usize> = (0..8).map(|host| host * 8).collect();
        let together: Vec<usize> = (0..8).collect();
        let gather = |members: &[usize]| seconds("h100", Collective::AllGather, 1e9, members);
        let expected = 7e9 / (50e9 * 0.73);
        assert!((gather(&strided) / expected - 1.0).abs() < 0.01);
        assert!(gather(&strided) > 5.0 * gather(&together));
    }
}
