//! The PJRT C API made safe: the interface by which vendors ship their compilers and runtimes for
//! TPUs, GPUs and CPUs as plugins.
//!
//! This crate knows handles, bytes and element types. It must not know tensors, models, sharding or
//! where plugins come from, and nothing in it prints or needs an async runtime. It is the only crate
//! of the workspace with `unsafe` code: every handle is owned by one value that frees it, host memory
//! that a plugin may touch is owned until the plugin says that it is done, and functions that an older
//! plugin lacks are errors, not crashes.
//!
//! ```no_run
//! use pjrt::{Argument, Client, ClientOptions, ElementType, Plugin};
//!
//! # fn main() -> pjrt::Result<()> {
//! let plugin = Plugin::load("libpjrt_cpu.so".as_ref())?;
//! let client = Client::create(&plugin, &ClientOptions::default())?;
//! let program = r#"
//!     func.func @main(%x: tensor<3xf32>) -> tensor<3xf32> {
//!       %y = "stablehlo.add"(%x, %x) : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xf32>
//!       "func.return"(%y) : (tensor<3xf32>) -> ()
//!     }"#;
//! // A serialized `CompileOptionsProto`: one replica, one partition.
//! let executable = client.compile(program, &[0x1a, 4, 0x20, 1, 0x28, 1])?;
//! let device = &executable.addressable_devices()[0];
//! let data: Vec<u8> = [1f32, 2.0, 3.0].iter().flat_map(|value| value.to_le_bytes()).collect();
//! let x = client.buffer_from_slice(device, &data, ElementType::F32, &[3])?;
//! let run = executable.execute(vec![vec![Argument::Donated(x)]])?;
//! assert_eq!(run.outputs[0][0].to_vec()?[..4], 2f32.to_le_bytes());
//! # Ok(())
//! # }
//! ```

mod buffer;
mod client;
mod device;
mod element_type;
mod elf;
mod error;
mod event;
mod executable;
mod execute;
mod exit;
mod ffi;
mod key_value;
mod library;
mod loaded;
mod plugin;
mod program;
mod sys;
mod table;
mod topology;
mod transfer;
mod value;

pub use buffer::Buffer;
pub use client::{Client, ClientOptions, Process, ProcessOptionNames};
pub use device::{Device, DeviceDescription, DeviceMemoryStats, Memory};
pub use element_type::ElementType;
pub use error::{ApiVersion, Code, Error, Result};
pub use event::Event;
pub use executable::{CompiledMemoryStats, Executable};
pub use execute::{Argument, Execution, UnusedDonation};
pub use exit::end_process;
pub use ffi::{FfiAttribute, FfiAttributes, FfiBuffer, FfiBufferMut, FfiElement, FfiHandler};
pub use key_value::{KeyValueError, KeyValueStore, MemoryKeyValueStore};
pub use loaded::LoadedExecutable;
pub use plugin::Plugin;
pub use program::Program;
pub use topology::Topology;
pub use transfer::{HostMemory, HostTransfer};
pub use value::Value;
