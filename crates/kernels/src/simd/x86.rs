//! How the levels of x86 are written: methods that are one instruction each.

/// Methods whose bodies are calls of intrinsics.
macro_rules! instructions {
    ($(fn $name:ident(self $(, $argument:ident: $type:ty)*) -> $result:ty { $body:expr })*) => { $(
        #[inline(always)]
        fn $name(self $(, $argument: $type)*) -> $result {
            // SAFETY: `self` exists only where the processor was found to have the instructions, and
            // what is read or written is a borrowed array of exactly the vector's size.
            unsafe { $body }
        }
    )* };
}

pub(super) use instructions;
