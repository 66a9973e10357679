//! Rules that types do not express. Each says what to write instead.

use std::collections::BTreeSet;

use tracing_subscriber::EnvFilter;

use super::{Approvals, Config, Destination, Limits, Oidc, Place, Program, Report, Webhook, followers};

/// RFC 7518 names of the algorithms whose verification key cannot sign.
const ASYMMETRIC: [&str; 9] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

type Check = Result<(), String>;

impl Config {
    /// Called on every way to a `Config`, and again after something was merged in.
    pub fn check(&self) -> Check {
        let mut names = BTreeSet::new();
        for program in &self.programs {
            check_program(program)?;
            if !names.insert(&program.name) {
                return Err(format!("two programs are named {:?}; names must differ", program.name));
            }
        }
        self.oidc.iter().try_for_each(check_oidc)?;
        let mut names = BTreeSet::new();
        for destination in &self.audit.destinations {
            check_destination(destination)?;
            if !names.insert(&destination.name) {
                return Err(format!("two audit destinations are named {:?}; names must differ", destination.name));
            }
        }
        check_limits(&self.limits)?;
        check_approvals(&self.approvals)?;
        check_report(&self.report)?;
        self.secrets.check()?;
        followers::check(&self.audit)?;
        check_telemetry(&self.telemetry)
    }
}

fn check_approvals(approvals: &Approvals) -> Check {
    if !(1..=87_600).contains(&approvals.expire_hours) {
        return Err("approvals.expire_hours must be between 1 and 87600 (ten years); leave it out for a day".to_owned());
    }
    if approvals.waiting_per_key == 0 {
        return Err("approvals.waiting_per_key must be more than 0; leave it out for the default".to_owned());
    }
    if let Some(url) = &approvals.api_url {
        check_url("approvals.api_url", url, false)?;
    }
    let mut names = BTreeSet::new();
    for webhook in &approvals.webhooks {
        let what = format!("approvals webhook {:?}", webhook.name);
        check_named(&what, &webhook.name, &webhook.webhook())?;
        if webhook.tenants.as_ref().is_some_and(Vec::is_empty) {
            return Err(format!("{what} names no tenant; leave `tenants` out for all of them"));
        }
        if !names.insert(&webhook.name) {
            return Err(format!("two approvals webhooks are named {:?}; names must differ", webhook.name));
        }
    }
    Ok(())
}

/// A webhook with a name, to which files and notices are sent.
fn check_named(what: &str, name: &str, webhook: &Webhook) -> Check {
    check_name("webhook", name)?;
    followers::check_webhook(what, webhook)?;
    let mut own = webhook.headers.keys().map(|name| name.to_ascii_lowercase());
    match own.find(|name| matches!(name.as_str(), "idempotency-key" | "content-type")) {
        Some(name) => Err(format!("{what}: the header {name:?} is set by the gateway")),
        None => Ok(()),
    }
}

fn check_report(report: &Report) -> Check {
    let mut names = BTreeSet::new();
    for webhook in &report.webhooks {
        check_named(&format!("report webhook {:?}", webhook.name), &webhook.name, &webhook.webhook())?;
        if !names.insert(&webhook.name) {
            return Err(format!("two report webhooks are named {:?}; names must differ", webhook.name));
        }
    }
    Ok(())
}

fn check_program(program: &Program) -> Check {
    let name = &program.name;
    check_name("program", name)?;
    if program.command.as_os_str().is_empty() {
        return Err(format!("program {name:?} has an empty command"));
    }
    Ok(())
}

pub(super) fn check_name(what: &str, name: &str) -> Check {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        return Err(format!("{what} name {name:?} must be 1 to 64 lower-case letters, digits, `-` or `_`"));
    }
    Ok(())
}

fn check_destination(destination: &Destination) -> Check {
    check_name("audit destination", &destination.name)?;
    let what = format!("audit destination {:?}", destination.name);
    let bucket = match destination.place() {
        Some(Place::Folder(_)) => false,
        Some(Place::Bucket { .. }) => true,
        None => return Err(format!("{what}: the url must be `file:///an/absolute/folder` or `s3://bucket/prefix`")),
    };
    let Destination { endpoint, region, access_key_id, secret_access_key, allow_http, .. } = destination;
    let keyed = access_key_id.is_some() || secret_access_key.is_some();
    if !bucket && (endpoint.is_some() || region.is_some() || keyed || *allow_http) {
        return Err(format!("{what} is a folder: endpoint, region, keys and allow_http are for s3:// alone"));
    }
    if access_key_id.is_some() != secret_access_key.is_some() {
        return Err(format!("{what} needs access_key_id and secret_access_key together, or neither"));
    }
    match endpoint {
        Some(url) if !allow_http && url.starts_with("http://") => {
            Err(format!("{what}: its endpoint must be https, or say `allow_http = true`"))
        }
        Some(url) => check_url(&format!("{what}: endpoint"), url, false),
        None => Ok(()),
    }
}

fn check_oidc(oidc: &Oidc) -> Check {
    check_url("oidc issuer", &oidc.issuer, true)?;
    if let Some(url) = &oidc.jwks_url {
        check_url("oidc jwks_url", url, true)?;
    }
    if oidc.audience.is_empty() {
        return Err(format!("oidc issuer {:?} needs an audience", oidc.issuer));
    }
    if oidc.algorithms.is_empty() {
        return Err(format!("oidc issuer {:?} allows no algorithm", oidc.issuer));
    }
    match oidc.algorithms.iter().find(|name| !ASYMMETRIC.contains(&name.as_str())) {
        Some(name) => Err(format!("oidc algorithm {name:?} is not one of {}", ASYMMETRIC.join(", "))),
        None => Ok(()),
    }
}

/// Whoever can change what these addresses answer decides who is an admin: plain http only on this machine.
fn check_url(what: &str, url: &str, secure: bool) -> Check {
    let uri: axum::http::Uri = url.parse().map_err(|error| format!("{what} {url:?} is not a URL: {error}"))?;
    let host = uri.host().unwrap_or("");
    let loopback = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
    match uri.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if loopback || !secure => Ok(()),
        Some("http") => Err(format!("{what} {url:?} must be https")),
        _ => Err(format!("{what} {url:?} must begin with https:// or http://")),
    }
}

fn check_limits(limits: &Limits) -> Check {
    let script = &limits.script;
    let positive: [(&str, u64); 17] = [
        ("request_body_bytes", limits.request_body_bytes as u64),
        ("llm_body_bytes", limits.llm_body_bytes as u64),
        ("request_head_seconds", limits.request_head_seconds),
        ("connections", limits.connections as u64),
        ("tool_result_bytes", limits.tool_result_bytes as u64),
        ("audit_queue", limits.audit_queue as u64),
        ("audit_queue_bytes", limits.audit_queue_bytes as u64),
        ("database_connections", u64::from(limits.database_connections)),
        ("script.ticks", script.ticks),
        ("script.heap_bytes", script.heap_bytes),
        ("script.wall_seconds", script.wall_seconds),
        ("script.source_bytes", script.source_bytes as u64),
        ("script.log_bytes", script.log_bytes as u64),
        ("script.result_bytes", script.result_bytes as u64),
        ("script.answer_chars", script.answer_chars as u64),
        ("script.step_milliseconds", u64::from(script.step_milliseconds)),
        ("script.calls", u64::from(script.calls)),
    ];
    match positive.iter().find(|(_, value)| *value == 0) {
        Some((name, _)) => Err(format!("limits.{name} must be more than 0; leave it out for the default")),
        None => Ok(()),
    }
}

fn check_telemetry(telemetry: &super::Telemetry) -> Check {
    EnvFilter::builder()
        .parse(&telemetry.log)
        .map_err(|error| format!("log filter {:?} cannot be read: {error}", telemetry.log))?;
    match &telemetry.otlp_endpoint {
        Some(url) => check_url("otlp_endpoint", url, false),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn refusal(text: &str) -> String {
        Config::parse(text, Path::new("t.toml")).expect_err("must be refused").to_string()
    }

    fn oidc(fields: &str) -> String {
        format!("[[oidc]]\naudience = 'tollgate'\n{fields}\n")
    }

    #[test]
    fn two_programs_cannot_share_a_name() {
        let one = "[[program]]\nname = 'a'\ncommand = 'x'\n";
        assert!(refusal(&format!("{one}{one}")).contains("two programs are named \"a\""));
    }

    #[test]
    fn a_symmetric_algorithm_is_refused() {
        let text = oidc("issuer = 'https://id.example'\nalgorithms = ['HS256']");
        assert!(refusal(&text).contains("\"HS256\" is not one of RS256"));
    }

    #[test]
    fn an_issuer_is_https_except_on_this_machine() {
        assert!(refusal(&oidc("issuer = 'http://id.example'")).contains("must be https"));
        let local = oidc("issuer = 'http://127.0.0.1:9000/realm'");
        assert!(Config::parse(&local, Path::new("t.toml")).is_ok());
    }

    #[test]
    fn a_destination_is_a_folder_or_a_bucket_and_keeps_its_secret() {
        let one = |fields: &str| format!("[[audit.destination]]\nname = 'lake'\n{fields}\n");
        for (fields, told) in [
            ("url = 'file://relative'", "absolute/folder"),
            ("url = 's3://'", "s3://bucket/prefix"),
            ("url = 'https://bucket.example'", "s3://bucket/prefix"),
            ("url = 'file:///x'\nregion = 'eu-1'", "is a folder"),
            ("url = 's3://b'\naccess_key_id = 'a'", "together, or neither"),
            ("url = 's3://b'\nendpoint = 'http://store:9000'", "allow_http = true"),
            ("url = 's3://b'\nendpoint = 'store:9000'", "must begin with https://"),
        ] {
            assert!(refusal(&one(fields)).contains(told), "{fields}: {}", refusal(&one(fields)));
        }
        let twice = one("url = 'file:///x'");
        assert!(refusal(&format!("{twice}{twice}")).contains("two audit destinations"));
        assert!(refusal("[[audit.destination]]\nname = 'A'\nurl = 'file:///x'").contains("lower-case"));

        let text = one(
            "url = 's3://b/pre/fix/'\nendpoint = 'http://store:9000'\nallow_http = true\naccess_key_id = 'a'\nsecret_access_key = 'hush'",
        );
        let config = Config::parse(&text, Path::new("t.toml")).expect("valid");
        let destination = config.destination("lake").expect("listed");
        assert_eq!(destination.place(), Some(Place::Bucket { name: "b", prefix: "pre/fix" }));
        assert!(!format!("{config:?}").contains("hush"));
        assert_eq!(destination.secret_access_key.as_ref().map(super::super::Hidden::reveal), Some("hush"));
    }

    #[test]
    fn a_report_webhook_has_a_name_of_its_own_and_an_address_that_nobody_listens_in_on() {
        let one = |fields: &str| format!("[[report.webhook]]\nname = 'books'\n{fields}\n");
        for (fields, told) in [
            ("url = 'http://books.example'", "report webhook \"books\""),
            ("url = 'https://books.example'\nsecret = 'short'", "at least 16 characters"),
            ("url = 'https://books.example'\nheaders = { Idempotency-Key = 'x' }", "set by the gateway"),
            ("url = 'https://books.example'\nurls = 'x'", "urls"),
        ] {
            assert!(refusal(&one(fields)).contains(told), "{fields}: {}", refusal(&one(fields)));
        }
        let good = one("url = 'https://books.example/hush'");
        assert!(refusal(&format!("{good}{good}")).contains("two report webhooks"));
        let config = Config::parse(&good, Path::new("t.toml")).expect("valid");
        assert!(config.report_webhook("books").is_some() && config.report_webhook("other").is_none());
        assert!(!format!("{config:?}").contains("hush"));
    }

    #[test]
    fn an_approvals_webhook_has_a_name_tenants_and_a_safe_address() {
        let one = |fields: &str| format!("[[approvals.webhook]]\nname = 'chat'\n{fields}\n");
        for (fields, told) in [
            ("url = 'http://chat.example'", "approvals webhook \"chat\""),
            ("url = 'https://chat.example'\ntenants = []", "names no tenant"),
            ("url = 'https://chat.example'\nheaders = { content-type = 'x' }", "set by the gateway"),
        ] {
            assert!(refusal(&one(fields)).contains(told), "{fields}: {}", refusal(&one(fields)));
        }
        let good = one("url = 'https://chat.example/hush'\ntenants = ['acme']");
        assert!(refusal(&format!("{good}{good}")).contains("two approvals webhooks"));
        assert!(refusal("[approvals]\napi_url = 'tollgate.example'").contains("approvals.api_url"));
        let config = Config::parse(&good, Path::new("t.toml")).expect("valid");
        assert_eq!(config.approvals.expire_hours, 24);
        assert!(!format!("{config:?}").contains("hush"));
    }

    #[test]
    fn a_limit_of_zero_is_refused() {
        assert!(refusal("[limits]\naudit_queue = 0\n").contains("limits.audit_queue must be more than 0"));
    }
}
