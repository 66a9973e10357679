//! Scripts that no check within the interpreter can stop: each ends its process, quickly and with its reason.

use serde_json::json;
use tollgate_codemode::wire::{ErrorKind, Limits, Outcome};

use crate::support::{Process, failure, in_process, step_of};

/// Kind Limit, and which.
#[track_caller]
fn ends(source: &str, limit: &str) {
    let reply = in_process(source).expect("last words");
    let error = failure(&reply);
    assert_eq!(error.kind, ErrorKind::Limit, "{error:?}");
    assert!(error.message.starts_with(&format!("Limit reached: {limit}")), "{}", error.message);
}

#[test]
fn memory() {
    ends("x = [0] * 1000000000", "memory (512 MB)");
    ends("s = \"a\" * 10000000\nx = \"\".join([s for i in range(1000)])", "text (1048576 bytes");
    ends("s = \"a\" * 10000000\nx = (\"{}\" * 200).format(*[s] * 200)", "text (1048576 bytes");
    ends("y = \"x\".ljust(2000000000)", "text (1048576 bytes");
    ends("x = (0,) * 1000000000", "memory (512 MB)");
    ends("x = \"a\"\nfor i in range(40): x = x + x", "memory (512 MB)");
    ends("x = list(range(2000000000))", "memory (512 MB)");
}

#[test]
fn time() {
    ends("x = max(range(2147483647))", "ticks");
    ends("x = 7\nfor i in range(60): x = x * x", "time (2 s");
    ends("x = [1]\nfor i in range(60): x = [x, x]\nprint(x)", "text (1048576 bytes");
    ends("x, y = [1], [1]\nfor i in range(60): x, y = [x, x], [y, y]\nx == y", "time (2 s");
}

/// Whatever the engine adds to Starlark is bounded as well: by ticks, by a limit of its own, or by the process's.
#[test]
fn what_the_engine_adds_is_bounded() {
    ends("any(x < 0 for x in range(2000000000))", "heap");
    ends("list(map(lambda x: x, range(2000000000)))", "memory (512 MB)");
    ends("filter(lambda x: False, range(2000000000))", "ticks");
    ends("x = sum(range(2000000000))", "ticks");
    ends("xs = list(range(1000))\nwhile True: sorted(xs, key=lambda x: -x)", "heap");
    ends("import itertools\nwhile True:\n  try:\n    fail()\n  except Exception:\n    pass", "heap");
    ends("import re\nre.sub('', 'x' * 1000000, 'a' * 1000000)", "text (1048576 bytes");
    ends("import re\nre.findall('(a|a)*b', 'a' * 2000000)", "text (1048576 bytes");
    ends("import json\nx = [1]\nfor i in range(40): x = [x, x]\njson.dumps(x, indent=16)", "json.encode");
    ends("class A:\n  def __init__(self): self.a = self\nx = A()\nresult = x", "depth");
    ends("def f(n):\n  try:\n    return f(n + 1)\n  except Exception:\n    return 0\nf(0)", "call stack");
    for source in [
        "import re\nre.findall('(a*)*b', 'a' * 900000)",
        "import re\nre.compile('(((a{100}){100}){100}){100}')",
        "import itertools\nlist(itertools.product(*[range(100)] * 10))",
        "x = '%1000000000d' % 1",
        "import datetime\ndatetime.datetime(9999, 12, 31) + datetime.timedelta(days=10 ** 9)",
        "class A:\n  def __init__(self): self.a = self\nx = A()\nprint(x)",
    ] {
        let reply = in_process(source).unwrap_or_else(|| panic!("no last words: {source}"));
        assert!(!matches!(reply.outcome, Outcome::Need { .. }), "{source}");
    }
}

#[test]
fn directed_graphs_as_json() {
    ends("x = [1]\nfor i in range(60): x = [x, x]\nresult = x", "result");
    ends("x = [1]\nfor i in range(60): x = [x, x]\njson.encode(x)", "json.encode");
    ends("x = [1]\nfor i in range(60): x = [x, x]\ncrm.notes(x=x)", "arguments");
}

#[test]
fn parser() {
    ends(&("x=".to_owned() + &"(".repeat(30_000)), "expression");
    ends(&("x=".to_owned() + &"not ".repeat(15_000) + "1"), "expression");
    ends(&("x=1".to_owned() + &"+1".repeat(30_000)), "expression");
    ends(&("if 0:\n pass\n".to_owned() + &"elif 0:\n pass\n".repeat(4_000)), "elif");
}

#[test]
fn depth_of_values() {
    ends("x = 1\nfor i in range(1000000): x = struct(a=x)\nprint(x)", "native stack");
    let reply = in_process("x, y = [], []\nfor i in range(300000): x, y = [x], [y]\nx == y").unwrap();
    assert_eq!(failure(&reply).message, "Too many recursion levels");
    // With garbage collection the second loop would trace a million levels.
    let reply = in_process("x = []\nfor i in range(1000000): x = [x]\nfor j in range(200000): y = [j]\nresult = 1").unwrap();
    assert!(matches!(&reply.outcome, Outcome::Done { result } if *result == json!(1)), "{:?}", reply.outcome);
}

#[test]
fn a_process_lives_through_scripts_that_fail_softly() {
    let mut process = Process::start();
    for _ in 0..20 {
        let bad = process.step(&step_of("fail(\"x\")", Vec::new(), Limits::default())).unwrap();
        assert_eq!(failure(&bad).kind, ErrorKind::Runtime);
        let good = process.step(&step_of("result = shop.order", Vec::new(), Limits::default())).unwrap();
        assert_eq!(failure(&good).kind, ErrorKind::Runtime);
        let slow = process.step(&step_of("for i in range(1000000): pass\nresult = 1", Vec::new(), Limits::default()));
        assert!(matches!(slow.unwrap().outcome, Outcome::Done { .. })); // the clock is wound up anew for each step
    }
    assert_eq!(process.end(), Some(0));
}

/// Two scripts in one process share nothing.
#[test]
fn nothing_is_left_behind() {
    let mut process = Process::start();
    let first = process.step(&step_of("secret = 1\njson.secret = 1 if False else 2", Vec::new(), Limits::default())).unwrap();
    assert_eq!(failure(&first).kind, ErrorKind::Runtime);
    let second = process.step(&step_of("result = secret", Vec::new(), Limits::default())).unwrap();
    assert!(failure(&second).message.contains("Unknown name 'secret'"));
}

#[test]
fn bad_frames_are_answered() {
    let mut process = Process::start();
    let reply = process.send(b"\x02\0\0\0{}").unwrap();
    assert_eq!(failure(&reply).kind, ErrorKind::Sandbox);
    assert_eq!(process.end(), Some(65));
    let mut process = Process::start();
    let reply = process.send(&u32::MAX.to_le_bytes()).unwrap();
    assert!(failure(&reply).message.contains("too large"));
}
