//! Sums over the processes of a group, by way of the coordinator: for plugins that cannot sum
//! across processes themselves, such as XLA's for the CPU.

use std::time::Duration;

use super::error::GroupError;
use super::group::ProcessGroup;

/// So much of the array is exchanged at once; every process holds as many pieces as there are
/// processes.
const PIECE_ELEMENTS: usize = 1 << 20;

impl ProcessGroup {
    /// Replaces `data`, which is equally long everywhere, by its sum over all processes. Added in
    /// the order of processes, so every process has the same bits, and has them again next time.
    ///
    /// Process 0 sends (processes)² times the array: meant for a few processes on one machine or
    /// a fast network.
    ///
    /// # Errors
    /// As [`ProcessGroup::all_gather`]; [`GroupError::Failed`] when the lengths differ.
    pub fn sum_f32(
        &self,
        name: &str,
        data: &mut [f32],
        timeout: Duration,
    ) -> Result<(), GroupError> {
        if self.count() == 1 {
            return Ok(());
        }
        // One meeting at least, so that an empty array here and a full one elsewhere are seen.
        let whole = data.len();
        let mut rest = data;
        loop {
            let (piece, later) = rest.split_at_mut(rest.len().min(PIECE_ELEMENTS));
            let mut mine = (whole as u64).to_le_bytes().to_vec();
            mine.extend(piece.iter().flat_map(|value| value.to_le_bytes()));
            let all = self.all_gather(name, &mine, timeout)?;
            piece.fill(0.0);
            for (process, theirs) in all.iter().enumerate() {
                if theirs.len() != mine.len() || theirs[..8] != mine[..8] {
                    let reason = format!(
                        "`{name}` is {whole} numbers long in process {} and another length in process {process}",
                        self.index()
                    );
                    return Err(GroupError::Failed { reason });
                }
                let (values, _) = theirs[8..].as_chunks::<4>();
                for (sum, value) in piece.iter_mut().zip(values) {
                    *sum += f32::from_le_bytes(*value);
                }
            }
            if later.is_empty() {
                return Ok(());
            }
            rest = later;
        }
    }
}
