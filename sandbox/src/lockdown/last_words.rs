//! How a step that cannot be stopped ends its process, and still says why.
//!
//! The interpreter can be interrupted between two instructions of a script, never within a native operation: `[0] *
//! 10**9`, `max(range(2**31 - 1))`, or comparing two values a million levels deep. So the allocator, a timer and the
//! handler of stack overflows each write one prepared reply to stdout and end the process.

// A global allocator, signal handlers and raw writes cannot be had without unsafe. Everything that runs in a handler is
// async-signal-safe: atomics, `write`, `_exit`.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use tollgate_codemode::wire::{ErrorKind, ScriptError, StepReply, write_frame};

use super::{STACK_BYTES, Settings};
use crate::engine::Limit;

/// The exit status of a process that ended this way.
const EXIT: i32 = 3;

struct Words {
    memory: Vec<u8>,
    time: Vec<u8>,
    stack: Vec<u8>,
    crash: Vec<u8>,
}

/// Of the step under way. What it points to is never freed: a handler may be reading it.
static WORDS: AtomicPtr<Words> = AtomicPtr::new(std::ptr::null_mut());
/// The memory (MB) and time (ms) that they speak of.
static SPOKEN_OF: Mutex<(usize, u32)> = Mutex::new((0, 0));

/// Whether a frame may be written: not while the reply proper is on its way, and only once.
static STATE: AtomicU8 = AtomicU8::new(QUIET);
const QUIET: u8 = 0;
const ARMED: u8 = 1;
const SPOKEN: u8 = 2;

/// Serialise the replies, while there is memory to do so. Steps of one tenant have the same limits but for the moment in which they
/// are changed: so little is leaked.
pub fn prepare(memory_mb: usize, step_milliseconds: u32) {
    let mut spoken_of = SPOKEN_OF.lock().unwrap_or_else(PoisonError::into_inner);
    if *spoken_of == (memory_mb, step_milliseconds) {
        return;
    }
    *spoken_of = (memory_mb, step_milliseconds);
    let crash =
        ScriptError { kind: ErrorKind::Sandbox, message: "The script crashed its interpreter.".into(), line: None, column: None };
    let words = Box::new(Words {
        memory: frame(Limit::Memory(memory_mb).error(None)),
        time: frame(Limit::Time(step_milliseconds).error(None)),
        stack: frame(Limit::Stack.error(None)),
        crash: frame(crash),
    });
    WORDS.store(Box::into_raw(words), Ordering::SeqCst);
}

fn frame(error: ScriptError) -> Vec<u8> {
    let mut bytes = Vec::new();
    let reply = StepReply::failed(error);
    // Cannot fail: the frame is small and a Vec takes it.
    let _ = write_frame(&mut bytes, &reply);
    bytes
}

/// From now on a disaster may write a reply.
pub fn arm() {
    STATE.store(ARMED, Ordering::SeqCst);
}

/// The reply proper is about to be written. If a disaster was faster, this does not return.
pub fn disarm() {
    if STATE.compare_exchange(ARMED, QUIET, Ordering::SeqCst, Ordering::SeqCst) == Err(SPOKEN) {
        wait_for_the_end();
    }
}

/// Write the frame and end the process; returns only when no reply may be written now.
fn speak(choose: impl Fn(&Words) -> &Vec<u8>) {
    match STATE.compare_exchange(ARMED, SPOKEN, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => {
            // SAFETY: null, or from `Box::into_raw` and never freed.
            if let Some(words) = unsafe { WORDS.load(Ordering::SeqCst).as_ref() } {
                let frame = choose(words);
                // SAFETY: the buffer lives for ever and `write` is async-signal-safe. The frame is smaller than PIPE_BUF, so
                // it arrives whole or not at all.
                unsafe { libc::write(1, frame.as_ptr().cast(), frame.len()) };
            }
            // SAFETY: ends the process without running anything else.
            unsafe { libc::_exit(EXIT) }
        }
        Err(SPOKEN) => wait_for_the_end(),
        Err(_) => {}
    }
}

/// Another thread has spoken and is about to exit.
fn wait_for_the_end() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

// --- memory ---------------------------------------------------------------------------------------------------------

/// The system's allocator with a count of what it handed out.
pub struct Metered;

/// A step needs this much of its own, whatever its script does.
const LEAST_HEAP: usize = 8 << 20;

static USED: AtomicUsize = AtomicUsize::new(0);
static CEILING: AtomicUsize = AtomicUsize::new(usize::MAX);

pub fn limit_memory(settings: &Settings) {
    CEILING.store(settings.heap_bytes(), Ordering::Relaxed);
}

/// For one step: what its values may take (the interpreter sees to that between two instructions), and as much again twice for what
/// it makes of them meanwhile, on top of what the process holds already. Returns by how much memory (MB) the step is bounded.
pub fn limit_step(settings: &Settings, heap_bytes: u64) -> usize {
    let values = usize::try_from(heap_bytes).unwrap_or(usize::MAX).max(LEAST_HEAP);
    let own = values.saturating_mul(3);
    let ceiling = USED.load(Ordering::Relaxed).saturating_add(own);
    CEILING.store(ceiling.min(settings.heap_bytes()), Ordering::Relaxed);
    if ceiling < settings.heap_bytes() { own >> 20 } else { settings.memory_mb }
}

impl Metered {
    fn take(bytes: usize) -> bool {
        let used = USED.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if used <= CEILING.load(Ordering::Relaxed) {
            return true;
        }
        speak(|words| &words.memory);
        USED.fetch_sub(bytes, Ordering::Relaxed);
        false
    }

    fn given(pointer: *mut u8) -> *mut u8 {
        if pointer.is_null() {
            speak(|words| &words.memory);
        }
        pointer
    }
}

// SAFETY: every request is passed to `System` as it came; a refused one answers null, as the contract allows.
unsafe impl GlobalAlloc for Metered {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !Self::take(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's contract is System's.
        Self::given(unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !Self::take(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's contract is System's.
        Self::given(unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's contract is System's.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !Self::take(new_size) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's contract is System's.
        let moved = Self::given(unsafe { System.realloc(pointer, layout, new_size) });
        USED.fetch_sub(if moved.is_null() { new_size } else { layout.size() }, Ordering::Relaxed);
        moved
    }
}

// --- time -----------------------------------------------------------------------------------------------------------

/// A step that computes for longer than this lets others go first, so that a script that means ill, or well and much, does not slow
/// down its neighbours. It is for good: no process may raise itself again, and the next steps of it are the same tenant's.
const BRIEF_MS: u32 = 20;
/// How it lets them go first: it runs when nobody else wants the processor, and whoever does takes it from it at once. A lower
/// priority alone would not do: the scheduler lets it finish its slice, milliseconds for each of a neighbour's steps.
pub(super) const YIELDING: libc::c_int = libc::SCHED_IDLE;

static NO_PRIORITY: libc::sched_param = libc::sched_param { sched_priority: 0 };
/// What is left of the step's time behind its first milliseconds.
static REST_MS: AtomicU32 = AtomicU32::new(0);
/// The thread that runs scripts.
static THREAD: AtomicI32 = AtomicI32::new(0);

/// The one thread that may stand behind all others.
pub(super) fn script_thread() -> u64 {
    u64::from(THREAD.load(Ordering::Relaxed).unsigned_abs())
}

/// Start the step's clock. It counts the process's own CPU time: a busy machine must not fail an innocent script. (The
/// gateway holds a wall clock over the process as well.)
pub fn start_clock(milliseconds: u32) {
    let brief = milliseconds.min(BRIEF_MS);
    REST_MS.store(milliseconds - brief, Ordering::Relaxed);
    set_clock(brief);
}

pub fn stop_clock() {
    REST_MS.store(0, Ordering::Relaxed);
    set_clock(0);
}

fn set_clock(milliseconds: u32) {
    let zero = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let timer = libc::itimerval {
        it_interval: zero,
        it_value: libc::timeval { tv_sec: i64::from(milliseconds / 1000), tv_usec: i64::from(milliseconds % 1000) * 1000 },
    };
    // SAFETY: a valid timer, and no interest in the old one.
    unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const timer, std::ptr::null_mut()) };
}

extern "C" fn on_clock(_signal: libc::c_int) {
    let rest = REST_MS.swap(0, Ordering::Relaxed);
    if rest == 0 {
        return speak(|words| &words.time);
    }
    // SAFETY: two system calls, and what was interrupted does not see what they say of errors: there is nothing to be done about one.
    unsafe {
        let errno = *libc::__errno_location();
        libc::sched_setscheduler(THREAD.load(Ordering::Relaxed), YIELDING, &raw const NO_PRIORITY);
        set_clock(rest);
        *libc::__errno_location() = errno;
    }
}

// --- stack ----------------------------------------------------------------------------------------------------------

/// The lowest address of the watched thread's stack.
static STACK_LOW: AtomicUsize = AtomicUsize::new(0);
/// How far from it a fault still counts as an overflow.
const STACK_SLACK: usize = 1 << 20;
const HANDLER_STACK_BYTES: usize = 64 << 10;

/// Handle faults of the calling thread, which has `STACK_BYTES` of stack.
///
/// # Errors
/// When the kernel refuses.
pub fn watch_stack() -> io::Result<()> {
    let here = 0u8;
    // SAFETY: always succeeds.
    THREAD.store(unsafe { libc::gettid() }, Ordering::Relaxed);
    STACK_LOW.store((&raw const here as usize).saturating_sub(STACK_BYTES), Ordering::Relaxed);

    // A thread that is out of stack handles the signal on another one, which is never freed.
    let memory: &'static mut [u8] = Box::leak(vec![0u8; HANDLER_STACK_BYTES].into_boxed_slice());
    let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: HANDLER_STACK_BYTES };
    // SAFETY: the memory is ours for ever.
    check(unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) })?;

    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT, libc::SIGILL, libc::SIGFPE] {
        handle(signal, on_fault as extern "C" fn(_, _, _) as usize)?;
    }
    handle(libc::SIGPROF, on_clock as extern "C" fn(_) as usize)
}

fn handle(signal: libc::c_int, handler: usize) -> io::Result<()> {
    // SAFETY: all zeros is a valid sigaction; the handler has the signature that SA_SIGINFO asks for, or a shorter one.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        check(libc::sigaction(signal, &raw const action, std::ptr::null_mut()))
    }
}

extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo, whose address is set for faults.
    let address = unsafe { (*info).si_addr() } as usize;
    let overflow = signal == libc::SIGSEGV && address.abs_diff(STACK_LOW.load(Ordering::Relaxed)) < STACK_SLACK;
    speak(|words| if overflow { &words.stack } else { &words.crash });
    // SAFETY: no reply may be written; ends the process without running anything else.
    unsafe { libc::_exit(EXIT) }
}

pub(super) fn check(status: libc::c_int) -> io::Result<()> {
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
