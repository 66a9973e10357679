//! What the kernel takes away: file descriptors, environment, resources, files (landlock), system calls (seccomp).

// Talks to the kernel through libc; each call takes plain values or a pointer to a local.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::io;

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetStatus, Scope};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompFilter, SeccompRule,
};

use super::Settings;
use super::last_words::{self, check};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The first half, before any thread is started: threads inherit it. Answers whether landlock holds; a kernel without it
/// still denies files by seccomp.
///
/// # Errors
/// When the kernel refuses a limit.
pub fn confine_process(settings: &Settings) -> io::Result<bool> {
    // SAFETY: plain values; no other thread runs yet, so nobody reads the environment.
    unsafe {
        // A second arena reserves address space that the limit below counts.
        libc::mallopt(libc::M_ARENA_MAX, 1);
        check(libc::clearenv())?;
        // Without it the C library looks for the machine's own time zone, on which no script's dates may depend.
        check(libc::setenv(c"TZ".as_ptr(), c"UTC0".as_ptr(), 1))?;
        close_inherited_files()?;
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        check(libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0))?;
        // Writing past RLIMIT_FSIZE (stderr may be a file) fails instead of killing.
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
    limit(libc::RLIMIT_AS, (settings.memory_mb as u64) << 20)?;
    limit(libc::RLIMIT_FSIZE, 0)?;
    limit(libc::RLIMIT_NOFILE, 16)?;
    limit(libc::RLIMIT_CORE, 0)?;
    Ok(deny_files().unwrap_or(false))
}

/// The second half, once all threads run: it binds every one of them, and none can be started after it.
///
/// # Errors
/// When the kernel has no seccomp, or refuses the filter.
pub fn confine_system_calls() -> io::Result<()> {
    limit(libc::RLIMIT_NPROC, 0)?;
    // Of several filters the strictest answer counts, so the calls that fail softly are allowed by the second.
    install(soft_calls(), SeccompAction::Allow, SeccompAction::Errno(libc::EPERM.unsigned_abs()))?;
    let mut allowed = allowed_calls().map_err(io::Error::other)?;
    allowed.extend(soft_calls());
    install(allowed, SeccompAction::KillProcess, SeccompAction::Allow)
}

unsafe fn close_inherited_files() -> io::Result<()> {
    // SAFETY: the caller runs alone; nothing here holds a descriptor above 2.
    let status = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) };
    if status == 0 {
        return Ok(());
    }
    (3..1024).for_each(|fd| {
        // SAFETY: as above; closing what is not open does nothing.
        unsafe { libc::close(fd) };
    });
    Ok(())
}

fn limit(resource: libc::__rlimit_resource_t, most: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: a valid pointer to a local.
    check(unsafe { libc::setrlimit(resource, &raw const limit) })
}

/// Landlock with every right handled and none granted.
fn deny_files() -> Result<bool, landlock::RulesetError> {
    let abi = ABI::V6;
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?;
    Ok(ruleset.create()?.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
}

/// Answered with EPERM: the C library tries them and can do without.
fn soft_calls() -> Rules {
    let mut calls = vec![
        libc::SYS_openat,
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_readlinkat,
        libc::SYS_prlimit64,
        libc::SYS_sysinfo,
        libc::SYS_sched_getaffinity,
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend([libc::SYS_open, libc::SYS_stat, libc::SYS_readlink, libc::SYS_access]);
    calls.into_iter().map(|call| (call, Vec::new())).collect()
}

/// All that a step needs: its two pipes, memory that is not executable, the clock of its own CPU time, and an end.
fn allowed_calls() -> Result<Rules, seccompiler::BackendError> {
    // SAFETY: always succeeds.
    let this_process = u64::from(unsafe { libc::getpid() }.unsigned_abs());
    let argument = |index, op, value| SeccompCondition::new(index, Len::Dword, op, value).and_then(|c| SeccompRule::new(vec![c]));
    let not_executable = || argument(2, Op::MaskedEq(libc::PROT_EXEC as u64), 0);
    let lower_itself = || {
        let is = |index, value| SeccompCondition::new(index, Len::Dword, Op::Eq, value);
        let own = vec![is(0, last_words::script_thread())?, is(1, u64::from(last_words::YIELDING.unsigned_abs()))?];
        SeccompRule::new(own)
    };
    let outputs = || Ok(vec![argument(0, Op::Eq, 1)?, argument(0, Op::Eq, 2)?]);
    let mut rules = Rules::from([
        (libc::SYS_read, vec![argument(0, Op::Eq, 0)?]),
        (libc::SYS_write, outputs()?),
        (libc::SYS_writev, outputs()?),
        (libc::SYS_mmap, vec![not_executable()?]),
        (libc::SYS_mprotect, vec![not_executable()?]),
        (libc::SYS_sched_setscheduler, vec![lower_itself()?]),
        (libc::SYS_tgkill, vec![argument(0, Op::Eq, this_process)?]), // `abort`
    ]);
    let free = [
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_clock_gettime,
        libc::SYS_getrandom, // seeds of hash maps, which no output depends on
        libc::SYS_setitimer,
        libc::SYS_rt_sigreturn,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_sigaltstack,
        libc::SYS_restart_syscall,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    rules.extend(free.into_iter().map(|call| (call, Vec::new())));
    Ok(rules)
}

fn install(rules: Rules, otherwise: SeccompAction, listed: SeccompAction) -> io::Result<()> {
    let arch = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let filter = SeccompFilter::new(rules, otherwise, listed, arch).map_err(io::Error::other)?;
    let program: BpfProgram = filter.try_into().map_err(io::Error::other)?;
    seccompiler::apply_filter_all_threads(&program).map_err(io::Error::other)
}
