use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

mod planted;

use super::*;

fn rules(paths: &[&str], detectors: &[&str], patterns: &[(&str, &str)]) -> RedactionRules {
    let own = |texts: &[&str]| texts.iter().map(|&t| t.to_owned()).collect();
    let pattern = |&(name, regex): &(&str, &str)| RedactionPattern { name: name.to_owned(), regex: regex.to_owned() };
    RedactionRules { paths: own(paths), detectors: own(detectors), patterns: patterns.iter().map(pattern).collect() }
}

fn redactor(paths: &[&str], detectors: &[&str], patterns: &[(&str, &str)]) -> Redactor {
    Redactor::new(&rules(paths, detectors, patterns)).unwrap()
}

fn all_detectors() -> Vec<&'static str> {
    RedactionRules::detector_names().collect()
}

/// The document that is kept.
fn kept(redactor: &Redactor, text: &str) -> String {
    match redactor.redact_json(text.as_bytes()) {
        Redacted::Unchanged => text.to_owned(),
        Redacted::Changed(bytes) => String::from_utf8(bytes).unwrap(),
        Redacted::Unreadable => panic!("unreadable: {text}"),
    }
}

fn jwt() -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.{}", part(r#"{"alg":"HS256"}"#), part(r#"{"sub":"1234567890"}"#), part("not a real signature"))
}

/// A secret of each kind, put together here so that no scanner takes this file for a leak.
fn secrets() -> Vec<(&'static str, String)> {
    let word = |n: usize| "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7".chars().cycle().take(n).collect::<String>();
    let pem = |kind: &str| format!("-----BEGIN {kind}PRIVATE KEY-----\nMIIEvQ\nAbc+/=\n-----END {kind}PRIVATE KEY-----");
    let own = crate::key::Secret::generate(crate::key::SecretKind::Key, uuid::Uuid::from_u128(7));
    vec![
        ("email", "zoe.o'neil+tag@mail.example.co.uk".into()),
        ("credit_card", "4111111111111111".into()),
        ("credit_card", "4111 1111 1111 1111".into()),
        ("credit_card", "3782-822463-10005".into()),
        ("credit_card", "2223003122003222".into()),
        ("iban", "GB82 WEST 1234 5698 7654 32".into()),
        ("iban", "DE89370400440532013000".into()),
        ("iban", "no9386011117947".into()),
        ("us_ssn", "536-90-4399".into()),
        ("jwt", jwt()),
        ("private_key", pem("")),
        ("private_key", pem("OPENSSH ")),
        ("private_key", "-----BEGIN RSA PRIVATE KEY-----\nMIIEvQ".into()),
        ("bearer_token", format!("Bearer {}", word(20))),
        ("url_password", "://shop:s3cret!@".into()),
        ("aws_access_key", format!("AKIA{}", "IOSFODNN7EXAMPLE")),
        ("github_token", format!("ghp_{}", word(36))),
        ("github_token", format!("github_pat_{}_{}", word(22), word(59))),
        ("gitlab_token", format!("glpat-{}", word(20))),
        ("slack_token", format!("xoxb-{}", word(24))),
        ("stripe_key", format!("sk_live_{}", word(24))),
        ("google_api_key", format!("AIza{}", word(35))),
        ("openai_key", format!("sk-proj-{}", word(48))),
        ("anthropic_key", format!("sk-ant-api03-{}", word(48))),
        ("npm_token", format!("npm_{}", word(36))),
        ("tollgate_key", own.reveal().to_owned()),
    ]
}

#[test]
fn every_detector_finds_its_own_and_keeps_the_text_around() {
    for (name, secret) in secrets() {
        let redactor = redactor(&[], &[name], &[]);
        // What is cut off has no end, and takes the rest along.
        let behind = if secret.contains("BEGIN") && !secret.contains("END") { "" } else { ", so there." };
        let text = format!("It is ({secret}){behind}");
        let found = redactor.redact_text(&text).unwrap_or_else(|| panic!("{name}: {secret}"));
        let expected = format!("It is ([redacted:{name}]");
        assert!(found.starts_with(&expected) && found.ends_with(behind), "{found}");
        assert_eq!(redactor.redact_text(&secret), Some(format!("[redacted:{name}]")));
    }
    let tested: std::collections::HashSet<_> = secrets().into_iter().map(|(name, _)| name).collect();
    assert!(all_detectors().iter().all(|name| tested.contains(name)));
}

#[test]
fn near_misses_are_kept() {
    let redactor = redactor(&[], &all_detectors(), &[]);
    for text in [
        "a@b",
        "@handle",
        "user@localhost",
        "x @ y.com",
        "pkg@1.2.3",
        "4111111111111112",
        "1234567812345670",
        "04111111111111111",
        "0.4111111111111111",
        "4111111111111111.5",
        "x4111111111111111",
        "id_4111111111111111",
        "41111111111111110000",
        "4111 1111 1111 111",
        "1753600000000000",
        "411111111111",
        "GB82 WEST 1234 5698 7654 33",
        "GB82WEST1234569876543",
        "DE893704004405320130001",
        "xDE89370400440532013000",
        "ZZ89370400440532013000",
        "000-12-3456",
        "666-12-3456",
        "912-12-3456",
        "536-00-4399",
        "536-90-0000",
        "1536-90-4399",
        "536-90-4399-1",
        "536-90 4399",
        "2024-01-15",
        "eyJhbGciOiJIUzI1NiJ9",
        "eyJ.eyJ.x",
        "hey.jude.now",
        "-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----",
        "the bearer of responsibilities",
        "Bearer responsibilities",
        "bearer short1",
        "forbearer abcdefgh12345678",
        "https://example.com:8080/a@b",
        "https://example.com/path?x=1:2",
        "postgres://db:5432/shop",
        "AKIA1234",
        "akiaiosfodnn7example",
        "ghp_short",
        "github_pat_short",
        "glpat-short",
        "xoxb-1",
        "sk_live_short",
        "AIzaShort",
        "sk-learn-contrib-classifiers-and-more",
        "task-0123456789abcdefghij",
        "sk-short1",
        "npm_install",
        "tg_live_short",
        "f47ac10b-58cc-4372-a567-0e02b2c3d479",
        "2026-01-15T10:00:00.123456789Z",
        "ad12ef34ab56cd78ef90ab12",
    ] {
        assert_eq!(redactor.redact_text(text), None, "{text}");
        assert_eq!(redactor.redact_json(json!({"a": text, "b": [text]}).to_string().as_bytes()), Redacted::Unchanged, "{text}");
    }
}

#[test]
fn only_what_is_selected_changes() {
    let redactor = redactor(&["$.customer.ssn", "$..password", "$.list[-1]"], &["email"], &[("employee id", "E-[0-9]{6}")]);
    let text = r#" {"n": 1.50, "big":12345678901234567890123, "customer":{ "ssn":{"deep":[1]}, "name":"é\u00e9" },
        "a":[{"password":null}], "list":[1,2], "e\u002dmail": "x\u0040y.example", "note":"by E-123456 and z@y.example", "n": 2E+1} "#;
    let expected = r#" {"n": 1.50, "big":12345678901234567890123, "customer":{ "ssn":"[redacted]", "name":"é\u00e9" },
        "a":[{"password":"[redacted]"}], "list":[1,"[redacted]"], "e\u002dmail": "[redacted:email]", "note":"by [redacted:employee id] and [redacted:email]", "n": 2E+1} "#;
    assert_eq!(kept(&redactor, text), expected);
    assert_eq!(redactor.redact_json(expected.as_bytes()), Redacted::Unchanged);
}

#[test]
fn paths_start_again_in_structured_content_and_in_embedded_json() {
    let redactor = redactor(&["$.customer.ssn", "$[*].pin"], &[], &[]);
    let data = json!({"customer": {"ssn": "1", "name": "Zoë"}});
    let lines = "{\"customer\":{\"ssn\":1}}\n{\"customer\":{\"ssn\":2}}\n";
    let result = json!({"content": [
        {"type": "text", "text": data.to_string()}, {"type": "text", "text": lines}, {"type": "text", "text": " [{\"pin\":1}]"},
        {"type": "text", "text": json!(data.to_string()).to_string()}, {"type": "text", "text": "Result: {\"customer\":{\"ssn\":3}}"},
    ], "structuredContent": data, "customer": {"structuredContent": data}});
    let redacted: Value = serde_json::from_str(&kept(&redactor, &result.to_string())).unwrap();
    let clean = json!({"customer": {"ssn": "[redacted]", "name": "Zoë"}});
    let text = |i: usize| redacted["content"][i]["text"].as_str().unwrap();
    assert_eq!(redacted["structuredContent"], clean);
    assert_eq!(text(0), clean.to_string());
    assert_eq!(text(1), "{\"customer\":{\"ssn\":\"[redacted]\"}}\n{\"customer\":{\"ssn\":\"[redacted]\"}}\n");
    assert_eq!(text(2), " [{\"pin\":\"[redacted]\"}]");
    assert_eq!(text(3), json!(clean.to_string()).to_string());
    assert_eq!(text(4), "Result: {\"customer\":{\"ssn\":3}}", "only a text that is JSON as a whole has a root");
    assert_eq!(redacted["customer"]["structuredContent"], data, "only a root's own structuredContent is a root");
    assert_eq!(redactor.redact_text(&data.to_string()), Some(clean.to_string()));
}

#[test]
fn json_nested_in_texts_beyond_the_limit_is_not_kept() {
    let redactor = redactor(&["$.never"], &["email"], &[]);
    let mut text = json!({"a": 1}).to_string();
    for _ in 0..8 {
        text = json!([text]).to_string();
    }
    assert_eq!(redactor.redact_json(text.as_bytes()), Redacted::Unchanged);
    let deeper = kept(&redactor, &json!([text]).to_string());
    assert!(
        deeper.contains(MARKER) && !deeper.contains('a'.to_string().repeat(2).as_str()) && !deeper.contains("1}"),
        "{deeper}"
    );
}

#[test]
fn a_key_that_comes_twice_hides_nothing() {
    let redactor = redactor(&["$.p"], &["email"], &[]);
    assert_eq!(kept(&redactor, r#"{"a":"x@y.example","a":1}"#), r#"{"a":"[redacted:email]","a":1}"#);
    assert_eq!(kept(&redactor, r#"{"p":1,"\u0070":2}"#), r#"{"p":"[redacted]","\u0070":"[redacted]"}"#);
}

#[test]
fn keys_are_redacted_and_stay_apart() {
    let redactor = redactor(&[], &["email"], &[]);
    let text = r#"{"a@x.example":{"b@x.example":1},"[redacted:email] 2":0,"b@x.example":2,"c\u0040x.example":3}"#;
    let expected =
        r#"{"[redacted:email]":{"[redacted:email]":1},"[redacted:email] 2":0,"[redacted:email] 3":2,"[redacted:email] 4":3}"#;
    assert_eq!(kept(&redactor, text), expected);
    assert_eq!(redactor.redact_json(expected.as_bytes()), Redacted::Unchanged);
}

#[test]
fn numbers_are_read_as_they_are_spelt() {
    let redactor = redactor(&[], &["credit_card"], &[("nine digits", "^[0-9]{9}$")]);
    let text = "[4111111111111111,4111111111111111.0,-123456789,123456789,1.0e5]";
    let expected = r#"["[redacted:credit_card]","[redacted:credit_card]",-123456789,"[redacted:nine digits]",1.0e5]"#;
    assert_eq!(kept(&redactor, text), expected);
}

#[test]
fn what_is_not_json_is_a_text_or_is_not_kept() {
    let (with_paths, without) = (redactor(&["$.a"], &["email"], &[]), redactor(&[], &["email"], &[]));
    for bytes in [&b"{\"a\":1"[..], b"a@b.example", b"", b"{} {}", b"\"\xff\"", b"{\"a\":1}x"] {
        assert_eq!(with_paths.redact_json(bytes), Redacted::Unreadable);
    }
    assert_eq!(without.redact_json(b"\xffto a@b.example"), Redacted::Changed("\u{fffd}to [redacted:email]".into()));
    assert_eq!(without.redact_json(b"\xffto nobody"), Redacted::Unchanged);
    let none = redactor(&[], &[], &[]);
    assert!(none.is_empty() && !with_paths.is_empty() && !without.is_empty());
    assert_eq!(none.redact_json(b"{"), Redacted::Unchanged);
    assert_eq!(kept(&redactor(&["$"], &[], &[]), " [1] "), " \"[redacted]\" ");
}

#[test]
fn half_a_surrogate_pair_stops_nobody() {
    let redactor = redactor(&["$.p"], &["email"], &[]);
    assert_eq!(kept(&redactor, r#"["\ud800 x\u0040y.example","\udc00"]"#), "[\"\u{fffd} [redacted:email]\",\"\\udc00\"]");
}

#[test]
fn matches_that_overlap_become_one() {
    let redactor = redactor(&[], &["email"], &[("tail", "[a-z]+ and .*"), ("key value", "\"pw\": *\"[^\"]+\"")]);
    assert_eq!(redactor.redact_text("to x@y.example and more"), Some("to [redacted:email]".to_owned()));
    assert_eq!(redactor.redact_text("a b"), None);
    let text = json!({"text": "{\"pw\": \"x\"}"}).to_string();
    assert_eq!(kept(&redactor, &text), r#"{"text":"{[redacted:key value]}"}"#, "an embedded text is searched as it stands, too");
}

#[test]
fn a_forged_marker_hides_nothing() {
    let redactor = redactor(&[], &["email"], &[("secret", "BEGIN.*END")]);
    for text in ["[redacted:x@y.example]", "BEGIN x [redacted] y END"] {
        assert!(redactor.redact_text(text).is_some_and(|t| !t.contains("y.example") && !t.contains("BEGIN")), "{text}");
    }
    assert_eq!(self::redactor(&[], &[], &[("r", "redacted")]).redact_text("[redacted:r] [redacted]"), None);
}

#[test]
fn rules_are_refused_with_a_pointer_and_a_sentence() {
    let many = |n: usize| (0..n).map(|i| format!("$.a{i}")).collect::<Vec<_>>();
    let mut long =
        rules(&[], &[], &[("", "a"), ("email", "("), ("x", "a"), ("x", &"a".repeat(513)), ("a]", "b*"), ("big", r"\w{300}")]);
    long.paths = many(65);
    long.detectors = vec!["email".into(), "e-mail".into(), "email".into()];
    let errors = long.check().unwrap_err();
    let expected = [
        ("/paths", "at most 64"),
        ("/detectors/1", "use one of email, credit_card"),
        ("/detectors/2", "once"),
        ("/patterns/0/name", "1 to 40"),
        ("/patterns/1/name", "name of a detector"),
        ("/patterns/1/regex", "unclosed group"),
        ("/patterns/3/name", "two patterns"),
        ("/patterns/3/regex", "1 to 512 bytes"),
        ("/patterns/4/name", "letters"),
        ("/patterns/4/regex", "empty text"),
        ("/patterns/5/regex", "too large"),
    ];
    for (error, (pointer, words)) in errors.iter().zip(expected) {
        assert!(error.pointer == pointer && error.message.contains(words), "{error}");
    }
    assert_eq!(errors.len(), expected.len());
    let mut fits = rules(&[], &all_detectors(), &[]);
    fits.paths = many(64);
    fits.patterns = (0..32).map(|i| RedactionPattern { name: format!("p{i}"), regex: format!("x{i}-[0-9]+") }).collect();
    assert_eq!(fits.check(), Ok(()));
    fits.patterns.push(RedactionPattern { name: "one more".into(), regex: "a".into() });
    assert_eq!(fits.check().unwrap_err()[0].pointer, "/patterns");
    let heavy = (0..32).map(|i| RedactionPattern { name: format!("p{i}"), regex: format!(r"{i}\w{{7}}") }).collect();
    let errors = RedactionRules { patterns: heavy, ..Default::default() }.check().unwrap_err();
    assert!(errors[0].pointer == "/patterns" && errors[0].message.contains("together"), "{errors:?}");
}

#[test]
fn rules_are_read_strictly_and_written_back() {
    let text = r#"{"paths":["$..password"],"patterns":[{"name":"employee id","regex":"E-[0-9]{6}"}]}"#;
    let rules: RedactionRules = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&rules).unwrap(), text);
    assert!(serde_json::from_str::<RedactionRules>(r#"{"path":[]}"#).is_err());
    assert!(serde_json::from_str::<RedactionRules>(r#"{"patterns":[{"name":"a","regex":"b","flags":"i"}]}"#).is_err());
    assert_eq!(serde_json::from_str::<RedactionRules>("{}").unwrap(), RedactionRules::default());
    let debug = format!("{:?}", Redactor::new(&rules).unwrap());
    assert_eq!(debug, "Redactor(1 paths, 1 detectors and patterns)");
}

#[test]
fn t28_patterns_that_need_backtracking_are_refused() {
    for (regex, words) in
        [(r"(a+)\1", "backreferences"), ("(?=a)b", "look-ahead"), ("(?<!a)b", "look-ahead"), ("(?>a+)b", "syntax")]
    {
        let errors = rules(&[], &[], &[("p", regex)]).check().unwrap_err();
        assert!(errors[0].pointer == "/patterns/0/regex" && errors[0].message.contains(words), "{errors:?}");
    }
    for empty in ["a*", r"\b|a", "$", "(?m)^", "(a|)", "x?"] {
        let errors = rules(&[], &[], &[("p", empty)]).check().unwrap_err();
        assert!(errors[0].message.contains("empty text"), "{empty}: {errors:?}");
    }
    // These ruin an engine that backtracks; here they are linear.
    let redactor = redactor(&[], &[], &[("a", "(a+)+$"), ("b", "(a|aa)+c"), ("c", "(.*)*x+")]);
    assert_eq!(redactor.redact_text(&format!("{}!", "a".repeat(100_000))), None);
}

#[test]
fn t28_a_search_that_looks_ahead_for_every_match_is_cut_off_and_the_rest_not_kept() {
    let redactor = redactor(&[], &[], &[("greedy", r".*[0-9]\z|[A-Z]")]);
    let document = json!({"text": "A".repeat(20_000), "later": "A", "other": "a"}).to_string();
    let expected = r#"{"text":"[redacted:greedy]","later":"[redacted:greedy]","other":"a"}"#;
    // All 20,000 searches would look at 200 million characters; the budget allows for five of them.
    let Redacted::Changed(kept) = redactor.redact_json_within(document.as_bytes(), 100_000) else { panic!("unchanged") };
    assert_eq!(String::from_utf8(kept).unwrap(), expected);
    let rule = &redactor.0.scanner;
    for length in [1_000, 10_000, 100_000] {
        let mut budget = 10 * length;
        assert!(rule.redact(&"A".repeat(length), &mut budget).is_some());
        assert!(budget < length, "{budget} of {length} left");
    }
}

#[test]
fn t28_paths_that_select_a_node_in_many_ways_do_not_multiply() {
    let redactor = redactor(&[&format!("${}.x", "[*,*,*,*]".repeat(14)), "$..*..['x','x']"], &[], &[]);
    let mut deep = json!({"x": 1});
    for _ in 0..60 {
        deep = json!([deep, 0]);
    }
    assert!(kept(&redactor, &deep.to_string()).contains(MARKER));
}
