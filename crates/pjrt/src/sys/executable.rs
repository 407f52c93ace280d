//! Executables: compiled programs, and what can be asked about them.

use super::*;

arguments! {
    ExecutableDestroy { executable: *mut Executable }
    ExecutableName { executable: *mut Executable, name: *const u8, name_size: usize }
    ExecutableCount { executable: *mut Executable, count: usize }
    ExecutableGetCostAnalysis {
        executable: *mut Executable,
        num_properties: usize,
        properties: *const NamedValue,
    }
    ExecutableOutputMemoryKinds {
        executable: *mut Executable,
        num_outputs: usize,
        kinds: *const *const u8,
        kind_sizes: *const usize,
    }
    ExecutableOptimizedProgram { executable: *mut Executable, program: *mut Program }
    ExecutableFingerprint { executable: *mut Executable, fingerprint: *const u8, fingerprint_size: usize }
    ExecutableOutputElementTypes {
        executable: *mut Executable,
        types: *const i32,
        num_types: usize,
    }
    ExecutableOutputDimensions {
        executable: *mut Executable,
        num_outputs: usize,
        dims: *const i64,
        dim_sizes: *const usize,
    }
    ExecutableGetCompiledMemoryStats {
        executable: *mut Executable,
        generated_code: i64,
        argument: i64,
        output: i64,
        alias: i64,
        temporary: i64,
        host_generated_code: i64,
        host_argument: i64,
        host_output: i64,
        host_alias: i64,
        host_temporary: i64,
        peak: i64,
        // Newer plugins refuse a struct shorter than theirs, so their later fields need a place here even
        // though their meaning differs too much between plugins to be passed on.
        later: [i64; 4],
    }
    ExecutableSerialize {
        executable: *const Executable,
        bytes: *const u8,
        bytes_size: usize,
        serialized: *mut SerializedExecutable,
        deleter: Option<unsafe extern "C" fn(*mut SerializedExecutable)>,
    }
    ExecutableDeserializeAndLoad {
        client: *mut Client,
        bytes: *const u8,
        bytes_size: usize,
        executable: *mut LoadedExecutable,
        overridden_compile_options: *const u8,
        overridden_compile_options_size: usize,
    }
}
