//! Hosts of TPU slices. Google's Kubernetes sets variables; a plain TPU VM has its answers in the
//! metadata server. libtpu reads the same to find its own place, so the numbers agree.

use std::time::Duration;

use super::super::launch::{DEFAULT_PORT, LaunchError, Launcher, Partial, Variables, join_address};
use super::super::metadata::{self, Metadata};
use super::{number, text};

/// `TPU_WORKER_HOSTNAMES` names the hosts of one slice, in the order of `TPU_WORKER_ID`;
/// `TPU_PROCESS_ADDRESSES` goes before it, as in libtpu. `MEGASCALE_*` is for several slices.
pub(super) fn find(variables: &Variables) -> Result<Option<Partial>, LaunchError> {
    let hosts = text(variables, "TPU_PROCESS_ADDRESSES");
    let hosts = hosts.or_else(|| text(variables, "TPU_WORKER_HOSTNAMES"));
    let worker = number(variables, "TPU_WORKER_ID")?;
    let slice = Slices::from(|name| text(variables, name).map(str::to_string))?;
    let Some(hosts) = hosts else {
        // On a plain TPU VM people set the id alone; the metadata knows the rest.
        return Ok(None);
    };
    let mut found = slice.place(Launcher::Tpu, worker, &hosts.split(',').collect::<Vec<_>>())?;
    if worker.is_none() {
        found.gap = Some((
            "TPU_WORKER_HOSTNAMES is set without TPU_WORKER_ID".to_string(),
            "set TPU_WORKER_ID to this host's place in the list".to_string(),
        ));
    }
    Ok(Some(found))
}

/// What the metadata server of a TPU VM says; nothing where there is none, or where
/// `TPU_SKIP_MDS_QUERY` forbids to ask, as it does libtpu.
pub(in crate::distributed) fn from_metadata(
    variables: &Variables,
    timeout: Duration,
) -> Result<Option<Partial>, LaunchError> {
    if text(variables, "TPU_SKIP_MDS_QUERY").is_some() {
        return Ok(None);
    }
    let server = Metadata::new(variables, timeout);
    let attribute = |name: &str| match server.instance_attribute(name) {
        Ok(value) => Ok(value),
        Err(metadata::Error::NoServer) => Ok(None),
        Err(metadata::Error::Answer(reason)) => Err(LaunchError::Metadata { reason }),
    };
    let Some(worker) = attribute("agent-worker-number")? else { return Ok(None) };
    let bad = |what: &str, value: &str| LaunchError::Metadata {
        reason: format!("`{what}` is `{value}`"),
    };
    let worker: u32 = worker.trim().parse().map_err(|_| bad("agent-worker-number", &worker))?;
    let endpoints = attribute("worker-network-endpoints")?.unwrap_or_default();
    let hosts: Option<Vec<&str>> = endpoints.trim().split(',').map(endpoint_host).collect();
    let hosts = hosts.ok_or_else(|| bad("worker-network-endpoints", &endpoints))?;
    let lines = attribute("tpu-env")?.unwrap_or_default();
    let slices = Slices::from(|name| metadata_line(&lines, name))?;
    Ok(Some(slices.place(Launcher::TpuMetadata, Some(worker), &hosts)?))
}

/// The host of `host` or, in the older form, of `name:id:address`.
fn endpoint_host(endpoint: &str) -> Option<&str> {
    let parts: Vec<&str> = endpoint.split(':').collect();
    let host = match parts.as_slice() {
        [host] | [_, _, host] => host.trim(),
        _ => return None,
    };
    (!host.is_empty()).then_some(host)
}

/// The value of a line such as `MEGASCALE_NUM_SLICES: '2'`.
fn metadata_line(lines: &str, name: &str) -> Option<String> {
    let mut lines = lines.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(key, _)| key.trim() == name)?;
    Some(value.trim().trim_matches('\'').to_string())
}

/// Which slice of how many, where a job has several.
struct Slices {
    index: u32,
    count: u32,
    /// The first host of the first slice.
    coordinator: Option<String>,
}

impl Slices {
    fn from(value: impl Fn(&str) -> Option<String>) -> Result<Slices, LaunchError> {
        let number = |name: &str| -> Result<Option<u32>, LaunchError> {
            value(name).map(|value| super::parse(name, value.trim())).transpose()
        };
        let (index, count) = (number("MEGASCALE_SLICE_ID")?, number("MEGASCALE_NUM_SLICES")?);
        let several = count.unwrap_or(1) > 1;
        let coordinator = value("MEGASCALE_COORDINATOR_ADDRESS");
        let missing = match (several, index, &coordinator) {
            (true, None, _) => Some("MEGASCALE_SLICE_ID"),
            (true, _, None) => Some("MEGASCALE_COORDINATOR_ADDRESS"),
            _ => None,
        };
        if let Some(name) = missing {
            return Err(LaunchError::HalfSet {
                found_by: Launcher::Tpu.name(),
                missing: format!("MEGASCALE_NUM_SLICES is set without {name}"),
                remedy: format!("set {name}"),
            });
        }
        let coordinator = coordinator.filter(|_| several);
        Ok(Slices { index: index.unwrap_or(0), count: count.unwrap_or(1), coordinator })
    }

    fn place(
        &self,
        found_by: Launcher,
        worker: Option<u32>,
        hosts: &[&str],
    ) -> Result<Partial, LaunchError> {
        let per_slice = hosts.len() as u32;
        if let Some(worker) = worker.filter(|&worker| worker >= per_slice) {
            return Err(LaunchError::Index { index: worker, count: per_slice });
        }
        let mut found = Partial::new(found_by);
        let too_many = || LaunchError::BadValue {
            name: "MEGASCALE_NUM_SLICES".to_string(),
            value: self.count.to_string(),
            expected: "a number of slices",
        };
        found.count = Some(per_slice.checked_mul(self.count).ok_or_else(too_many)?);
        let first = self.index.checked_mul(per_slice).ok_or_else(too_many)?;
        found.index = worker.map(|worker| first.saturating_add(worker));
        // Its own port is that of another service.
        let first_host = self.coordinator.as_deref().or(hosts.first().copied());
        found.coordinator = first_host.map(|host| {
            let host = host.trim().split(':').next().unwrap_or_default();
            join_address(host, DEFAULT_PORT)
        });
        found.job = found.coordinator.as_ref().map(|coordinator| format!("tpu {coordinator}"));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{is_alone, launch, message};
    use super::*;

    const SLICE: [(&str, &str); 2] =
        [("TPU_WORKER_ID", "2"), ("TPU_WORKER_HOSTNAMES", "t-0.s,t-1.s,t-2.s,t-3.s")];

    #[test]
    fn a_slice() {
        assert_eq!(
            launch(&SLICE).to_string(),
            "process 2 of 4, found by TPU_WORKER_ID and TPU_WORKER_HOSTNAMES, coordinator at t-0.s:8482"
        );
        // What Kubernetes says besides does not matter.
        let pod = [&SLICE[..], &[("JOB_COMPLETION_INDEX", "2")][..]].concat();
        assert_eq!(launch(&pod), launch(&SLICE));
        let addresses = [&SLICE[..], &[("TPU_PROCESS_ADDRESSES", "a:8471,b:8471,c:8471")][..]];
        let found = launch(&addresses.concat());
        assert_eq!((found.count, found.coordinator.as_str()), (3, "a:8482"));
    }

    #[test]
    fn several_slices() {
        let more = [
            ("MEGASCALE_NUM_SLICES", "2"),
            ("MEGASCALE_SLICE_ID", "1"),
            ("MEGASCALE_COORDINATOR_ADDRESS", "first-0.s:8081"),
        ];
        let all = [&SLICE[..], &more[..]].concat();
        let found = launch(&all);
        assert_eq!((found.index, found.count), (6, 8));
        assert_eq!(found.coordinator, "first-0.s:8482");
        assert!(message(&all[..3]).contains("is set without MEGASCALE_SLICE_ID"));
        assert!(message(&all[..4]).contains("is set without MEGASCALE_COORDINATOR_ADDRESS"));
    }

    #[test]
    fn one_host_is_alone_and_odd_ones_are_refused() {
        assert!(is_alone(&[("TPU_WORKER_ID", "0"), ("TPU_WORKER_HOSTNAMES", "localhost")]));
        assert!(is_alone(&SLICE[..1]));
        assert!(message(&SLICE[1..]).contains("without TPU_WORKER_ID"));
        let beyond = [("TPU_WORKER_ID", "4"), SLICE[1]];
        assert!(message(&beyond).contains("none of index 4"));
    }

    #[test]
    fn metadata_is_read_in_both_forms() {
        assert_eq!(endpoint_host("10.0.0.2"), Some("10.0.0.2"));
        assert_eq!(endpoint_host("unknown:0:10.0.0.2"), Some("10.0.0.2"));
        assert_eq!(endpoint_host("a:b"), None);
        let lines = "ACCELERATOR_TYPE: 'v5litepod-16'\nMEGASCALE_NUM_SLICES: '2'\n";
        assert_eq!(metadata_line(lines, "MEGASCALE_NUM_SLICES").as_deref(), Some("2"));
        assert_eq!(metadata_line(lines, "MEGASCALE_SLICE_ID"), None);
    }
}
