//! Who may knock at all: a web page in someone's browser must not reach a gateway on the same machine.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, header};
use tollgate_boot::config::Gateway;

/// Whether `Host` and `Origin` are acceptable on a listener at `listener`.
///
/// # Errors
/// What to tell the client.
pub fn check(headers: &HeaderMap, settings: &Gateway, listener: SocketAddr) -> Result<(), &'static str> {
    let host = headers.get(header::HOST).and_then(|v| v.to_str().ok()).map(without_port);
    let host_is_good = match (host, settings.allowed_hosts.is_empty()) {
        // HTTP/2 carries the authority elsewhere, and no browser speaks it without TLS.
        (None, _) => true,
        (Some(host), false) => settings.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host)),
        // An address cannot be rebound; a name could, and on loopback only its own names are expected.
        (Some(host), true) => !listener.ip().is_loopback() || is_loopback_name(host),
    };
    if !host_is_good {
        return Err("This Host is not served here; the operator can add it to gateway.allowed_hosts");
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let local = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"))
        .is_some_and(|rest| is_loopback_name(without_port(rest)));
    if settings.allowed_origins.iter().any(|allowed| allowed == origin) || (listener.ip().is_loopback() && local) {
        Ok(())
    } else {
        Err("This Origin may not call the gateway; the operator can add it to gateway.allowed_origins")
    }
}

fn without_port(authority: &str) -> &str {
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, _)) => v6,
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    }
}

fn is_loopback_name(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn t19_a_page_behind_a_rebound_name_does_not_get_in() {
        let local: SocketAddr = "127.0.0.1:8081".parse().unwrap();
        let open: SocketAddr = "0.0.0.0:8081".parse().unwrap();
        let settings = Gateway::default();
        let ask = |host: &'static str, origin: Option<&'static str>, settings: &Gateway, listener| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            }
            check(&headers, settings, listener).is_ok()
        };
        assert!(ask("127.0.0.1:8081", None, &settings, local) && ask("localhost", None, &settings, local));
        assert!(ask("[::1]:8081", Some("http://localhost:6274"), &settings, local));
        assert!(!ask("evil.example:8081", None, &settings, local), "rebound name");
        assert!(!ask("localhost:8081", Some("https://evil.example"), &settings, local), "foreign page");
        assert!(!ask("localhost:8081", Some("http://localhost.evil.example"), &settings, local));
        assert!(!ask("localhost:8081", Some("null"), &settings, local));
        assert!(
            ask("gateway.example", None, &settings, open) && !ask("gateway.example", Some("http://localhost"), &settings, open)
        );
        let listed = Gateway { allowed_hosts: vec!["gw.example".into()], allowed_origins: vec!["https://app.example".into()] };
        assert!(ask("gw.example:443", Some("https://app.example"), &listed, open));
        assert!(
            !ask("other.example", None, &listed, open) && !ask("gw.example", Some("https://app.example.evil"), &listed, open)
        );
    }
}
