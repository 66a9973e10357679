//! Scripts as models write them, each with its fake tools and what must come of it. The format is told in
//! `tests/corpus/README.md`.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value as Json, json};
use tollgate_codemode::wire::{
    Answer, Catalog, CatalogParam, CatalogServer, CatalogTool, JournalEntry, Language, Limits, NOW, Outcome, PendingCall, RANDOM,
    Scalar, Step, StepReply,
};
use tollgate_sandbox::{engine, lockdown::STACK_BYTES};

/// 2025-03-10T12:00:00Z in microseconds; each question is a second later.
const START: i64 = 1_741_608_000_000_000;

#[derive(Default)]
struct Case {
    name: String,
    language: Language,
    script: String,
    tools: Vec<Fake>,
    /// Tools whose parameters are known.
    stubs: Vec<(String, CatalogTool)>,
    result: Option<Json>,
    /// Kind, place, and what the message must contain.
    error: Option<(String, Vec<String>)>,
    log: Option<Vec<String>>,
    /// How many calls each step asked for.
    calls: Option<String>,
    /// What the first step says the script may call.
    may_call: Option<String>,
}

struct Fake {
    tool: String,
    arguments: Map<String, Json>,
    answer: Answer,
}

fn read(path: &Path) -> Vec<Case> {
    let text = fs::read_to_string(path).unwrap();
    text.split("\n=== ").skip(1).map(|case| parse(case, path)).collect()
}

fn parse(text: &str, path: &Path) -> Case {
    let (name, rest) = text.split_once('\n').unwrap();
    let mut sections = rest.split("\n--- ");
    let file = path.file_stem().unwrap().display().to_string();
    let language = if file.starts_with("ts-") { Language::Typescript } else { Language::Python };
    let mut case = Case { name: format!("{file}: {name}"), language, ..Case::default() };
    case.script = sections.next().unwrap().trim_end().to_owned();
    for section in sections {
        let (head, body) = section.split_once('\n').unwrap_or((section, ""));
        let bad = |e: serde_json::Error| -> Json { panic!("{}: {e}: {body}", case.name) };
        match head.split_once(' ').unwrap_or((head, "")) {
            ("tools", _) => case.tools = body.lines().filter(|l| !l.trim().is_empty()).map(fake).collect(),
            ("result", _) => case.result = Some(serde_json::from_str(body.trim()).unwrap_or_else(bad)),
            ("error", place) => {
                let parts = body.lines().filter(|l| !l.trim().is_empty()).map(str::to_owned).collect();
                case.error = Some((place.to_owned(), parts));
            }
            ("log", _) => case.log = Some(body.trim_end().lines().map(str::to_owned).collect()),
            ("stubs", _) => case.stubs = body.lines().filter(|l| !l.trim().is_empty()).map(stub).collect(),
            ("may-call", _) => case.may_call = Some(body.trim().to_owned()),
            ("calls", _) => case.calls = Some(body.trim().to_owned()),
            other => panic!("{}: unknown section {other:?}", case.name),
        }
    }
    assert!(case.result.is_some() || case.error.is_some() || case.log.is_some(), "{} expects nothing", case.name);
    case
}

/// `server.tool {"argument": 1} -> {"answer": 2}`, or `-> !what is wrong`.
fn fake(line: &str) -> Fake {
    let (call, answer) = line.split_once(" -> ").unwrap_or_else(|| panic!("no answer in {line}"));
    let (tool, arguments) = call.split_once(' ').unwrap_or((call, "{}"));
    let json = |text: &str| serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {line}"));
    let answer = match answer.strip_prefix('!') {
        Some(error) => Answer::Error(error.to_owned()),
        None => Answer::Value(json(answer)),
    };
    let Json::Object(arguments) = json(arguments) else { panic!("{line}") };
    Fake { tool: tool.to_owned(), arguments, answer }
}

/// `server.tool(a: str, b?: int|None, state?: "open"|"closed", c?, ...)`
fn stub(line: &str) -> (String, CatalogTool) {
    let (name, params) = line.trim().trim_end_matches(')').split_once('(').unwrap_or_else(|| panic!("no stub: {line}"));
    let (server, tool) = name.split_once('.').unwrap();
    let params: Vec<&str> = params.split(',').map(str::trim).filter(|p| !p.is_empty()).collect();
    let param = |text: &str| {
        let (name, types) = text.split_once(':').unwrap_or((text, ""));
        let required = !name.ends_with('?');
        let name = name.trim_end_matches('?').to_owned();
        let (mut scalars, mut choices) = (Vec::new(), Vec::new());
        for one in types.split('|').map(str::trim).filter(|t| !t.is_empty()) {
            let scalar = match one {
                "int" => Scalar::Int,
                "float" => Scalar::Float,
                "bool" => Scalar::Bool,
                "None" => Scalar::None,
                "list" => Scalar::List,
                "dict" => Scalar::Dict,
                _ => Scalar::Str,
            };
            if !scalars.contains(&scalar) {
                scalars.push(scalar);
            }
            choices.extend(one.strip_prefix('"').map(|c| c.trim_end_matches('"').to_owned()));
        }
        CatalogParam { key: name.trim_end_matches('_').to_owned(), name, required, types: scalars, choices }
    };
    let open = params.contains(&"...");
    let params = params.into_iter().filter(|p| *p != "...").map(param).collect();
    (server.to_owned(), CatalogTool { name: tool.to_owned(), tool_id: format!("tool_{server}_{tool}"), params, open })
}

fn catalog(case: &Case) -> Catalog {
    let mut servers: Vec<CatalogServer> = Vec::new();
    let fakes = case.tools.iter().map(|fake| {
        let (server, tool) = fake.tool.split_once('.').unwrap();
        let tool_id = format!("tool_{server}_{tool}");
        (server.to_owned(), CatalogTool { name: tool.into(), tool_id, params: Vec::new(), open: true })
    });
    for (server, tool) in case.stubs.iter().cloned().chain(fakes) {
        let at = servers.iter().position(|s| s.name == server).unwrap_or_else(|| {
            servers.push(CatalogServer { name: server, tools: Vec::new() });
            servers.len() - 1
        });
        if !servers[at].tools.iter().any(|t| t.name == tool.name) {
            servers[at].tools.push(tool);
        }
    }
    Catalog { servers }
}

/// The fakes' answers, each in its turn; the last that fits is given again.
struct World<'a> {
    fakes: &'a [Fake],
    asked: HashMap<String, usize>,
    now: i64,
}

impl World<'_> {
    fn answer(&mut self, call: &PendingCall) -> Answer {
        if call.tool_id == NOW {
            self.now += 1_000_000;
            return Answer::Value(json!(START + self.now - 1_000_000));
        }
        if call.tool_id == RANDOM {
            return Answer::Value(json!(42));
        }
        let name = format!("{}.{}", call.server, call.tool);
        let fits = |f: &&Fake| f.tool == name && f.arguments.iter().all(|(k, v)| call.arguments.get(k) == Some(v));
        let fitting: Vec<&Fake> = self.fakes.iter().filter(fits).collect();
        let Some(most) = fitting.iter().map(|f| f.arguments.len()).max() else {
            return Answer::Error(format!("no fake for {name} {}", json!(call.arguments)));
        };
        let fitting: Vec<&&Fake> = fitting.iter().filter(|f| f.arguments.len() == most).collect();
        let turn = self.asked.entry(format!("{name}{}", json!(call.arguments))).or_default();
        let answer = fitting[(*turn).min(fitting.len() - 1)].answer.clone();
        *turn += 1;
        answer
    }
}

fn step(case: &Case, journal: &[JournalEntry]) -> StepReply {
    engine::step(Step {
        language: case.language,
        source: case.script.clone(),
        catalog: catalog(case),
        journal: journal.to_vec(),
        limits: Limits::default(),
    })
}

fn check(case: &Case) -> Result<(), String> {
    let mut world = World { fakes: &case.tools, asked: HashMap::new(), now: 0 };
    let (mut journal, mut rounds): (Vec<JournalEntry>, Vec<String>) = (Vec::new(), Vec::new());
    let mut may_call: Option<String> = None;
    let reply = loop {
        let reply = step(case, &journal);
        may_call.get_or_insert_with(|| reply.may_call.join(" "));
        let Outcome::Need { calls } = &reply.outcome else { break reply };
        rounds.push(calls.len().to_string());
        if rounds.len() > 150 {
            return Err("the run does not end".into());
        }
        for call in calls {
            let answer = world.answer(call);
            journal.push(JournalEntry {
                sequence: call.sequence,
                tool_id: call.tool_id.clone(),
                fingerprint: call.fingerprint.clone(),
                answer,
            });
        }
    };
    let again = step(case, &journal);
    if json!(again) != json!(reply) {
        return Err(format!("the replay differs:\n  {}\n  {}", json!(reply), json!(again)));
    }
    match (&reply.outcome, &case.result, &case.error) {
        (Outcome::Done { result }, Some(expected), None) if result == expected => {}
        (Outcome::Done { .. }, None, None) => {}
        (Outcome::Failed { error }, None, Some((place, parts))) => {
            let kind = json!(error.kind).as_str().unwrap().to_owned();
            let found = format!("{kind} {}:{}", error.line.unwrap_or(0), error.column.unwrap_or(0));
            if found != *place || parts.iter().any(|p| !error.message.contains(p)) {
                return Err(format!("expected {place} {parts:?}\n  found    {found} {}", error.message));
            }
        }
        (outcome, ..) => return Err(format!("found {} (logs {:?})", json!(outcome), reply.logs)),
    }
    let lines: Vec<String> = reply.logs.iter().flat_map(|l| l.split('\n')).map(str::to_owned).collect();
    if case.log.as_ref().is_some_and(|log| *log != lines) {
        return Err(format!("logged {lines:?}"));
    }
    if case.may_call.is_some() && case.may_call != may_call {
        return Err(format!("may call {may_call:?}"));
    }
    match &case.calls {
        Some(expected) if *expected != rounds.join(" ") => Err(format!("steps asked for {}", rounds.join(" "))),
        _ => Ok(()),
    }
}

#[test]
fn scripts_as_models_write_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "txt"));
    files.sort();
    let cases: Vec<Case> = files.iter().flat_map(|f| read(f)).collect();
    let count = cases.len();
    let typescript = cases.iter().filter(|case| case.language == Language::Typescript).count();
    let work = move || cases.iter().filter_map(|case| Some((case.name.clone(), check(case).err()?))).collect::<Vec<_>>();
    let failures = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work).unwrap().join().unwrap();
    println!("{} of {count} scripts do what is expected of them", count - failures.len());
    let report: Vec<String> = failures.iter().map(|(name, why)| format!("{name}\n  {why}")).collect();
    assert!(failures.is_empty(), "{} of {count} scripts fail:\n{}", failures.len(), report.join("\n"));
    assert!(count >= 210 && typescript >= 60, "{count} scripts, {typescript} of them TypeScript, are too few");
}
