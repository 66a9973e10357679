//! `collections`, `itertools` and `functools`.

use starlark::environment::GlobalsBuilder;
use starlark::eval::Evaluator;
use starlark::starlark_module;
use starlark::values::dict::DictRef;
use starlark::values::list::AllocList;
use starlark::values::none::NoneType;
use starlark::values::tuple::{AllocTuple, UnpackTuple};
use starlark::values::{Heap, Value};

use super::super::raised::Raised;
use super::super::run::call_back;
use super::super::{builtins, defaults};
use super::all;

/// Items that one call of `itertools` may make.
const ITEMS: usize = 100_000;

pub fn collections(builder: &mut GlobalsBuilder) {
    defaults::register(builder);
    ordered(builder);
}

#[starlark_module]
fn ordered(builder: &mut GlobalsBuilder) {
    /// Every dict keeps its order.
    fn OrderedDict<'v>(#[starlark(require = pos)] from: Option<Value<'v>>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        defaults::plain(heap, from)
    }

    fn deque<'v>(
        #[starlark(require = pos)] items: Option<Value<'v>>,
        #[starlark(require = named)] maxlen: Option<Value<'v>>,
        heap: Heap<'v>,
    ) -> starlark::Result<Value<'v>> {
        if maxlen.is_some_and(|m| !m.is_none()) {
            return Err(Raised::type_of("A deque has no maxlen here. Cut the list: `xs = (xs + [x])[-n:]`."));
        }
        Ok(heap.alloc(items.map_or(Ok(Vec::new()), |items| all(heap, items))?))
    }

    fn namedtuple<'v>(
        #[starlark(require = pos)] _name: &str,
        #[starlark(require = pos)] _fields: Value<'v>,
    ) -> starlark::Result<NoneType> {
        Err(Raised::type_of("There is no namedtuple. Use a dict, whose fields are read as `r.key`, or a @dataclass."))
    }
}

fn bounded(length: usize) -> starlark::Result<()> {
    if length > ITEMS {
        return Err(Raised::value(format!("More than {ITEMS} items would be made. Loop over less.")));
    }
    Ok(())
}

#[starlark_module]
pub fn itertools(builder: &mut GlobalsBuilder) {
    fn chain<'v>(#[starlark(args)] parts: UnpackTuple<Value<'v>>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        let parts = parts.items.into_iter().map(|p| all(heap, p)).collect::<starlark::Result<Vec<_>>>()?;
        Ok(heap.alloc(parts.concat()))
    }

    fn islice<'v>(
        #[starlark(require = pos)] items: Value<'v>,
        #[starlark(require = pos)] start: i32,
        #[starlark(require = pos)] stop: Option<i32>,
        heap: Heap<'v>,
    ) -> starlark::Result<Value<'v>> {
        let (start, stop) = stop.map_or((0, start), |stop| (start, stop));
        let place = |n: i32| usize::try_from(n).unwrap_or(0);
        let items = all(heap, items)?;
        Ok(heap.alloc(items.into_iter().take(place(stop)).skip(place(start)).collect::<Vec<_>>()))
    }

    /// Neighbours with the same key, as a list of pairs.
    fn groupby<'v>(
        #[starlark(require = pos)] items: Value<'v>,
        key: Option<Value<'v>>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let heap = eval.heap();
        let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
        for item in all(heap, items)? {
            let by = key.filter(|k| !k.is_none()).map_or(Ok(item), |k| call_back(eval, k, &[item]))?;
            match groups.last_mut() {
                Some((last, group)) if last.equals(by)? => group.push(item),
                _ => groups.push((by, vec![item])),
            }
        }
        Ok(heap.alloc(groups.into_iter().map(|(by, group)| heap.alloc((by, heap.alloc(group)))).collect::<Vec<_>>()))
    }

    fn product<'v>(#[starlark(args)] parts: UnpackTuple<Value<'v>>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        let mut rows: Vec<Vec<Value>> = vec![Vec::new()];
        for part in parts.items {
            let part = all(heap, part)?;
            bounded(rows.len().saturating_mul(part.len()))?;
            rows = rows.iter().flat_map(|row| part.iter().map(move |item| [row.as_slice(), &[*item]].concat())).collect();
        }
        Ok(heap.alloc(rows.into_iter().map(|row| heap.alloc(AllocTuple(row))).collect::<Vec<_>>()))
    }

    fn combinations<'v>(
        #[starlark(require = pos)] items: Value<'v>,
        #[starlark(require = pos)] r: i32,
        heap: Heap<'v>,
    ) -> starlark::Result<Value<'v>> {
        let items = all(heap, items)?;
        let r = usize::try_from(r).map_err(|_| Raised::value("combinations() takes a positive size."))?;
        let mut rows: Vec<Vec<usize>> = vec![Vec::new()];
        for _ in 0..r.min(items.len() + 1) {
            let mut longer = Vec::new();
            for row in &rows {
                for at in row.last().map_or(0, |last| last + 1)..items.len() {
                    longer.push([row.as_slice(), &[at]].concat());
                }
                bounded(longer.len())?;
            }
            rows = longer;
        }
        Ok(heap.alloc(
            rows.iter()
                .map(|row| heap.alloc(AllocTuple(row.iter().map(|at| items[*at]).collect::<Vec<_>>())))
                .collect::<Vec<_>>(),
        ))
    }

    fn accumulate<'v>(#[starlark(require = pos)] items: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        let mut out: Vec<Value> = Vec::new();
        for item in all(heap, items)? {
            let next = out.last().map_or(Ok(item), |sum| sum.add(item, heap))?;
            out.push(next);
        }
        Ok(heap.alloc(out))
    }

    fn pairwise<'v>(#[starlark(require = pos)] items: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        let items = all(heap, items)?;
        Ok(heap.alloc(AllocList(items.windows(2).map(|pair| heap.alloc((pair[0], pair[1]))))))
    }

    fn count<'v>(#[starlark(args)] _args: UnpackTuple<Value<'v>>) -> starlark::Result<NoneType> {
        Err(Raised::type_of("itertools.count() has no end. Write `for i in range(n):` or `while True:` with a counter."))
    }
}

#[starlark_module]
pub fn functools(builder: &mut GlobalsBuilder) {
    /// As a decorator it is dropped: what remembers results changes nothing that a script could see.
    fn cache<'v>(#[starlark(require = pos)] function: Value<'v>) -> starlark::Result<Value<'v>> {
        Ok(function)
    }

    fn lru_cache<'v>(#[starlark(require = pos)] function: Value<'v>) -> starlark::Result<Value<'v>> {
        Ok(function)
    }

    fn wraps<'v>(#[starlark(require = pos)] function: Value<'v>) -> starlark::Result<Value<'v>> {
        Ok(function)
    }

    fn reduce<'v>(
        #[starlark(require = pos)] function: Value<'v>,
        #[starlark(require = pos)] items: Value<'v>,
        #[starlark(require = pos)] initial: Option<Value<'v>>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let mut items = all(eval.heap(), items)?.into_iter();
        let mut so_far = initial
            .or_else(|| items.next())
            .ok_or_else(|| Raised::type_of("reduce() of an empty list. Give it an initial value."))?;
        for item in items {
            so_far = call_back(eval, function, &[so_far, item])?;
        }
        Ok(so_far)
    }

    fn partial<'v>(
        #[starlark(require = pos)] function: Value<'v>,
        #[starlark(args)] args: UnpackTuple<Value<'v>>,
        #[starlark(kwargs)] kwargs: DictRef<'v>,
        heap: Heap<'v>,
    ) -> starlark::Result<Value<'v>> {
        Ok(builtins::partial(heap, function, args.items, kwargs.iter().collect()))
    }
}
