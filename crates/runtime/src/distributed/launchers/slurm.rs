//! What `srun` leaves: <https://slurm.schedmd.com/srun.html#SECTION_OUTPUT-ENVIRONMENT-VARIABLES>.

use super::super::launch::{LaunchError, Launcher, Partial, Variables, join_address};
use super::{number, one_device_each, port_of, text};

/// A batch script, and a shell that `salloc` starts, have the job's variables but not the step's:
/// what runs there directly is one process, whatever the job's number of tasks.
const STEP_NODES: &str = "SLURM_STEP_NODELIST";

pub(super) fn find(variables: &Variables) -> Result<Option<Partial>, LaunchError> {
    let Some(nodes) = text(variables, STEP_NODES) else { return Ok(None) };
    let mut found = Partial::new(Launcher::Slurm);
    found.index = number(variables, "SLURM_PROCID")?;
    // The step's own number; the other is the job's where a step asked for fewer.
    found.count = match number(variables, "SLURM_STEP_NUM_TASKS")? {
        None => number(variables, "SLURM_NTASKS")?,
        count => count,
    };
    let host = first_host(nodes).ok_or_else(|| LaunchError::BadValue {
        name: STEP_NODES.to_string(),
        value: nodes.to_string(),
        expected: "a list of hosts",
    })?;
    match number(variables, "SLURM_JOB_ID")? {
        Some(job) => {
            let step = text(variables, "SLURM_STEP_ID").unwrap_or_default();
            let port = port_of(job.into());
            found.coordinator = Some(join_address(&host, port));
            found.job = Some(format!("slurm {job}.{step}"));
        }
        None => {
            found.gap = Some((
                "SLURM_JOB_ID, by which they would choose a port, is not set".to_string(),
                "give --coordinator host:port (or FUNGIBLE_COORDINATOR)".to_string(),
            ));
        }
    }
    let tasks = text(variables, "SLURM_STEP_TASKS_PER_NODE");
    let node = number(variables, "SLURM_NODEID")?;
    let here = tasks.zip(node).and_then(|(tasks, node)| tasks_of_node(tasks, node));
    found.local_devices = one_device_each(variables, number(variables, "SLURM_LOCALID")?, here);
    Ok(Some(found))
}

/// The first name of a list such as `a1,b2`, `node[001-003,007],b2` or `rack[1-2]node[01-04]`.
/// Every name is made of the first alternative of each of its brackets.
fn first_host(list: &str) -> Option<String> {
    let mut host = String::new();
    let mut rest = list;
    loop {
        let stop = rest.find([',', '[', ']']).unwrap_or(rest.len());
        host.push_str(&rest[..stop]);
        match rest[stop..].chars().next() {
            Some('[') => {
                let (inside, after) = rest[stop + 1..].split_once(']')?;
                let first = inside.split([',', '-']).next()?;
                if first.is_empty() || inside.contains('[') {
                    return None;
                }
                host.push_str(first);
                rest = after;
            }
            Some(']') => return None,
            _ => break,
        }
    }
    (!host.is_empty()).then_some(host)
}

/// The number of tasks on a node, of `2(x3),1`: three nodes with two, then one with one.
fn tasks_of_node(list: &str, node: u32) -> Option<u32> {
    let mut before: u32 = 0;
    for part in list.split(',') {
        let (tasks, nodes) = match part.split_once("(x") {
            Some((tasks, nodes)) => (tasks, nodes.strip_suffix(')')?.parse().ok()?),
            None => (part, 1),
        };
        before = before.checked_add(nodes)?;
        if node < before {
            return tasks.trim().parse().ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{is_alone, launch, message};
    use super::*;

    const STEP: [(&str, &str); 8] = [
        ("SLURM_JOB_ID", "4097"),
        ("SLURM_STEP_ID", "2"),
        ("SLURM_STEP_NODELIST", "node[001-003,007],other"),
        ("SLURM_NTASKS", "8"),
        ("SLURM_STEP_NUM_TASKS", "6"),
        ("SLURM_PROCID", "5"),
        ("SLURM_LOCALID", "1"),
        ("SLURM_NODEID", "2"),
    ];

    #[test]
    fn a_step() {
        let found = launch(&STEP);
        assert_eq!(
            found.to_string(),
            "process 5 of 6, found by Slurm, coordinator at node001:61441"
        );
        assert_eq!(found.job, "slurm 4097.2");
        let shared = [&STEP[..], &[("SLURM_STEP_TASKS_PER_NODE", "2(x3)")][..]].concat();
        assert_eq!(launch(&shared).local_devices, Some(vec![1]));
    }

    #[test]
    fn what_is_not_started_by_srun_is_alone() {
        assert!(is_alone(&[("SLURM_JOB_ID", "1"), ("SLURM_NTASKS", "4"), ("SLURM_PROCID", "0")]));
    }

    #[test]
    fn half_a_step_is_refused() {
        assert!(message(&STEP[1..]).contains("SLURM_JOB_ID, by which they would choose a port"));
        assert!(message(&STEP[..3]).contains("not which one this is and how many there are"));
        let odd = [&STEP[..], &[("SLURM_STEP_NODELIST", "node[")][..]].concat();
        assert!(message(&odd).contains("not a list of hosts"));
        let odd = [&STEP[..], &[("SLURM_PROCID", "-1")][..]].concat();
        assert!(message(&odd).contains("SLURM_PROCID is `-1`"));
    }

    #[test]
    fn the_first_host_of_a_list() {
        let cases = [
            ("a1", "a1"),
            ("a1,b2", "a1"),
            ("node[001-015],b2", "node001"),
            ("node[007,001-003]", "node007"),
            ("rack[1-2]node[01-04]", "rack1node01"),
            ("n[3-4].cluster,other", "n3.cluster"),
        ];
        for (list, host) in cases {
            assert_eq!(first_host(list).as_deref(), Some(host), "{list}");
        }
        for bad in ["", ",a", "a[1", "a]1", "a[]", "a[-2]"] {
            assert_eq!(first_host(bad), None, "{bad}");
        }
    }

    #[test]
    fn tasks_per_node() {
        let tasks = |node| tasks_of_node("4(x2),1", node);
        assert_eq!([tasks(0), tasks(1), tasks(2), tasks(3)], [Some(4), Some(4), Some(1), None]);
    }

    proptest! {
        #[test]
        fn any_list_is_survived(list in "[a-c0-2,x()\\[\\]-]{0,20}", node in 0u32..5) {
            let _ = first_host(&list);
            let _ = tasks_of_node(&list, node);
        }

        #[test]
        fn a_range_begins_with_its_first(prefix in "[a-z]{1,5}", from in "[0-9]{1,4}", to in 0..99) {
            let list = format!("{prefix}[{from}-{to}],z");
            prop_assert_eq!(first_host(&list), Some(format!("{prefix}{from}")));
        }
    }
}
