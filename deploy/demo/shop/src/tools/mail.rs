use rmcp::{Json, handler::server::wrapper::Parameters, tool, tool_router};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Limit, page};
use crate::{model::Email, shop::Shop};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SendEmail {
    /// One address.
    to: String,
    #[schemars(length(min = 1, max = 200))]
    subject: String,
    /// Plain text.
    #[schemars(length(max = 10_000))]
    body: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListSentEmails {
    /// Only what went to this address.
    to: Option<String>,
    #[serde(default)]
    limit: Limit,
    #[serde(default)]
    offset: u32,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct Emails {
    emails: Vec<Email>,
    /// How many match, shown here or not.
    total: usize,
}

#[tool_router(router = mail, vis = "pub(crate)")]
impl Shop {
    /// Sends an e-mail. (In this demo it is kept in a list and goes nowhere.)
    #[tool(annotations(
        title = "Send an e-mail",
        read_only_hint = false,
        destructive_hint = true,
        idempotent_hint = false,
        open_world_hint = true
    ))]
    fn send_email(&self, Parameters(ask): Parameters<SendEmail>) -> Result<Json<Email>, String> {
        let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != ',';
        let address = ask.to.split_once('@').is_some_and(|(who, host)| !who.is_empty() && host.contains('.'));
        if !address || !ask.to.chars().all(plain) {
            return Err(format!("{:?} is not a single e-mail address", ask.to));
        }
        if ask.subject.is_empty() || ask.subject.contains(['\n', '\r']) {
            return Err("the subject must be one line and not empty".to_owned());
        }
        let mut world = self.world();
        let email = Email {
            id: format!("mail_{:04}", world.emails.len() + 1),
            to: ask.to,
            subject: ask.subject,
            body: ask.body,
            sent_at: world.tick(),
        };
        world.emails.push(email.clone());
        Ok(Json(email))
    }

    /// E-mails that were sent, newest first.
    #[tool(annotations(title = "List sent e-mails", read_only_hint = true, open_world_hint = false))]
    fn list_sent_emails(&self, Parameters(ask): Parameters<ListSentEmails>) -> Result<Json<Emails>, String> {
        let matches = |email: &&Email| ask.to.as_ref().is_none_or(|to| email.to.eq_ignore_ascii_case(to));
        let all = self.world().emails.iter().rev().filter(matches).cloned().collect();
        let (emails, total) = page(all, ask.limit, ask.offset)?;
        Ok(Json(Emails { emails, total }))
    }
}
