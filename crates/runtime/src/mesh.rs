//! Meshes as users write them, and meshes with the devices of a client in them.

use std::sync::Arc;

use graph::{Mesh, Sharding};

use crate::error::Error;
use crate::layout::{IndexRange, shard_ranges};

/// Reads `data=2,tensor=4`: the axes, outermost first. An empty text is one device.
///
/// # Errors
/// [`Error::BadMesh`] for anything else.
pub fn parse_mesh(text: &str) -> Result<Mesh, Error> {
    let bad = |reason: String| Error::BadMesh { text: text.to_string(), reason };
    let mut mesh = Mesh::single();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, size) = part
            .split_once('=')
            .ok_or_else(|| bad(format!("`{part}` is not of the form name=size")))?;
        let (name, size) = (name.trim(), size.trim());
        let plain = |character: char| character.is_ascii_alphanumeric() || character == '_';
        if name.is_empty() || !name.chars().all(plain) {
            return Err(bad(format!("`{name}` is not a name of letters, digits and underscores")));
        }
        let size: usize = size
            .parse()
            .ok()
            .filter(|&size| size > 0)
            .ok_or_else(|| bad(format!("`{size}` is not a number of devices")))?;
        if mesh.size(name).is_some() {
            return Err(bad(format!("the axis {name} stands twice")));
        }
        if mesh.devices().checked_mul(size).is_none() {
            return Err(bad("it has more devices than can be counted".to_string()));
        }
        mesh.axes.push((name.to_string(), size));
    }
    Ok(mesh)
}

/// A mesh whose positions are devices of one client. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DeviceMesh {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    mesh: Mesh,
    client: pjrt::Client,
    /// The device of every position, counted row-major through the mesh.
    devices: Vec<pjrt::Device>,
}

impl DeviceMesh {
    /// Puts the client's first devices into the mesh: process by process, and in the client's order
    /// within each. So the mesh's innermost axes, which communicate most, lie within a host.
    ///
    /// # Errors
    /// [`Error::TooFewDevices`], and [`Error::IdleProcesses`] when a process would have none of the
    /// devices, for it could not take part in anything.
    pub fn new(mesh: Mesh, client: &pjrt::Client) -> Result<DeviceMesh, Error> {
        let needed = mesh.devices();
        let devices = client.devices();
        let available = devices.len();
        if available < needed {
            return Err(Error::TooFewDevices { mesh: mesh.to_string(), needed, available });
        }
        let processes: Vec<i32> = devices.iter().map(pjrt::Device::process_index).collect();
        let Some(chosen) = choose(&processes, needed) else {
            return Err(Error::IdleProcesses { mesh: mesh.to_string(), needed, available });
        };
        let devices = chosen.into_iter().map(|place| devices[place].clone()).collect();
        Ok(DeviceMesh { inner: Arc::new(Inner { mesh, client: client.clone(), devices }) })
    }

    pub fn mesh(&self) -> &Mesh {
        &self.inner.mesh
    }

    pub fn client(&self) -> &pjrt::Client {
        &self.inner.client
    }

    pub fn devices(&self) -> &[pjrt::Device] {
        &self.inner.devices
    }

    /// The positions that this process can put data on, with their devices.
    pub fn addressable(&self) -> impl Iterator<Item = (usize, &pjrt::Device)> {
        self.devices().iter().enumerate().filter(|(_, device)| device.is_addressable())
    }

    /// Whether two meshes are the same axes over the same devices.
    pub fn is_same(&self, other: &DeviceMesh) -> bool {
        let ids = |mesh: &DeviceMesh| -> Vec<i32> {
            mesh.devices().iter().map(pjrt::Device::id).collect()
        };
        Arc::ptr_eq(&self.inner, &other.inner)
            || (self.mesh() == other.mesh() && ids(self) == ids(other))
    }

    /// The part of an array that the device at `position` holds.
    ///
    /// # Errors
    /// [`Error::Uneven`] when the pieces do not divide a dimension.
    pub fn ranges(
        &self,
        sizes: &[usize],
        sharding: &Sharding,
        position: usize,
    ) -> Result<Vec<IndexRange>, Error> {
        shard_ranges(sizes, sharding, self.mesh(), position)
    }
}

/// Which of the devices, given by their processes, stand in the mesh, in its order; none when a
/// process would be left without.
fn choose(processes: &[i32], needed: usize) -> Option<Vec<usize>> {
    let mut places: Vec<usize> = (0..processes.len()).collect();
    places.sort_by_key(|&place| processes[place]);
    let rest = places.split_off(needed);
    let last = places.last().map(|&place| processes[place]);
    rest.iter().all(|&place| Some(processes[place]) == last).then_some(places)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn axes_stand_in_the_order_they_are_written() {
        let mesh = parse_mesh("data=2, tensor=4").unwrap();
        assert_eq!(mesh, Mesh::new(&[("data", 2), ("tensor", 4)]));
        assert_eq!(parse_mesh("").unwrap(), Mesh::single());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let message = |text| parse_mesh(text).unwrap_err().to_string();
        assert!(message("data").contains("`data` is not of the form name=size"));
        assert!(message("data=0").contains("`0` is not a number of devices"));
        assert!(message("data=2,data=4").contains("the axis data stands twice"));
        assert!(message("da ta=2").contains("letters, digits and underscores"));
    }

    #[test]
    fn devices_of_a_process_stand_together() {
        // As the hosts of a TPU slice share its rows.
        assert_eq!(choose(&[0, 0, 1, 1, 0, 0, 1, 1], 8), Some(vec![0, 1, 4, 5, 2, 3, 6, 7]));
        assert_eq!(choose(&[0, 0, 0], 2), Some(vec![0, 1]));
        assert_eq!(choose(&[0, 0, 1, 1], 3), Some(vec![0, 1, 2]));
        assert_eq!(choose(&[0, 0, 1, 1], 2), None);
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(sizes in proptest::collection::vec(1usize..9, 1..4)) {
            let axes = ["data", "fsdp", "tensor"];
            let named: Vec<(&str, usize)> = axes.into_iter().zip(sizes).collect();
            let mesh = Mesh::new(&named);
            prop_assert_eq!(parse_mesh(&mesh.to_string()).unwrap(), mesh);
        }

        #[test]
        fn any_text_is_survived(text in "\\PC*") {
            let _ = parse_mesh(&text);
        }
    }
}
