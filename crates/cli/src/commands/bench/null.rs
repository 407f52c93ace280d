//! A device that does nothing: what is left is what the engine itself costs.

use std::sync::Arc;

use serve::engine::{AdapterMemory, Device, DeviceError, Ladder, Row, Token, Tokens};

pub struct NullDevice(pub Ladder);

fn tokens(count: usize) -> Vec<Tokens> {
    let token = || vec![Token { id: 1, log_prob: 0.0, top: Vec::new() }];
    (0..count).map(|_| token()).collect()
}

impl Device for NullDevice {
    /// How many rows it has.
    type Step = usize;

    fn ladder(&self) -> &Ladder {
        &self.0
    }

    fn prefill(&mut self, _: &Row<'_>) -> Result<usize, DeviceError> {
        Ok(1)
    }

    fn decode(&mut self, rows: &[Row<'_>]) -> Result<usize, DeviceError> {
        Ok(rows.len())
    }

    fn read(&mut self, rows: usize) -> Result<Vec<Tokens>, DeviceError> {
        Ok(tokens(rows))
    }

    fn embed(&mut self, _: usize, _: &[u32], _: &[u32]) -> Result<Vec<f32>, DeviceError> {
        Ok(vec![1.0; self.0.hidden_size])
    }

    fn reset(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn adapter_memory(&self) -> Option<Arc<dyn AdapterMemory>> {
        None
    }

    fn compiled_late(&self) -> u64 {
        0
    }
}
