//! Tasks about money: customers, invoices, payments, and telling people about them.

use std::cmp::Reverse;

use serde_json::{Value, json};

use super::{Task, call, items, least, needs, number, script, sum, text, with};
use crate::tokens::world::{Customer, Invoice, TODAY, World, mark};

const CUSTOMER: (&str, &str, &str) = ("find a customer by name", "xero", "list-contacts");
const INVOICES: (&str, &str, &str) = ("invoices of a customer", "xero", "list-invoices");
const PAYMENTS: (&str, &str, &str) = ("payments made on an invoice", "xero", "list-payments");
const CHANNELS: (&str, &str, &str) = ("find a chat channel", "slack", "slack_list_channels");
const POST: (&str, &str, &str) = ("post a message in a channel", "slack", "slack_post_message");

fn open_of(world: &World, customer: usize) -> Vec<&Invoice> {
    world.invoices_of(customer).filter(|invoice| invoice.open() > 0).collect()
}

fn due(invoices: &[&Invoice]) -> u64 {
    invoices.iter().map(|invoice| invoice.open()).sum()
}

pub fn address(world: &World, nth: usize) -> Task {
    let Customer { name, email, .. } = &world.customers[nth * 5 + 1];
    let term = name.clone();
    Task {
        name: "address",
        ask: format!("What is the e-mail address of our customer {name}? Answer as JSON: {{\"email\"}}."),
        needs: needs(&[CUSTOMER]),
        script: script(
            "result = {\"email\": xero.list_contacts(searchTerm=\"$name\")[0][\"emailAddress\"]}\n",
            &[("name", name)],
        ),
        plan: Box::new(move |turns| {
            let found = turns.call("xero", "list-contacts", json!({"searchTerm": term}))?;
            Some(json!({"email": found[0]["emailAddress"]}))
        }),
        answer: json!({"email": email}),
    }
}

pub fn owed(world: &World, nth: usize) -> Task {
    let at = nth * 4 + 2;
    let (name, open) = (world.customers[at].name.clone(), open_of(world, at));
    Task {
        name: "owed",
        ask: format!(
            "How much does {name} still owe us, on how many invoices? Answer as JSON: {{\"invoices\", \"amount_due\"}}."
        ),
        needs: needs(&[CUSTOMER, INVOICES]),
        script: script(
            r#"
customer = xero.list_contacts(searchTerm="$name")[0]
invoices = xero.list_invoices(page=1, contactIds=[customer["contactID"]])
unpaid = [i for i in invoices if i["amountDue"] > 0]
result = {"invoices": len(unpaid), "amount_due": sum([i["amountDue"] for i in unpaid])}
"#,
            &[("name", &name)],
        ),
        answer: json!({"invoices": open.len(), "amount_due": due(&open)}),
        plan: Box::new(move |turns| {
            let found = turns.call("xero", "list-contacts", json!({"searchTerm": name}))?;
            let all = turns.call("xero", "list-invoices", json!({"page": 1, "contactIds": [found[0]["contactID"]]}))?;
            let open = items(&all).iter().filter(|i| number(&i["amountDue"]) > 0).count();
            Some(json!({"invoices": open, "amount_due": sum(items(&all), "amountDue")}))
        }),
    }
}

pub fn payments(world: &World, nth: usize) -> Task {
    let at = nth * 6 + 3;
    let name = world.customers[at].name.clone();
    let part_paid = world.invoices.iter().enumerate().find(|(_, i)| i.customer == at && i.paid > 0 && i.open() > 0);
    let known = part_paid.map_or(0, |(at, _)| at);
    let mut paid: Vec<&str> = world.payments.iter().filter(|p| p.invoice == known).map(|p| p.reference.as_str()).collect();
    paid.sort_unstable();
    Task {
        name: "payments",
        ask: format!(
            "Which payments have we got on the first invoice of {name} that is paid only in part? Answer as JSON: {{\"invoice\" (its \
             number), \"references\" (sorted), \"paid\" (sum)}}."
        ),
        needs: needs(&[CUSTOMER, INVOICES, PAYMENTS]),
        script: script(
            r#"
customer = xero.list_contacts(searchTerm="$name")[0]
invoices = xero.list_invoices(page=1, contactIds=[customer["contactID"]])
invoice = [i for i in invoices if i["amountPaid"] > 0 and i["amountDue"] > 0][0]
payments = xero.list_payments(invoiceId=invoice["invoiceID"])
result = {
    "invoice": invoice["invoiceNumber"],
    "references": sorted([p["reference"] for p in payments]),
    "paid": sum([p["amount"] for p in payments]),
}
"#,
            &[("name", &name)],
        ),
        answer: json!({"invoice": world.invoices[known].number, "references": paid, "paid": world.invoices[known].paid}),
        plan: Box::new(move |turns| {
            let found = turns.call("xero", "list-contacts", json!({"searchTerm": name}))?;
            let all = turns.call("xero", "list-invoices", json!({"page": 1, "contactIds": [found[0]["contactID"]]}))?;
            let part = |i: &&Value| number(&i["amountPaid"]) > 0 && number(&i["amountDue"]) > 0;
            let invoice = items(&all).iter().find(part).unwrap_or(&Value::Null);
            let payments = turns.call("xero", "list-payments", json!({"invoiceId": invoice["invoiceID"]}))?;
            let mut references: Vec<&str> = items(&payments).iter().map(|p| text(&p["reference"])).collect();
            references.sort_unstable();
            let paid = sum(items(&payments), "amount");
            Some(json!({"invoice": invoice["invoiceNumber"], "references": references, "paid": paid}))
        }),
    }
}

pub fn reminder(world: &World, nth: usize) -> Task {
    let at = nth * 3 + 7;
    let (name, open) = (world.customers[at].name.clone(), open_of(world, at));
    let said = format!("{name} owes {} USD on {} invoices", due(&open), open.len());
    Task {
        name: "reminder",
        ask: format!(
            "Tell #collections what {name} owes us, in these words: \"<customer> owes <amount> USD on <n> invoices\". Answer as JSON: \
             {{\"ts\" (of the message), \"amount_due\"}}."
        ),
        needs: needs(&[CUSTOMER, INVOICES, CHANNELS, POST]),
        script: script(
            r#"
customer = xero.list_contacts(searchTerm="$name")[0]
invoices = xero.list_invoices(page=1, contactIds=[customer["contactID"]])
unpaid = [i for i in invoices if i["amountDue"] > 0]
total = sum([i["amountDue"] for i in unpaid])
channel = [c for c in slack.slack_list_channels()["channels"] if c["name"] == "collections"][0]
text = f"{customer['name']} owes {total} USD on {len(unpaid)} invoices"
message = slack.slack_post_message(channel_id=channel["id"], text=text)
result = {"ts": message["ts"], "amount_due": total}
"#,
            &[("name", &name)],
        ),
        answer: json!({"ts": mark(&["post", &world.channel("collections").id, &said]), "amount_due": due(&open)}),
        plan: Box::new(move |turns| {
            let found = turns.all(vec![
                call("xero", "list-contacts", json!({"searchTerm": name})),
                call("slack", "slack_list_channels", json!({})),
            ])?;
            let customer = &found[0][0];
            let all = turns.call("xero", "list-invoices", json!({"page": 1, "contactIds": [customer["contactID"]]}))?;
            let open = items(&all).iter().filter(|i| number(&i["amountDue"]) > 0).count();
            let total = sum(items(&all), "amountDue");
            let words = format!("{} owes {total} USD on {open} invoices", text(&customer["name"]));
            let channel = &with(&found[1]["channels"], "name", "collections")["id"];
            let message = turns.call("slack", "slack_post_message", json!({"channel_id": channel, "text": words}))?;
            Some(json!({"ts": message["ts"], "amount_due": total}))
        }),
    }
}

pub fn credit(world: &World, nth: usize) -> Task {
    let at = nth * 7 + 4;
    let name = world.customers[at].name.clone();
    let largest = least(world.invoices.iter().filter(|i| i.customer == at), |i| Reverse(i.total));
    let price = largest.and_then(|i| i.lines.first()).map_or(0, |(_, _, price)| *price);
    let id = mark(&["credit", &world.customers[at].id, &price.to_string(), "200"]);
    Task {
        name: "credit",
        ask: format!(
            "Give {name} a credit note for one unit of the first line of its largest invoice, on the account named Sales. Answer as \
             JSON: {{\"credit_note\" (its id), \"total\"}}."
        ),
        needs: needs(&[
            CUSTOMER,
            INVOICES,
            ("accounts in the ledger", "xero", "list-accounts"),
            ("credit note", "xero", "create-credit-note"),
        ]),
        script: script(
            r#"
customer = xero.list_contacts(searchTerm="$name")[0]
invoices = xero.list_invoices(page=1, contactIds=[customer["contactID"]])
largest = sorted(invoices, key=lambda i: -i["total"])[0]
line = xero.list_invoices(page=1, invoiceNumbers=[largest["invoiceNumber"]])[0]["lineItems"][0]
account = [a for a in xero.list_accounts() if a["name"] == "Sales"][0]
note = xero.create_credit_note(
    contactId=customer["contactID"],
    lineItems=[{
        "description": line["description"],
        "quantity": 1,
        "unitAmount": line["unitAmount"],
        "accountCode": account["code"],
        "taxType": account["taxType"],
    }],
)
result = {"credit_note": note["creditNoteID"], "total": note["total"]}
"#,
            &[("name", &name)],
        ),
        answer: json!({"credit_note": id, "total": price}),
        plan: Box::new(move |turns| {
            let found = turns.all(vec![
                call("xero", "list-contacts", json!({"searchTerm": name})),
                call("xero", "list-accounts", json!({})),
            ])?;
            let customer = &found[0][0]["contactID"];
            let all = turns.call("xero", "list-invoices", json!({"page": 1, "contactIds": [customer]}))?;
            let largest = &least(items(&all), |i| Reverse(number(&i["total"])))?["invoiceNumber"];
            let whole = turns.call("xero", "list-invoices", json!({"page": 1, "invoiceNumbers": [largest]}))?;
            let (line, account) = (&whole[0]["lineItems"][0], with(&found[1], "name", "Sales"));
            let line = json!({"description": line["description"], "quantity": 1, "unitAmount": line["unitAmount"],
                              "accountCode": account["code"], "taxType": account["taxType"]});
            let note = turns.call("xero", "create-credit-note", json!({"contactId": customer, "lineItems": [line]}))?;
            Some(json!({"credit_note": note["creditNoteID"], "total": note["total"]}))
        }),
    }
}

pub fn compare(world: &World, nth: usize) -> Task {
    let (one, other) = (nth * 2, nth * 2 + 11);
    let names = [world.customers[one].name.clone(), world.customers[other].name.clone()];
    let dues = [due(&open_of(world, one)), due(&open_of(world, other))];
    let more = if dues[0] >= dues[1] { &names[0] } else { &names[1] };
    Task {
        name: "compare",
        ask: format!(
            "Who owes us more, {} or {}, and by how much? Answer as JSON: {{\"customer\", \"difference\"}}.",
            names[0], names[1]
        ),
        needs: needs(&[CUSTOMER, INVOICES]),
        script: script(
            r#"
def owed(name):
    customer = xero.list_contacts(searchTerm=name)[0]
    return sum([i["amountDue"] for i in xero.list_invoices(page=1, contactIds=[customer["contactID"]])])

a = owed("$one")
b = owed("$other")
result = {"customer": "$one" if a >= b else "$other", "difference": abs(a - b)}
"#,
            &[("one", &names[0]), ("other", &names[1])],
        ),
        answer: json!({"customer": more, "difference": dues[0].abs_diff(dues[1])}),
        plan: Box::new(move |turns| {
            let found = turns.all(names.iter().map(|n| call("xero", "list-contacts", json!({"searchTerm": n}))).collect())?;
            let list = |found: &Value| call("xero", "list-invoices", json!({"page": 1, "contactIds": [found[0]["contactID"]]}));
            let lists = turns.all(found.iter().map(list).collect())?;
            let dues = [sum(items(&lists[0]), "amountDue"), sum(items(&lists[1]), "amountDue")];
            let more = if dues[0] >= dues[1] { &names[0] } else { &names[1] };
            Some(json!({"customer": more, "difference": dues[0].abs_diff(dues[1])}))
        }),
    }
}

pub fn overdue(world: &World, nth: usize) -> Task {
    let who = [nth * 3, nth * 3 + 6, nth * 3 + 10];
    let names = who.map(|at| world.customers[at].name.clone());
    let late = |at: usize| world.invoices_of(at).filter(|i| i.due.as_str() < TODAY).map(Invoice::open).sum::<u64>();
    let mut order: Vec<(u64, &String)> = who.iter().map(|at| late(*at)).zip(&names).collect();
    order.sort_by_key(|(amount, _)| Reverse(*amount));
    let said: Vec<String> = order.iter().map(|(amount, name)| format!("{name}: {amount}")).collect();
    let ts = mark(&["post", &world.channel("collections").id, &said.join("\n")]);
    let worst = order[0].1.clone();
    Task {
        name: "overdue",
        ask: format!(
            "Post in #collections what of {}, {} and {} is overdue (due before today), one line \"<customer>: <amount>\" each, the largest \
             first. Answer as JSON: {{\"ts\", \"worst\" (customer)}}.",
            names[0], names[1], names[2]
        ),
        needs: needs(&[CUSTOMER, INVOICES, CHANNELS, POST]),
        script: script(
            r#"
rows = []
for name in ["$one", "$two", "$three"]:
    customer = xero.list_contacts(searchTerm=name)[0]
    invoices = xero.list_invoices(page=1, contactIds=[customer["contactID"]])
    rows.append((sum([i["amountDue"] for i in invoices if i["dueDate"] < "$today"]), name))
rows = sorted(rows, key=lambda r: -r[0])
channel = [c for c in slack.slack_list_channels()["channels"] if c["name"] == "collections"][0]
text = "\n".join([f"{name}: {amount}" for amount, name in rows])
message = slack.slack_post_message(channel_id=channel["id"], text=text)
result = {"ts": message["ts"], "worst": rows[0][1]}
"#,
            &[("one", &names[0]), ("two", &names[1]), ("three", &names[2]), ("today", TODAY)],
        ),
        answer: json!({"ts": ts, "worst": worst}),
        plan: Box::new(move |turns| {
            let mut first: Vec<_> = names.iter().map(|n| call("xero", "list-contacts", json!({"searchTerm": n}))).collect();
            first.push(call("slack", "slack_list_channels", json!({})));
            let found = turns.all(first)?;
            let list = |found: &Value| call("xero", "list-invoices", json!({"page": 1, "contactIds": [found[0]["contactID"]]}));
            let lists = turns.all(found[..3].iter().map(list).collect())?;
            let late = |all: &Value| {
                items(all).iter().filter(|i| text(&i["dueDate"]) < TODAY).map(|i| number(&i["amountDue"])).sum::<u64>()
            };
            let mut rows: Vec<(u64, &String)> = lists.iter().map(late).zip(&names).collect();
            rows.sort_by_key(|(amount, _)| Reverse(*amount));
            let words: Vec<String> = rows.iter().map(|(amount, name)| format!("{name}: {amount}")).collect();
            let channel = &with(&found[3]["channels"], "name", "collections")["id"];
            let message = turns.call("slack", "slack_post_message", json!({"channel_id": channel, "text": words.join("\n")}))?;
            Some(json!({"ts": message["ts"], "worst": rows[0].1}))
        }),
    }
}

/// Eight calls, of which each needs the one before.
pub fn thread(world: &World, nth: usize) -> Task {
    let channel = world.channel("collections");
    let message = &channel.messages[nth * 3 + 1];
    let ts = message.ts.clone();
    let asked = message.text.trim_start_matches("Has anybody heard about ").trim_end_matches('?');
    let invoice = world.invoices.iter().find(|i| i.number == asked).unwrap_or(&world.invoices[0]);
    let customer = &world.customers[invoice.customer];
    let paid = world.payments.iter().filter(|p| world.invoices[p.invoice].id == invoice.id).count();
    let last = message.replies.last().map_or(0, |(who, ..)| *who);
    let said = format!(
        "{}, {}: {} of {} USD open after {paid} payments, ask {}",
        world.people[last].name,
        invoice.number,
        invoice.open(),
        invoice.total,
        customer.email
    );
    Task {
        name: "thread",
        ask: format!(
            "In #collections somebody asks about an invoice (message {ts}). Reply in the thread to whoever wrote last there: \"<real name>, \
             <invoice number>: <amount due> of <total> USD open after <n> payments, ask <e-mail of the customer>\", and put a \
             white_check_mark on the message. Answer as JSON: {{\"ts\" (of the reply), \"amount_due\"}}."
        ),
        needs: needs(&[
            CHANNELS,
            ("replies in a thread", "slack", "slack_get_thread_replies"),
            ("profile of a chat user", "slack", "slack_get_user_profile"),
            ("find an invoice by number", "xero", "list-invoices"),
            PAYMENTS,
            CUSTOMER,
            ("reply in a thread", "slack", "slack_reply_to_thread"),
            ("add a reaction to a message", "slack", "slack_add_reaction"),
        ]),
        script: script(
            r#"
channel = [c for c in slack.slack_list_channels()["channels"] if c["name"] == "collections"][0]["id"]
thread = slack.slack_get_thread_replies(channel_id=channel, thread_ts="$ts")["messages"]
person = slack.slack_get_user_profile(user_id=thread[-1]["user"])["profile"]
number = thread[0]["text"].split("about ")[1].strip("?")
invoice = xero.list_invoices(page=1, invoiceNumbers=[number])[0]
payments = xero.list_payments(invoiceId=invoice["invoiceID"])
customer = xero.list_contacts(searchTerm=invoice["contact"]["name"])[0]
text = f"{person['real_name']}, {number}: {invoice['amountDue']} of {invoice['total']} USD open after {len(payments)} payments, ask {customer['emailAddress']}"
reply = slack.slack_reply_to_thread(channel_id=channel, thread_ts="$ts", text=text)
slack.slack_add_reaction(channel_id=channel, timestamp="$ts", reaction="white_check_mark")
result = {"ts": reply["ts"], "amount_due": invoice["amountDue"]}
"#,
            &[("ts", &ts)],
        ),
        answer: json!({"ts": mark(&["reply", &channel.id, &ts, &said]), "amount_due": invoice.open()}),
        plan: Box::new(move |turns| {
            let channels = turns.call("slack", "slack_list_channels", json!({}))?;
            let channel = &with(&channels["channels"], "name", "collections")["id"];
            let thread = turns.call("slack", "slack_get_thread_replies", json!({"channel_id": channel, "thread_ts": ts}))?;
            let (first, last) = (&thread["messages"][0], items(&thread["messages"]).last()?);
            let person = turns.call("slack", "slack_get_user_profile", json!({"user_id": last["user"]}))?;
            let number = text(&first["text"]).split("about ").nth(1)?.trim_matches('?');
            let invoice = turns.call("xero", "list-invoices", json!({"page": 1, "invoiceNumbers": [number]}))?;
            let invoice = &invoice[0];
            let payments = turns.call("xero", "list-payments", json!({"invoiceId": invoice["invoiceID"]}))?;
            let customer = turns.call("xero", "list-contacts", json!({"searchTerm": invoice["contact"]["name"]}))?;
            let words = format!(
                "{}, {number}: {} of {} USD open after {} payments, ask {}",
                text(&person["profile"]["real_name"]),
                invoice["amountDue"],
                invoice["total"],
                items(&payments).len(),
                text(&customer[0]["emailAddress"])
            );
            let reply = json!({"channel_id": channel, "thread_ts": ts, "text": words});
            let reply = turns.call("slack", "slack_reply_to_thread", reply)?;
            let reaction = json!({"channel_id": channel, "timestamp": ts, "reaction": "white_check_mark"});
            turns.call("slack", "slack_add_reaction", reaction)?;
            Some(json!({"ts": reply["ts"], "amount_due": invoice["amountDue"]}))
        }),
    }
}
