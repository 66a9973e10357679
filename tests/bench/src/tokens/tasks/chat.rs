//! Tasks about people: who is it, what did they say, what time is it there.

use serde_json::{Value, json};

use super::{
    Task, call,
    code::{CHANNELS, POST},
    items, needs, number, script, text, with,
};
use crate::tokens::world::{Person, World, mark};

const USERS: (&str, &str, &str) = ("list chat users", "slack", "slack_get_users");
const PROFILE: (&str, &str, &str) = ("profile of a chat user", "slack", "slack_get_user_profile");
const CONVERT: (&str, &str, &str) = ("convert a time between time zones", "clock", "convert_time");

/// What the clock of a person shows at this minute of the day in UTC.
fn local(person: &Person, minute: i32) -> String {
    let there = (minute + person.zone.1).rem_euclid(1440);
    format!("{:02}:{:02}", there / 60, there % 60)
}

fn shown(converted: &Value) -> String {
    text(&converted["target"]["datetime"]).chars().skip(11).take(5).collect()
}

pub fn local_time(world: &World, nth: usize) -> Task {
    let person = &world.people[nth * 4 + 1];
    let (name, login, at) = (&person.name, person.login.clone(), 9 + nth);
    let time = format!("{at:02}:30");
    Task {
        name: "local_time",
        ask: format!(
            "What time is {time} UTC for {name} ({login} in the chat), and what is the e-mail address? Answer as JSON: {{\"time\" \
             (HH:MM), \"email\"}}."
        ),
        needs: needs(&[USERS, PROFILE, CONVERT]),
        script: script(
            r#"
user = [u for u in slack.slack_get_users()["members"] if u["name"] == "$login"][0]
profile = slack.slack_get_user_profile(user_id=user["id"])["profile"]
there = clock.convert_time(source_timezone="Etc/UTC", time="$time", target_timezone=user["tz"])["target"]["datetime"]
result = {"time": there[11:16], "email": profile["email"]}
"#,
            &[("login", &login), ("time", &time)],
        ),
        answer: json!({"time": local(person, i32::try_from(at).unwrap_or(0) * 60 + 30), "email": person.email}),
        plan: Box::new(move |turns| {
            let users = turns.call("slack", "slack_get_users", json!({}))?;
            let user = with(&users["members"], "name", &login);
            let zones = json!({"source_timezone": "Etc/UTC", "time": time, "target_timezone": user["tz"]});
            let found = turns.all(vec![
                call("slack", "slack_get_user_profile", json!({"user_id": user["id"]})),
                call("clock", "convert_time", zones),
            ])?;
            Some(json!({"time": shown(&found[1]), "email": found[0]["profile"]["email"]}))
        }),
    }
}

pub fn last_word(world: &World, nth: usize) -> Task {
    let channel = &world.channels[[2, 4, 6][nth]];
    let name = channel.name;
    let most = channel.messages.iter().map(|m| m.replies.len()).max().unwrap_or(0);
    let message = channel.messages.iter().find(|m| m.replies.len() == most).unwrap_or(&channel.messages[0]);
    let last = message.replies.last().map_or(0, |(who, ..)| *who);
    Task {
        name: "last_word",
        ask: format!(
            "Who had the last word in the longest thread of #{name} (the first of them, as listed)? Answer as JSON: {{\"email\", \
             \"replies\" (how many the thread has)}}."
        ),
        needs: needs(&[
            CHANNELS,
            ("messages of a channel", "slack", "slack_get_channel_history"),
            ("replies in a thread", "slack", "slack_get_thread_replies"),
            PROFILE,
        ]),
        script: script(
            r#"
channel = [c for c in slack.slack_list_channels()["channels"] if c["name"] == "$name"][0]["id"]
messages = slack.slack_get_channel_history(channel_id=channel)["messages"]
longest = sorted(messages, key=lambda m: -m["reply_count"])[0]
thread = slack.slack_get_thread_replies(channel_id=channel, thread_ts=longest["ts"])["messages"]
profile = slack.slack_get_user_profile(user_id=thread[-1]["user"])["profile"]
result = {"email": profile["email"], "replies": longest["reply_count"]}
"#,
            &[("name", name)],
        ),
        answer: json!({"email": world.people[last].email, "replies": most}),
        plan: Box::new(move |turns| {
            let channels = turns.call("slack", "slack_list_channels", json!({}))?;
            let channel = &with(&channels["channels"], "name", name)["id"];
            let history = turns.call("slack", "slack_get_channel_history", json!({"channel_id": channel}))?;
            let most = items(&history["messages"]).iter().map(|m| number(&m["reply_count"])).max()?;
            let message = items(&history["messages"]).iter().find(|m| number(&m["reply_count"]) == most)?;
            let thread = json!({"channel_id": channel, "thread_ts": message["ts"]});
            let thread = turns.call("slack", "slack_get_thread_replies", thread)?;
            let last = items(&thread["messages"]).last()?;
            let profile = turns.call("slack", "slack_get_user_profile", json!({"user_id": last["user"]}))?;
            Some(json!({"email": profile["profile"]["email"], "replies": most}))
        }),
    }
}

pub fn meeting(world: &World, nth: usize) -> Task {
    let pair = [&world.people[nth * 2], &world.people[nth * 2 + 5]];
    let logins = pair.map(|p| p.login.clone());
    let time = format!("{:02}:00", 7 + nth * 3);
    let minute = i32::try_from(7 + nth * 3).unwrap_or(0) * 60;
    let said = format!("{} {}, {} {}", logins[0], local(pair[0], minute), logins[1], local(pair[1], minute));
    Task {
        name: "meeting",
        ask: format!(
            "The meeting is at {time} UTC. Post the local times of {} and {} in #general: \"<login> <HH:MM>, <login> <HH:MM>\". Answer as \
             JSON: {{\"ts\"}}.",
            logins[0], logins[1]
        ),
        needs: needs(&[USERS, CONVERT, CHANNELS, POST]),
        script: script(
            r#"
users = {u["name"]: u for u in slack.slack_get_users()["members"]}
parts = []
for login in ["$one", "$two"]:
    there = clock.convert_time(source_timezone="Etc/UTC", time="$time", target_timezone=users[login]["tz"])
    parts.append(login + " " + there["target"]["datetime"][11:16])
channel = [c for c in slack.slack_list_channels()["channels"] if c["name"] == "general"][0]
result = {"ts": slack.slack_post_message(channel_id=channel["id"], text=", ".join(parts))["ts"]}
"#,
            &[("one", &logins[0]), ("two", &logins[1]), ("time", &time)],
        ),
        answer: json!({"ts": mark(&["post", &world.channel("general").id, &said])}),
        plan: Box::new(move |turns| {
            let first =
                turns.all(vec![call("slack", "slack_get_users", json!({})), call("slack", "slack_list_channels", json!({}))])?;
            let convert = |login: &String| {
                let zone = &with(&first[0]["members"], "name", login)["tz"];
                call("clock", "convert_time", json!({"source_timezone": "Etc/UTC", "time": time, "target_timezone": zone}))
            };
            let times = turns.all(logins.iter().map(convert).collect())?;
            let words = format!("{} {}, {} {}", logins[0], shown(&times[0]), logins[1], shown(&times[1]));
            let channel = &with(&first[1]["channels"], "name", "general")["id"];
            let message = turns.call("slack", "slack_post_message", json!({"channel_id": channel, "text": words}))?;
            Some(json!({"ts": message["ts"]}))
        }),
    }
}
