//! Every way in which a plugin, or a call into it, can fail.
//!
//! Knows the interface's status codes and nothing of what was being done when one came back.

use std::fmt;
use std::path::PathBuf;

/// The result of anything that can involve a plugin.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a plugin could not be used, or what it answered instead of a result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The plugin ran the call and refused it, or the work behind it failed.
    #[error("{code}: {message}")]
    Status {
        /// What kind of failure it was.
        code: Code,
        /// The plugin's own words.
        message: String,
    },

    /// The file cannot be loaded as a library on this machine.
    #[error("cannot load the plugin {}: {reason}", path.display())]
    Load {
        /// The file that was asked for.
        path: PathBuf,
        /// What is wrong with it and what to do, one sentence.
        reason: String,
        /// What the operating system or its loader said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// The file is a library but has no `GetPjrtApi`, so it is not a PJRT plugin.
    #[error(
        "{} is a library but not a PJRT plugin, since it does not export GetPjrtApi: point at the plugin's own file",
        path.display()
    )]
    NotAPlugin {
        /// The file that was asked for.
        path: PathBuf,
    },

    /// The plugin speaks a version of the interface that this crate does not.
    #[error(
        "{} speaks PJRT API {found}, and this program needs {needed}: install another version of the plugin",
        path.display()
    )]
    ApiMismatch {
        /// The file that was asked for.
        path: PathBuf,
        /// The plugin's version.
        found: ApiVersion,
        /// What is needed, such as `0.54 or a later 0.x`.
        needed: String,
    },

    /// The plugin is older than a function that was called, or leaves it out.
    #[error("the function {function} is not available in this plugin (PJRT API {version})")]
    MissingFunction {
        /// Name of the function's slot in the interface's table.
        function: &'static str,
        /// The plugin's version.
        version: ApiVersion,
    },

    /// The plugin does not offer an extension of the interface.
    #[error("the {extension} extension is not available in this plugin (PJRT API {version})")]
    MissingExtension {
        /// The extension's name.
        extension: &'static str,
        /// The plugin's version.
        version: ApiVersion,
    },

    /// The caller passed something that cannot be handed to a plugin at all.
    #[error("{message}")]
    InvalidInput {
        /// What does not fit what, one sentence.
        message: String,
    },

    /// Memory that the caller gave up would be copied instead of reused.
    #[error(
        "the compiled program reuses {aliased_bytes} of the {donated_bytes} bytes donated to it, so the plugin would copy the rest: give each donated input an output of the same shape, type and sharding"
    )]
    Donation {
        /// Bytes that the caller donates.
        donated_bytes: u64,
        /// Bytes of its inputs that the compiled program writes its outputs into.
        aliased_bytes: u64,
    },

    /// The plugin answered success with something that the interface does not allow.
    #[error("the plugin broke the PJRT interface: {message}")]
    BrokenPlugin {
        /// What it did.
        message: String,
    },
}

impl Error {
    /// The status code, if a plugin answered one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Error::Status { code, .. } => Some(*code),
            _ => None,
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Error {
        Error::InvalidInput { message: message.into() }
    }

    pub(crate) fn broken(message: impl Into<String>) -> Error {
        Error::BrokenPlugin { message: message.into() }
    }
}

/// Version of the PJRT interface: `0.81` is major 0, minor 81.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion {
    /// Raised when old and new no longer fit together.
    pub major: i32,
    /// Raised when something is added.
    pub minor: i32,
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// The interface's status codes (those of `absl::Status`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// The code of this number; numbers that are not known are [`Code::Unknown`].
            pub(crate) fn from_raw(number: i32) -> Code {
                match number {
                    $($number => Code::$name,)*
                    _ => Code::Unknown,
                }
            }

            /// The number that the interface gives it.
            pub(crate) fn raw(self) -> i32 {
                match self {
                    $(Code::$name => $number,)*
                }
            }
        }

        impl fmt::Display for Code {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(match self {
                    $(Code::$name => $text,)*
                })
            }
        }
    };
}

codes! {
    /// The work was cancelled, usually by whoever asked for it.
    Cancelled = 1, "cancelled";
    /// No more precise code fits.
    Unknown = 2, "unknown error";
    /// An argument is wrong whatever the state of the system (a program that does not parse, say).
    InvalidArgument = 3, "invalid argument";
    /// It took too long.
    DeadlineExceeded = 4, "deadline exceeded";
    /// Something that was named does not exist.
    NotFound = 5, "not found";
    /// Something that was to be made exists.
    AlreadyExists = 6, "already exists";
    /// Not allowed.
    PermissionDenied = 7, "permission denied";
    /// Out of memory, usually the device's.
    ResourceExhausted = 8, "resource exhausted";
    /// The system is not in a state that allows this.
    FailedPrecondition = 9, "failed precondition";
    /// Aborted, usually because of another operation.
    Aborted = 10, "aborted";
    /// Past the valid range.
    OutOfRange = 11, "out of range";
    /// The plugin does not implement this.
    Unimplemented = 12, "unimplemented";
    /// The plugin found itself in a state it thought impossible.
    Internal = 13, "internal error";
    /// Not available at the moment.
    Unavailable = 14, "unavailable";
    /// Data was lost for good.
    DataLoss = 15, "data loss";
    /// No valid credentials.
    Unauthenticated = 16, "unauthenticated";
}
