//! Calls: Python's builtins and methods where Starlark's differ, and calls that are to run at the same time.

use std::ops::RangeInclusive;

use super::super::SyntaxError;
use super::super::ast::{Argument, Collects, Comprehension, Expr, Expression};
use super::expression::CALL;
use super::{Emitted, Emitter};

/// Builtins that iterate over arguments, the first and the last of which are given: strings and iterators are welcome there.
const ITERATE: &[(&str, usize, usize)] = &[
    ("list", 0, 0),
    ("tuple", 0, 0),
    ("set", 0, 0),
    ("frozenset", 0, 0),
    ("sorted", 0, 0),
    ("reversed", 0, 0),
    ("enumerate", 0, 0),
    ("zip", 0, usize::MAX),
    ("sum", 0, 0),
    ("any", 0, 0),
    ("all", 0, 0),
    ("map", 1, usize::MAX),
    ("filter", 1, 1),
];
#[allow(clippy::reversed_empty_ranges)] // that is what it is for
const NONE: RangeInclusive<usize> = 1..=0;
/// Builtins that Starlark has with another meaning or not at all, under the names of ours.
const RENAMED: &[(&str, &str)] = &[
    ("str", "__str"),
    ("repr", "__repr"),
    ("type", "__type"),
    ("getattr", "__getattr"),
    ("hasattr", "__hasattr"),
    ("setattr", "__put"),
    ("filter", "__filter"),
    ("map", "__map"),
    ("int", "__int"),
    ("float", "__float"),
    ("dict", "__dict"),
    ("enumerate", "__enumerate"),
    ("len", "__len"),
];
/// Methods of strings, lists and dicts that Starlark lacks or has with another meaning.
const METHODS: &[&str] = &[
    "format",
    "format_map",
    "zfill",
    "ljust",
    "rjust",
    "center",
    "casefold",
    "swapcase",
    "encode",
    "isnumeric",
    "isdecimal",
    "isidentifier",
    "expandtabs",
    "sort",
    "reverse",
    "copy",
    "most_common",
    "elements",
    "total",
    "count",
    "fromkeys",
    "join",
    "update",
    "appendleft",
    "popleft",
    "extend",
    "split",
];

impl Emitter<'_> {
    pub(super) fn call(&mut self, at: usize, function: &Expression, arguments: &[Argument]) -> Emitted {
        match &function.kind {
            Expr::Name(name) if self.is_given(name) => self.builtin(at, name, arguments),
            Expr::Attribute(base, method) => self.method(at, base, method, arguments),
            _ => {
                self.expression(function, CALL)?;
                self.arguments(arguments, NONE)
            }
        }
    }

    fn builtin(&mut self, at: usize, name: &str, arguments: &[Argument]) -> Emitted {
        match (name, arguments) {
            ("super", []) => {
                let Some((class, me)) = self.method.clone() else {
                    return Err(SyntaxError::new(at, "`super()` stands only in a method. Name the class: `Base.method(self)`."));
                };
                self.push(&format!("__super({class}, {me})"));
                return Ok(());
            }
            ("gather", _) => return self.gather(at, arguments),
            ("any" | "all", [one]) => {
                if let Some(c) = generator(one) {
                    return self.lazily(&format!("__{name}"), c, None);
                }
            }
            ("next", [one, rest @ ..]) if rest.len() < 2 => {
                if let Some(c) = generator(one) {
                    return self.lazily("__first", c, rest.first());
                }
            }
            _ => {}
        }
        let renamed = RENAMED.iter().find(|(n, _)| *n == name).map_or(name, |(_, ours)| *ours);
        self.push(renamed);
        let iterated = ITERATE.iter().find(|(n, ..)| *n == name).map_or(NONE, |(_, first, last)| *first..=*last);
        let one = matches!(name, "min" | "max") && arguments.iter().filter(|a| a.name.is_none()).count() == 1;
        self.arguments(arguments, if one { 0..=0 } else { iterated })
    }

    fn method(&mut self, at: usize, base: &Expression, method: &str, arguments: &[Argument]) -> Emitted {
        if base.name() == Some("asyncio") {
            match method {
                "gather" => return self.gather(at, arguments),
                "run" | "create_task" | "ensure_future" | "wait_for" => {
                    let Some(first) = arguments.first() else {
                        return Err(SyntaxError::new(at, "The coroutine is missing. Write `asyncio.run(main())`."));
                    };
                    // A task begins at once; its value is kept until it is awaited.
                    return self.wrapped("__await", &first.value);
                }
                _ => {}
            }
        }
        let on_type = base.name().is_some_and(|n| matches!(n, "str" | "list" | "dict" | "set") && self.is_given(n));
        if on_type || method == "load" || METHODS.contains(&method) {
            self.push("__method(");
            self.expression(base, 0)?;
            self.push(&format!(", {method:?}"));
            if !arguments.is_empty() {
                self.push(", ");
            }
            return self.argument_list(arguments, NONE);
        }
        self.expression(base, CALL)?;
        self.push(&format!(".{method}"));
        self.arguments(arguments, NONE)
    }

    fn arguments(&mut self, arguments: &[Argument], iterated: RangeInclusive<usize>) -> Emitted {
        self.push("(");
        self.argument_list(arguments, iterated)
    }

    /// Starlark takes positional arguments, then named ones, then one `*` and one `**`. The closing bracket is written too.
    fn argument_list(&mut self, arguments: &[Argument], iterated: RangeInclusive<usize>) -> Emitted {
        let starred = arguments.iter().position(|a| a.star == "*").unwrap_or(arguments.len());
        let mut written = 0;
        for (index, argument) in
            arguments.iter().enumerate().filter(|(i, a)| a.star.is_empty() && a.name.is_none() && *i < starred)
        {
            self.comma(&mut written);
            let plain = matches!(argument.value.kind, Expr::List(_) | Expr::Comprehension(_) | Expr::Dict(_));
            if iterated.contains(&index) && !plain {
                self.wrapped("__iter", &argument.value)?;
            } else {
                self.expression(&argument.value, 0)?;
            }
        }
        for argument in arguments.iter().filter(|a| a.star.is_empty()) {
            let Some(name) = &argument.name else { continue };
            self.comma(&mut written);
            self.mark(argument.value.at);
            self.push(&format!("{}=", super::plain(name)));
            self.expression(&argument.value, 0)?;
        }
        let rest: Vec<&Argument> = arguments[starred..].iter().filter(|a| a.star != "**" && a.name.is_none()).collect();
        if !rest.is_empty() {
            self.comma(&mut written);
            self.push("*__concat(");
            for argument in rest {
                self.push(if argument.star.is_empty() { "[" } else { "" });
                self.expression(&argument.value, 0)?;
                self.push(if argument.star.is_empty() { "], " } else { ", " });
            }
            self.push(")");
        }
        let merged: Vec<&Argument> = arguments.iter().filter(|a| a.star == "**").collect();
        if !merged.is_empty() {
            self.comma(&mut written);
            self.push("**__merge(");
            for argument in merged {
                self.expression(&argument.value, 0)?;
                self.push(", ");
            }
            self.push(")");
        }
        self.push(")");
        Ok(())
    }

    fn comma(&mut self, written: &mut usize) {
        if *written > 0 {
            self.push(", ");
        }
        *written += 1;
    }

    /// `any`, `all` and `next` stop at the first item that decides: what comes behind it must not be computed, since it may
    /// be a call.
    fn lazily(&mut self, function: &str, c: &Comprehension, default: Option<&Argument>) -> Emitted {
        self.push(function);
        self.push("(");
        if let Some(first) = c.clauses.first() {
            self.iterable(&first.iterable)?;
        }
        let item = self.temporary('i');
        self.push(&format!(", lambda {item}: ["));
        self.collected(c, Some(&format!("[{item}]")))?;
        self.push("]");
        if let Some(default) = default {
            self.push(", ");
            self.expression(&default.value, 0)?;
        }
        self.push(")");
        Ok(())
    }

    // --- at the same time -------------------------------------------------------------------------------------------

    /// `gather(a(), b())`, `gather([a(), b()])`, `gather(*[f(x) for x in xs])`: each call becomes a function.
    fn gather(&mut self, at: usize, arguments: &[Argument]) -> Emitted {
        self.push("__gather([");
        for argument in arguments.iter().filter(|a| a.name.is_none() && a.star != "**") {
            let listed = arguments.len() == 1 || argument.star == "*";
            match &argument.value.kind {
                Expr::List(items) if listed => {
                    self.push("[");
                    for item in items {
                        self.deferred(item)?;
                        self.push(", ");
                    }
                    self.push("]");
                }
                Expr::Comprehension(c) if listed && matches!(c.collects, Collects::List | Collects::Items) => {
                    self.deferred_each(c)?;
                }
                _ if listed && argument.star == "*" => self.expression(&argument.value, 0)?,
                Expr::Name(_) | Expr::Attribute(..) if arguments.len() == 1 => {
                    self.push("__gathered(");
                    self.expression(&argument.value, 0)?;
                    self.push(")");
                }
                _ => {
                    self.push("[");
                    self.deferred(&argument.value)?;
                    self.push("]");
                }
            }
            self.push(", ");
        }
        self.push("]");
        for argument in arguments.iter().filter(|a| a.name.is_some()) {
            if argument.name.as_deref() != Some("return_exceptions") {
                return Err(SyntaxError::new(at, "`gather` takes calls, and `return_exceptions=True`."));
            }
            self.push(", ");
            self.expression(&argument.value, 0)?;
        }
        self.push(")");
        Ok(())
    }

    /// A call as a function that makes it; anything else as it stands.
    fn deferred(&mut self, e: &Expression) -> Emitted {
        match &e.kind {
            Expr::Call(..) | Expr::Await(_) => {
                self.mark(e.at);
                self.push("__later(lambda: ");
                self.expression(e, 0)?;
                self.push(")");
                Ok(())
            }
            _ => self.expression(e, 0),
        }
    }

    fn deferred_each(&mut self, c: &Comprehension) -> Emitted {
        let mut names = Vec::new();
        c.clauses.iter().for_each(|clause| target_names(&clause.target, &mut names));
        let names = names.join(", ");
        // Each function has to see the values of its own turn.
        self.push("[");
        let outer = self.scope;
        self.scope = self.scopes.of(c);
        self.push(&format!("(lambda {names}: __later(lambda: "));
        self.expression(&c.element, 0)?;
        self.push(&format!("))({names})"));
        self.scope = outer;
        self.clauses(c)?;
        self.push("]");
        Ok(())
    }
}

fn generator(argument: &Argument) -> Option<&Comprehension> {
    match &argument.value.kind {
        Expr::Comprehension(c) if c.collects == Collects::Items && argument.star.is_empty() => Some(c),
        _ => None,
    }
}

fn target_names(target: &Expression, out: &mut Vec<String>) {
    match &target.kind {
        Expr::Name(name) => out.push(super::plain(name).to_owned()),
        Expr::Tuple(items) | Expr::List(items) => items.iter().for_each(|i| target_names(i, out)),
        _ => {}
    }
}
