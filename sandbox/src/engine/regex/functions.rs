//! The functions of the module, and the methods of patterns and matches.

use regex::Regex;
use starlark::environment::{GlobalsBuilder, MethodsBuilder};
use starlark::eval::Evaluator;
use starlark::starlark_module;
use starlark::values::dict::AllocDict;
use starlark::values::tuple::{AllocTuple, UnpackTuple};
use starlark::values::{Heap, Value, ValueLike};

use super::super::raised::Raised;
use super::{
    DOTALL, IGNORECASE, MULTILINE, Match, Pattern, VERBOSE, Where, compiled, find, find_all, find_iter, split, substitute,
};

starlark::methods_static!(pub PATTERN = pattern_methods);
starlark::methods_static!(pub MATCH = match_methods);

pub fn register(builder: &mut GlobalsBuilder) {
    for (name, flag) in [
        ("I", IGNORECASE),
        ("IGNORECASE", IGNORECASE),
        ("M", MULTILINE),
        ("MULTILINE", MULTILINE),
        ("S", DOTALL),
        ("DOTALL", DOTALL),
        ("X", VERBOSE),
        ("VERBOSE", VERBOSE),
        ("ASCII", 0),
        ("A", 0),
        ("UNICODE", 0),
    ] {
        builder.set(name, flag);
    }
    functions(builder);
}

#[starlark_module]
fn functions(builder: &mut GlobalsBuilder) {
    fn compile<'v>(pattern: Value<'v>, flags: Option<i32>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        let regex = compiled(eval, pattern, flags.unwrap_or(0))?;
        Ok(eval.heap().alloc(Pattern { regex }))
    }

    fn search<'v>(
        pattern: Value<'v>,
        string: Value<'v>,
        flags: Option<i32>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        find(eval, &compiled(eval, pattern, flags.unwrap_or(0))?, string, Where::Anywhere)
    }

    fn r#match<'v>(
        pattern: Value<'v>,
        string: Value<'v>,
        flags: Option<i32>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        find(eval, &compiled(eval, pattern, flags.unwrap_or(0))?, string, Where::Start)
    }

    fn fullmatch<'v>(
        pattern: Value<'v>,
        string: Value<'v>,
        flags: Option<i32>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        find(eval, &compiled(eval, pattern, flags.unwrap_or(0))?, string, Where::Whole)
    }

    fn findall<'v>(
        pattern: Value<'v>,
        string: Value<'v>,
        flags: Option<i32>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        find_all(eval.heap(), &compiled(eval, pattern, flags.unwrap_or(0))?, string)
    }

    fn finditer<'v>(
        pattern: Value<'v>,
        string: Value<'v>,
        flags: Option<i32>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        find_iter(eval.heap(), &compiled(eval, pattern, flags.unwrap_or(0))?, string)
    }

    fn split<'v>(
        pattern: Value<'v>,
        string: Value<'v>,
        maxsplit: Option<i32>,
        flags: Option<i32>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        split(eval.heap(), &compiled(eval, pattern, flags.unwrap_or(0))?, string, maxsplit.unwrap_or(0))
    }

    fn sub<'v>(
        pattern: Value<'v>,
        repl: Value<'v>,
        string: Value<'v>,
        count: Option<i32>,
        flags: Option<i32>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<String> {
        let regex = compiled(eval, pattern, flags.unwrap_or(0))?;
        Ok(substitute(eval, &regex, repl, string, count.unwrap_or(0))?.0)
    }

    fn subn<'v>(
        pattern: Value<'v>,
        repl: Value<'v>,
        string: Value<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let regex = compiled(eval, pattern, 0)?;
        let (text, times) = substitute(eval, &regex, repl, string, 0)?;
        Ok(eval.heap().alloc((text, times)))
    }

    fn escape(#[starlark(require = pos)] text: &str) -> starlark::Result<String> {
        Ok(regex::escape(text))
    }
}

fn regex_of<'v>(this: Value<'v>) -> starlark::Result<&'v Regex> {
    this.downcast_ref::<Pattern>().map(|p| &p.regex).ok_or_else(|| Raised::type_of("This is no pattern."))
}

#[starlark_module]
fn pattern_methods(builder: &mut MethodsBuilder) {
    #[starlark(attribute)]
    fn pattern<'v>(this: Value<'v>) -> starlark::Result<String> {
        Ok(regex_of(this)?.as_str().to_owned())
    }

    fn search<'v>(this: Value<'v>, string: Value<'v>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        find(eval, regex_of(this)?, string, Where::Anywhere)
    }

    fn r#match<'v>(this: Value<'v>, string: Value<'v>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        find(eval, regex_of(this)?, string, Where::Start)
    }

    fn fullmatch<'v>(this: Value<'v>, string: Value<'v>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        find(eval, regex_of(this)?, string, Where::Whole)
    }

    fn findall<'v>(this: Value<'v>, string: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        find_all(heap, regex_of(this)?, string)
    }

    fn finditer<'v>(this: Value<'v>, string: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        find_iter(heap, regex_of(this)?, string)
    }

    fn split<'v>(this: Value<'v>, string: Value<'v>, maxsplit: Option<i32>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        split(heap, regex_of(this)?, string, maxsplit.unwrap_or(0))
    }

    fn sub<'v>(
        this: Value<'v>,
        repl: Value<'v>,
        string: Value<'v>,
        count: Option<i32>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<String> {
        Ok(substitute(eval, regex_of(this)?, repl, string, count.unwrap_or(0))?.0)
    }
}

fn match_of<'v>(this: Value<'v>) -> starlark::Result<&'v Match> {
    this.downcast_ref::<Match>().ok_or_else(|| Raised::type_of("This is no match."))
}

fn place(at: usize) -> i32 {
    i32::try_from(at).unwrap_or(i32::MAX)
}

#[starlark_module]
fn match_methods(builder: &mut MethodsBuilder) {
    fn group<'v>(
        this: Value<'v>,
        #[starlark(args)] groups: UnpackTuple<Value<'v>>,
        heap: Heap<'v>,
    ) -> starlark::Result<Value<'v>> {
        let found = match_of(this)?;
        match groups.items.as_slice() {
            [] => found.value(heap, heap.alloc(0)),
            [one] => found.value(heap, *one),
            several => {
                let values = several.iter().map(|g| found.value(heap, *g)).collect::<starlark::Result<Vec<_>>>()?;
                Ok(heap.alloc(AllocTuple(values)))
            }
        }
    }

    fn groups<'v>(
        this: Value<'v>,
        #[starlark(require = pos)] default: Option<Value<'v>>,
        heap: Heap<'v>,
    ) -> starlark::Result<Value<'v>> {
        let none = default.unwrap_or_else(Value::new_none);
        let groups = &match_of(this)?.groups;
        let values = groups.iter().skip(1).map(|g| g.as_ref().map_or(none, |g| heap.alloc(g.text.as_str())));
        Ok(heap.alloc(AllocTuple(values.collect::<Vec<_>>())))
    }

    fn groupdict<'v>(this: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        let found = match_of(this)?;
        let pairs = found.names.iter().zip(&found.groups).filter_map(|(name, group)| {
            let value = group.as_ref().map_or_else(Value::new_none, |g| heap.alloc(g.text.as_str()));
            Some((name.as_deref()?, value))
        });
        Ok(heap.alloc(AllocDict(pairs.collect::<Vec<_>>())))
    }

    fn start<'v>(this: Value<'v>, #[starlark(require = pos)] group: Option<Value<'v>>, heap: Heap<'v>) -> starlark::Result<i32> {
        Ok(match_of(this)?.group(group.unwrap_or_else(|| heap.alloc(0)))?.map_or(-1, |g| place(g.start)))
    }

    fn end<'v>(this: Value<'v>, #[starlark(require = pos)] group: Option<Value<'v>>, heap: Heap<'v>) -> starlark::Result<i32> {
        Ok(match_of(this)?.group(group.unwrap_or_else(|| heap.alloc(0)))?.map_or(-1, |g| place(g.end)))
    }

    fn span<'v>(
        this: Value<'v>,
        #[starlark(require = pos)] group: Option<Value<'v>>,
        heap: Heap<'v>,
    ) -> starlark::Result<Value<'v>> {
        let group = match_of(this)?.group(group.unwrap_or_else(|| heap.alloc(0)))?;
        Ok(heap.alloc(group.map_or((-1, -1), |g| (place(g.start), place(g.end)))))
    }
}
