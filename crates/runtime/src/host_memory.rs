//! Host memory: how much there is, and some that a CPU plugin can use in place, aligned and filled once.

use std::path::Path;

/// What XLA's CPU compiler assumes of every buffer; memory that is less aligned gets copied.
pub const ALIGNMENT_BYTES: usize = 64;

/// Bytes that start at a multiple of [`ALIGNMENT_BYTES`]. Zeroed, and not given pages by the system
/// until they are written.
#[derive(Debug)]
pub struct AlignedBytes {
    /// Longer than needed, and never resized, so that it stays in place.
    storage: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBytes {
    pub fn zeroed(length: usize) -> AlignedBytes {
        let storage = vec![0u8; length + ALIGNMENT_BYTES];
        // A platform that cannot tell gets memory that is merely copied.
        let start = storage.as_ptr().align_offset(ALIGNMENT_BYTES).min(ALIGNMENT_BYTES);
        AlignedBytes { storage, start, length }
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.length]
    }
}

impl AsMut<[u8]> for AlignedBytes {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.length]
    }
}

/// The machine's memory, or what this process's container may have of it, where the system tells (Linux).
pub fn total_bytes() -> Option<u64> {
    let machine = kibibytes("/proc/meminfo", "MemTotal:")?;
    Some(group().map_or(machine, |group| group.limit_bytes.min(machine)))
}

/// What of it is free, or can be made free by forgetting what was read from files.
pub fn available_bytes() -> Option<u64> {
    let machine = kibibytes("/proc/meminfo", "MemAvailable:")?;
    Some(group().map_or(machine, |group| group.available_bytes.min(machine)))
}

/// What a control group may have, as containers are limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Group {
    limit_bytes: u64,
    available_bytes: u64,
}

fn group() -> Option<Group> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let root = Path::new("/sys/fs/cgroup");
    tightest(&groups, |path| std::fs::read_to_string(root.join(path)).ok())
}

/// The least that this process's groups and those around them allow, in either version of the interface.
/// `groups` has lines of the form `number:controllers:/path`.
fn tightest(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<Group> {
    let limits = groups.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next(), parts.next().unwrap_or_default());
        let interface = match controllers {
            Some("") => Some(("", ["memory.max", "memory.current", "inactive_file"])),
            Some(names) if names.split(',').any(|name| name == "memory") => Some((
                "memory",
                ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"],
            )),
            _ => None,
        };
        // A container may see its own group at the top, whatever the path says.
        let folders: Vec<&Path> = Path::new(path.trim_start_matches('/')).ancestors().collect();
        let of = |(root, names)| {
            folders
                .iter()
                .filter_map(|folder| limits(&Path::new(root).join(folder), names, &read))
                .collect::<Vec<Group>>()
        };
        interface.map(of).unwrap_or_default()
    });
    limits.reduce(|one, other| Group {
        limit_bytes: one.limit_bytes.min(other.limit_bytes),
        available_bytes: one.available_bytes.min(other.available_bytes),
    })
}

/// None where there is no limit; the file then says `max`, or is not there.
fn limits(
    folder: &Path,
    [limit, usage, inactive]: [&str; 3],
    read: impl Fn(&Path) -> Option<String>,
) -> Option<Group> {
    let number = |name: &str| read(&folder.join(name))?.trim().parse::<u64>().ok();
    let limit_bytes = number(limit)?;
    let statistics = read(&folder.join("memory.stat")).unwrap_or_default();
    let forgettable = statistics.lines().find_map(|line| line.strip_prefix(inactive));
    let forgettable = forgettable.and_then(|value| value.trim().parse().ok()).unwrap_or(0);
    let used = number(usage)?.saturating_sub(forgettable);
    Some(Group { limit_bytes, available_bytes: limit_bytes.saturating_sub(used) })
}

/// The figure behind `label` in one of the files in which Linux tells sizes.
pub(crate) fn kibibytes(path: &str, label: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(label))?;
    let number: u64 = line[label.len()..].split_whitespace().next()?.parse().ok()?;
    Some(number * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_has_what_its_groups_allow() {
        let of = |groups: &str, files: &[(&str, &str)]| {
            let read = |path: &Path| {
                let file = files.iter().find(|(name, _)| Path::new(name) == path)?;
                Some(file.1.to_owned())
            };
            let group = tightest(groups, read)?;
            Some((group.limit_bytes, group.available_bytes))
        };
        let mut files = vec![
            ("pod/memory.max", "1000\n"),
            ("pod/memory.current", "900\n"),
            ("pod/memory.stat", "anon 1\ninactive_file 300\n"),
            ("pod/box/memory.max", "max\n"),
            ("pod/box/memory.current", "5\n"),
        ];
        assert_eq!(of("0::/pod/box\n", &files), Some((1000, 400)));
        assert_eq!(of("0::/elsewhere\n", &files), None);
        files[3].1 = "600\n";
        assert_eq!(of("0::/pod/box\n", &files), Some((600, 400)));
        // The first version, with a path that the container does not see.
        let files =
            [("memory/memory.limit_in_bytes", "70"), ("memory/memory.usage_in_bytes", "80")];
        assert_eq!(of("9:cpu:/x\n4:cpuset,memory:/docker/1\n", &files), Some((70, 0)));
        assert_eq!(of("what is this", &files), None);
    }

    #[test]
    fn bytes_are_aligned_and_as_many_as_asked_for() {
        for length in [0, 1, 63, 64, 1000, 1 << 20] {
            let mut bytes = AlignedBytes::zeroed(length);
            assert_eq!(bytes.as_mut().len(), length);
            assert_eq!(bytes.as_ref().as_ptr() as usize % ALIGNMENT_BYTES, 0);
        }
    }
}
