//! Whether people's words find the right tool among three hundred, from real servers.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::sync::Arc;

use serde_json::{Value, json};
use tollgate_codemode::{Binding, Library, ServerDef, ToolDef};

fn library() -> Library {
    let server = |file: &str| {
        let path = format!("{}/tests/fixtures/{file}.json", env!("CARGO_MANIFEST_DIR"));
        let answer: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let tools = answer["tools"].as_array().unwrap().iter().map(|t| {
            let name = t["name"].as_str().unwrap().to_owned();
            ToolDef { tool_id: format!("tool_{name}"), name, definition: Arc::new(t.clone()) }
        });
        ServerDef { name: file.replace("-official", ""), description: None, binding: Binding::Server, tools: tools.collect() }
    };
    Library::new(["github-official", "notion", "excel", "filesystem", "memory", "arxiv", "everything"].map(server).into())
}

/// What is asked for, and the tool that does it.
const ASKED: [(&str, &str); 24] = [
    ("merge a pull request", "github.merge_pull_request("),
    ("close a pull request", "github.update_pull_request_state("),
    ("details of the authenticated user", "github.get_me("),
    ("failing workflow job logs", "github.get_job_logs("),
    ("comment on an issue", "github.add_issue_comment("),
    ("read a file from a repository", "github.get_file_contents("),
    ("create new branch", "github.create_branch("),
    ("dependabot alerts", "github.list_dependabot_alerts("),
    ("find code", "github.search_code("),
    ("latest release", "github.get_latest_release("),
    ("star a repo", "github.star_repository("),
    ("notion query database rows", "notion.API_query_data_source("),
    ("retrieve notion page as markdown", "notion.API_retrieve_page_markdown("),
    ("remove block notion", "notion.API_delete_a_block("),
    ("add a chart to a worksheet", "excel.create_chart("),
    ("pivot tables", "excel.create_pivot_table("),
    ("write cells", "excel.write_range("),
    ("rename a sheet", "excel.rename_sheet("),
    ("move or rename a file", "filesystem.move_file("),
    ("list folder contents", "filesystem.list_directory("),
    ("serach papers", "arxiv.search_papers("),
    ("citations of a paper", "arxiv.citation_graph("),
    ("knowledge graph relations create", "memory.create_relations("),
    ("add two numbers", "everything.get_sum("),
];

#[test]
fn people_find_what_they_ask_for() {
    let library = library();
    let mut lost = Vec::new();
    for (asked, tool) in ASKED {
        let answer = library.search(asked, Some(5));
        if !answer.lines().any(|line| line.starts_with(tool)) {
            let found: Vec<_> = answer.lines().skip(1).filter_map(|line| line.split('(').next()).collect();
            lost.push(format!("{asked:?} wants {tool} and finds {found:?}"));
        }
    }
    assert!(lost.is_empty(), "{} of {} not among the first five:\n{}", lost.len(), ASKED.len(), lost.join("\n"));
}

#[test]
fn an_answer_is_ready_to_call_and_bounded() {
    let library = library();
    insta::assert_snapshot!("search", library.search("create a branch in a repository", Some(3)));
    assert_eq!(library.search("branch", Some(9)), library.search("branch", Some(9)));
    assert_eq!(library.search("repository", None).lines().next().unwrap().split(' ').nth(1), Some("5"));
    assert!(library.search("repository issue pull get list", Some(u32::MAX)).len() <= 33 << 10);
    assert_eq!(library.search("repository", Some(0)).lines().next().unwrap().split(' ').nth(1), Some("1"));
    for nothing in ["", "the of", "zzzzqqqq", "\u{202e}"] {
        let answer = library.search(nothing, None);
        assert!(answer.starts_with("None of ") && answer.contains("listToolFiles"), "{nothing:?}: {answer}");
    }
}

#[test]
fn what_an_operator_says_of_a_server_and_a_whole_name_count() {
    let tool = |name: &str, description: &str| {
        let definition = json!({"name": name, "description": description, "inputSchema": {"type": "object"}});
        ToolDef { tool_id: format!("tool_{name}"), name: name.to_owned(), definition: Arc::new(definition) }
    };
    let server = |name: &str, description: Option<&str>, tools| {
        let description = description.map(str::to_owned);
        ServerDef { name: name.to_owned(), description, binding: Binding::Server, tools }
    };
    let first = |servers: Vec<ServerDef>, query: &str| {
        Library::new(servers).search(query, None).lines().nth(1).unwrap().split('(').next().unwrap().to_owned()
    };
    let stores = |said| {
        let web = server("web", None, vec![tool("search", "Perform a search")]);
        vec![web, server("elastic", said, vec![tool("search", "Perform a search with a query")])]
    };
    assert_eq!(first(stores(None), "search log entries"), "web.search");
    assert_eq!(first(stores(Some("The logs of our services")), "search log entries"), "elastic.search");
    let builds = server(
        "ci",
        None,
        vec![
            tool("list_pipeline_trigger_jobs", "List the jobs of a pipeline"),
            tool(
                "list_pipelines",
                "List pipelines with filtering options; read-only, paginated, with an error for whatever is missing or not permitted",
            ),
        ],
    );
    assert_eq!(first(vec![builds], "list pipelines"), "ci.list_pipelines");
}

#[test]
fn stuffing_a_description_does_not_win() {
    let tool = |name: &str, description: String| {
        let definition = json!({"name": name, "description": description, "inputSchema": {"type": "object"}});
        ToolDef { tool_id: format!("tool_{name}"), name: name.to_owned(), definition: Arc::new(definition) }
    };
    let tools = vec![
        tool("helper", "send email send mail ".repeat(60)),
        tool("send_email", "Send an email to a person".to_owned()),
        tool("other", "Something else".to_owned()),
    ];
    let library = Library::new(vec![ServerDef { name: "s".to_owned(), description: None, binding: Binding::Server, tools }]);
    assert!(library.search("send email", None).lines().nth(1).unwrap().starts_with("s.send_email("));
}
