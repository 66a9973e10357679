//! What the fake upstreams answer: the records of the [`World`], in the shapes that the services' own APIs give them.

use serde_json::{Value, json};

use super::world::{BASE, INDICES, Invoice, Issue, OWNER, Pull, Repo, SERVICES, TEAM, Ticket, World, mark};

/// As many invoices as one page of the accounting server holds.
const PAGE: usize = 10;

/// The value that `tool` of `server` answers.
///
/// # Errors
/// What the server says of arguments that name nothing, and of tools that no task needs.
pub fn answer(world: &World, server: &str, tool: &str, args: &Value) -> Result<Value, String> {
    let found = match server {
        "xero" => xero(world, tool, args),
        "github" => github(world, tool, args),
        "slack" => slack(world, tool, args),
        "linear" => linear(world, tool, args),
        "elasticsearch" => elasticsearch(world, tool, args),
        "clock" => clock(world, tool, args),
        "airtable" => airtable(world, tool, args),
        "gitlab" => gitlab(world, tool, args),
        _ => None,
    };
    found.ok_or_else(|| format!("{tool}: nothing found for {args}"))
}

fn text<'a>(args: &'a Value, key: &str) -> &'a str {
    args[key].as_str().unwrap_or_default()
}

fn has(text: &str, part: &str) -> bool {
    text.to_lowercase().contains(&part.to_lowercase())
}

fn xero(world: &World, tool: &str, args: &Value) -> Option<Value> {
    let link = |kind: &str, id: &str| format!("https://go.xero.example/{kind}/{id}");
    Some(match tool {
        "list-contacts" => {
            let term = text(args, "searchTerm");
            let found = world.customers.iter().filter(|c| has(&c.name, term) || has(&c.email, term));
            let contact = |c: &super::world::Customer| {
                json!({"contactID": c.id, "name": c.name, "emailAddress": c.email, "contactStatus": "ACTIVE", "isCustomer": true,
                       "isSupplier": false, "defaultCurrency": "USD"})
            };
            found.map(contact).collect()
        }
        "list-invoices" => {
            let listed = |name: &str, id: &str| args[name].as_array().is_none_or(|ids| ids.iter().any(|known| known == id));
            let fits =
                |i: &&Invoice| listed("contactIds", &world.customers[i.customer].id) && listed("invoiceNumbers", &i.number);
            let page = usize::try_from(args["page"].as_u64()?.max(1)).ok()? - 1;
            let with_lines = args["invoiceNumbers"].is_array();
            world.invoices.iter().filter(fits).skip(page * PAGE).take(PAGE).map(|i| invoice(world, i, with_lines)).collect()
        }
        "list-payments" => {
            let (number, id) = (args["invoiceNumber"].as_str(), args["invoiceId"].as_str());
            let fits = |at: usize| {
                let invoice = &world.invoices[at];
                number.is_none_or(|n| n == invoice.number) && id.is_none_or(|id| id == invoice.id)
            };
            let found = world.payments.iter().filter(|p| fits(p.invoice));
            let payment = |p: &super::world::Payment| {
                json!({"paymentID": p.id, "date": p.date, "amount": p.amount, "reference": p.reference, "status": "AUTHORISED",
                       "paymentType": "ACCRECPAYMENT", "invoice": {"invoiceID": world.invoices[p.invoice].id,
                       "invoiceNumber": world.invoices[p.invoice].number}})
            };
            found.map(payment).collect()
        }
        "list-accounts" => json!([
            {"code": "200", "name": "Sales", "type": "REVENUE", "taxType": "OUTPUT", "status": "ACTIVE"},
            {"code": "260", "name": "Goodwill", "type": "REVENUE", "taxType": "NONE", "status": "ACTIVE"},
            {"code": "090", "name": "Business Bank", "type": "BANK", "taxType": "NONE", "status": "ACTIVE"},
            {"code": "404", "name": "Bank Fees", "type": "EXPENSE", "taxType": "NONE", "status": "ACTIVE"},
        ]),
        "create-credit-note" => {
            let line = &args["lineItems"][0];
            let amount = line["quantity"].as_u64()? * line["unitAmount"].as_u64()?;
            let id = mark(&["credit", text(args, "contactId"), &amount.to_string(), text(line, "accountCode")]);
            json!({"creditNoteID": id, "status": "DRAFT", "total": amount, "url": link("creditnote", &id)})
        }
        _ => return None,
    })
}

fn invoice(world: &World, i: &Invoice, with_lines: bool) -> Value {
    let customer = &world.customers[i.customer];
    let mut value = json!({
        "invoiceID": i.id, "invoiceNumber": i.number, "type": "ACCREC", "contact": {"contactID": customer.id, "name": customer.name},
        "date": i.date, "dueDate": i.due, "status": if i.open() == 0 { "PAID" } else { "AUTHORISED" }, "total": i.total,
        "amountDue": i.open(), "amountPaid": i.paid, "currencyCode": "USD", "sentToContact": true,
    });
    if with_lines {
        let line = |(what, count, price): &(String, u64, u64)| {
            json!({"description": what, "quantity": count, "unitAmount": price, "lineAmount": count * price, "accountCode": "200",
                   "taxType": "OUTPUT"})
        };
        value["lineItems"] = i.lines.iter().map(line).collect();
    }
    value
}

fn github(world: &World, tool: &str, args: &Value) -> Option<Value> {
    if tool == "search_repositories" {
        let found: Vec<Value> = world.repos.iter().filter(|r| has(&r.name, text(args, "query"))).map(repository).collect();
        return Some(json!({"total_count": found.len(), "incomplete_results": false, "items": found}));
    }
    if tool == "search_issues" {
        let q = text(args, "q");
        let every = world.repos.iter().flat_map(|r| r.issues.iter().map(move |i| (r, i)));
        let fits = |(_, i): &(&Repo, &Issue)| has(q, &world.customers[i.customer].name) && (i.open || !has(q, "is:open"));
        let found: Vec<Value> = every.filter(fits).map(|(r, i)| issue(world, r, i)).collect();
        return Some(json!({"total_count": found.len(), "incomplete_results": false, "items": found}));
    }
    let repo = world.repos.iter().find(|r| r.name == text(args, "repo") && text(args, "owner") == OWNER)?;
    let one_issue = || repo.issues.iter().find(|i| Some(i.number) == args["issue_number"].as_u64());
    let pull = || repo.pulls.iter().find(|p| Some(p.number) == args["pull_number"].as_u64());
    let state = match text(args, "state") {
        "" => "open",
        state => state,
    };
    let in_state = |open: bool| state == "all" || (state == "open") == open;
    Some(match tool {
        "list_issues" => {
            let label = |i: &&Issue| args["labels"].as_array().is_none_or(|labels| labels.iter().all(|l| l == i.label));
            repo.issues.iter().filter(|i| in_state(i.open)).filter(label).map(|i| issue(world, repo, i)).collect()
        }
        "get_issue" => issue(world, repo, one_issue()?),
        "add_issue_comment" => {
            let id = mark(&["comment", &repo.name, &one_issue()?.number.to_string(), text(args, "body")]);
            json!({"id": id, "body": args["body"], "user": {"login": "agent"}})
        }
        "update_issue" => {
            let mut value = issue(world, repo, one_issue()?);
            for (key, new) in args.as_object()?.iter().filter(|(key, _)| ["state", "labels", "assignees"].contains(&key.as_str()))
            {
                value[key] = new.clone();
            }
            value
        }
        "list_pull_requests" => repo.pulls.iter().filter(|p| in_state(p.open)).map(|p| pull_request(world, repo, p)).collect(),
        "get_pull_request" => pull_request(world, repo, pull()?),
        "get_pull_request_files" => {
            let file = |(name, plus, minus): &(String, u64, u64)| json!({"filename": name, "status": "modified", "additions": plus, "deletions": minus, "changes": plus + minus});
            pull()?.files.iter().map(file).collect()
        }
        "get_pull_request_reviews" => {
            let review = |(who, yes): &(usize, bool)| {
                let state = if *yes { "APPROVED" } else { "CHANGES_REQUESTED" };
                json!({"user": {"login": world.people[*who].login}, "state": state, "body": ""})
            };
            pull()?.approvals.iter().map(review).collect()
        }
        "get_pull_request_status" => {
            let state = if pull()?.green { "success" } else { "failure" };
            json!({"state": state, "total_count": 1, "statuses": [{"context": "ci/build", "state": state}]})
        }
        _ => return None,
    })
}

fn repository(r: &Repo) -> Value {
    json!({"name": r.name, "full_name": format!("{OWNER}/{}", r.name), "owner": {"login": OWNER}, "private": true,
           "description": format!("The {} service", r.name), "default_branch": "main", "language": "Rust",
           "open_issues_count": r.issues.iter().filter(|i| i.open).count()})
}

fn issue(world: &World, repo: &Repo, i: &Issue) -> Value {
    let login = |who: usize| json!({"login": world.people[who].login});
    json!({
        "number": i.number, "title": i.title, "state": if i.open { "open" } else { "closed" }, "labels": [{"name": i.label}],
        "user": login(i.author), "assignee": login(i.assignee), "comments": i.comments, "created_at": i.created,
        "html_url": format!("https://github.example/{OWNER}/{}/issues/{}", repo.name, i.number),
        "body": format!("Reported by {}. See the log of {}.", world.customers[i.customer].name, &i.created[..10]),
    })
}

fn pull_request(world: &World, repo: &Repo, p: &Pull) -> Value {
    json!({
        "number": p.number, "title": p.title, "state": if p.open { "open" } else { "closed" },
        "user": {"login": world.people[p.author].login}, "created_at": p.created, "draft": false,
        "head": {"ref": format!("fix-{}", p.number)}, "base": {"ref": "main"},
        "html_url": format!("https://github.example/{OWNER}/{}/pull/{}", repo.name, p.number),
    })
}

fn slack(world: &World, tool: &str, args: &Value) -> Option<Value> {
    let channel = || world.channels.iter().find(|c| c.id == text(args, "channel_id"));
    let user = |p: &super::world::Person| {
        json!({"id": p.slack, "name": p.login, "real_name": p.name, "tz": p.zone.0, "tz_offset": p.zone.1 * 60, "deleted": false,
               "is_bot": false})
    };
    Some(match tool {
        "slack_list_channels" => {
            let channel =
                |c: &super::world::Channel| json!({"id": c.id, "name": c.name, "is_archived": false, "num_members": 12});
            json!({"ok": true, "channels": world.channels.iter().map(channel).collect::<Value>(), "response_metadata": {"next_cursor": ""}})
        }
        "slack_get_users" => {
            json!({"ok": true, "members": world.people.iter().map(user).collect::<Value>(), "response_metadata": {"next_cursor": ""}})
        }
        "slack_get_user_profile" => {
            let p = world.people.iter().find(|p| p.slack == text(args, "user_id"))?;
            json!({"ok": true, "profile": {"real_name": p.name, "display_name": p.login, "email": p.email, "title": "Engineer"}})
        }
        "slack_get_channel_history" => {
            let message = |m: &super::world::Message| {
                json!({"type": "message", "ts": m.ts, "user": world.people[m.author].slack, "text": m.text,
                       "reply_count": m.replies.len()})
            };
            json!({"ok": true, "messages": channel()?.messages.iter().map(message).collect::<Value>(), "has_more": false})
        }
        "slack_get_thread_replies" => {
            let m = channel()?.messages.iter().find(|m| m.ts == text(args, "thread_ts"))?;
            let first = json!({"ts": m.ts, "user": world.people[m.author].slack, "text": m.text});
            let reply =
                |(who, ts, text): &(usize, String, String)| json!({"ts": ts, "user": world.people[*who].slack, "text": text});
            json!({"ok": true, "messages": std::iter::once(first).chain(m.replies.iter().map(reply)).collect::<Value>()})
        }
        "slack_post_message" => {
            json!({"ok": true, "channel": channel()?.id, "ts": mark(&["post", &channel()?.id, text(args, "text")])})
        }
        "slack_reply_to_thread" => {
            let ts = mark(&["reply", &channel()?.id, text(args, "thread_ts"), text(args, "text")]);
            json!({"ok": true, "channel": channel()?.id, "ts": ts})
        }
        "slack_add_reaction" => json!({"ok": channel().is_some()}),
        _ => return None,
    })
}

fn linear(world: &World, tool: &str, args: &Value) -> Option<Value> {
    let ticket = |t: &Ticket| {
        json!({"id": t.id, "identifier": t.key, "title": t.title, "priority": t.priority, "status": t.status,
               "assignee": {"id": world.people[t.assignee].linear, "name": world.people[t.assignee].name}, "teamId": TEAM,
               "url": format!("https://linear.example/issue/{}", t.key)})
    };
    let limit = |default| args["limit"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(default);
    Some(match tool {
        "linear_search_issues" => {
            let fits = |t: &&Ticket| {
                has(&t.title, text(args, "query"))
                    && args["status"].as_str().is_none_or(|s| s == t.status)
                    && args["priority"].as_u64().is_none_or(|p| p == t.priority)
            };
            world.tickets.iter().filter(fits).take(limit(10)).map(ticket).collect()
        }
        "linear_get_user_issues" => {
            let mine = world.tickets.iter().filter(|t| world.people[t.assignee].linear == text(args, "userId"));
            mine.take(limit(50)).map(ticket).collect()
        }
        "linear_create_issue" => {
            let id = mark(&["ticket", text(args, "title"), text(args, "teamId"), &args["priority"].to_string()]);
            json!({"id": id, "identifier": format!("PLT-{}", &id[..6]), "url": format!("https://linear.example/issue/{id}")})
        }
        "linear_add_comment" => {
            let id = mark(&["note", text(args, "issueId"), text(args, "body")]);
            json!({"id": id, "issueId": args["issueId"]})
        }
        _ => return None,
    })
}

fn elasticsearch(world: &World, tool: &str, args: &Value) -> Option<Value> {
    Some(match tool {
        "list_indices" => {
            let count = |index: &str| world.logs.iter().filter(|l| l.index == index).count();
            INDICES.iter().map(|i| json!({"index": i, "health": "green", "status": "open", "docsCount": count(i)})).collect()
        }
        "search" => {
            let level = args.pointer("/queryBody/query/term/level").and_then(Value::as_str);
            let size =
                args.pointer("/queryBody/size").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok()).unwrap_or(10);
            let found =
                world.logs.iter().filter(|l| l.index == text(args, "index") && level.is_none_or(|level| level == l.level));
            let hit = |l: &super::world::Log| json!({"_source": {"@timestamp": l.time, "service": l.service, "level": l.level, "message": l.message}});
            let hits: Vec<Value> = found.map(hit).collect();
            json!({"hits": {"total": {"value": hits.len()}, "hits": hits.into_iter().take(size).collect::<Value>()}})
        }
        _ => return None,
    })
}

/// Zones without summer time only.
fn clock(world: &World, tool: &str, args: &Value) -> Option<Value> {
    let offset = |zone: &str| match zone {
        "Etc/UTC" | "UTC" => Some(0),
        _ => world.people.iter().find(|p| p.zone.0 == zone).map(|p| p.zone.1),
    };
    let (from, to) = (text(args, "source_timezone"), text(args, "target_timezone"));
    let (before, after) = (offset(from)?, offset(to)?);
    let (hours, minutes) = text(args, "time").split_once(':')?;
    let minute: i32 = hours.parse::<i32>().ok()? * 60 + minutes.parse::<i32>().ok()?;
    let at = |zone: &str, offset: i32, minute: i32| {
        let (hour, minute) = (minute.rem_euclid(1440) / 60, minute.rem_euclid(60));
        let sign = if offset < 0 { '-' } else { '+' };
        let away = format!("{sign}{:02}:{:02}", offset.abs() / 60, offset.abs() % 60);
        json!({"timezone": zone, "datetime": format!("2026-11-20T{hour:02}:{minute:02}:00{away}"), "day_of_week": "Friday", "is_dst": false})
    };
    let difference = f64::from(after - before) / 60.0;
    (tool == "convert_time").then(|| {
        json!({"source": at(from, before, minute), "target": at(to, after, minute + after - before),
               "time_difference": format!("{difference:+}h")})
    })
}

fn airtable(world: &World, tool: &str, args: &Value) -> Option<Value> {
    let record = |d: &super::world::Deal| {
        json!({"id": d.id, "fields": {"Company": world.customers[d.customer].name, "Owner": world.people[d.owner].name, "Stage": d.stage,
               "Amount": d.amount}})
    };
    let here = text(args, "baseId") == BASE.0 && ["Deals", "tblDeals"].contains(&text(args, "tableId"));
    Some(match tool {
        "list_bases" => json!({"bases": [
            {"id": "appHR2026NWind", "name": "People", "permissionLevel": "read"},
            {"id": BASE.0, "name": BASE.1, "permissionLevel": "create"},
        ]}),
        "list_tables" if text(args, "baseId") == BASE.0 => {
            let field = |name: &str| json!({"id": format!("fld{name}"), "name": name, "type": "singleLineText"});
            let fields: Value = ["Company", "Owner", "Stage", "Amount"].iter().map(|f| field(f)).collect();
            json!({"tables": [{"id": "tblDeals", "name": "Deals", "primaryFieldId": "fldCompany", "fields": fields, "views": []}]})
        }
        "list_records" if here => json!({"records": world.deals.iter().map(record).collect::<Value>()}),
        "search_records" if here => {
            let term = text(args, "searchTerm");
            let fits =
                |d: &&super::world::Deal| has(&world.customers[d.customer].name, term) || has(&world.people[d.owner].name, term);
            json!({"records": world.deals.iter().filter(fits).map(record).collect::<Value>()})
        }
        "create_comment" if here => {
            let id = mark(&["remark", text(args, "recordId"), text(args, "text")]);
            let author = json!({"id": "usrAgent", "email": "agent@northwind.example", "name": "Agent"});
            let time = "2026-11-20T09:00:00.000Z";
            json!({"comment": {"id": id, "createdTime": time, "lastUpdatedTime": null, "text": args["text"], "author": author}})
        }
        _ => return None,
    })
}

fn gitlab(world: &World, tool: &str, args: &Value) -> Option<Value> {
    let project = || SERVICES.iter().enumerate().find(|(at, _)| text(args, "project_id") == (4000 + at).to_string());
    let pipelines = |at: usize| world.pipelines.iter().rev().filter(move |p| p.project == at);
    Some(match tool {
        "list_projects" => {
            let found = SERVICES.iter().enumerate().filter(|(_, name)| has(name, text(args, "search")));
            let project = |(at, name): (usize, &&str)| {
                json!({"id": (4000 + at).to_string(), "name": name, "path_with_namespace": format!("{OWNER}/{name}"),
                       "default_branch": "main", "visibility": "private"})
            };
            found.map(project).collect()
        }
        "list_pipelines" => {
            let (at, _) = project()?;
            let fits = |p: &&super::world::Pipeline| match text(args, "status") {
                "" => true,
                status => (status == "failed") == p.failed,
            };
            let pipeline = |p: &super::world::Pipeline| json!({"id": p.id, "ref": p.branch, "status": if p.failed { "failed" } else { "success" }, "source": "push"});
            pipelines(at).filter(fits).map(pipeline).collect()
        }
        "list_pipeline_jobs" => {
            let (at, _) = project()?;
            let id = args["pipeline_id"].as_u64().or_else(|| text(args, "pipeline_id").parse().ok())?;
            let job = |(nth, (name, bad)): (usize, &(&str, bool))| {
                json!({"id": id * 10 + u64::try_from(nth).unwrap_or(0), "name": name, "stage": "test",
                       "status": if *bad { "failed" } else { "success" }, "duration": 61})
            };
            pipelines(at).find(|p| p.id == id)?.jobs.iter().enumerate().map(job).collect()
        }
        "create_issue" => {
            let iid = mark(&["bug", text(args, "project_id"), text(args, "title")]);
            json!({"iid": iid, "project_id": args["project_id"], "title": args["title"], "state": "opened"})
        }
        _ => return None,
    })
}
