//! For any schema and any names: reading ends, in time, and what comes out is what Python and the sandbox can take.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tollgate_codemode::{
    Binding, Languages, Library, ServerDef, ToolDef,
    excerpt::{excerpt, read},
    seen::Seen,
    value::answer_of,
};

fn library(definition: Value) -> Library {
    let tool = ToolDef { tool_id: "tool_1".to_owned(), name: "t".to_owned(), definition: Arc::new(definition) };
    Library::new(vec![ServerDef { name: "s".to_owned(), description: None, binding: Binding::Server, tools: vec![tool] }])
}

fn in_typescript(definition: Value) -> Library {
    let tool = ToolDef { tool_id: "tool_1".to_owned(), name: "t".to_owned(), definition: Arc::new(definition) };
    let server = ServerDef { name: "s".to_owned(), description: None, binding: Binding::Server, tools: vec![tool] };
    Library::offering(Languages::parse(["typescript"]).unwrap(), vec![server])
}

/// Words of JSON Schema around values of any kind, also of the wrong one.
fn schema() -> impl Strategy<Value = Value> {
    let words = prop::sample::select(vec![
        "type",
        "properties",
        "items",
        "anyOf",
        "oneOf",
        "allOf",
        "$ref",
        "enum",
        "const",
        "required",
        "additionalProperties",
        "default",
        "$defs",
        "description",
        "title",
        "nullable",
        "prefixItems",
        "patternProperties",
        "a",
        "class",
        "x-fastmcp-wrap-result",
        "result",
        "examples",
        "format",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}|.{0,6}".prop_map(Value::from),
        prop::sample::select(vec![
            "object",
            "array",
            "string",
            "null",
            "#",
            "#/$defs/a",
            "#/properties/a",
            "#/items",
            "#/allOf/0",
            "a",
            "class"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 96, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((prop_oneof![words.clone().prop_map(str::to_owned), ".{0,4}"], inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn is_identifier(name: &str) -> bool {
    !name.is_empty()
        && name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric())
        && !name.starts_with(|c: char| c.is_ascii_digit())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_schema_is_read_in_time(input in schema(), output in schema(), description in ".{0,60}") {
        let start = Instant::now();
        let definition = json!({"name": "t", "description": description, "inputSchema": input, "outputSchema": output});
        let library = library(definition.clone());
        let stub = library.read_file("servers/s.pyi", Some(1), None).unwrap();
        let page = library.docs("s", "t").unwrap();
        prop_assert!(start.elapsed() < Duration::from_millis(200));
        let tool = &library.catalog().servers[0].tools[0];
        prop_assert!(tool.params.iter().all(|p| is_identifier(&p.name)));
        prop_assert_eq!(tool.params.iter().map(|p| &p.name).collect::<HashSet<_>>().len(), tool.params.len());
        prop_assert_eq!(tool.params.iter().map(|p| &p.key).collect::<HashSet<_>>().len(), tool.params.len());
        prop_assert!(tool.params.is_sorted_by_key(|p| !p.required));
        // Each line is a comment, a named type or the signature; nothing a stranger wrote begins a line.
        prop_assert!(stub.lines().all(|l| l.starts_with("# ") || l.starts_with("def t(") || l.split_once(" = ").is_some_and(|(n, _)| is_identifier(n))));
        prop_assert_eq!(stub.lines().filter(|l| l.starts_with("def ")).count(), 1);
        let typescript = in_typescript(definition).read_file("servers/s.d.ts", Some(1), None).unwrap();
        let fits = |l: &str| l.starts_with("// ") || l.starts_with("type ") || l.starts_with("  t(") || l == "declare const s: {" || l == "};";
        prop_assert!(typescript.lines().all(fits), "{}", typescript);
        prop_assert_eq!(typescript.lines().filter(|l| l.starts_with("  t(")).count(), 1);
        prop_assert!(!page.chars().any(|c| c.is_control() && c != '\n'));
    }

    #[test]
    fn renaming_is_injective_and_stable(names in prop::collection::vec("[a-c_.\\-é0-9]{0,4}|class|.{0,3}", 0..40)) {
        let tools: Vec<ToolDef> = names.iter().map(|n| ToolDef { tool_id: n.clone(), name: n.clone(), definition: Arc::new(json!({})) }).collect();
        let make = || Library::new(vec![ServerDef { name: "s".to_owned(), description: None, binding: Binding::Tool, tools: tools.clone() }]);
        let library = make();
        let made: Vec<String> = library.catalog().servers[0].tools.iter().map(|t| t.name.clone()).collect();
        prop_assert!(made.iter().all(|n| is_identifier(n)));
        prop_assert_eq!(made.iter().collect::<HashSet<_>>().len(), names.len());
        prop_assert_eq!(library.files().iter().collect::<HashSet<_>>().len(), names.len());
        prop_assert_eq!(make().files(), library.files());
    }

    #[test]
    fn any_answer_has_a_value(result in schema(), definition in schema()) {
        let _ = answer_of(&result, &definition);
    }
}

#[test]
fn schema_bombs_are_defused() {
    let chain = |make: fn(Value) -> Value| {
        let mut defs = Map::new();
        for i in 0..400 {
            defs.insert(format!("d{i}"), make(json!({"$ref": format!("#/$defs/d{}", i + 1)})));
        }
        json!({"$ref": "#/$defs/d0", "$defs": defs})
    };
    let wide: Map<String, Value> =
        (0..20_000).map(|i| (format!("p{i}"), json!({"type": "string", "enum": ["a", "b"]}))).collect();
    let half: Map<String, Value> = (0..500).map(|i| (format!("p{i}"), json!({}))).collect();
    let many = json!({"m": {"allOf": vec![json!({"$ref": "#/$defs/w"}); 500]}, "w": {"properties": half}});
    let inline: Map<String, Value> = (0..2_000).map(|i| (format!("q{i}"), json!({"allOf": [{"$ref": "#/$defs/m"}]}))).collect();
    let mut deep = json!({});
    for _ in 0..120 {
        deep = json!({"properties": {"a": deep}});
    }
    for (name, schema) in [
        ("doubling objects", chain(|next| json!({"properties": {"x": next, "y": next, "z": {"type": "array", "items": next}}}))),
        ("doubling unions", chain(|next| json!({"anyOf": [next, {"type": "array", "items": next}, {"type": "string"}]}))),
        ("doubling merges", chain(|next| json!({"allOf": [next, next, next]}))),
        ("merged alternatives", chain(|next| json!({"properties": {"a": {}}, "oneOf": [next, next]}))),
        ("wide", json!({"properties": wide.clone()})),
        ("wide enum", json!({"properties": {"e": {"enum": (0..50_000).map(|i| format!("v{i}")).collect::<Vec<_>>()}}})),
        ("many merges", json!({"properties": inline, "$defs": many})),
        ("deep", deep),
        ("all its own", json!({"properties": {"a": {"$ref": "#"}, "b": {"items": {"$ref": "#"}}}, "allOf": [{"$ref": "#"}]})),
    ] {
        let definition = json!({"name": "t", "inputSchema": schema, "outputSchema": schema});
        let start = Instant::now();
        let library = library(definition);
        let stub = library.read_file("servers/s.pyi", Some(1), None).unwrap();
        let stub_time = start.elapsed();
        library.docs("s", "t").unwrap();
        println!("{name}: stub {stub_time:?}, with docs {:?}, {} bytes", start.elapsed(), stub.len());
        // 50 ms each on a quiet machine; a busy one gets some slack.
        assert!(start.elapsed() < Duration::from_millis(500), "{name} took {:?}", start.elapsed());
    }
}

/// Values as tools answer them; every text, and every key that is data, holds the marker.
fn answered() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e6..1e6).prop_map(Value::from),
        "[a-z@ ]{0,6}".prop_map(|text| json!(format!("{MARKER}{text}"))),
    ];
    leaf.prop_recursive(5, 60, 8, |inner| {
        let key = prop_oneof![
            prop::sample::select(vec!["id", "name", "rows", "next", "created_at", "a", "b", "c"]).prop_map(str::to_owned),
            "[a-z]{3}@[a-z]{3}|[0-9]{4}-[0-9]{2}|[a-f0-9]{8}0".prop_map(|text| format!("{text} {MARKER}")),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..6).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

const MARKER: &str = "SECRET";

proptest! {
    #[test]
    fn shapes_merge_in_any_order_and_know_no_values(a in answered(), b in answered(), c in answered()) {
        let [a, b, c] = [a, b, c].map(|value| Seen::of(&value));
        let ab = a.clone().merge(b.clone());
        prop_assert_eq!(&ab, &b.clone().merge(a.clone()));
        prop_assert_eq!(&ab.clone().merge(ab.clone()), &ab);
        // What a shape has taken in changes it no more.
        let abc = ab.merge(c.clone());
        for known in [&a, &b, &c] {
            prop_assert_eq!(&abc.clone().merge(known.clone()), &abc);
        }
        let stored = serde_json::to_string(&abc).unwrap();
        prop_assert!(!stored.contains(MARKER) && !abc.text().contains(MARKER), "{}", stored);
        prop_assert_eq!(serde_json::from_str::<Seen>(&stored).unwrap(), abc);
    }

    #[test]
    fn an_excerpt_fits_and_is_true(value in answered(), chars in 26_usize..200) {
        let (shown, cuts) = excerpt(&value, chars);
        prop_assert!(shown.to_string().chars().count() <= chars, "{}", shown);
        prop_assert_eq!(cuts.is_empty(), shown == value);
        for cut in &cuts {
            // Where it says that reading goes on, it does.
            prop_assert!(cut.from <= cut.to && cut.to < cut.of);
            prop_assert!(read(&value, &cut.path, Some(&format!("{}:", cut.to)), 60).is_ok(), "{:?}", cut);
        }
    }
}
