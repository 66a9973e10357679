//! The process has nothing to take: the self-test, and proof that the self-test can fail.

use std::collections::HashSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};
use tollgate_codemode::wire::{Limits, Outcome, StepReply, read_frame};

use crate::support::{BINARY, Process, step_of};

const PROBES: [&str; 24] = [
    "open",
    "create",
    "stat",
    "unlink",
    "socket",
    "unix-socket",
    "exec",
    "fork",
    "thread",
    "ptrace",
    "kill",
    "process-memory",
    "executable-memory",
    "pipe",
    "io-uring",
    "fd-scan",
    "dup",
    "prctl",
    "unshare",
    "memfd",
    "made-executable",
    "bpf",
    "lift-limits",
    "mount",
];

#[test]
fn everything_is_denied() {
    let output = Command::new(BINARY).arg("--self-test").output().unwrap();
    let report = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{report}");
    let lines: HashSet<&str> = report.lines().collect();
    assert!(lines.contains("nothing: works"), "{report}");
    for probe in PROBES {
        assert!(
            lines.contains(format!("{probe}: denied (killed)").as_str())
                || lines.contains(format!("{probe}: denied (error)").as_str()),
            "{probe}\n{report}"
        );
    }
    assert_eq!(lines.len(), PROBES.len() + 1);
}

/// Each probe, in a process that is not locked down, must not look refused: else the test above proves nothing.
#[test]
fn the_probes_succeed_where_nothing_is_locked_down() {
    const ALLOWED: Option<i32> = Some(11);
    for probe in [
        "open",
        "create",
        "stat",
        "unlink",
        "socket",
        "unix-socket",
        "thread",
        "kill",
        "executable-memory",
        "pipe",
        "ptrace",
        "fd-scan",
        "dup",
        "prctl",
        "memfd",
        "made-executable",
        "lift-limits",
    ] {
        let status = Command::new(BINARY).args(["--probe-unconfined", probe]).stderr(Stdio::null()).status().unwrap();
        assert_eq!(status.code(), ALLOWED, "{probe}");
    }
    let exec = Command::new(BINARY).args(["--probe-unconfined", "exec"]).status().unwrap();
    assert_eq!(exec.code(), Some(0), "/bin/true took the process's place");
}

/// What the kernel says of a serving process.
#[test]
fn the_kernels_view() {
    let mut process = Process::start();
    let reply = process.step(&step_of("result = 1", Vec::new(), Limits::default())).unwrap();
    assert!(matches!(reply.outcome, Outcome::Done { .. }));
    let proc = format!("/proc/{}", process.child.id());
    let status = fs::read_to_string(format!("{proc}/status")).unwrap();
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(str::trim).unwrap_or_default().to_owned();
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2");
    assert_eq!(field("Seccomp_filters:"), "2");
    let limits = fs::read_to_string(format!("{proc}/limits")).unwrap();
    let limit = |name: &str| {
        limits
            .lines()
            .find_map(|l| l.strip_prefix(name))
            .and_then(|l| l.split_whitespace().next().map(str::to_owned))
            .unwrap_or_default()
    };
    assert_eq!(limit("Max address space"), (512u64 << 20).to_string());
    assert_eq!(limit("Max file size"), "0");
    assert_eq!(limit("Max open files"), "16");
    assert_eq!(limit("Max processes"), "0");
    assert_eq!(limit("Max core file size"), "0");
    // Readable only by a privileged user, since the process is not dumpable.
    if let Ok(files) = fs::read_dir(format!("{proc}/fd")) {
        assert_eq!(files.count(), 3);
    }
}

/// A reply that is none is an error of the reader's, whatever it says of its length.
#[test]
fn forged_frames() {
    for forged in ["forged-length", "forged-half", "forged-shape", "forged-text"] {
        let child = Command::new(BINARY).args(["--probe", forged]).stdin(Stdio::null()).stdout(Stdio::piped()).output().unwrap();
        assert_eq!(child.status.code(), Some(11), "{forged}: nothing keeps a process from writing");
        assert!(!child.stdout.is_empty());
        let read = read_frame::<StepReply>(&mut child.stdout.as_slice());
        assert!(read.is_err(), "{forged}: {read:?}");
    }
}

/// Make the kernel look as if it had no such system calls.
#[allow(unsafe_code)] // SAFETY: between fork and exec only system calls are made; the filter was built before
fn without(command: &mut Command, calls: &[(i64, Option<u64>)]) {
    let rule = |argument: Option<u64>| {
        let equals = |value| SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value).unwrap();
        argument.map(|value| SeccompRule::new(vec![equals(value)]).unwrap()).into_iter().collect::<Vec<_>>()
    };
    let rules = calls.iter().map(|(call, argument)| (*call, rule(*argument))).collect();
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, missing, arch).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    unsafe { command.pre_exec(move || seccompiler::apply_filter(&program).map_err(std::io::Error::other)) };
}

#[test]
fn no_script_runs_where_a_wall_is_missing_unless_the_operator_says_so() {
    let no_seccomp = [(libc::SYS_seccomp, None), (libc::SYS_prctl, Some(u64::from(libc::PR_SET_SECCOMP.unsigned_abs())))];
    for (wall, calls) in [("landlock", &[(libc::SYS_landlock_create_ruleset, None)][..]), ("seccomp", &no_seccomp)] {
        let command = |flags: &[&str]| {
            let mut command = Command::new(BINARY);
            command.args(flags).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            without(&mut command, calls);
            command
        };
        let refused = command(&[]).output().unwrap();
        let said = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(78), "{wall}: {said}");
        assert!(said.contains(&format!("{wall} is not available")) && said.contains("--allow-unconfined"), "{wall}: {said}");

        let mut process = Process::of(command(&["--allow-unconfined"]).stderr(Stdio::null()));
        let reply = process.step(&step_of("result = 1", Vec::new(), Limits::default())).unwrap();
        assert!(matches!(reply.outcome, Outcome::Done { .. }), "{wall}: {reply:?}");
        process.kill();

        let report = command(&["--walls"]).output().unwrap();
        let other = if wall == "landlock" { "seccomp" } else { "landlock" };
        let said = String::from_utf8(report.stdout).unwrap();
        assert_eq!(report.status.code(), Some(78), "{wall}: {said}");
        assert!(said.contains(&format!("{wall}: missing")) && said.contains(&format!("{other}: yes")), "{said}");
    }
    let whole = Command::new(BINARY).arg("--walls").output().unwrap();
    assert_eq!(String::from_utf8(whole.stdout).unwrap(), "landlock: yes\nseccomp: yes\n");
    assert!(whole.status.success());
}

#[test]
fn flags() {
    let version = Command::new(BINARY).arg("--version").output().unwrap();
    assert_eq!(String::from_utf8(version.stdout).unwrap().trim(), tollgate_sandbox::ENGINES.join("\n"));
    for wrong in [&["--no-such-flag"][..], &["--memory-mb"], &["--memory-mb", "10"], &["--step-seconds", "0"]] {
        let status = Command::new(BINARY).args(wrong).stderr(Stdio::null()).status().unwrap();
        assert_eq!(status.code(), Some(64), "{wrong:?}");
    }
    let mut small = Process::with(&["--memory-mb", "200", "--step-seconds", "1"]);
    let reply = small.step(&step_of("x = \"a\" * 100000000", Vec::new(), Limits::default())).unwrap();
    let Outcome::Failed { error } = reply.outcome else { panic!() };
    assert!(error.message.contains("memory (200 MB)"), "{}", error.message);
}
