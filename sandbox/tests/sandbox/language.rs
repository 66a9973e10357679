//! What models write and the interpreter, with our additions, runs.

use serde_json::{Value as Json, json};
use tollgate_codemode::wire::ErrorKind;

use crate::support::{assert_error, error, last, result};

#[track_caller]
fn gives(source: &str, expected: Json) {
    assert_eq!(result(source), expected, "{source}");
}

#[test]
fn fields_of_dicts_are_attributes() {
    gives("r = {\"a\": {\"b\": [{\"c\": 5}]}}\nresult = r.a.b[0].c", json!(5));
    gives("r = {\"a\": 1}\nr.b = 2\nr.a += 5\nr.c = {}\nr.c.d = 1\nresult = r", json!({"a": 6, "b": 2, "c": {"d": 1}}));
    gives("result = ({\"a\": {\"b\": 1}}\n  .a\n  # c.d\n  .b)", json!(1));
    gives("result = ({} or {\"a\": 2}).a", json!(2));
    gives("d = {\"items\": [1]}\nresult = [d.items, d.get(\"x\"), list(d.keys())]", json!([[1], null, ["items"]]));
    gives("result = [k + str(v) for k, v in {\"a\": 1}.items()]", json!(["a1"]));
    gives("f = lambda x, y: x.a\nresult = f({\"a\": 4}, 1)", json!(4));
    gives("result = sorted([{\"a\": 2}, {\"a\": 1}], key=lambda r: r.a)[0].a", json!(1));
    gives("r = {\"n\": \"abc\"}\nresult = r.n.upper()", json!("ABC"));
}

#[test]
fn a_missing_field_names_those_there_are() {
    assert_error("r = {\"name\": 1, \"id\": 2}\n\nresult = r.nmae", ErrorKind::Runtime, 3, "Did you mean 'name'? Keys: name, id");
    assert_error("r = None\nr.x", ErrorKind::Runtime, 2, "is None");
    assert_error("r = [1]\nr.x", ErrorKind::Runtime, 2, "Take an element (`xs[0].x`)");
    assert_error("r = \"t\"\nr.x", ErrorKind::Runtime, 2, "json.decode");
}

#[test]
fn places_are_those_of_the_authors_text() {
    let error = error("r = {\"a\": {\"b\": 1}}\nx = r.a.b + r.a.b + r.a.nope");
    assert_eq!((error.line, error.column), (Some(2), Some(21)));
}

#[test]
fn f_strings_take_expressions_and_formats() {
    gives("r = {\"n\": {\"m\": 2.5}}\nresult = f\"{r.n.m:.2f} {r[\"n\"].m} {{x}} {[1, 2]}\"", json!("2.50 2.5 {x} [1, 2]"));
    gives(
        "result = f\"{1234567:,}|{7:03d}|{0.256:.1%}|{'a':>3}|{'a':<3}|{5:^5}|{1234.5:,.2f}|{-3:+d}|{255:x}|{1e10:.2e}|{0.1:g}\"",
        json!("1,234,567|007|25.6%|  a|a  |  5  |1,234.50|-3|ff|1.00e+10|0.1"),
    );
    gives("result = f\"{(lambda x: x)(3)}\"", json!("3"));
    assert_error("x = f\"{'a':.2f}\"", ErrorKind::Runtime, 1, "takes a number");
}

#[test]
fn type_annotations_are_ignored() {
    let source = "def f(x: int, y: list[dict[str, Any]] = [], *a: Foo, k: \"str\" = lambda q: q) -> Optional[dict]:\n  z: pd.Frame = 3\n  return [x, z]\nx: Foo.Bar = f(1)\nresult = x";
    gives(source, json!([1, 3]));
    gives("for k in {\"a\": 1}:\n  y = {\"a\": 1 if True else 2, \"b\": [1, 2][0:1]}\nresult = y", json!({"a": 1, "b": [1]}));
}

#[test]
fn pythons_builtins() {
    gives(
        "result = [sum([1, 2.5]), sum([[1], [2]], []), pow(2, 10), abs(-3), len(\"abc\"), any([0, 1]), all([])]",
        json!([3.5, [1, 2], 1024, 3, 3, true, true]),
    );
    gives("result = [round(2.5), round(1.23456, 2), round(-0.3), round(7), round(1234.5, -2)]", json!([2, 1.23, 0, 7, 1200.0]));
    gives("result = [max([1, 3]), max(1, 5), min([], default=0), max([{\"a\": 2}], key=lambda r: r.a).a]", json!([3, 5, 0, 2]));
    gives(
        "result = [list(zip([1], [2])), list(enumerate([\"a\"])), list(map(lambda x: x + 1, [1])), list(filter(lambda x: x > 1, [1, 2]))]",
        json!([[[1, 2]], [[0, "a"]], [2], [2]]),
    );
    gives(
        "result = [isinstance(1, int), isinstance(\"a\", str), isinstance({}, dict), isinstance([], (list, tuple)), isinstance(None, str)]",
        json!([true, true, true, true, false]),
    );
    gives("result = json.decode(json.encode({\"a\": [1, None, True]}))", json!({"a": [1, null, true]}));
    gives("result = json.loads(json.dumps({\"b\": 1.5}, indent=2))", json!({"b": 1.5}));
    gives("x = 1\nif x:\n  x = \"again\"\nresult = x", json!("again"));
    assert_eq!(last("print(1, \"a\", [2])\nprint(1, 2, sep=\"-\")").logs, ["1 a [2]", "1-2"]);
}

#[test]
fn results_are_json() {
    gives(
        "result = {1: 2, True: 3, None: (4, 5), \"s\": set([1]), \"r\": range(2)}",
        json!({"1": 2, "true": 3, "null": [4, 5], "s": [1], "r": [0, 1]}),
    );
    assert_eq!(
        result("result = [18446744073709551615, 1e300, -9223372036854775808, 2.0]").to_string(),
        "[18446744073709551615,1e+300,-9223372036854775808,2.0]"
    );
    for (source, path) in [
        ("result = len", "`result` holds"),
        ("result = {\"a\": [1, len]}", "`result[\"a\"][1]` holds"),
        ("result = [12345678901234567890123]", "more than 64 bits"),
        ("result = 1 << 1100", "more than 64 bits"),
        ("result = crm", "type server"),
        ("result = float(\"nan\")", "NaN"),
    ] {
        let error = error(source);
        assert_eq!(error.kind, ErrorKind::Runtime);
        assert!(error.message.contains(path), "{}", error.message);
    }
}
