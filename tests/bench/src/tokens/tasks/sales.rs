//! Tasks that need servers of the later rounds: the sales team's deals, the pipelines of the builds.

use std::cmp::Reverse;

use serde_json::{Value, json};

use super::{
    Task, Turns, call,
    code::{CHANNELS, POST},
    items, least, needs, number, script, sum, text, with,
};
use crate::tokens::world::{BASE, Deal, Pipeline, SERVICES, TEAM, World, mark};

const BASES: (&str, &str, &str) = ("list Airtable bases", "airtable", "list_bases");
const TABLES: (&str, &str, &str) = ("tables of an Airtable base", "airtable", "list_tables");
const DEALS: (&str, &str, &str) = ("list records of an Airtable table", "airtable", "list_records");
const CUSTOMER: (&str, &str, &str) = ("find a customer by name", "xero", "list-contacts");
const PROJECTS: (&str, &str, &str) = ("find a GitLab project", "gitlab", "list_projects");
const PIPELINES: (&str, &str, &str) = ("list failed pipelines of a project", "gitlab", "list_pipelines");
const JOBS: (&str, &str, &str) = ("jobs of a pipeline", "gitlab", "list_pipeline_jobs");

/// The first table of the base of this name.
const TABLE: &str = r#"
base = [b for b in airtable.list_bases()["bases"] if b["name"] == "Sales pipeline"][0]["id"]
table = airtable.list_tables(baseId=base, detailLevel="tableIdentifiersOnly")["tables"][0]["id"]
"#;

fn table(turns: &mut Turns) -> Option<(Value, Value)> {
    let bases = turns.call("airtable", "list_bases", json!({}))?;
    let base = with(&bases["bases"], "name", BASE.1)["id"].clone();
    let tables = turns.call("airtable", "list_tables", json!({"baseId": base, "detailLevel": "tableIdentifiersOnly"}))?;
    let table = tables["tables"][0]["id"].clone();
    Some((base, table))
}

fn amount(of: &[&Deal]) -> u64 {
    of.iter().map(|deal| deal.amount).sum()
}

pub fn stage(world: &World, nth: usize) -> Task {
    let stage = ["Won", "Lost", "Proposal"][nth];
    let deals: Vec<&Deal> = world.deals.iter().filter(|d| d.stage == stage).collect();
    Task {
        name: "stage",
        ask: format!(
            "In the Airtable base {:?}, how many deals are in stage {stage}, and what is their amount together? Answer as JSON: \
             {{\"deals\", \"amount\"}}.",
            BASE.1
        ),
        needs: needs(&[BASES, TABLES, DEALS]),
        script: script(TABLE, &[])
            + &script(
                r#"
deals = [r["fields"] for r in airtable.list_records(baseId=base, tableId=table)["records"]]
deals = [d for d in deals if d["Stage"] == "$stage"]
result = {"deals": len(deals), "amount": sum([d["Amount"] for d in deals])}
"#,
                &[("stage", stage)],
            ),
        answer: json!({"deals": deals.len(), "amount": amount(&deals)}),
        plan: Box::new(move |turns| {
            let (base, table) = table(turns)?;
            let records = turns.call("airtable", "list_records", json!({"baseId": base, "tableId": table}))?;
            let of: Vec<Value> =
                items(&records["records"]).iter().map(|r| r["fields"].clone()).filter(|f| f["Stage"] == stage).collect();
            Some(json!({"deals": of.len(), "amount": sum(&of, "Amount")}))
        }),
    }
}

pub fn account(world: &World, nth: usize) -> Task {
    let at = nth * 6 + 5;
    let name = world.customers[at].name.clone();
    let deals: Vec<&Deal> = world.deals.iter().filter(|d| d.customer == at).collect();
    let due: u64 = world.invoices_of(at).map(super::super::world::Invoice::open).sum();
    Task {
        name: "account",
        ask: format!(
            "Before I call {name}: the amount of all its deals in the Airtable base {:?}, and what it owes us in Xero. Answer as JSON: \
             {{\"deals\", \"amount_due\"}}.",
            BASE.1
        ),
        needs: needs(&[
            BASES,
            TABLES,
            ("search records in Airtable", "airtable", "search_records"),
            CUSTOMER,
            ("invoices of a customer", "xero", "list-invoices"),
        ]),
        script: script(TABLE, &[])
            + &script(
                r#"
deals = airtable.search_records(baseId=base, tableId=table, searchTerm="$name")["records"]
customer = xero.list_contacts(searchTerm="$name")[0]
invoices = xero.list_invoices(page=1, contactIds=[customer["contactID"]])
result = {"deals": sum([d["fields"]["Amount"] for d in deals]), "amount_due": sum([i["amountDue"] for i in invoices])}
"#,
                &[("name", &name)],
            ),
        answer: json!({"deals": amount(&deals), "amount_due": due}),
        plan: Box::new(move |turns| {
            let (base, table) = table(turns)?;
            let found = turns.all(vec![
                call("airtable", "search_records", json!({"baseId": base, "tableId": table, "searchTerm": name})),
                call("xero", "list-contacts", json!({"searchTerm": name})),
            ])?;
            let deals: Vec<Value> = items(&found[0]["records"]).iter().map(|r| r["fields"].clone()).collect();
            let due = turns.call("xero", "list-invoices", json!({"page": 1, "contactIds": [found[1][0]["contactID"]]}))?;
            Some(json!({"deals": sum(&deals, "Amount"), "amount_due": sum(items(&due), "amountDue")}))
        }),
    }
}

pub fn proposal(world: &World, nth: usize) -> Task {
    let stage = ["Proposal", "Lead", "Won"][nth];
    let best = least(world.deals.iter().filter(|d| d.stage == stage), |d| Reverse(d.amount)).unwrap_or(&world.deals[0]);
    let customer = &world.customers[best.customer];
    let said = format!("Next: write to {}", customer.email);
    let posted = format!("{}: {} ({stage})", customer.name, best.amount);
    Task {
        name: "proposal",
        ask: format!(
            "Find the largest deal in stage {stage} in the Airtable base {:?}. Comment \"Next: write to <the company's e-mail in Xero>\" \
             on its record, and post \"<company>: <amount> ({stage})\" in #sales. Answer as JSON: {{\"comment\" (id), \"ts\"}}.",
            BASE.1
        ),
        needs: needs(&[
            BASES,
            TABLES,
            DEALS,
            CUSTOMER,
            ("comment on an Airtable record", "airtable", "create_comment"),
            CHANNELS,
            POST,
        ]),
        script: script(TABLE, &[])
            + &script(
                r#"
deals = airtable.list_records(baseId=base, tableId=table)["records"]
deal = sorted([d for d in deals if d["fields"]["Stage"] == "$stage"], key=lambda d: -d["fields"]["Amount"])[0]
company = deal["fields"]["Company"]
email = xero.list_contacts(searchTerm=company)[0]["emailAddress"]
comment = airtable.create_comment(baseId=base, tableId=table, recordId=deal["id"], text=f"Next: write to {email}")
channel = [c for c in slack.slack_list_channels()["channels"] if c["name"] == "sales"][0]
message = slack.slack_post_message(channel_id=channel["id"], text=f"{company}: {deal['fields']['Amount']} ($stage)")
result = {"comment": comment["comment"]["id"], "ts": message["ts"]}
"#,
                &[("stage", stage)],
            ),
        answer: json!({
            "comment": mark(&["remark", &best.id, &said]), "ts": mark(&["post", &world.channel("sales").id, &posted]),
        }),
        plan: Box::new(move |turns| {
            let (base, table) = table(turns)?;
            let found = turns.all(vec![
                call("airtable", "list_records", json!({"baseId": base, "tableId": table})),
                call("slack", "slack_list_channels", json!({})),
            ])?;
            let of = items(&found[0]["records"]).iter().filter(|r| r["fields"]["Stage"] == stage);
            let deal = least(of, |r| Reverse(number(&r["fields"]["Amount"])))?;
            let (company, amount) = (text(&deal["fields"]["Company"]), &deal["fields"]["Amount"]);
            let contact = turns.call("xero", "list-contacts", json!({"searchTerm": company}))?;
            let note = format!("Next: write to {}", text(&contact[0]["emailAddress"]));
            let channel = &with(&found[1]["channels"], "name", "sales")["id"];
            let words = format!("{company}: {amount} ({stage})");
            let ended = turns.all(vec![
                call(
                    "airtable",
                    "create_comment",
                    json!({"baseId": base, "tableId": table, "recordId": deal["id"], "text": note}),
                ),
                call("slack", "slack_post_message", json!({"channel_id": channel, "text": words})),
            ])?;
            Some(json!({"comment": ended[0]["comment"]["id"], "ts": ended[1]["ts"]}))
        }),
    }
}

const FAILED: &str = r#"
project = gitlab.list_projects(search="$service")[0]
pipeline = gitlab.list_pipelines(project_id=project["id"], status="failed")[0]
jobs = gitlab.list_pipeline_jobs(project_id=project["id"], pipeline_id=str(pipeline["id"]))
failed = [j["name"] for j in jobs if j["status"] == "failed"]
"#;

/// Project, pipeline, and the names of the jobs that failed in it.
fn failed_of(turns: &mut Turns, service: &str) -> Option<(Value, Value, Vec<String>)> {
    let projects = turns.call("gitlab", "list_projects", json!({"search": service}))?;
    let project = projects[0]["id"].clone();
    let pipelines = turns.call("gitlab", "list_pipelines", json!({"project_id": project, "status": "failed"}))?;
    let pipeline = pipelines[0]["id"].clone();
    let jobs = json!({"project_id": project, "pipeline_id": pipeline.to_string()});
    let jobs = turns.call("gitlab", "list_pipeline_jobs", jobs)?;
    let failed = items(&jobs).iter().filter(|j| j["status"] == "failed").map(|j| text(&j["name"]).to_owned()).collect();
    Some((project, pipeline, failed))
}

fn failed_in(world: &World, project: usize) -> (u64, Vec<&'static str>) {
    let newest = |p: &&Pipeline| p.project == project && p.failed;
    let found = world.pipelines.iter().rev().find(newest).map(|p| {
        let failed = p.jobs.iter().filter(|(_, bad)| *bad).map(|(name, _)| *name).collect();
        (p.id, failed)
    });
    found.unwrap_or_default()
}

pub fn failed_jobs(world: &World, nth: usize) -> Task {
    let service = SERVICES[nth];
    let (id, failed) = failed_in(world, nth);
    Task {
        name: "failed_jobs",
        ask: format!(
            "Which jobs failed in the newest failed GitLab pipeline of project {service}? Answer as JSON: {{\"pipeline\" (id), \"jobs\" \
             (names, as listed)}}."
        ),
        needs: needs(&[PROJECTS, PIPELINES, JOBS]),
        script: script(FAILED, &[("service", service)]) + "result = {\"pipeline\": pipeline[\"id\"], \"jobs\": failed}\n",
        answer: json!({"pipeline": id, "jobs": failed}),
        plan: Box::new(move |turns| {
            let (_, pipeline, failed) = failed_of(turns, service)?;
            Some(json!({"pipeline": pipeline, "jobs": failed}))
        }),
    }
}

pub fn report_jobs(world: &World, nth: usize) -> Task {
    let (service, at) = (SERVICES[nth + 3], nth + 3);
    let (id, failed) = failed_in(world, at);
    let title = format!("Pipeline {id}: {}", failed.join(", "));
    let issue = mark(&["bug", &(4000 + at).to_string(), &title]);
    let ts = mark(&["post", &world.channel("releases").id, &format!("{service}: {title}")]);
    Task {
        name: "report_jobs",
        ask: format!(
            "Open a GitLab issue in project {service} for its newest failed pipeline, \"Pipeline <id>: <failed jobs, separated by a comma \
             and a space>\", and post \"{service}: <title>\" in #releases. Answer as JSON: {{\"issue\" (iid), \"ts\"}}."
        ),
        needs: needs(&[
            PROJECTS,
            PIPELINES,
            JOBS,
            ("open an issue in a GitLab project", "gitlab", "create_issue"),
            CHANNELS,
            POST,
        ]),
        script: script(FAILED, &[("service", service)])
            + &script(
                r#"
title = f"Pipeline {pipeline['id']}: {', '.join(failed)}"
issue = gitlab.create_issue(project_id=project["id"], title=title)
channel = [c for c in slack.slack_list_channels()["channels"] if c["name"] == "releases"][0]
message = slack.slack_post_message(channel_id=channel["id"], text="$service: " + title)
result = {"issue": issue["iid"], "ts": message["ts"]}
"#,
                &[("service", service)],
            ),
        answer: json!({"issue": issue, "ts": ts}),
        plan: Box::new(move |turns| {
            let (project, pipeline, failed) = failed_of(turns, service)?;
            let title = format!("Pipeline {pipeline}: {}", failed.join(", "));
            let found = turns.all(vec![
                call("gitlab", "create_issue", json!({"project_id": project, "title": title})),
                call("slack", "slack_list_channels", json!({})),
            ])?;
            let channel = &with(&found[1]["channels"], "name", "releases")["id"];
            let message = json!({"channel_id": channel, "text": format!("{service}: {title}")});
            let message = turns.call("slack", "slack_post_message", message)?;
            Some(json!({"issue": found[0]["iid"], "ts": message["ts"]}))
        }),
    }
}

pub fn ticket_jobs(world: &World, nth: usize) -> Task {
    let (service, at) = (SERVICES[nth * 2], nth * 2);
    let (id, failed) = failed_in(world, at);
    let title = format!("{service}: pipeline {id} failed in {}", failed.join(" and "));
    let ticket = mark(&["ticket", &title, TEAM, "2"]);
    Task {
        name: "ticket_jobs",
        ask: format!(
            "Make a Linear ticket of priority 2 for team {TEAM} about the newest failed GitLab pipeline of {service}: \"{service}: pipeline \
             <id> failed in <jobs, joined by ' and '>\". Answer as JSON: {{\"ticket\" (id), \"title\"}}."
        ),
        needs: needs(&[PROJECTS, PIPELINES, JOBS, ("create a Linear ticket", "linear", "linear_create_issue")]),
        script: script(FAILED, &[("service", service)])
            + &script(
                r#"
title = f"$service: pipeline {pipeline['id']} failed in {' and '.join(failed)}"
ticket = linear.linear_create_issue(title=title, teamId="$team", priority=2)
result = {"ticket": ticket["id"], "title": title}
"#,
                &[("service", service), ("team", TEAM)],
            ),
        answer: json!({"ticket": ticket, "title": title}),
        plan: Box::new(move |turns| {
            let (_, pipeline, failed) = failed_of(turns, service)?;
            let title = format!("{service}: pipeline {pipeline} failed in {}", failed.join(" and "));
            let ticket = json!({"title": title, "teamId": TEAM, "priority": 2});
            let ticket = turns.call("linear", "linear_create_issue", ticket)?;
            Some(json!({"ticket": ticket["id"], "title": title}))
        }),
    }
}
