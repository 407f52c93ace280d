//! What Open MPI's `mpirun` leaves: <https://docs.open-mpi.org/en/main/tuning-apps/environment-var.html>.

use super::super::launch::{LaunchError, Launcher, Partial, Variables, join_address};
use super::{number, one_device_each, port_of, text};

pub(super) fn find(variables: &Variables) -> Result<Option<Partial>, LaunchError> {
    let index = number(variables, "OMPI_COMM_WORLD_RANK")?;
    let count = number(variables, "OMPI_COMM_WORLD_SIZE")?;
    if index.is_none() && count.is_none() {
        return Ok(None);
    }
    let here = number(variables, "OMPI_COMM_WORLD_LOCAL_SIZE")?;
    let mut found = Partial::new(Launcher::OpenMpi);
    (found.index, found.count) = (index, count);
    let local = number(variables, "OMPI_COMM_WORLD_LOCAL_RANK")?;
    found.local_devices = one_device_each(variables, local, here);
    let uri = text(variables, "OMPI_MCA_orte_hnp_uri");
    match uri.and_then(host_and_job) {
        Some((host, job)) => {
            // Job ids are multiples of 2^12.
            found.coordinator = Some(join_address(host, port_of(job >> 12)));
            found.job = Some(format!("mpi {job}"));
        }
        None => {
            let version = "Open MPI does not say where process 0 is (version 4 and earlier do)";
            let remedy = "give --coordinator host:port (or FUNGIBLE_COORDINATOR)";
            found.gap = (index.is_some() && count.is_some())
                .then(|| (version.to_string(), remedy.to_string()));
        }
    }
    Ok(Some(found))
}

/// The address of the host that `mpirun` runs on, where process 0 runs too unless it was told to
/// start elsewhere, and the job's id: `1531576320.0;tcp://10.96.0.1,10.148.0.1:34911` or
/// `1314521088.0;tcp6://[fe80::b9b,2620:10d::2]:43370`.
fn host_and_job(uri: &str) -> Option<(&str, u64)> {
    let (name, contact) = uri.split_once(';')?;
    let job = name.split('.').next()?.parse().ok()?;
    let addresses = match contact.strip_prefix("tcp6://[") {
        Some(addresses) => addresses.split([',', ']']).next(),
        None => contact.strip_prefix("tcp://")?.split([',', ':']).next(),
    };
    addresses.filter(|address| !address.is_empty()).map(|address| (address, job))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{launch, message};
    use super::*;

    const RANKS: [(&str, &str); 4] = [
        ("OMPI_COMM_WORLD_RANK", "1"),
        ("OMPI_COMM_WORLD_SIZE", "2"),
        ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
        ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
    ];

    fn with_uri(uri: &'static str) -> Vec<(&'static str, &'static str)> {
        [&RANKS[..], &[("OMPI_MCA_orte_hnp_uri", uri)][..]].concat()
    }

    #[test]
    fn a_process_of_mpirun() {
        let found = launch(&with_uri("1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"));
        assert_eq!((found.index, found.count), (1, 2));
        assert_eq!(found.coordinator, format!("10.96.0.1:{}", port_of(1_531_576_320 >> 12)));
        assert_eq!(found.local_devices, Some(vec![1]));
        let found = launch(&with_uri("8192.0;tcp6://[fe80::b9b,2620:10d::2]:43370"));
        assert_eq!(found.coordinator, "[fe80::b9b]:61442");
    }

    #[test]
    fn without_an_address_it_is_asked_for() {
        assert!(message(&RANKS).contains("Open MPI does not say where process 0 is"));
        assert!(message(&with_uri("what?")).contains("--coordinator"));
        assert!(message(&RANKS[1..]).contains("not which one this is"));
    }
}
