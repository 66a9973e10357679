//! The four tools under which a model reaches all others. Their descriptions are the whole prompt of Code Mode.

use serde_json::{Value, json};

use crate::language::Languages;
use crate::wire::Language;

const LIST_FILES: &str = "List the tool files: one line per server with path, tool count and purpose. Start here when you do not know which \
server has what you need.";

const READ_FILE: &str = "Read a tool file: one signature per line, `def tool(required: str, optional: int = 10) -> {\"id\": str, \"note?\": str}: \
...  # purpose`. \"key?\" may be missing, `= None` means leave it out when not needed. A long file answers with an outline of line numbers; \
read the lines you need with startLine and endLine (from 1, inclusive).";

const READ_FILE_TYPESCRIPT: &str = "Read a tool file: one method per line, `tool(args: { required: string; optional?: number /* = 10 */ }): \
Promise<{ id: string; note?: string }>; // purpose`. A long file answers with an outline of line numbers; read the lines you need with startLine and \
endLine (from 1, inclusive).";

const DOCS: &str = "Full documentation of one tool: parameters with constraints, return fields, side effects, an example. Use it when the \
signature is not enough or shows `...`.";

const SEARCH: &str = "Find tools by purpose: the signatures that fit best, ready to call. Shorter than reading files. Say in a few words what \
you want to do, such as \"close a pull request\"; search once for each thing you need.";

const RESULT: &str = "Read more of a script result that came back cut. run: its script_run_id; path: such as rows[3].name; range: a slice of items \
or characters, such as 100:200.";

const EXECUTE: &str = "Run a script that calls tools. Do the whole job in one script: call, loop, filter, combine, and hand back only what you \
need; what stays in the script costs you no tokens. Read the signatures first.";

const PYTHON: &str = "Each server is a global: `c = crm.find_customer(email=\"a@b.c\")`. Pass arguments by keyword, as the signature names them. Calls return plain \
values (dict, list, str, ...): read r[\"key\"] or r.key, and r.get(\"key\") where it may be missing. Set `result` to the answer (plain data); \
print(...) goes to logs. A failed call raises ToolError; try_call(crm.find_customer, email=\"..\") gives {ok, value, error} instead. \
parallel(lambda i: crm.get_order(id=i), ids) makes calls at the same time.

The language is Python with json, re, math, statistics, datetime, time, random, collections, itertools and functools. There are no files, network, \
yield, with or match.

Example:
unpaid = [o for o in crm.list_orders(customer_id=c.id) if o[\"status\"] == \"unpaid\"]
result = {\"count\": len(unpaid), \"total\": sum([o[\"total\"] for o in unpaid])}";

const TYPESCRIPT: &str = "Each server is a global: `const c = await crm.find_customer({ email: \"a@b.c\" })`. A tool takes one object, with the names of its \
signature, and gives a promise of plain data; Promise.all makes calls at the same time. A failed call rejects with a ToolError (message, \
tool). The script's last expression, or what it returns at the top level, is the answer (plain data); console.log(...) goes to logs.

The language is TypeScript with the standard library of ES2023. There are no imports, files, network or timers.

Example:
const orders = await crm.list_orders({ customer_id: c.id });
const unpaid = orders.filter((o) => o.status === \"unpaid\");
return { count: unpaid.length, total: unpaid.reduce((sum, o) => sum + o.total, 0) };";

const RECORDED: &str = "Every call is checked and recorded. When state is \"waiting_approval\", the run has paused until people decide and then goes on by itself: do \
not send it again, call executeToolCode with resume set to its script_run_id for the result.";

/// `listToolFiles`, `readToolFile`, `getToolDocs`, `executeToolCode` and `readResult` as MCP tool objects, and `searchTools` where
/// there is much to search.
#[must_use]
pub fn meta_tools(with_search: bool) -> Vec<Value> {
    meta_tools_in(Languages::default(), with_search)
}

/// The same for a key whose scripts are written in these languages.
#[must_use]
pub fn meta_tools_in(languages: Languages, with_search: bool) -> Vec<Value> {
    let text = |description: &str| json!({"type": "string", "description": description});
    let line = || json!({"type": "integer", "minimum": 1});
    let mut tools = vec![
        reader("listToolFiles", "List tool files", LIST_FILES, json!({}), &[]),
        reader(
            "readToolFile",
            "Read a tool file",
            match languages.first() {
                Language::Python => READ_FILE,
                Language::Typescript => READ_FILE_TYPESCRIPT,
            },
            json!({
                "fileName": text(&format!("Such as servers/crm{}", languages.first().ending())),
                "startLine": line(),
                "endLine": line(),
            }),
            &["fileName"],
        ),
        reader(
            "getToolDocs",
            "Read a tool's documentation",
            DOCS,
            json!({"server": text("Such as crm"), "tool": text("Such as find_customer")}),
            &["server", "tool"],
        ),
        json!({
            "name": "executeToolCode",
            "title": "Run a tool script",
            "description": execute_description(languages),
            "inputSchema": object(execute_input(languages), &[]),
            "outputSchema": execute_output(),
            // What a script does is what the tools it calls do.
            "annotations": {"readOnlyHint": false, "destructiveHint": true, "idempotentHint": false, "openWorldHint": true},
        }),
        // Always there: a client that reads the list once would never hear of it later. The words that say when to use it come with
        // the result that is cut.
        reader(
            "readResult",
            "Read more of a result",
            RESULT,
            json!({"run": {"type": "string"}, "path": {"type": "string"}, "range": {"type": "string"}}),
            &["run"],
        ),
    ];
    if with_search {
        let properties = json!({
            "query": text("What you want to do"),
            "limit": {"type": "integer", "minimum": 1, "maximum": 50, "default": 5},
        });
        tools.insert(1, reader("searchTools", "Search tools", SEARCH, properties, &["query"]));
    }
    tools
}

fn reader(name: &str, title: &str, description: &str, properties: Value, required: &[&str]) -> Value {
    json!({
        "name": name,
        "title": title,
        "description": description,
        "inputSchema": object(properties, required),
        "annotations": {"readOnlyHint": true, "destructiveHint": false, "idempotentHint": true, "openWorldHint": false},
    })
}

fn object(properties: Value, required: &[&str]) -> Value {
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

/// The shape of the prompt is the same whatever is offered: the work, the language, what happens to calls.
fn execute_description(languages: Languages) -> String {
    let part = |language| match language {
        Language::Python => PYTHON,
        Language::Typescript => TYPESCRIPT,
    };
    let mut parts: Vec<&str> = languages.all().map(part).collect();
    if let [first, second] = parts[..] {
        let [one, other] = [languages.first(), languages.all().last().unwrap_or_default()].map(Language::title);
        let name = languages.first().name();
        return format!(
            "{EXECUTE}\n\nWrite it in {one} or {other}; say which in `language` (without, it is {name}).\n\n# {one}\n{first}\n\n# {other}\n{second}\n\n{RECORDED}"
        );
    }
    parts.insert(0, EXECUTE);
    parts.push(RECORDED);
    parts.join("\n\n")
}

fn execute_input(languages: Languages) -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    let mut input =
        json!({"code": text("The script"), "resume": text("Instead of code: the script_run_id to get the result of")});
    let names: Vec<&str> = languages.all().map(Language::name).collect();
    if names.len() > 1 {
        input["language"] = json!({"type": "string", "enum": names, "default": names[0]});
    }
    input
}

fn execute_output() -> Value {
    let call = object(
        json!({"call_id": {"type": "string"}, "tool": {"type": "string"}, "outcome": {"type": "string"}}),
        &["call_id", "tool", "outcome"],
    );
    json!({
        "type": "object",
        "properties": {
            "script_run_id": {"type": "string"},
            "state": {"type": "string", "enum": ["done", "failed", "waiting_approval", "running"]},
            "result": {"description": "The value of `result`; null where the script set none"},
            "logs": {"type": "array", "items": {"type": "string"}},
            "error": {"description": "Set when state is failed: what went wrong, where, and what to write instead"},
            "calls": {"type": "array", "items": call},
            "approvals": {"type": "array", "items": {"type": "object"}, "description": "What the run waits for"},
            "message": {"type": "string", "description": "What to do next"},
        },
        "required": ["script_run_id", "state", "result", "logs", "calls"],
    })
}
