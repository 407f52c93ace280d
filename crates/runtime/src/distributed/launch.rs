//! Which process of how many this is, and where the coordinator is: from flags, else from what the
//! launcher left in the environment. Works on a map of variables; reads no environment itself.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::launchers;

/// Environment variables by name.
pub type Variables = BTreeMap<String, String>;

/// The coordinator's port where neither user nor launcher names one.
pub const DEFAULT_PORT: u16 = 8482;

/// One process of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// From 0. On a TPU, libtpu numbers the processes itself and in the same order.
    pub index: u32,
    pub count: u32,
    /// Where process 0 listens: `host:port`, `[address]:port` for IPv6.
    pub coordinator: String,
    /// Which of the host's devices this process uses, where several processes share a host; all
    /// if none are given. Counted among those that the environment leaves visible.
    pub local_devices: Option<Vec<u32>>,
    /// What tells this job from others that might use the same port: the launcher's id of it, or a
    /// secret of the user's. It is not sent in the clear.
    pub job: String,
    pub found_by: Launcher,
}

/// What a user says. What is left out comes from the launcher.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaunchFlags {
    pub index: Option<u32>,
    pub count: Option<u32>,
    /// `host` or `host:port`.
    pub coordinator: Option<String>,
    pub local_devices: Option<Vec<u32>>,
    pub job: Option<String>,
}

/// What said how many processes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    Flags,
    /// `FUNGIBLE_PROCESS_ID` and the like.
    OwnVariables,
    /// `srun`.
    Slurm,
    /// Google Kubernetes Engine's variables for TPUs, or a user's own of the same names.
    Tpu,
    /// A TPU VM's metadata.
    TpuMetadata,
    /// An indexed Job, usually of a JobSet.
    Kubernetes,
    /// `mpirun`.
    OpenMpi,
    /// `torchrun` and what sets the same variables, such as Kubeflow.
    Torch,
}

impl Launcher {
    pub fn name(self) -> &'static str {
        match self {
            Launcher::Flags => "the flags",
            Launcher::OwnVariables => "FUNGIBLE_PROCESS_ID and FUNGIBLE_PROCESS_COUNT",
            Launcher::Slurm => "Slurm",
            Launcher::Tpu => "TPU_WORKER_ID and TPU_WORKER_HOSTNAMES",
            Launcher::TpuMetadata => "the TPU VM's metadata",
            Launcher::Kubernetes => "Kubernetes",
            Launcher::OpenMpi => "Open MPI",
            Launcher::Torch => "torchrun's variables",
        }
    }
}

/// `process 1 of 4, found by Slurm, coordinator at node001:61441`.
impl fmt::Display for Launch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Launch { index, count, coordinator, .. } = self;
        let by = self.found_by.name();
        write!(
            formatter,
            "process {index} of {count}, found by {by}, coordinator at {coordinator}"
        )?;
        if let Some(devices) = &self.local_devices {
            let devices: Vec<String> = devices.iter().map(u32::to_string).collect();
            write!(formatter, ", device {} of this host", devices.join(", "))?;
        }
        Ok(())
    }
}

/// Why it cannot be told which process this is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    #[error(
        "this process seems to be one of several (found by {found_by}), but {missing}; {remedy}, or say --process-count 1 if it is to work alone"
    )]
    HalfSet {
        found_by: &'static str,
        missing: String,
        /// What the user can set.
        remedy: String,
    },
    #[error("the variable {name} is `{value}`, which is not {expected}")]
    BadValue { name: String, value: String, expected: &'static str },
    #[error("there are {count} processes, counted from 0, so there is none of index {index}")]
    Index { index: u32, count: u32 },
    #[error("the number of processes is 0; there is at least one")]
    NoProcesses,
    #[error("the coordinator's address `{address}` is not of the form host or host:port")]
    BadAddress { address: String },
    #[error(
        "the TPU VM's metadata server did not say which worker this is: {reason}; give --process-id, --process-count and --coordinator, or set TPU_SKIP_MDS_QUERY=1 if this is no TPU VM"
    )]
    Metadata { reason: String },
}

/// What a launcher said, perhaps only in part: flags may say the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Partial {
    pub found_by: Launcher,
    pub index: Option<u32>,
    pub count: Option<u32>,
    pub coordinator: Option<String>,
    pub local_devices: Option<Vec<u32>>,
    pub job: Option<String>,
    /// What is missing and what the user can do, for an error.
    pub gap: Option<(String, String)>,
}

impl Partial {
    pub fn new(found_by: Launcher) -> Partial {
        Partial {
            found_by,
            index: None,
            count: None,
            coordinator: None,
            local_devices: None,
            job: None,
            gap: None,
        }
    }
}

impl Launch {
    /// Which process this is, or none where nothing says that there are several. Flags go before
    /// `FUNGIBLE_PROCESS_ID`, `FUNGIBLE_PROCESS_COUNT`, `FUNGIBLE_COORDINATOR` and `FUNGIBLE_JOB`,
    /// these before the launcher: Slurm, TPU, Kubernetes, Open MPI, torchrun, in this order.
    ///
    /// # Errors
    /// [`LaunchError::HalfSet`] when there are several processes and something about them is not
    /// known, [`LaunchError::BadValue`] and so on for what cannot be true.
    pub fn find(flags: &LaunchFlags, variables: &Variables) -> Result<Option<Launch>, LaunchError> {
        Launch::complete(flags, variables, || launchers::find(variables))
    }

    /// As [`Launch::find`], for a process that uses the TPU of its machine: where no variable says
    /// anything, the metadata server of a TPU VM is asked. Blocks, at most for `timeout` a request
    /// (there are up to three); elsewhere than on Google's machines there is no such server.
    ///
    /// # Errors
    /// As [`Launch::find`], and [`LaunchError::Metadata`].
    pub fn find_for_tpu(
        flags: &LaunchFlags,
        variables: &Variables,
        timeout: Duration,
    ) -> Result<Option<Launch>, LaunchError> {
        Launch::complete(flags, variables, || match launchers::find(variables)? {
            Some(found) => Ok(Some(found)),
            None => launchers::tpu::from_metadata(variables, timeout),
        })
    }

    fn complete(
        flags: &LaunchFlags,
        variables: &Variables,
        find: impl FnOnce() -> Result<Option<Partial>, LaunchError>,
    ) -> Result<Option<Launch>, LaunchError> {
        let flags = Flags::new(flags, variables)?;
        // Who is alone needs to know nothing else, whatever the launcher says.
        if flags.count == Some(1) {
            return Ok(None);
        }
        let said_all =
            flags.index.is_some() && flags.count.is_some() && flags.coordinator.is_some();
        let found = if said_all { None } else { find()? };
        let says_several = found.is_some() || flags.index.is_some() || flags.count.is_some();
        if !says_several {
            return Ok(None);
        }
        let found = found.unwrap_or_else(|| Partial::new(flags.source));
        let count = flags.count.or(found.count);
        if count == Some(1) && flags.index.unwrap_or(0) == 0 {
            return Ok(None);
        }
        let (index, coordinator) =
            (flags.index.or(found.index), flags.coordinator.clone().or(found.coordinator));
        let (Some(index), Some(count), Some(coordinator)) = (index, count, coordinator.clone())
        else {
            let (missing, remedy) = found
                .gap
                .unwrap_or_else(|| gap(index.is_some(), count.is_some(), coordinator.is_some()));
            let found_by = found.found_by.name();
            return Err(LaunchError::HalfSet { found_by, missing, remedy });
        };
        let (host, port) = split_address(&coordinator)?;
        let launch = Launch {
            index,
            count,
            coordinator: join_address(host, port),
            local_devices: flags.local_devices.or(found.local_devices),
            job: flags.job.or(found.job).unwrap_or_default(),
            found_by: found.found_by,
        };
        launch.check()?;
        Ok(Some(launch))
    }

    /// # Errors
    /// [`LaunchError::Index`] and so on for a launch that cannot be.
    pub(super) fn check(&self) -> Result<(), LaunchError> {
        let Launch { index, count, .. } = *self;
        if count == 0 {
            return Err(LaunchError::NoProcesses);
        }
        if index >= count {
            return Err(LaunchError::Index { index, count });
        }
        split_address(&self.coordinator).map(|_| ())
    }
}

/// Flags over our own variables.
struct Flags {
    index: Option<u32>,
    count: Option<u32>,
    coordinator: Option<String>,
    local_devices: Option<Vec<u32>>,
    job: Option<String>,
    source: Launcher,
}

impl Flags {
    fn new(flags: &LaunchFlags, variables: &Variables) -> Result<Flags, LaunchError> {
        let flagged = flags.index.is_some() || flags.count.is_some();
        let text = |name| launchers::text(variables, name).map(str::to_string);
        Ok(Flags {
            index: match flags.index {
                None => launchers::number(variables, "FUNGIBLE_PROCESS_ID")?,
                index => index,
            },
            count: match flags.count {
                None => launchers::number(variables, "FUNGIBLE_PROCESS_COUNT")?,
                count => count,
            },
            coordinator: flags.coordinator.clone().or_else(|| text("FUNGIBLE_COORDINATOR")),
            local_devices: match &flags.local_devices {
                None => launchers::numbers(variables, "FUNGIBLE_LOCAL_DEVICES")?,
                devices => devices.clone(),
            },
            job: flags.job.clone().or_else(|| text("FUNGIBLE_JOB")),
            source: if flagged { Launcher::Flags } else { Launcher::OwnVariables },
        })
    }
}

/// What is missing, and the flags and variables that say it.
fn gap(index: bool, count: bool, coordinator: bool) -> (String, String) {
    let all = [
        (index, "which one this is", "--process-id (or FUNGIBLE_PROCESS_ID)"),
        (count, "how many there are", "--process-count (or FUNGIBLE_PROCESS_COUNT)"),
        (coordinator, "where process 0 is", "--coordinator host:port (or FUNGIBLE_COORDINATOR)"),
    ];
    let missing: Vec<_> = all.into_iter().filter(|(known, ..)| !known).collect();
    let join = |texts: Vec<&str>| texts.join(" and ");
    (
        format!("not {}", join(missing.iter().map(|(_, what, _)| *what).collect())),
        format!("give {}", join(missing.iter().map(|(.., flag)| *flag).collect())),
    )
}

/// The host and the port of `host`, `host:port`, `[address]` or `[address]:port`.
pub(super) fn split_address(address: &str) -> Result<(&str, u16), LaunchError> {
    let bad = || LaunchError::BadAddress { address: address.to_string() };
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(bad)?;
            match rest.strip_prefix(':') {
                None if rest.is_empty() => (host, None),
                None => return Err(bad()),
                port => (host, port),
            }
        }
        // A second colon: an address of version 6 without a port.
        None => match address.rsplit_once(':') {
            Some((host, _)) if host.contains(':') => (address, None),
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let port = port.map_or(Ok(DEFAULT_PORT), |port| port.parse().map_err(|_| bad()))?;
    let plain = |letter: char| letter.is_alphanumeric() || "-._:%".contains(letter);
    if host.is_empty() || port == 0 || !host.chars().all(plain) {
        Err(bad())
    } else {
        Ok((host, port))
    }
}

pub(super) fn join_address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| ((*name).to_string(), (*value).to_string())).collect()
    }

    fn message(flags: &LaunchFlags, pairs: &[(&str, &str)]) -> String {
        Launch::find(flags, &variables(pairs)).unwrap_err().to_string()
    }

    const OWN: [(&str, &str); 3] = [
        ("FUNGIBLE_PROCESS_ID", "1"),
        ("FUNGIBLE_PROCESS_COUNT", "4"),
        ("FUNGIBLE_COORDINATOR", "head:1234"),
    ];

    #[test]
    fn an_ordinary_process_is_alone() {
        let nothing = LaunchFlags::default();
        assert_eq!(Launch::find(&nothing, &variables(&[("HOME", "/root")])), Ok(None));
        // An address alone says nothing about processes.
        let pairs = [("FUNGIBLE_COORDINATOR", "head:1234")];
        assert_eq!(Launch::find(&nothing, &variables(&pairs)), Ok(None));
    }

    #[test]
    fn flags_go_before_variables() {
        let nothing = LaunchFlags::default();
        let launch = Launch::find(&nothing, &variables(&OWN)).unwrap().unwrap();
        assert_eq!(
            launch.to_string(),
            "process 1 of 4, found by FUNGIBLE_PROCESS_ID and FUNGIBLE_PROCESS_COUNT, coordinator at head:1234"
        );
        let flags = LaunchFlags {
            index: Some(2),
            coordinator: Some("other".to_string()),
            local_devices: Some(vec![0, 3]),
            job: Some("secret".to_string()),
            ..LaunchFlags::default()
        };
        let launch = Launch::find(&flags, &variables(&OWN)).unwrap().unwrap();
        assert_eq!((launch.index, launch.count, launch.job.as_str()), (2, 4, "secret"));
        assert_eq!(
            launch.to_string(),
            "process 2 of 4, found by the flags, coordinator at other:8482, device 0, 3 of this host"
        );
    }

    #[test]
    fn one_process_is_alone_whatever_the_launcher_says() {
        let alone = LaunchFlags { count: Some(1), ..LaunchFlags::default() };
        assert_eq!(Launch::find(&alone, &variables(&OWN)), Ok(None));
        let half = variables(&[("JOB_COMPLETION_INDEX", "3")]);
        assert_eq!(Launch::find(&alone, &half), Ok(None));
    }

    #[test]
    fn what_is_missing_is_named() {
        let nothing = LaunchFlags::default();
        assert_eq!(
            message(&nothing, &OWN[..1]),
            "this process seems to be one of several (found by FUNGIBLE_PROCESS_ID and FUNGIBLE_PROCESS_COUNT), but not how many there are and where process 0 is; give --process-count (or FUNGIBLE_PROCESS_COUNT) and --coordinator host:port (or FUNGIBLE_COORDINATOR), or say --process-count 1 if it is to work alone"
        );
        let flags = LaunchFlags { count: Some(4), ..nothing.clone() };
        assert!(message(&flags, &[]).contains("but not which one this is and where process 0 is"));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let nothing = LaunchFlags::default();
        let with = |name: &'static str, value: &'static str| {
            let mut pairs = OWN.to_vec();
            pairs.push((name, value));
            message(&nothing, &pairs)
        };
        assert!(with("FUNGIBLE_PROCESS_ID", "4").contains("none of index 4"));
        assert!(with("FUNGIBLE_PROCESS_ID", "one").contains("`one`, which is not a number"));
        assert!(with("FUNGIBLE_PROCESS_COUNT", "0").contains("at least one"));
        for bad in ["", ":1", "head:x", "head:70000", "head:0", "a b:1", "[::1", "[::1]x"] {
            let flags = LaunchFlags { coordinator: Some(bad.to_string()), ..nothing.clone() };
            assert!(message(&flags, &OWN).contains("not of the form host or host:port"), "{bad}");
        }
    }

    #[test]
    fn addresses_of_either_kind_are_split() {
        assert_eq!(split_address("head"), Ok(("head", DEFAULT_PORT)));
        assert_eq!(split_address("10.0.0.1:9"), Ok(("10.0.0.1", 9)));
        assert_eq!(split_address("[fe80::1]:9"), Ok(("fe80::1", 9)));
        assert_eq!(split_address("fe80::1"), Ok(("fe80::1", DEFAULT_PORT)));
        assert_eq!(join_address("fe80::1", 9), "[fe80::1]:9");
    }

    proptest! {
        #[test]
        fn any_address_is_survived_and_what_is_taken_is_kept(text in "[a-z0-9:.\\[\\]-]{0,20}") {
            if let Ok((host, port)) = split_address(&text) {
                let again = join_address(host, port);
                prop_assert_eq!(split_address(&again), Ok((host, port)));
            }
        }
    }
}
