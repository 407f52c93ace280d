//! Joins programs (`graph`) and plugins (`pjrt`): finds and installs plugins, compiles programs for
//! devices that are here and targets that are not, keeps the results, and holds arrays on devices.
//!
//! Knows no model. Prints nothing: progress and findings are returned or go to callbacks.

pub mod array;
pub mod cache;
pub mod chips;
pub mod compile;
pub mod device;
mod digest;
pub mod discover;
pub mod distributed;
pub mod environment;
pub mod error;
pub mod executable;
mod fit;
pub mod folders;
mod gpu_target;
pub mod host_memory;
pub mod install;
pub mod layout;
pub mod mesh;
pub mod meter;
pub mod options;
mod presets;
pub mod profile;
mod proto;
pub mod registry;
pub mod settings;
pub mod targets;
pub mod worker;

pub use array::{Array, PartToHost, Shard};
pub use compile::{CacheUse, CompileChoices, CompileInfo, Compiler, Fit, Purpose, TargetReport};
pub use device::{Runtime, RuntimeOptions};
pub use discover::{Discovery, PluginKind, PluginLocation, PluginSource};
pub use error::{Error, Result};
pub use executable::{Argument, Executable, Run};
pub use folders::CacheFolder;
pub use mesh::{DeviceMesh, parse_mesh};
pub use pjrt::end_process;
pub use targets::Target;
