//! Tasks about what runs: tickets, logs, incidents, complaints.

use serde_json::{Value, json};

use super::{
    Task, call,
    code::{CHANNELS, COMMENT, POST, posted},
    items, needs, script, sum, text, with,
};
use crate::tokens::world::{INDICES, Invoice, SERVICES, TEAM, Ticket, World, mark};

const TICKETS: (&str, &str, &str) = ("search Linear tickets", "linear", "linear_search_issues");
const TICKET: (&str, &str, &str) = ("create a Linear ticket", "linear", "linear_create_issue");
const LOGS: (&str, &str, &str) = ("search log entries", "elasticsearch", "search");
const LOG_INDICES: (&str, &str, &str) = ("list log indices", "elasticsearch", "list_indices");

pub fn workload(world: &World, nth: usize) -> Task {
    let service = SERVICES[nth * 2 + 1];
    let urgent = world.tickets.iter().find(|t| t.service == service && t.priority == 1);
    let who = urgent.map_or(0, |t| t.assignee);
    let open = world.tickets.iter().filter(|t| t.assignee == who && t.status != "Done").count();
    Task {
        name: "workload",
        ask: format!(
            "Who has the first urgent {service} ticket in Linear, and how many tickets has this person that are not Done? Answer as JSON: \
             {{\"name\", \"open\"}}."
        ),
        needs: needs(&[TICKETS, ("tickets assigned to a person", "linear", "linear_get_user_issues")]),
        script: script(
            r#"
ticket = linear.linear_search_issues(query="$service", priority=1)[0]
mine = linear.linear_get_user_issues(userId=ticket["assignee"]["id"])
result = {"name": ticket["assignee"]["name"], "open": len([t for t in mine if t["status"] != "Done"])}
"#,
            &[("service", service)],
        ),
        answer: json!({"name": world.people[who].name, "open": open}),
        plan: Box::new(move |turns| {
            let found = turns.call("linear", "linear_search_issues", json!({"query": service, "priority": 1}))?;
            let person = &found[0]["assignee"];
            let mine = turns.call("linear", "linear_get_user_issues", json!({"userId": person["id"]}))?;
            let open = items(&mine).iter().filter(|t| t["status"] != "Done").count();
            Some(json!({"name": person["name"], "open": open}))
        }),
    }
}

/// The service that failed most in a month, and how often; the first in the alphabet where two are even.
fn worst<'a>(services: impl Iterator<Item = &'a str>) -> (String, u64) {
    let mut counts = std::collections::BTreeMap::<&str, u64>::new();
    services.for_each(|service| *counts.entry(service).or_default() += 1);
    let most = counts.values().max().copied().unwrap_or(0);
    counts.iter().find(|(_, n)| **n == most).map(|(s, n)| ((*s).to_owned(), *n)).unwrap_or_default()
}

fn worst_of(hits: &Value) -> (String, u64) {
    worst(items(&hits["hits"]["hits"]).iter().map(|hit| text(&hit["_source"]["service"])))
}

fn worst_in(world: &World, index: &str) -> (String, u64) {
    let bad = |l: &&crate::tokens::world::Log| l.index == index && l.level == "error";
    worst(world.logs.iter().filter(bad).map(|l| l.service))
}

const ERRORS: &str = r#"
hits = elasticsearch.search(index=index, queryBody={"query": {"term": {"level": "error"}}, "size": 100})["hits"]["hits"]
counts = {}
for h in hits:
    service = h["_source"]["service"]
    counts[service] = counts.get(service, 0) + 1
service, errors = sorted(counts.items(), key=lambda c: (-c[1], c[0]))[0]
"#;

fn errors(index: &Value) -> Value {
    json!({"index": index, "queryBody": {"query": {"term": {"level": "error"}}, "size": 100}})
}

pub fn failing(world: &World, nth: usize) -> Task {
    let (index, priority) = (INDICES[nth], 1 + u64::from(nth == 1));
    let (service, count) = worst_in(world, index);
    let fits = |t: &&Ticket| t.service == service && t.priority == priority;
    let keys: Vec<&str> = world.tickets.iter().filter(fits).map(|t| t.key.as_str()).collect();
    let start = format!("index = \"{index}\"\n{}", ERRORS.trim_start());
    Task {
        name: "failing",
        ask: format!(
            "Which service logged most entries of level error in {index} (the first by name if there are several)? Which tickets of \
             priority {priority} has it in Linear? Answer as JSON: {{\"service\", \"errors\", \"tickets\" (identifiers, as found)}}."
        ),
        needs: needs(&[LOGS, TICKETS]),
        script: start
            + &script(
                r#"
tickets = linear.linear_search_issues(query=service, priority=$priority)
result = {"service": service, "errors": errors, "tickets": [t["identifier"] for t in tickets]}
"#,
                &[("priority", &priority.to_string())],
            ),
        answer: json!({"service": service, "errors": count, "tickets": keys}),
        plan: Box::new(move |turns| {
            let hits = turns.call("elasticsearch", "search", errors(&json!(index)))?;
            let (service, count) = worst_of(&hits);
            let tickets = turns.call("linear", "linear_search_issues", json!({"query": service, "priority": priority}))?;
            let keys: Value = items(&tickets).iter().map(|t| t["identifier"].clone()).collect();
            Some(json!({"service": service, "errors": count, "tickets": keys}))
        }),
    }
}

pub fn incident(world: &World, nth: usize) -> Task {
    let (channel, priority) = (["incidents", "platform", "general"][nth], nth + 1);
    let (service, count) = worst_in(world, INDICES[2]);
    let title = format!("{service}: {count} errors");
    let id = mark(&["ticket", &title, TEAM, &priority.to_string()]);
    let said = format!("{title}, see PLT-{}", &id[..6]);
    Task {
        name: "incident",
        ask: format!(
            "Find the newest log index, and the service with most entries of level error in it (the first by name if several). Make a \
             Linear ticket \"<service>: <n> errors\" of priority {priority} for the team that has its other tickets, and post \"<title>, see \
             <identifier>\" in #{channel}. Answer as JSON: {{\"ticket\" (id), \"ts\"}}."
        ),
        needs: needs(&[LOG_INDICES, LOGS, TICKETS, TICKET, CHANNELS, POST]),
        script: script("index = sorted([i[\"index\"] for i in elasticsearch.list_indices(indexPattern=\"logs-*\")])[-1]\n", &[])
            + ERRORS.trim_start()
            + &script(
                r#"
team = linear.linear_search_issues(query=service, limit=1)[0]["teamId"]
title = f"{service}: {errors} errors"
ticket = linear.linear_create_issue(title=title, teamId=team, priority=$priority)
channel = [c for c in slack.slack_list_channels()["channels"] if c["name"] == "$channel"][0]
message = slack.slack_post_message(channel_id=channel["id"], text=f"{title}, see {ticket['identifier']}")
result = {"ticket": ticket["id"], "ts": message["ts"]}
"#,
                &[("channel", channel), ("priority", &priority.to_string())],
            ),
        answer: json!({"ticket": id, "ts": posted(world, channel, &said)}),
        plan: Box::new(move |turns| {
            let first = turns.all(vec![
                call("elasticsearch", "list_indices", json!({"indexPattern": "logs-*"})),
                call("slack", "slack_list_channels", json!({})),
            ])?;
            let newest = &items(&first[0]).iter().max_by_key(|i| text(&i["index"]))?["index"];
            let hits = turns.call("elasticsearch", "search", errors(newest))?;
            let (service, count) = worst_of(&hits);
            let others = turns.call("linear", "linear_search_issues", json!({"query": service, "limit": 1}))?;
            let title = format!("{service}: {count} errors");
            let ticket = json!({"title": title, "teamId": others[0]["teamId"], "priority": priority});
            let ticket = turns.call("linear", "linear_create_issue", ticket)?;
            let words = format!("{title}, see {}", text(&ticket["identifier"]));
            let channel = &with(&first[1]["channels"], "name", channel)["id"];
            let message = turns.call("slack", "slack_post_message", json!({"channel_id": channel, "text": words}))?;
            Some(json!({"ticket": ticket["id"], "ts": message["ts"]}))
        }),
    }
}

pub fn complaint(world: &World, nth: usize) -> Task {
    // Customers that have reported something that is open.
    let reported = |at: &usize| world.repos.iter().flat_map(|r| &r.issues).any(|i| i.open && i.customer == *at);
    let at = (0..world.customers.len()).filter(reported).nth(nth * 3).unwrap_or(0);
    let every = world.repos.iter().flat_map(|r| r.issues.iter().map(move |i| (r, i)));
    let open: Vec<_> = every.filter(|(_, i)| i.open && i.customer == at).collect();
    let (repo, issue) = open[0];
    let name = world.customers[at].name.clone();
    let due: u64 = world.invoices_of(at).map(Invoice::open).sum();
    let ticket = mark(&["ticket", &format!("{name}: {}", issue.title), TEAM, "2"]);
    let key = format!("PLT-{}", &ticket[..6]);
    let comment = mark(&["comment", &repo.name, &issue.number.to_string(), &format!("Tracked as {key}")]);
    let said = format!("{name} has {} open issues and owes {due} USD: {key}", open.len());
    Task {
        name: "complaint",
        ask: format!(
            "{name} complains. Find the open GitHub issues that name it; make a Linear ticket of priority 2 for team {TEAM}, \"<customer>: \
             <title of the first issue>\"; comment \"Tracked as <identifier>\" on that issue; post in #support \"<customer> has <n> open \
             issues and owes <amount due> USD: <identifier>\". Answer as JSON: {{\"ticket\" (id), \"comment\" (id), \"ts\"}}."
        ),
        needs: needs(&[
            ("find a customer by name", "xero", "list-contacts"),
            ("invoices of a customer", "xero", "list-invoices"),
            ("search issues across repositories", "github", "search_issues"),
            TICKET,
            COMMENT,
            CHANNELS,
            POST,
        ]),
        script: script(
            r#"
customer = xero.list_contacts(searchTerm="$name")[0]
due = sum([i["amountDue"] for i in xero.list_invoices(page=1, contactIds=[customer["contactID"]])])
issues = github.search_issues(q="is:issue is:open $name")["items"]
issue = issues[0]
ticket = linear.linear_create_issue(title=f"$name: {issue['title']}", teamId="$team", priority=2)
owner, repo = issue["html_url"].split("/")[3:5]
comment = github.add_issue_comment(
    owner=owner, repo=repo, issue_number=issue["number"], body=f"Tracked as {ticket['identifier']}"
)
channel = [c for c in slack.slack_list_channels()["channels"] if c["name"] == "support"][0]
text = f"$name has {len(issues)} open issues and owes {due} USD: {ticket['identifier']}"
message = slack.slack_post_message(channel_id=channel["id"], text=text)
result = {"ticket": ticket["id"], "comment": comment["id"], "ts": message["ts"]}
"#,
            &[("name", &name), ("team", TEAM)],
        ),
        answer: json!({"ticket": ticket, "comment": comment, "ts": posted(world, "support", &said)}),
        plan: Box::new(move |turns| {
            let first = turns.all(vec![
                call("xero", "list-contacts", json!({"searchTerm": name})),
                call("github", "search_issues", json!({"q": format!("is:issue is:open {name}")})),
                call("slack", "slack_list_channels", json!({})),
            ])?;
            let issue = &first[1]["items"][0];
            let title = format!("{name}: {}", text(&issue["title"]));
            let second = turns.all(vec![
                call("xero", "list-invoices", json!({"page": 1, "contactIds": [first[0][0]["contactID"]]})),
                call("linear", "linear_create_issue", json!({"title": title, "teamId": TEAM, "priority": 2})),
            ])?;
            let key = text(&second[1]["identifier"]);
            let mut path = text(&issue["html_url"]).split('/').skip(3);
            let comment = json!({"owner": path.next()?, "repo": path.next()?, "issue_number": issue["number"],
                                 "body": format!("Tracked as {key}")});
            let due = sum(items(&second[0]), "amountDue");
            let words = format!("{name} has {} open issues and owes {due} USD: {key}", items(&first[1]["items"]).len());
            let channel = &with(&first[2]["channels"], "name", "support")["id"];
            let third = turns.all(vec![
                call("github", "add_issue_comment", comment),
                call("slack", "slack_post_message", json!({"channel_id": channel, "text": words})),
            ])?;
            Some(json!({"ticket": second[1]["id"], "comment": third[0]["id"], "ts": third[1]["ts"]}))
        }),
    }
}
