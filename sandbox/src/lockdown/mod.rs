//! What a sandbox process may do once it is locked down: compute, read its stdin, write its stdout. It has no files, no
//! network, no other processes, and bounded memory and time; what remains of a script's reach is the value it returns.

mod confine;
mod last_words;
pub mod selftest;

pub use self::confine::{confine_process, confine_system_calls};
pub use self::last_words::{Metered, arm, disarm, limit_memory, limit_step, prepare, start_clock, stop_clock, watch_stack};

/// Stack of the thread that runs scripts. The depth of syntax trees is bounded such that they fit with room to spare;
/// values have no such bound, and overflow ends in a typed reply.
pub const STACK_BYTES: usize = 64 << 20;

/// Address space that is neither stack nor script: the program's text, its libraries, the allocator's slack.
const OVERHEAD_BYTES: usize = 64 << 20;

#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub memory_mb: usize,
    pub step_seconds: u32,
    /// Run even where the kernel offers no landlock or no seccomp.
    pub allow_unconfined: bool,
}

impl Settings {
    pub const MIN_MEMORY_MB: usize = 192;

    /// Of one step.
    #[must_use]
    pub const fn step_milliseconds(&self) -> u32 {
        self.step_seconds.saturating_mul(1000)
    }

    /// What the allocator hands out before it ends the process: less than the address space, so that a script learns of it.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        (self.memory_mb << 20).saturating_sub(STACK_BYTES + OVERHEAD_BYTES)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { memory_mb: 512, step_seconds: 2, allow_unconfined: false }
    }
}
