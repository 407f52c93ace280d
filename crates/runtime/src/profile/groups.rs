//! Which devices take part in a collective. Compilers write them in three ways: as lists, as an
//! arrangement of all devices counted up, and as axes of a mesh. One group stands for all, since
//! they are alike. Knows no chip and no link.

use super::proto::{HloInstruction, IotaGroups, MeshGroups};

/// More devices than any program is compiled for; beyond it is damage.
const DEVICES_MAX: usize = 1 << 16;

/// The ids of the devices of one group; all devices if the program does not say.
pub fn members(instruction: &HloInstruction, devices: usize) -> Vec<usize> {
    let listed = instruction.collective_devices.as_ref();
    let lists = match (instruction.replica_groups.as_slice(), listed) {
        ([], Some(listed)) => listed.replica_groups.as_slice(),
        (lists, _) => lists,
    };
    let longest =
        lists.iter().map(|group| group.replica_ids.as_slice()).max_by_key(|ids| ids.len());
    let ids = |ids: &[i64]| ids.iter().filter_map(|&id| usize::try_from(id).ok()).collect();
    let iota = instruction.iota_groups.as_ref().or_else(|| listed?.iota.as_ref());
    let stated: Option<Vec<usize>> = longest
        .map(ids)
        .or_else(|| arranged(iota?))
        .or_else(|| along_axes(instruction.mesh_groups.as_ref()?));
    match stated {
        Some(mut ids) if !ids.is_empty() => {
            ids.truncate(devices.max(1));
            ids
        }
        _ => (0..devices.max(1)).collect(),
    }
}

/// The first of `[groups, devices per group]` after the devices were reshaped and transposed.
fn arranged(groups: &IotaGroups) -> Option<Vec<usize>> {
    let size =
        usize::try_from(groups.devices_per_group).ok().filter(|&size| size <= DEVICES_MAX)?;
    let shape = sizes(groups.reshape.iter().copied())?;
    if shape.is_empty() {
        return Some((0..size).collect());
    }
    let transpose: Vec<usize> =
        groups.transpose.iter().filter_map(|&axis| usize::try_from(axis).ok()).collect();
    let order = if transpose.is_empty() { (0..shape.len()).collect() } else { transpose };
    let strides = strides(&shape);
    let axes = order.iter().map(|&axis| Some((*shape.get(axis)?, *strides.get(axis)?)));
    let axes: Vec<(usize, usize)> = axes.collect::<Option<_>>()?;
    let mut ids = walk(&axes)?;
    ids.truncate(size);
    Some(ids)
}

/// The devices along some axes, or parts of axes, of a mesh, at the origin of the others.
fn along_axes(groups: &MeshGroups) -> Option<Vec<usize>> {
    let mesh = groups.mesh.as_ref()?;
    let shape = sizes(mesh.axes.iter().map(|axis| axis.size))?;
    let strides = strides(&shape);
    let axis = |reference: &super::proto::AxisReference| {
        let index = usize::try_from(reference.index).ok()?;
        let (&size, &stride) = (shape.get(index)?, strides.get(index)?);
        let Some(part) = &reference.part else { return Some((size, stride)) };
        let [before, own] = [part.before, part.size].map(|size| usize::try_from(size.max(1)).ok());
        let after = size / before?.checked_mul(own?)?;
        Some((own?, stride.checked_mul(after.max(1))?))
    };
    let axes: Vec<(usize, usize)> = groups.axes.iter().map(axis).collect::<Option<_>>()?;
    let place = |id: usize| match mesh.device_ids.get(id) {
        Some(&id) => usize::try_from(id).ok(),
        None => Some(id),
    };
    walk(&axes)?.into_iter().map(place).collect()
}

fn sizes(sizes: impl Iterator<Item = i64>) -> Option<Vec<usize>> {
    sizes.map(|size| usize::try_from(size).ok().filter(|&size| size > 0)).collect()
}

/// How far apart neighbours along each axis are, the last axis being the innermost.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for place in (1..shape.len()).rev() {
        strides[place - 1] = strides[place].saturating_mul(shape[place]);
    }
    strides
}

/// Every position of nested loops of these (size, stride), the last one innermost.
fn walk(axes: &[(usize, usize)]) -> Option<Vec<usize>> {
    let mut ids = vec![0usize];
    for &(size, stride) in axes {
        if ids.len().checked_mul(size)? > DEVICES_MAX {
            return None;
        }
        let steps = |id: &usize| {
            let id = *id;
            (0..size).map(move |step| id.saturating_add(step.saturating_mul(stride)))
        };
        ids = ids.iter().flat_map(steps).collect();
    }
    Some(ids)
}

#[cfg(test)]
mod tests {
    use super::super::proto::{AxisPart, AxisReference, Mesh, MeshAxis, ReplicaGroup};
    use super::*;

    fn iota(size: i64, reshape: &[i64], transpose: &[i32]) -> HloInstruction {
        let groups = IotaGroups {
            devices_per_group: size,
            reshape: reshape.to_vec(),
            transpose: transpose.to_vec(),
        };
        HloInstruction { iota_groups: Some(groups), ..HloInstruction::default() }
    }

    #[test]
    fn groups_are_read_however_they_are_written() {
        let listed = HloInstruction {
            replica_groups: vec![ReplicaGroup { replica_ids: vec![0, 4, 8] }],
            ..HloInstruction::default()
        };
        assert_eq!(members(&listed, 12), [0, 4, 8]);
        assert_eq!(members(&HloInstruction::default(), 3), [0, 1, 2]);
        assert_eq!(members(&iota(4, &[16], &[]), 16), [0, 1, 2, 3]);
        // Columns of a 4 x 4 arrangement.
        assert_eq!(members(&iota(4, &[4, 4], &[1, 0]), 16), [0, 4, 8, 12]);
        assert_eq!(members(&iota(4, &[4, 4], &[7, 0]), 3), [0, 1, 2], "damage is no group");
    }

    #[test]
    fn axes_of_a_mesh_may_be_cut() {
        let axis = |index, part: Option<(i64, i64)>| AxisReference {
            index,
            part: part.map(|(before, size)| AxisPart { before, size }),
        };
        let groups = |axes, device_ids| HloInstruction {
            mesh_groups: Some(MeshGroups {
                mesh: Some(Mesh {
                    axes: [2, 8].map(|size| MeshAxis { size }).to_vec(),
                    device_ids,
                }),
                axes,
            }),
            ..HloInstruction::default()
        };
        assert_eq!(members(&groups(vec![axis(0, None)], vec![]), 16), [0, 8]);
        assert_eq!(members(&groups(vec![axis(1, Some((1, 4)))], vec![]), 16), [0, 2, 4, 6]);
        assert_eq!(members(&groups(vec![axis(1, Some((4, 2)))], vec![]), 16), [0, 1]);
        let turned: Vec<i64> = (0..16).rev().collect();
        assert_eq!(members(&groups(vec![axis(0, None)], turned), 16), [15, 7]);
    }
}
