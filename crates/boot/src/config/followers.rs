//! Followers of the audit log: sinks, which are sent its rows, and anchors, which are given its signed heads. They stand in the
//! operator's file alone: whoever could name one through the API could have the trail sent to himself, or keep it from others.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf};

use axum::http::{HeaderName, HeaderValue, Uri};
use serde::Deserialize;

use super::Audit;

/// Where rows go, in the order of each tenant's log.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sink {
    /// What the API, the metrics and the cursor call it: lower-case letters, digits, `-` and `_`.
    pub name: String,
    /// Ids or slugs. Left out: every tenant, and the events that belong to none.
    #[serde(default)]
    pub tenants: Option<Vec<String>>,
    #[serde(default)]
    pub rows: SinkRows,
    #[serde(default)]
    pub format: SinkFormat,
    /// Begin with the first row of every log instead of with what is sealed from now on. Read at the sink's first start alone.
    #[serde(default)]
    pub from_start: bool,
    #[serde(default)]
    pub webhook: Option<Webhook>,
    #[serde(default)]
    pub syslog: Option<Syslog>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkRows {
    Calls,
    AdminEvents,
    #[default]
    All,
}

/// How tool calls are written. Admin events are what the API shows in either.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkFormat {
    #[default]
    Json,
    Ocsf,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// https, unless it is a loopback address or `allow_http` is set.
    pub url: Hidden,
    /// Signs every request: HMAC-SHA256 over the timestamp, a dot and the body.
    #[serde(default)]
    pub secret: Option<Hidden>,
    #[serde(default)]
    pub headers: BTreeMap<String, Hidden>,
    #[serde(default)]
    pub allow_http: bool,
}

/// RFC 5424, one message a row.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Syslog {
    /// `host:port`
    pub address: String,
    pub protocol: SyslogProtocol,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyslogProtocol {
    /// At most once on the wire: nobody learns of a datagram that was lost.
    Udp,
    Tcp,
}

/// Where every seal goes, out of reach of whoever can write to the database.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anchor {
    pub name: String,
    /// Begin with the first seal of every log instead of with the newest. Read at the anchor's first start alone.
    #[serde(default)]
    pub from_start: bool,
    /// One line a seal is appended. A relative path counts from the folder of the settings file.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// One POST a seal.
    #[serde(default)]
    pub url: Option<Hidden>,
    #[serde(default)]
    pub allow_http: bool,
    /// One object a seal.
    #[serde(default)]
    pub bucket: Option<Bucket>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    /// `s3://bucket/prefix`, or `file:///folder`.
    pub url: String,
    /// Of a store that speaks S3 and is not Amazon's.
    #[serde(default)]
    pub endpoint: Option<String>,
    #[serde(default)]
    pub region: Option<String>,
    /// Left out, the role of the machine is used.
    #[serde(default)]
    pub access_key_id: Option<String>,
    #[serde(default)]
    pub secret_access_key: Option<Hidden>,
    #[serde(default)]
    pub allow_http: bool,
}

/// A text that `Debug` does not show: secrets, and addresses, which may hold some.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Hidden(String);

impl Hidden {
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Hidden {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

type Check = Result<(), String>;

/// The rules that the types do not express. What they say goes to the log: it names the follower, and never an address.
pub(super) fn check(audit: &Audit) -> Check {
    let names: Vec<&str> =
        audit.sinks.iter().map(|sink| &*sink.name).chain(audit.anchors.iter().map(|anchor| &*anchor.name)).collect();
    for (i, name) in names.iter().enumerate() {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            return Err(format!(
                "the name {name:?} of an audit sink or anchor must be 1 to 64 lower-case letters, digits, `-` or `_`"
            ));
        }
        if names[..i].contains(name) {
            return Err(format!("two audit sinks or anchors are named {name:?}; names must differ"));
        }
    }
    audit.sinks.iter().try_for_each(check_sink)?;
    audit.anchors.iter().try_for_each(check_anchor)
}

fn check_sink(sink: &Sink) -> Check {
    let what = format!("audit sink {:?}", sink.name);
    if sink.tenants.as_ref().is_some_and(Vec::is_empty) {
        return Err(format!("{what} names no tenant; leave `tenants` out for all of them"));
    }
    match (&sink.webhook, &sink.syslog) {
        (Some(webhook), None) => check_webhook(&what, webhook),
        (None, Some(syslog)) => check_address(&what, &syslog.address),
        _ => Err(format!("{what} needs one of `webhook` and `syslog`")),
    }
}

pub(super) fn check_webhook(what: &str, webhook: &Webhook) -> Check {
    check_url(&format!("{what}: `webhook.url`"), webhook.url.reveal(), webhook.allow_http)?;
    if webhook.secret.as_ref().is_some_and(|secret| secret.reveal().len() < 16) {
        return Err(format!("{what}: `webhook.secret` must have at least 16 characters; leave it out to sign nothing"));
    }
    for (name, value) in &webhook.headers {
        if name.parse::<HeaderName>().is_err() || value.reveal().parse::<HeaderValue>().is_err() {
            return Err(format!("{what}: `webhook.headers` has no header that HTTP knows under {name:?}"));
        }
        if name.to_ascii_lowercase().starts_with("x-tollgate-") {
            return Err(format!("{what}: the header {name:?} is set by the gateway"));
        }
    }
    Ok(())
}

/// A name is looked up at every connection; whether it exists is not known here.
fn check_address(what: &str, address: &str) -> Check {
    let named = address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains([':', '/', ' ', '@']) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if named || address.parse::<SocketAddr>().is_ok_and(|address| address.port() > 0) {
        return Ok(());
    }
    Err(format!("{what}: `syslog.address` must be a host and a port, such as \"logs.example:514\""))
}

fn check_anchor(anchor: &Anchor) -> Check {
    let what = format!("audit anchor {:?}", anchor.name);
    match (&anchor.file, &anchor.url, &anchor.bucket) {
        (Some(file), None, None) if file.as_os_str().is_empty() => Err(format!("{what}: `file` is empty")),
        (Some(_), None, None) => Ok(()),
        (None, Some(url), None) => check_url(&format!("{what}: `url`"), url.reveal(), anchor.allow_http),
        (None, None, Some(bucket)) => check_bucket(&what, bucket),
        _ => Err(format!("{what} needs one of `file`, `url` and `bucket`")),
    }
}

fn check_bucket(what: &str, bucket: &Bucket) -> Check {
    if bucket.access_key_id.is_some() != bucket.secret_access_key.is_some() {
        return Err(format!("{what}: `bucket` needs `access_key_id` and `secret_access_key` together, or neither"));
    }
    if let Some(endpoint) = &bucket.endpoint {
        check_url(&format!("{what}: `bucket.endpoint`"), endpoint, bucket.allow_http)?;
    }
    let folder = bucket.url.strip_prefix("file://").is_some_and(|path| path.starts_with('/'));
    let named = bucket.url.strip_prefix("s3://").is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'));
    if folder || named {
        return Ok(());
    }
    Err(format!("{what}: `bucket.url` must be s3://BUCKET/PREFIX or file:///FOLDER"))
}

/// What goes there is the trail: in the clear only on this machine, or where the operator says so.
fn check_url(what: &str, url: &str, allow_http: bool) -> Check {
    let uri: Uri = url.parse().map_err(|_| format!("{what} is not a URL"))?;
    let loopback = matches!(uri.host(), Some("localhost" | "127.0.0.1" | "[::1]"));
    match uri.scheme_str() {
        _ if uri.host().is_none_or(str::is_empty) => Err(format!("{what} names no host")),
        Some("https") => Ok(()),
        Some("http") if loopback || allow_http => Ok(()),
        Some("http") => Err(format!("{what} must be https; `allow_http = true` sends in the clear")),
        _ => Err(format!("{what} must begin with https:// or http://")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;

    fn refusal(text: &str) -> String {
        Config::parse(text, Path::new("etc/t.toml")).expect_err("must be refused").to_string()
    }

    fn sink(fields: &str) -> String {
        format!("[[audit.sink]]\nname = 'siem'\n{fields}\n")
    }

    fn anchor(fields: &str) -> String {
        format!("[[audit.anchor]]\nname = 'safe'\n{fields}\n")
    }

    #[test]
    fn what_can_be_written_is_read() {
        let text = [
            sink("tenants = ['acme']\nrows = 'calls'\nformat = 'ocsf'\nwebhook = { url = 'https://u:hunter2@siem.example/x', secret = 'hunter2-hunter2-hunter2', headers = { authorization = 'Bearer hunter2' } }"),
            "[[audit.sink]]\nname = 'logs'\nrows = 'admin_events'\nfrom_start = true\nsyslog = { address = 'logs.example:514', protocol = 'tcp' }\n".to_owned(),
            "[[audit.sink]]\nname = 'six'\nsyslog = { address = '[::1]:514', protocol = 'udp' }\n".to_owned(),
            anchor("file = 'heads.ndjson'"),
            "[[audit.anchor]]\nname = 's3'\nbucket = { url = 's3://b/p', region = 'eu-west-1', access_key_id = 'a', secret_access_key = 'hunter2' }\n".to_owned(),
            "[[audit.anchor]]\nname = 'notary'\nurl = 'http://127.0.0.1:1/hunter2'\n".to_owned(),
        ]
        .concat();
        let config = Config::parse(&text, Path::new("etc/t.toml")).expect("valid");
        assert_eq!((config.audit.sinks.len(), config.audit.anchors.len()), (3, 3));
        assert_eq!(config.audit.anchors[0].file.as_deref(), Some(Path::new("etc/heads.ndjson")));
        let shown = format!("{config:?}");
        assert!(!shown.contains("hunter2") && shown.contains("[hidden]"), "{shown}");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_a_sentence() {
        let webhook = "webhook = { url = 'https://siem.example/' }";
        for (text, said) in [
            (sink(""), "needs one of `webhook` and `syslog`"),
            (
                sink(&format!("{webhook}\nsyslog = {{ address = 'a:1', protocol = 'udp' }}")),
                "needs one of `webhook` and `syslog`",
            ),
            (sink(&format!("tenants = []\n{webhook}")), "names no tenant"),
            (sink("webhook = { url = 'http://siem.example/' }"), "must be https"),
            (sink("webhook = { url = 'ftp://siem.example/' }"), "must begin with https://"),
            (sink("webhook = { url = '/x' }"), "names no host"),
            (sink("webhook = { url = 'https://siem.example/', secret = 'short' }"), "at least 16 characters"),
            (sink("webhook = { url = 'https://siem.example/', headers = { 'a b' = 'c' } }"), "no header that HTTP knows"),
            (sink("webhook = { url = 'https://siem.example/', headers = { X-Tollgate-Signature = 'c' } }"), "set by the gateway"),
            (sink("syslog = { address = 'logs.example', protocol = 'udp' }"), "must be a host and a port"),
            (sink("syslog = { address = 'logs.example:514', protocol = 'smoke' }"), "unknown variant `smoke`"),
            (sink(&format!("format = 'xml'\n{webhook}")), "unknown variant `xml`"),
            (sink(&format!("row = 'all'\n{webhook}")), "unknown field `row`"),
            (sink(webhook) + &anchor("file = 'x'").replace("safe", "siem"), "are named \"siem\""),
            (sink(webhook).replace("siem'", "Siem!'"), "lower-case letters"),
            (anchor(""), "needs one of `file`, `url` and `bucket`"),
            (anchor("url = 'http://notary.example/'"), "must be https"),
            (anchor("bucket = { url = 'gs://x' }"), "must be s3://BUCKET/PREFIX"),
            (anchor("bucket = { url = 's3://b', access_key_id = 'a' }"), "together, or neither"),
            (anchor("bucket = { url = 's3://b', endpoint = 'http://minio.example:9000' }"), "must be https"),
        ] {
            let refused = refusal(&text);
            assert!(refused.contains(said), "{text}: {refused}");
        }
        for allowed in [
            sink("webhook = { url = 'http://siem.example/', allow_http = true }"),
            anchor("url = 'http://notary.example/'\nallow_http = true"),
            anchor("bucket = { url = 's3://b', endpoint = 'http://minio.example:9000', allow_http = true }"),
        ] {
            assert!(Config::parse(&allowed, Path::new("t.toml")).is_ok(), "{allowed}");
        }
    }
}
