//! Tasks about code: issues and pull requests.

use serde_json::{Value, json};

use super::{Task, call, items, least, needs, number, script, sum, text, with};
use crate::tokens::world::{Issue, OWNER, Pull, Repo, World, mark};

const ISSUES: (&str, &str, &str) = ("list the issues of a repository", "github", "list_issues");
const PULLS: (&str, &str, &str) = ("list open pull requests", "github", "list_pull_requests");
const REPOS: (&str, &str, &str) = ("find a repository", "github", "search_repositories");
pub(super) const COMMENT: (&str, &str, &str) = ("comment on an issue", "github", "add_issue_comment");
pub(super) const CHANNELS: (&str, &str, &str) = ("find a chat channel", "slack", "slack_list_channels");
pub(super) const POST: (&str, &str, &str) = ("post a message in a channel", "slack", "slack_post_message");

fn oldest<'a>(repo: &'a Repo, label: &str) -> &'a Issue {
    let fits = repo.issues.iter().filter(|i| i.open && i.label == label);
    least(fits, |i| i.created.as_str()).unwrap_or(&repo.issues[0])
}

fn oldest_of(list: &Value) -> &Value {
    least(items(list), |i| text(&i["created_at"])).unwrap_or(&Value::Null)
}

fn oldest_pull(repo: &Repo) -> &Pull {
    least(repo.pulls.iter().filter(|p| p.open), |p| p.created.as_str()).unwrap_or(&repo.pulls[0])
}

pub(super) fn posted(world: &World, channel: &str, said: &str) -> String {
    mark(&["post", &world.channel(channel).id, said])
}

pub fn state(world: &World, nth: usize) -> Task {
    let (repo, issue) = (&world.repos[nth], &world.repos[nth].issues[nth * 4 + 1]);
    let (name, number) = (repo.name.clone(), issue.number);
    Task {
        name: "state",
        ask: format!(
            "Is issue {number} of {OWNER}/{name} still open, and whose is it? Answer as JSON: {{\"open\", \"assignee\" (login)}}."
        ),
        needs: needs(&[("read an issue of a repository", "github", "get_issue")]),
        script: script(
            r#"
issue = github.get_issue(owner="$owner", repo="$repo", issue_number=$number)
result = {"open": issue["state"] == "open", "assignee": issue["assignee"]["login"]}
"#,
            &[("owner", OWNER), ("repo", &name), ("number", &number.to_string())],
        ),
        answer: json!({"open": issue.open, "assignee": world.people[issue.assignee].login}),
        plan: Box::new(move |turns| {
            let issue = turns.call("github", "get_issue", json!({"owner": OWNER, "repo": name, "issue_number": number}))?;
            Some(json!({"open": issue["state"] == "open", "assignee": issue["assignee"]["login"]}))
        }),
    }
}

pub fn triage(world: &World, nth: usize) -> Task {
    let repo = &world.repos[nth + 1];
    let (name, issue) = (repo.name.clone(), oldest(repo, "bug"));
    let said = format!("@{} please triage", world.people[issue.assignee].login);
    Task {
        name: "triage",
        ask: format!(
            "Comment \"@<assignee> please triage\" on the oldest open bug of {OWNER}/{name}. Answer as JSON: {{\"issue\" (number), \
             \"comment\" (id)}}."
        ),
        needs: needs(&[ISSUES, COMMENT]),
        script: script(
            r#"
bugs = github.list_issues(owner="$owner", repo="$repo", state="open", labels=["bug"])
issue = sorted(bugs, key=lambda i: i["created_at"])[0]
comment = github.add_issue_comment(
    owner="$owner", repo="$repo", issue_number=issue["number"], body=f"@{issue['assignee']['login']} please triage"
)
result = {"issue": issue["number"], "comment": comment["id"]}
"#,
            &[("owner", OWNER), ("repo", &name)],
        ),
        answer: json!({"issue": issue.number, "comment": mark(&["comment", &name, &issue.number.to_string(), &said])}),
        plan: Box::new(move |turns| {
            let bugs = json!({"owner": OWNER, "repo": name, "state": "open", "labels": ["bug"]});
            let bugs = turns.call("github", "list_issues", bugs)?;
            let issue = oldest_of(&bugs);
            let said = format!("@{} please triage", text(&issue["assignee"]["login"]));
            let comment = json!({"owner": OWNER, "repo": name, "issue_number": issue["number"], "body": said});
            let comment = turns.call("github", "add_issue_comment", comment)?;
            Some(json!({"issue": issue["number"], "comment": comment["id"]}))
        }),
    }
}

pub fn close(world: &World, nth: usize) -> Task {
    let repo = &world.repos[nth + 2];
    let (name, issue) = (repo.name.clone(), oldest(repo, "docs"));
    let id = mark(&["comment", &name, &issue.number.to_string(), "Closed as stale"]);
    Task {
        name: "close",
        ask: format!(
            "Close the oldest open docs issue of {OWNER}/{name} and comment \"Closed as stale\" on it. Answer as JSON: {{\"issue\" \
             (number), \"comment\" (id), \"state\"}}."
        ),
        needs: needs(&[ISSUES, COMMENT, ("close an issue", "github", "update_issue")]),
        script: script(
            r#"
repo = {"owner": "$owner", "repo": "$repo"}
issues = github.list_issues(state="open", labels=["docs"], **repo)
issue = sorted(issues, key=lambda i: i["created_at"])[0]["number"]
comment = github.add_issue_comment(issue_number=issue, body="Closed as stale", **repo)
closed = github.update_issue(issue_number=issue, state="closed", **repo)
result = {"issue": issue, "comment": comment["id"], "state": closed["state"]}
"#,
            &[("owner", OWNER), ("repo", &name)],
        ),
        answer: json!({"issue": issue.number, "comment": id, "state": "closed"}),
        plan: Box::new(move |turns| {
            let list = json!({"owner": OWNER, "repo": name, "state": "open", "labels": ["docs"]});
            let list = turns.call("github", "list_issues", list)?;
            let issue = &oldest_of(&list)["number"];
            let comment = json!({"owner": OWNER, "repo": name, "issue_number": issue, "body": "Closed as stale"});
            let comment = turns.call("github", "add_issue_comment", comment)?;
            let closed = json!({"owner": OWNER, "repo": name, "issue_number": issue, "state": "closed"});
            let closed = turns.call("github", "update_issue", closed)?;
            Some(json!({"issue": issue, "comment": comment["id"], "state": closed["state"]}))
        }),
    }
}

pub fn size(world: &World, nth: usize) -> Task {
    let repo = &world.repos[nth * 2];
    let (name, pull) = (repo.name.clone(), oldest_pull(repo));
    let lines: u64 = pull.files.iter().map(|(_, plus, minus)| plus + minus).sum();
    Task {
        name: "size",
        ask: format!(
            "How large is the oldest open pull request of our repository for {name}? Answer as JSON: {{\"pull\" (number), \"files\", \
             \"changed_lines\"}}."
        ),
        needs: needs(&[REPOS, PULLS, ("changed files of a pull request", "github", "get_pull_request_files")]),
        script: script(
            r#"
repo = github.search_repositories(query="$repo")["items"][0]
owner = repo["owner"]["login"]
pulls = github.list_pull_requests(owner=owner, repo=repo["name"], state="open")
pull = sorted(pulls, key=lambda p: p["created_at"])[0]["number"]
files = github.get_pull_request_files(owner=owner, repo=repo["name"], pull_number=pull)
result = {"pull": pull, "files": len(files), "changed_lines": sum([f["changes"] for f in files])}
"#,
            &[("repo", &name)],
        ),
        answer: json!({"pull": pull.number, "files": pull.files.len(), "changed_lines": lines}),
        plan: Box::new(move |turns| {
            let found = turns.call("github", "search_repositories", json!({"query": name}))?;
            let (owner, repo) = (&found["items"][0]["owner"]["login"], &found["items"][0]["name"]);
            let pulls = turns.call("github", "list_pull_requests", json!({"owner": owner, "repo": repo, "state": "open"}))?;
            let pull = &oldest_of(&pulls)["number"];
            let files = json!({"owner": owner, "repo": repo, "pull_number": pull});
            let files = turns.call("github", "get_pull_request_files", files)?;
            Some(json!({"pull": pull, "files": items(&files).len(), "changed_lines": sum(items(&files), "changes")}))
        }),
    }
}

pub fn ready(world: &World, nth: usize) -> Task {
    let repo = &world.repos[nth + 3];
    let (name, pull) = (repo.name.clone(), oldest_pull(repo));
    let approvals = pull.approvals.iter().filter(|(_, yes)| *yes).count();
    Task {
        name: "ready",
        ask: format!(
            "Can the oldest open pull request of {OWNER}/{name} be merged? It takes two approvals and green checks. Answer as JSON: \
             {{\"pull\" (number), \"approvals\", \"checks\" (state), \"files\" (how many), \"ready\"}}."
        ),
        needs: needs(&[
            PULLS,
            ("reviews of a pull request", "github", "get_pull_request_reviews"),
            ("status checks of a pull request", "github", "get_pull_request_status"),
            ("changed files of a pull request", "github", "get_pull_request_files"),
        ]),
        script: script(
            r#"
repo = {"owner": "$owner", "repo": "$repo"}
pulls = github.list_pull_requests(state="open", **repo)
pull = sorted(pulls, key=lambda p: p["created_at"])[0]["number"]
reviews = github.get_pull_request_reviews(pull_number=pull, **repo)
status = github.get_pull_request_status(pull_number=pull, **repo)
files = github.get_pull_request_files(pull_number=pull, **repo)
approvals = len([r for r in reviews if r["state"] == "APPROVED"])
result = {
    "pull": pull,
    "approvals": approvals,
    "checks": status["state"],
    "files": len(files),
    "ready": approvals >= 2 and status["state"] == "success",
}
"#,
            &[("owner", OWNER), ("repo", &name)],
        ),
        answer: json!({
            "pull": pull.number, "approvals": approvals, "checks": if pull.green { "success" } else { "failure" },
            "files": pull.files.len(), "ready": approvals >= 2 && pull.green,
        }),
        plan: Box::new(move |turns| {
            let pulls = turns.call("github", "list_pull_requests", json!({"owner": OWNER, "repo": name, "state": "open"}))?;
            let pull = &oldest_of(&pulls)["number"];
            let of = |tool| call("github", tool, json!({"owner": OWNER, "repo": name, "pull_number": pull}));
            let tools = ["get_pull_request_reviews", "get_pull_request_status", "get_pull_request_files"];
            let found = turns.all(tools.map(of).into())?;
            let approvals = items(&found[0]).iter().filter(|r| r["state"] == "APPROVED").count();
            let state = &found[1]["state"];
            let ready = approvals >= 2 && state == "success";
            Some(json!({"pull": pull, "approvals": approvals, "checks": state, "files": items(&found[2]).len(), "ready": ready}))
        }),
    }
}

pub fn ask_assignee(world: &World, nth: usize) -> Task {
    let repo = &world.repos[nth * 2 + 1];
    let (name, issue) = (repo.name.clone(), oldest(repo, "security"));
    let person = &world.people[issue.assignee];
    let said = format!("<@{}> {}#{}: {}", person.slack, name, issue.number, issue.title);
    Task {
        name: "ask_assignee",
        ask: format!(
            "Remind the assignee of the oldest open security issue of our repository for {name} in #platform: \"<@slack id> \
             <repository>#<number>: <title>\". Answer as JSON: {{\"ts\", \"email\" (the assignee's)}}."
        ),
        needs: needs(&[
            REPOS,
            ISSUES,
            ("list chat users", "slack", "slack_get_users"),
            ("profile of a chat user", "slack", "slack_get_user_profile"),
            CHANNELS,
            POST,
        ]),
        script: script(
            r#"
repo = github.search_repositories(query="$repo")["items"][0]
issues = github.list_issues(owner=repo["owner"]["login"], repo=repo["name"], state="open", labels=["security"])
issue = sorted(issues, key=lambda i: i["created_at"])[0]
user = [u for u in slack.slack_get_users()["members"] if u["name"] == issue["assignee"]["login"]][0]
profile = slack.slack_get_user_profile(user_id=user["id"])["profile"]
channel = [c for c in slack.slack_list_channels()["channels"] if c["name"] == "platform"][0]
text = f"<@{user['id']}> {repo['name']}#{issue['number']}: {issue['title']}"
message = slack.slack_post_message(channel_id=channel["id"], text=text)
result = {"ts": message["ts"], "email": profile["email"]}
"#,
            &[("repo", &name)],
        ),
        answer: json!({"ts": posted(world, "platform", &said), "email": person.email}),
        plan: Box::new(move |turns| {
            let found = turns.all(vec![
                call("github", "search_repositories", json!({"query": name})),
                call("slack", "slack_get_users", json!({})),
                call("slack", "slack_list_channels", json!({})),
            ])?;
            let repo = &found[0]["items"][0];
            let issues = json!({"owner": repo["owner"]["login"], "repo": repo["name"], "state": "open", "labels": ["security"]});
            let issues = turns.call("github", "list_issues", issues)?;
            let issue = oldest_of(&issues);
            let user = &with(&found[1]["members"], "name", text(&issue["assignee"]["login"]))["id"];
            let words = format!("<@{}> {}#{}: {}", text(user), text(&repo["name"]), issue["number"], text(&issue["title"]));
            let channel = &with(&found[2]["channels"], "name", "platform")["id"];
            let ended = turns.all(vec![
                call("slack", "slack_get_user_profile", json!({"user_id": user})),
                call("slack", "slack_post_message", json!({"channel_id": channel, "text": words})),
            ])?;
            Some(json!({"ts": ended[1]["ts"], "email": ended[0]["profile"]["email"]}))
        }),
    }
}

pub fn red_pulls(world: &World, nth: usize) -> Task {
    let repo = &world.repos[nth];
    let name = repo.name.clone();
    let red: Vec<u64> = repo.pulls.iter().filter(|p| p.open && !p.green).map(|p| p.number).collect();
    let said = format!("{name}: {} of {} open pull requests are red", red.len(), repo.pulls.iter().filter(|p| p.open).count());
    Task {
        name: "red_pulls",
        ask: format!(
            "Post in #releases: \"{name}: <n> of <m> open pull requests are red\", for {OWNER}/{name}; red are those whose checks failed. \
             Answer as JSON: {{\"ts\", \"red\" (their numbers, ascending)}}."
        ),
        needs: needs(&[PULLS, ("status checks of a pull request", "github", "get_pull_request_status"), CHANNELS, POST]),
        script: script(
            r#"
pulls = github.list_pull_requests(owner="$owner", repo="$repo", state="open")
red = []
for p in pulls:
    status = github.get_pull_request_status(owner="$owner", repo="$repo", pull_number=p["number"])
    if status["state"] == "failure":
        red.append(p["number"])
channel = [c for c in slack.slack_list_channels()["channels"] if c["name"] == "releases"][0]
text = f"$repo: {len(red)} of {len(pulls)} open pull requests are red"
message = slack.slack_post_message(channel_id=channel["id"], text=text)
result = {"ts": message["ts"], "red": sorted(red)}
"#,
            &[("owner", OWNER), ("repo", &name)],
        ),
        answer: json!({"ts": posted(world, "releases", &said), "red": red}),
        plan: Box::new(move |turns| {
            let first = turns.all(vec![
                call("github", "list_pull_requests", json!({"owner": OWNER, "repo": name, "state": "open"})),
                call("slack", "slack_list_channels", json!({})),
            ])?;
            let numbers: Vec<u64> = items(&first[0]).iter().map(|p| number(&p["number"])).collect();
            let status =
                |n: &u64| call("github", "get_pull_request_status", json!({"owner": OWNER, "repo": name, "pull_number": n}));
            let states = turns.all(numbers.iter().map(status).collect())?;
            let mut red: Vec<u64> =
                numbers.iter().zip(&states).filter(|(_, s)| s["state"] == "failure").map(|(n, _)| *n).collect();
            red.sort_unstable();
            let words = format!("{name}: {} of {} open pull requests are red", red.len(), numbers.len());
            let channel = &with(&first[1]["channels"], "name", "releases")["id"];
            let message = turns.call("slack", "slack_post_message", json!({"channel_id": channel, "text": words}))?;
            Some(json!({"ts": message["ts"], "red": red}))
        }),
    }
}
