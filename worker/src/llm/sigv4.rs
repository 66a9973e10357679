//! Signatures of AWS, version 4, for requests without a query.

use std::fmt::Write;

use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac::{HMAC_SHA256, Key, sign},
};
use chrono::{DateTime, Utc};
use tollgate_domain::llm::AwsCredentials;

/// For whom and for where something is signed.
#[derive(Clone, Copy)]
pub struct Signer<'a> {
    pub credentials: AwsCredentials<'a>,
    pub region: &'a str,
    pub service: &'a str,
    pub at: DateTime<Utc>,
}

impl Signer<'_> {
    /// The headers that a request needs beside `headers`, which are signed with it, names in lower case. Its path is encoded as it is sent.
    #[must_use]
    pub fn headers(
        &self,
        method: &str,
        url: &reqwest::Url,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Vec<(&'static str, String)> {
        let Self { credentials, region, service, at } = self;
        let (time, day) = (at.format("%Y%m%dT%H%M%SZ").to_string(), at.format("%Y%m%d").to_string());
        let mut signed: Vec<(&str, String)> = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        signed.push(("host", host(url)));
        signed.push(("x-amz-date", time.clone()));
        if let Some(token) = credentials.token {
            signed.push(("x-amz-security-token", token.to_owned()));
        }
        signed.sort();
        let names = signed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let mut request = format!("{method}\n{}\n\n", encoded(url.path(), true));
        for (name, value) in &signed {
            let _ = writeln!(request, "{name}:{}", value.trim());
        }
        let _ = write!(request, "\n{names}\n{}", hash(body));
        let scope = format!("{day}/{region}/{service}/aws4_request");
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hash(request.as_bytes()));
        let mut key = format!("AWS4{}", credentials.secret).into_bytes();
        for part in [day.as_str(), region, service, "aws4_request"] {
            key = mac(&key, part.as_bytes());
        }
        let signature = hex(&mac(&key, text.as_bytes()));
        let id = credentials.id;
        let authorization = format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}");
        let mut all = vec![("authorization", authorization), ("x-amz-date", time)];
        all.extend(credentials.token.map(|token| ("x-amz-security-token", token.to_owned())));
        all
    }
}

/// As the client sends it.
fn host(url: &reqwest::Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Percent-encoded but for what stands for itself everywhere, and slashes where they part a path.
#[must_use]
pub fn encoded(text: &str, slashes: bool) -> String {
    let mut all = String::with_capacity(text.len());
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (slashes && byte == b'/');
        if plain {
            all.push(char::from(byte));
        } else {
            let _ = write!(all, "%{byte:02X}");
        }
    }
    all
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    sign(&Key::new(HMAC_SHA256, key), text).as_ref().to_vec()
}

fn hash(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    let mut all = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(all, "{byte:02x}");
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    const TOKEN: &str = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";

    fn authorization(credentials: AwsCredentials<'_>, method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> String {
        let at = "2015-08-30T12:36:00Z".parse().unwrap();
        let signer = Signer { credentials, region: "us-east-1", service: "service", at };
        let all = signer.headers(method, &url.parse().unwrap(), headers, body.as_bytes());
        assert_eq!(all[1], ("x-amz-date", "20150830T123600Z".to_owned()));
        all[0].1.clone()
    }

    /// Cases of the suite that AWS publishes: get-vanilla, post-vanilla, post-x-www-form-urlencoded, post-sts-header-before.
    #[test]
    fn signatures_are_those_of_the_published_suite() {
        let example = AwsCredentials { id: "AKIDEXAMPLE", secret: SECRET, token: None };
        let temporary = AwsCredentials { token: Some(TOKEN), ..example };
        let form: &[(&str, &str)] = &[("content-type", "application/x-www-form-urlencoded")];
        for (credentials, method, headers, body, names, signature) in [
            (example, "GET", &[][..], "", "host;x-amz-date", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            (example, "POST", &[], "", "host;x-amz-date", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
            (
                example,
                "POST",
                form,
                "Param1=value1",
                "content-type;host;x-amz-date",
                "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            ),
            (
                temporary,
                "POST",
                &[],
                "",
                "host;x-amz-date;x-amz-security-token",
                "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
            ),
        ] {
            let expected = format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders={names}, Signature={signature}"
            );
            assert_eq!(authorization(credentials, method, "https://example.amazonaws.com/", headers, body), expected);
        }
    }

    /// The case double-encode-path of AWS's own client: what is encoded in a path is encoded once more to be signed.
    #[test]
    fn an_encoded_path_is_encoded_twice() {
        let credentials = AwsCredentials { id: "ANOTREAL", secret: "notrealrnrELgWzOk3IfjzDKtFBhDby", token: None };
        let url = "https://tj9n5r0m12.execute-api.us-east-1.amazonaws.com/test/@connections/JBDvjfGEIAMCERw%3D";
        let signed = authorization(credentials, "POST", url, &[], "");
        assert!(signed.ends_with("Signature=57d157672191bac40bae387e48bbe14b15303c001fdbb01f4abf295dccb09705"), "{signed}");
    }

    #[test]
    fn a_port_is_part_of_the_host_and_a_models_name_is_one_segment() {
        assert_eq!(host(&"http://127.0.0.1:8080/x".parse().unwrap()), "127.0.0.1:8080");
        assert_eq!(
            host(&"https://bedrock-runtime.eu-west-1.amazonaws.com:443/".parse().unwrap()),
            "bedrock-runtime.eu-west-1.amazonaws.com"
        );
        assert_eq!(encoded("us.anthropic.claude-v2:0", false), "us.anthropic.claude-v2%3A0");
        assert_eq!(encoded("arn:aws:bedrock:::a/b", false), "arn%3Aaws%3Abedrock%3A%3A%3Aa%2Fb");
    }
}
