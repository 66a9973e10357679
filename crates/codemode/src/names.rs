//! From the names upstreams use to Python identifiers. Deterministic and free of collisions; the way back is always a table.

use std::collections::{HashMap, HashSet};

/// Longer identifiers are cut; the suffix that keeps them apart comes on top.
const MAX_LENGTH: usize = 100;

/// Reserved in Python or in Starlark, hence no identifier in either.
const KEYWORDS: [&str; 36] = [
    "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue", "def", "del", "elif", "else",
    "except", "finally", "for", "from", "global", "if", "import", "in", "is", "lambda", "load", "nonlocal", "not", "or", "pass",
    "raise", "return", "try", "while", "with", "yield",
];

/// What a script finds as globals; a server of such a name would hide it.
const GLOBALS: [&str; 62] = [
    "abs",
    "all",
    "any",
    "asyncio",
    "bool",
    "bytes",
    "chr",
    "collections",
    "copy",
    "date",
    "datetime",
    "debug",
    "dict",
    "dir",
    "enum",
    "enumerate",
    "eval_type",
    "fail",
    "filter",
    "float",
    "functools",
    "gather",
    "getattr",
    "hasattr",
    "hash",
    "heapq",
    "int",
    "isinstance",
    "itertools",
    "json",
    "len",
    "list",
    "map",
    "math",
    "max",
    "min",
    "now",
    "operator",
    "ord",
    "parallel",
    "partial",
    "pprint",
    "print",
    "random",
    "range",
    "re",
    "record",
    "repr",
    "result",
    "reversed",
    "set",
    "sorted",
    "statistics",
    "str",
    "struct",
    "sum",
    "time",
    "timedelta",
    "timezone",
    "try_call",
    "tuple",
    "zip",
];

/// What TypeScript reserves, and what its scripts find as globals.
const TYPESCRIPT: [&str; 65] = [
    "Array",
    "BigInt",
    "Boolean",
    "DataView",
    "Date",
    "Error",
    "Function",
    "Infinity",
    "Iterator",
    "JSON",
    "Map",
    "Math",
    "NaN",
    "Number",
    "Object",
    "Promise",
    "Proxy",
    "Reflect",
    "RegExp",
    "Set",
    "String",
    "Symbol",
    "ToolError",
    "TypeError",
    "WeakMap",
    "arguments",
    "case",
    "catch",
    "console",
    "const",
    "debugger",
    "default",
    "delete",
    "do",
    "encodeURIComponent",
    "eval",
    "export",
    "extends",
    "fetch",
    "finally",
    "function",
    "globalThis",
    "implements",
    "instanceof",
    "interface",
    "isNaN",
    "let",
    "new",
    "null",
    "package",
    "parseFloat",
    "parseInt",
    "private",
    "protected",
    "public",
    "require",
    "static",
    "super",
    "switch",
    "this",
    "throw",
    "typeof",
    "undefined",
    "var",
    "void",
];

/// What is being named: decides what is reserved and how a name without a usable letter begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Server,
    Tool,
    Param,
    Type,
}

/// One identifier per raw name, in the same order, pairwise different. A raw name that is an identifier already keeps itself
/// even where an earlier one (`get-sum` before `get_sum`) would have become the same.
pub(crate) fn identifiers(raw: &[&str], kind: Kind) -> Vec<String> {
    let mut names = Allocator::default();
    let mut out = vec![String::new(); raw.len()];
    let mut later = Vec::new();
    for (at, name) in raw.iter().enumerate() {
        let wanted = identifier(name, kind, at);
        if wanted == *name && names.taken.insert(wanted.clone()) {
            out[at] = wanted;
        } else {
            later.push((at, wanted));
        }
    }
    for (at, wanted) in later {
        out[at] = names.take(wanted);
    }
    out
}

/// Hands out each name once; a second asker gets `_2`.
#[derive(Default)]
pub(crate) struct Allocator {
    taken: HashSet<String>,
    next: HashMap<String, u32>,
}

impl Allocator {
    pub(crate) fn take(&mut self, wanted: String) -> String {
        if self.taken.insert(wanted.clone()) {
            return wanted;
        }
        // Remembering the counter keeps a million equal names linear.
        let next = self.next.entry(wanted.clone()).or_insert(2);
        loop {
            let candidate = format!("{wanted}_{next}");
            *next += 1;
            if self.taken.insert(candidate.clone()) {
                return candidate;
            }
        }
    }
}

/// The identifier a raw name asks for; `at` names those without a usable character.
pub(crate) fn identifier(raw: &str, kind: Kind, at: usize) -> String {
    let mut name: String = raw.chars().take(MAX_LENGTH).map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let prefix = match kind {
        Kind::Server => "s",
        Kind::Tool => "t",
        Kind::Param => "p",
        Kind::Type => "T",
    };
    if !name.contains(|c: char| c.is_ascii_alphanumeric()) {
        name = format!("{prefix}_{}", at + 1);
    } else if name.starts_with(|c: char| c.is_ascii_digit()) {
        name = format!("{prefix}_{name}");
    }
    if is_reserved(&name, kind) {
        name.push('_');
    }
    name
}

/// `order_item` or "Order item" as the name of a type: `OrderItem`.
pub(crate) fn type_name(hint: &str) -> String {
    let mut name = String::new();
    let mut start = true;
    for c in hint.chars().take(MAX_LENGTH) {
        if !c.is_ascii_alphanumeric() {
            start = true;
        } else if name.len() < 40 {
            name.push(if std::mem::take(&mut start) { c.to_ascii_uppercase() } else { c });
        }
    }
    if name.is_empty() || ["Any", "Array", "Literal", "Never", "Promise", "Record"].contains(&name.as_str()) {
        name.push_str("Type");
    }
    identifier(&name, Kind::Type, 0)
}

/// Whether a script finds something else under this name.
pub(crate) fn is_taken(name: &str) -> bool {
    is_reserved(name, Kind::Server)
}

fn is_reserved(name: &str, kind: Kind) -> bool {
    KEYWORDS.contains(&name) || (kind == Kind::Server && (GLOBALS.contains(&name) || TYPESCRIPT.contains(&name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_become_identifiers() {
        let raw = ["get-sum", "get_sum", "get.sum", "class", "3d", "naïve", "検索", "print", "", "-"];
        let names = identifiers(&raw, Kind::Tool);
        let expected = ["get_sum_2", "get_sum", "get_sum_3", "class_", "t_3d", "na_ve", "t_7", "print", "t_9", "t_10"];
        assert_eq!(names, expected);
        assert_eq!(identifiers(&["print", "crm", "lambda", "Map"], Kind::Server), ["print_", "crm", "lambda_", "Map_"]);
    }

    #[test]
    fn many_equal_names_stay_apart() {
        let raw: Vec<String> =
            (0..100_000).map(|i| ["a-b", "a.b", "a_b", "a_b_2", "a_b-7", "é", "class", "class_"][i % 8].to_owned()).collect();
        let raw: Vec<&str> = raw.iter().map(String::as_str).collect();
        let names = identifiers(&raw, Kind::Param);
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
        assert_eq!(names, identifiers(&raw, Kind::Param));
    }

    #[test]
    fn type_names_are_capitalised() {
        assert_eq!(type_name("order_item"), "OrderItem");
        assert_eq!(type_name("any"), "AnyType");
        assert_eq!(type_name("none"), "None_");
        assert_eq!(type_name("日本"), "Type");
        assert_eq!(type_name("2d point"), "T_2dPoint");
    }
}
