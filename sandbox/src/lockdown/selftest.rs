//! `--self-test`: lock down a fresh process for each forbidden act, let it try, and report how it was stopped.

// SAFETY, for all of it: the probes are raw system calls, since libraries would refuse some of them before the kernel
// could. They pass constants and locals, and run in a process that exists for the attempt alone.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, Stdio};

/// How a probe's process ends when the kernel refused its system call, and when it did not.
const REFUSED: u8 = 10;
const ALLOWED: u8 = 11;
const WORKS: u8 = 12;

struct Probe {
    name: &'static str,
    /// The system call's result: negative is a refusal.
    attempt: fn() -> i64,
}

const PROBES: &[Probe] = &[
    Probe { name: "open", attempt: || unsafe { libc::open(c"/etc/passwd".as_ptr(), libc::O_RDONLY) }.into() },
    Probe {
        name: "create",
        attempt: || unsafe { libc::open(c"/tmp/tollgate-probe".as_ptr(), libc::O_CREAT | libc::O_WRONLY, 0o600) }.into(),
    },
    Probe { name: "stat", attempt: || unsafe { libc::access(c"/etc/passwd".as_ptr(), libc::F_OK) }.into() },
    Probe { name: "unlink", attempt: || unsafe { libc::unlink(c"/tmp/tollgate-probe".as_ptr()) }.into() },
    Probe { name: "socket", attempt: || unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) }.into() },
    Probe { name: "unix-socket", attempt: || unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) }.into() },
    Probe { name: "exec", attempt: exec },
    Probe { name: "fork", attempt: || unsafe { libc::fork() }.into() },
    Probe { name: "thread", attempt: || std::thread::Builder::new().spawn(|| ()).map_or(-1, |_| 0) },
    Probe { name: "ptrace", attempt: || unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) } },
    Probe { name: "kill", attempt: || unsafe { libc::kill(libc::getppid(), 0) }.into() },
    Probe { name: "process-memory", attempt: || unsafe { libc::syscall(libc::SYS_process_vm_readv, 1, 0, 0, 0, 0, 0) + 1 } },
    Probe { name: "executable-memory", attempt: executable_memory },
    Probe { name: "pipe", attempt: || unsafe { libc::pipe([0; 2].as_mut_ptr()) }.into() },
    Probe { name: "io-uring", attempt: || unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, 0) + 1 } },
    Probe { name: "fd-scan", attempt: fd_scan },
    Probe { name: "dup", attempt: || unsafe { libc::dup(0) }.into() },
    Probe { name: "prctl", attempt: || unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) }.into() },
    Probe { name: "unshare", attempt: || unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) }.into() },
    Probe { name: "memfd", attempt: || unsafe { libc::memfd_create(c"probe".as_ptr(), 0) }.into() },
    Probe { name: "made-executable", attempt: made_executable },
    Probe { name: "bpf", attempt: || unsafe { libc::syscall(libc::SYS_bpf, 0, 0, 0) + 1 } },
    Probe { name: "lift-limits", attempt: lift_limits },
    Probe {
        name: "mount",
        attempt: || unsafe { libc::mount(c"x".as_ptr(), c"/".as_ptr(), c"tmpfs".as_ptr(), 0, std::ptr::null()) + 1 }.into(),
    },
];

fn exec() -> i64 {
    let argv = [c"/bin/true".as_ptr(), std::ptr::null()];
    unsafe { libc::execve(argv[0], argv.as_ptr(), std::ptr::null()) }.into()
}

fn executable_memory() -> i64 {
    let (prot, flags) = (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let mapped = unsafe { libc::mmap(std::ptr::null_mut(), 4096, prot, flags, -1, 0) };
    if mapped == libc::MAP_FAILED { -1 } else { 0 }
}

/// Is anything open beyond the three streams?
fn fd_scan() -> i64 {
    let mut byte = 0u8;
    let open = (3..64).any(|fd| unsafe { libc::read(fd, (&raw mut byte).cast(), 0) } >= 0);
    let control = unsafe { libc::fcntl(1, libc::F_GETFD) };
    if open { 0 } else { i64::from(control) }
}

/// Memory that is written first and made executable afterwards.
fn made_executable() -> i64 {
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let mapped = unsafe { libc::mmap(std::ptr::null_mut(), 4096, prot, flags, -1, 0) };
    if mapped == libc::MAP_FAILED {
        return 0; // not what was to be probed
    }
    unsafe { libc::mprotect(mapped, 4096, libc::PROT_READ | libc::PROT_EXEC) }.into()
}

fn lift_limits() -> i64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    unsafe { libc::prlimit(0, libc::RLIMIT_AS, std::ptr::null(), &raw mut limit) }.into()
}

/// Replies as a process might write them that is no longer its own; the reader must not be led astray. (Nothing can keep a
/// process from writing to its stdout: a reply is believed in nothing that authority depends on.)
#[must_use]
pub fn forged(name: &str) -> Option<&'static [u8]> {
    Some(match name {
        "forged-length" => b"\xff\xff\xff\xff{}",
        "forged-half" => b"\x40\0\0\0{\"outcome\":",
        "forged-shape" => b"\x0f\0\0\0{\"outcome\":\"x\"}",
        "forged-text" => b"\x04\0\0\0\xff\xfe\xfd\xfc",
        _ => return None,
    })
}

/// Run in a process that is (or, to see the probe itself work, is not) locked down.
#[must_use]
pub fn attempt(name: &str) -> ExitCode {
    if name == "nothing" {
        return ExitCode::from(WORKS);
    }
    if let Some(frame) = forged(name) {
        let written = unsafe { libc::write(1, frame.as_ptr().cast(), frame.len()) };
        return ExitCode::from(if written < 0 { REFUSED } else { ALLOWED });
    }
    let Some(probe) = PROBES.iter().find(|p| p.name == name) else { return ExitCode::FAILURE };
    ExitCode::from(if (probe.attempt)() < 0 { REFUSED } else { ALLOWED })
}

/// Try everything; success means that everything was refused and that a process which tries nothing lives.
///
/// # Errors
/// When this program cannot be started again.
pub fn run(flags: &[String]) -> io::Result<bool> {
    let mut all_refused = true;
    for name in std::iter::once("nothing").chain(PROBES.iter().map(|p| p.name)) {
        let status = Command::new(std::env::current_exe()?)
            .args(flags)
            .args(["--probe", name])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        let (refused, how) = match (status.code().and_then(|c| u8::try_from(c).ok()), status.signal()) {
            (Some(WORKS), _) => (name == "nothing", "works"),
            (_, Some(libc::SIGSYS)) if name != "nothing" => (true, "denied (killed)"),
            (Some(REFUSED), _) => (true, "denied (error)"),
            _ => (false, "NOT DENIED"),
        };
        println!("{name}: {how}");
        all_refused &= refused;
    }
    Ok(all_refused)
}
