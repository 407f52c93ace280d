//! Compiled programs: what can be asked about them, and saving them.
//!
//! Knows nothing of the devices that they may be loaded onto: that is in `loaded`.

use std::sync::Arc;

use crate::client::ClientInner;
use crate::element_type::ElementType;
use crate::error::{Code, Error, Result};
use crate::program::Program;
use crate::sys::{self, Arguments};
use crate::table::{Table, call, slice, text};
use crate::value::{self, Value};

/// A compiled program, on devices or not. Cheap to clone.
#[derive(Clone)]
pub struct Executable {
    inner: Arc<ExecutableInner>,
}

struct ExecutableInner {
    table: Table,
    raw: *mut sys::Executable,
    /// Keeps the client alive that the program was compiled by, if there is one.
    _client: Option<Arc<ClientInner>>,
}

// SAFETY: the interface lets an executable be asked from any thread; it does not change.
unsafe impl Send for ExecutableInner {}
// SAFETY: as above.
unsafe impl Sync for ExecutableInner {}

impl Drop for ExecutableInner {
    fn drop(&mut self) {
        // SAFETY: the last owner destroys the executable. One that cannot be destroyed leaks.
        let _ = unsafe {
            call!(self.table, executable_destroy, ExecutableDestroy { executable: self.raw })
        };
    }
}

/// Asks a question whose answer is one field of its argument struct.
macro_rules! ask {
    ($self:ident, $slot:ident, $arguments:ident) => {{
        // SAFETY: the executable is live as long as `self`.
        unsafe { call!($self.inner.table, $slot, $arguments { executable: $self.inner.raw }) }
    }};
}

impl Executable {
    /// # Safety
    /// `raw` must be an executable of this plugin, and of this client if one is given, that nobody else
    /// destroys.
    pub(crate) unsafe fn from_raw(
        table: Table,
        client: Option<Arc<ClientInner>>,
        raw: *mut sys::Executable,
    ) -> Result<Executable> {
        if raw.is_null() {
            return Err(Error::broken("it answered an executable that is null"));
        }
        Ok(Executable { inner: Arc::new(ExecutableInner { table, raw, _client: client }) })
    }

    /// The name of the program's module.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn name(&self) -> Result<String> {
        let answer = ask!(self, executable_name, ExecutableName)?;
        // SAFETY: the executable owns the text.
        Ok(unsafe { text(answer.name, answer.name_size) })
    }

    /// How many replicas it was compiled for.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn num_replicas(&self) -> Result<usize> {
        Ok(ask!(self, executable_num_replicas, ExecutableCount)?.count)
    }

    /// How many partitions it was compiled for.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn num_partitions(&self) -> Result<usize> {
        Ok(ask!(self, executable_num_partitions, ExecutableCount)?.count)
    }

    /// How many arrays it answers, per device.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn num_outputs(&self) -> Result<usize> {
        Ok(ask!(self, executable_num_outputs, ExecutableCount)?.count)
    }

    /// Dimensions of every output, as each device holds it.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn output_dimensions(&self) -> Result<Vec<Vec<i64>>> {
        let answer = ask!(self, executable_output_dimensions, ExecutableOutputDimensions)?;
        // SAFETY: the executable owns both arrays; the second says how the first is divided.
        unsafe {
            let ranks = slice(answer.dim_sizes, answer.num_outputs);
            let mut rest = slice(answer.dims, ranks.iter().sum());
            let mut outputs = Vec::with_capacity(ranks.len());
            for &rank in ranks {
                let (dimensions, others) = rest
                    .split_at_checked(rank)
                    .ok_or_else(|| Error::broken("its output dimensions do not add up"))?;
                outputs.push(dimensions.to_vec());
                rest = others;
            }
            Ok(outputs)
        }
    }

    /// Element type of every output.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn output_element_types(&self) -> Result<Vec<ElementType>> {
        let answer = ask!(self, executable_output_element_types, ExecutableOutputElementTypes)?;
        // SAFETY: the executable owns the array.
        let types = unsafe { slice(answer.types, answer.num_types) };
        types
            .iter()
            .map(|&number| {
                ElementType::from_raw(number).ok_or_else(|| {
                    Error::broken(format!("an output is of unknown element type {number}"))
                })
            })
            .collect()
    }

    /// Kind of memory of every output, such as `device` or `pinned_host`.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn output_memory_kinds(&self) -> Result<Vec<String>> {
        let answer = ask!(self, executable_output_memory_kinds, ExecutableOutputMemoryKinds)?;
        // SAFETY: the executable owns the arrays and the text in them.
        unsafe {
            let kinds = slice(answer.kinds, answer.num_outputs);
            let sizes = slice(answer.kind_sizes, answer.num_outputs);
            Ok(kinds.iter().zip(sizes).map(|(&kind, &size)| text(kind, size)).collect())
        }
    }

    /// The compiler's account of the memory that one device needs.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn memory_stats(&self) -> Result<CompiledMemoryStats> {
        let stats =
            ask!(self, executable_get_compiled_memory_stats, ExecutableGetCompiledMemoryStats)?;
        let bytes = |number: i64| u64::try_from(number).unwrap_or(0);
        Ok(CompiledMemoryStats {
            generated_code_bytes: bytes(stats.generated_code),
            argument_bytes: bytes(stats.argument),
            output_bytes: bytes(stats.output),
            alias_bytes: bytes(stats.alias),
            temporary_bytes: bytes(stats.temporary),
            // Zero from a plugin that knows the field but not the number, and from one that is older.
            peak_bytes: Some(bytes(stats.peak)).filter(|&peak| peak > 0),
            host_generated_code_bytes: bytes(stats.host_generated_code),
            host_argument_bytes: bytes(stats.host_argument),
            host_output_bytes: bytes(stats.host_output),
            host_alias_bytes: bytes(stats.host_alias),
            host_temporary_bytes: bytes(stats.host_temporary),
        })
    }

    /// The compiler's estimates for one run, such as `flops`, `bytes accessed` and `optimal_seconds`.
    ///
    /// # Errors
    /// [`Code::Unimplemented`] from plugins that make no estimate.
    pub fn cost_analysis(&self) -> Result<Vec<(String, Value)>> {
        let answer = ask!(self, executable_get_cost_analysis, ExecutableGetCostAnalysis)?;
        // SAFETY: the executable owns the figures.
        unsafe { value::from_raw(answer.properties, answer.num_properties) }
    }

    /// The program as the compiler will run it.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn optimized_program(&self) -> Result<Program> {
        // Without room for the code, the plugin answers its size.
        let size = self.fill_optimized_program(&mut [])?.code_size;
        let mut code = vec![0; size];
        let filled = self.fill_optimized_program(&mut code)?;
        code.truncate(filled.code_size);
        // SAFETY: the plugin owns the format's name, which lives as long as the executable.
        let format = unsafe { text(filled.format, filled.format_size) };
        Ok(Program { format, code })
    }

    fn fill_optimized_program(&self, code: &mut [u8]) -> Result<sys::Program> {
        let mut program = sys::Program::new();
        if !code.is_empty() {
            program.code = code.as_mut_ptr();
            program.code_size = code.len();
        }
        // SAFETY: the executable is live; the program outlives the call, and has room for as much code
        // as it says.
        unsafe {
            call!(
                self.inner.table,
                executable_optimized_program,
                ExecutableOptimizedProgram {
                    executable: self.inner.raw,
                    program: &raw mut program,
                }
            )
        }?;
        Ok(program)
    }

    /// The compiled program as bytes, for [`Client::deserialize`](crate::Client::deserialize) with the
    /// same version of the plugin and the same kind of device.
    ///
    /// # Errors
    /// [`Code::Unimplemented`] from plugins that cannot.
    pub fn serialize(&self) -> Result<Vec<u8>> {
        // SAFETY: the executable is live.
        let answer = unsafe {
            call!(
                self.inner.table,
                executable_serialize,
                ExecutableSerialize { executable: self.inner.raw }
            )
        }?;
        // SAFETY: the bytes live until the deleter is called, which is once and after copying them.
        unsafe {
            let bytes = slice(answer.bytes, answer.bytes_size).to_vec();
            if let Some(delete) = answer.deleter {
                delete(answer.serialized);
            }
            Ok(bytes)
        }
    }

    /// Bytes that are equal only for equal programs; none from plugins that make none.
    ///
    /// # Errors
    /// Whatever the plugin answers, other than that it makes none.
    pub fn fingerprint(&self) -> Result<Option<Vec<u8>>> {
        match ask!(self, executable_fingerprint, ExecutableFingerprint) {
            Ok(answer) => {
                // SAFETY: the executable owns the bytes.
                let bytes = unsafe { slice(answer.fingerprint, answer.fingerprint_size) };
                Ok(Some(bytes.to_vec()))
            }
            Err(error) if error.code() == Some(Code::Unimplemented) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Checks that memory given up by donating inputs is really reused, for a plugin may copy instead
    /// without a word: `donated_bytes` is what each device donates.
    ///
    /// # Errors
    /// [`Error::Donation`] when the compiled program reuses less.
    pub fn check_donation(&self, donated_bytes: u64) -> Result<()> {
        let aliased_bytes = self.memory_stats()?.alias_bytes;
        if aliased_bytes < donated_bytes {
            return Err(Error::Donation { donated_bytes, aliased_bytes });
        }
        Ok(())
    }
}

/// What one device needs to run a program, in bytes. `host_` figures are for memory of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompiledMemoryStats {
    /// The program's own code.
    pub generated_code_bytes: u64,
    /// Its inputs.
    pub argument_bytes: u64,
    /// Its outputs, those included that are written into inputs.
    pub output_bytes: u64,
    /// The part of the outputs that is written into inputs.
    pub alias_bytes: u64,
    /// What it needs while running.
    pub temporary_bytes: u64,
    /// The most that is in use at once; none from plugins that do not say.
    pub peak_bytes: Option<u64>,
    /// As `generated_code_bytes`, in host memory.
    pub host_generated_code_bytes: u64,
    /// As `argument_bytes`, in host memory.
    pub host_argument_bytes: u64,
    /// As `output_bytes`, in host memory.
    pub host_output_bytes: u64,
    /// As `alias_bytes`, in host memory.
    pub host_alias_bytes: u64,
    /// As `temporary_bytes`, in host memory.
    pub host_temporary_bytes: u64,
}

impl std::fmt::Debug for Executable {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Executable").field("name", &self.name().ok()).finish()
    }
}
