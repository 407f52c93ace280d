//! Processes that are pods of an indexed Job, alone or in a JobSet.
//!
//! Kubernetes itself tells a pod only its index (`JOB_COMPLETION_INDEX`); the rest is in the pod's
//! labels, which a manifest can hand on (`valueFrom: fieldRef`), or in its API, which this program
//! does not ask. Understood are the names that XPK, MaxText and GKE's examples use.

use super::super::launch::{DEFAULT_PORT, LaunchError, Launcher, Partial, Variables, join_address};
use super::{number, text};

pub(super) fn find(variables: &Variables) -> Result<Option<Partial>, LaunchError> {
    let Some(pod) = number(variables, "JOB_COMPLETION_INDEX")? else { return Ok(None) };
    let mut found = Partial::new(Launcher::Kubernetes);
    let per_job = number(variables, "PROCESSES_IN_JOB")?;
    // Replicas of a replicated job are numbered too, by the label `jobset.sigs.k8s.io/job-index`.
    let job = number(variables, "JOB_INDEX")?.unwrap_or(0);
    let jobs = number(variables, "REPLICATED_JOB_REPLICAS")?.unwrap_or(1);
    found.index = match per_job {
        Some(per_job) => job.checked_mul(per_job).and_then(|first| first.checked_add(pod)),
        None if job == 0 => Some(pod),
        None => None,
    };
    found.count = match number(variables, "JAX_PROCESS_COUNT")? {
        None => per_job.and_then(|per_job| per_job.checked_mul(jobs)),
        count => count,
    };
    let host = text(variables, "JAX_COORDINATOR_ADDRESS").map(str::to_string);
    let host = host.or_else(|| {
        // The first pod of the first job, by the name that a JobSet's headless service gives it.
        let set = text(variables, "JOBSET_NAME")?;
        let jobs = text(variables, "REPLICATED_JOB_NAME")?;
        Some(format!("{set}-{jobs}-0-0.{set}"))
    });
    found.coordinator = host.map(|host| match host.contains(':') {
        true => host,
        false => join_address(&host, DEFAULT_PORT),
    });
    found.job = text(variables, "JOBSET_NAME").map(|name| format!("jobset {name}"));
    found.gap = gap(&found);
    Ok(Some(found))
}

/// What the manifest lacks.
fn gap(found: &Partial) -> Option<(String, String)> {
    let all = [
        (found.index.is_some(), "JOB_INDEX is set without PROCESSES_IN_JOB", "PROCESSES_IN_JOB"),
        (
            found.count.is_some(),
            "Kubernetes does not say how many there are",
            "FUNGIBLE_PROCESS_COUNT",
        ),
        (
            found.coordinator.is_some(),
            "Kubernetes does not say where the first pod is",
            "JOBSET_NAME and REPLICATED_JOB_NAME (from the labels jobset.sigs.k8s.io/jobset-name and jobset.sigs.k8s.io/replicatedjob-name) or FUNGIBLE_COORDINATOR",
        ),
    ];
    let missing: Vec<_> = all.into_iter().filter(|(known, ..)| !known).collect();
    if missing.is_empty() {
        return None;
    }
    let join = |texts: Vec<&str>| texts.join(" and ");
    Some((
        join(missing.iter().map(|(_, what, _)| *what).collect()),
        format!("set {} in the manifest", join(missing.iter().map(|(.., name)| *name).collect())),
    ))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{launch, message, variables};
    use crate::distributed::{Launch, LaunchFlags};

    const JOB_SET: [(&str, &str); 4] = [
        ("JOB_COMPLETION_INDEX", "1"),
        ("JOBSET_NAME", "run"),
        ("REPLICATED_JOB_NAME", "workers"),
        ("PROCESSES_IN_JOB", "4"),
    ];

    #[test]
    fn a_job_set() {
        assert_eq!(
            launch(&JOB_SET).to_string(),
            "process 1 of 4, found by Kubernetes, coordinator at run-workers-0-0.run:8482"
        );
        let slices = [("JOB_INDEX", "2"), ("REPLICATED_JOB_REPLICAS", "3")];
        let found = launch(&[&JOB_SET[..], &slices[..]].concat());
        assert_eq!((found.index, found.count, found.job.as_str()), (9, 12, "jobset run"));
    }

    #[test]
    fn the_names_of_xpk() {
        let pairs = [
            ("JOB_COMPLETION_INDEX", "1"),
            ("JOB_INDEX", "1"),
            ("PROCESSES_IN_JOB", "2"),
            ("JAX_PROCESS_COUNT", "4"),
            ("JAX_COORDINATOR_ADDRESS", "run-workers-0-0.run"),
        ];
        let found = launch(&pairs);
        assert_eq!((found.index, found.count), (3, 4));
        assert_eq!(found.coordinator, "run-workers-0-0.run:8482");
    }

    #[test]
    fn what_a_manifest_lacks_is_named() {
        let lone = message(&JOB_SET[..1]);
        assert!(lone.contains("does not say how many there are and"), "{lone}");
        assert!(lone.contains("set FUNGIBLE_PROCESS_COUNT and JOBSET_NAME"), "{lone}");
        assert!(message(&JOB_SET[..3]).contains("set FUNGIBLE_PROCESS_COUNT in the manifest"));
        let replica =
            [&JOB_SET[..3], &[("JOB_INDEX", "1"), ("JAX_PROCESS_COUNT", "4")][..]].concat();
        assert!(message(&replica).contains("JOB_INDEX is set without PROCESSES_IN_JOB"));
    }

    #[test]
    fn flags_may_say_the_rest() {
        let flags = LaunchFlags { count: Some(4), ..LaunchFlags::default() };
        let found = Launch::find(&flags, &variables(&JOB_SET[..3])).unwrap().unwrap();
        assert_eq!((found.index, found.count), (1, 4));
    }
}
