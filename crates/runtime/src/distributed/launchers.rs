//! What each launcher leaves in the environment of the processes that it starts. Reads a map; one
//! file per launcher with rules of its own.

mod kubernetes;
mod open_mpi;
mod slurm;
pub(super) mod tpu;

use super::launch::{LaunchError, Launcher, Partial, Variables, join_address};

/// What the first launcher that left anything says. TPU before Kubernetes, since Google's sets the
/// variables of both and those for TPUs say more; torchrun last, since its names are so general.
pub(super) fn find(variables: &Variables) -> Result<Option<Partial>, LaunchError> {
    for launcher in [slurm::find, tpu::find, kubernetes::find, open_mpi::find, torch] {
        if let Some(found) = launcher(variables)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// torchrun: <https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables>.
fn torch(variables: &Variables) -> Result<Option<Partial>, LaunchError> {
    let count = number(variables, "WORLD_SIZE")?;
    // A lone `RANK` may mean anything.
    if count.is_none()
        && (text(variables, "RANK").is_none() || text(variables, "MASTER_ADDR").is_none())
    {
        return Ok(None);
    }
    let mut found = Partial::new(Launcher::Torch);
    found.count = count;
    found.index = number(variables, "RANK")?;
    if let Some(host) = text(variables, "MASTER_ADDR") {
        let port: u32 = number(variables, "MASTER_PORT")?.unwrap_or(29_500);
        // torchrun itself listens on its port, in every process that it does not tell otherwise.
        let taken = text(variables, "TORCHELASTIC_RUN_ID").is_some();
        let port = u16::try_from(port + u32::from(taken)).map_err(|_| LaunchError::BadValue {
            name: "MASTER_PORT".to_string(),
            value: port.to_string(),
            expected: "a port",
        })?;
        found.coordinator = Some(join_address(host, port));
        found.job = Some(format!("torch {host}:{port}"));
    }
    found.local_devices = one_device_each(
        variables,
        number(variables, "LOCAL_RANK")?,
        number(variables, "LOCAL_WORLD_SIZE")?,
    );
    Ok(Some(found))
}

/// Where several processes share a host, each takes the device of its own number; unless the
/// launcher has left it one device to see, or it is not known how many share the host.
fn one_device_each(
    variables: &Variables,
    local_index: Option<u32>,
    local_count: Option<u32>,
) -> Option<Vec<u32>> {
    let visible = text(variables, "CUDA_VISIBLE_DEVICES");
    if visible.is_some_and(|devices| !devices.contains(',')) || local_count? < 2 {
        return None;
    }
    Some(vec![local_index?])
}

/// A variable that is set to something.
pub(super) fn text<'a>(variables: &'a Variables, name: &str) -> Option<&'a str> {
    variables.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
}

pub(super) fn number(variables: &Variables, name: &str) -> Result<Option<u32>, LaunchError> {
    text(variables, name).map(|value| parse(name, value)).transpose()
}

/// Numbers with commas between them.
pub(super) fn numbers(variables: &Variables, name: &str) -> Result<Option<Vec<u32>>, LaunchError> {
    let parts = |value: &str| value.split(',').map(|part| parse(name, part.trim())).collect();
    text(variables, name).map(parts).transpose()
}

fn parse(name: &str, value: &str) -> Result<u32, LaunchError> {
    value.parse().map_err(|_| LaunchError::BadValue {
        name: name.to_string(),
        value: value.to_string(),
        expected: "a number",
    })
}

/// A port in the upper end of the range for anyone's use, by the id of a job, so that two jobs on
/// one host rarely meet. JAX does the same.
fn port_of(job_number: u64) -> u16 {
    const PORTS: u16 = 1 << 12;
    // Less than 2^12, so it is a port.
    u16::MAX - (PORTS - 1) + (job_number % u64::from(PORTS)) as u16
}

#[cfg(test)]
mod tests {
    use super::super::launch::{Launch, LaunchFlags};
    use super::*;

    pub(super) fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| ((*name).to_string(), (*value).to_string())).collect()
    }

    pub(super) fn launch(pairs: &[(&str, &str)]) -> Launch {
        Launch::find(&LaunchFlags::default(), &variables(pairs)).unwrap().unwrap()
    }

    pub(super) fn message(pairs: &[(&str, &str)]) -> String {
        Launch::find(&LaunchFlags::default(), &variables(pairs)).unwrap_err().to_string()
    }

    pub(super) fn is_alone(pairs: &[(&str, &str)]) -> bool {
        Launch::find(&LaunchFlags::default(), &variables(pairs)).unwrap().is_none()
    }

    const TORCH: [(&str, &str); 4] =
        [("RANK", "3"), ("WORLD_SIZE", "4"), ("MASTER_ADDR", "head"), ("MASTER_PORT", "4000")];

    #[test]
    fn torchrun() {
        assert_eq!(
            launch(&TORCH).to_string(),
            "process 3 of 4, found by torchrun's variables, coordinator at head:4000"
        );
        let more = [("TORCHELASTIC_RUN_ID", "x"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2")];
        let elastic = launch(&[&TORCH[..], &more[..]].concat());
        assert_eq!(elastic.coordinator, "head:4001");
        assert_eq!(elastic.local_devices, Some(vec![1]));
        assert!(message(&TORCH[..2]).contains("but not where process 0 is"));
        assert!(message(&TORCH[1..]).contains("but not which one this is"));
        assert!(is_alone(&TORCH[..1]));
        assert!(is_alone(&[("RANK", "0"), ("WORLD_SIZE", "1")]));
        let wrong = [&TORCH[..3], &[("MASTER_PORT", "99999")][..]].concat();
        assert!(message(&wrong).contains("MASTER_PORT is `99999`"));
    }

    #[test]
    fn a_process_that_sees_one_device_is_given_no_number() {
        let one = variables(&[("CUDA_VISIBLE_DEVICES", "3")]);
        assert_eq!(one_device_each(&one, Some(3), Some(4)), None);
        let four = variables(&[("CUDA_VISIBLE_DEVICES", "4,5,6,7")]);
        assert_eq!(one_device_each(&four, Some(3), Some(4)), Some(vec![3]));
        assert_eq!(one_device_each(&variables(&[]), Some(0), Some(1)), None);
        assert_eq!(one_device_each(&variables(&[]), Some(0), None), None);
    }

    #[test]
    fn the_first_launcher_with_anything_to_say_counts() {
        let slurm = [
            ("SLURM_JOB_ID", "7"),
            ("SLURM_STEP_NODELIST", "a,b"),
            ("SLURM_NTASKS", "2"),
            ("SLURM_PROCID", "1"),
        ];
        assert_eq!(launch(&[&TORCH[..], &slurm[..]].concat()).found_by, Launcher::Slurm);
    }

    #[test]
    fn ports_stay_in_their_range() {
        assert_eq!((port_of(0), port_of(4095), port_of(4096)), (61440, 65535, 61440));
    }
}
