//! `math`, `time`, `random`, `collections`, `itertools`, `functools`, `statistics`, `asyncio`: the parts that scripts use.

use starlark::environment::GlobalsBuilder;
use starlark::eval::Evaluator;
use starlark::starlark_module;
use starlark::values::float::UnpackFloat;
use starlark::values::list::AllocList;
use starlark::values::none::NoneType;
use starlark::values::tuple::{AllocTuple, UnpackTuple};
use starlark::values::{Heap, UnpackValue, Value};
use tollgate_codemode::wire::{self, ErrorKind};

use super::raised::Raised;
use super::run::{Answered, Run};
use super::{basics, dates, defaults, format, methods};

/// Items that one call of `itertools` may make.
const ITEMS: usize = 100_000;

pub fn register(builder: &mut GlobalsBuilder) {
    let modules: [(&str, fn(&mut GlobalsBuilder)); 9] = [
        ("json", super::json::register),
        ("re", super::regex::register),
        ("math", math_module),
        ("time", time),
        ("random", random_module),
        ("asyncio", asyncio),
        ("collections", collections),
        ("itertools", itertools),
        ("functools", functools),
    ];
    for (name, fill) in modules {
        builder.namespace(&format!("__module_{name}"), fill);
        // `random` is a function too, and is a module only where it is imported as one.
        if name != "random" {
            builder.namespace(name, fill);
        }
    }
    builder.namespace("statistics", statistics);
    builder.namespace("__module_statistics", statistics);
    clock(builder);
}

pub fn float(value: Value, who: &str) -> starlark::Result<f64> {
    match UnpackFloat::unpack_value(value) {
        Ok(Some(UnpackFloat(float))) => Ok(float),
        _ => Err(Raised::type_of(format!("{who} takes numbers, not a value of type {}.", value.get_type()))),
    }
}

fn all<'v>(heap: Heap<'v>, value: Value<'v>) -> starlark::Result<Vec<Value<'v>>> {
    Ok(basics::items(heap, value)?.iterate(heap)?.collect())
}

// --- time and chance ------------------------------------------------------------------------------------------------

/// The next of the run's random numbers: SplitMix64 from a seed that the gateway gives once.
fn next_random<'v>(eval: &Evaluator<'v, '_, '_>) -> starlark::Result<u64> {
    let run = Run::of(eval);
    let state = match run.random_state() {
        Some(state) => state,
        None => match run.ask_gateway(eval, wire::RANDOM)? {
            Answered::Value(seed) => dates::integer(eval, seed)?.unsigned_abs(),
            Answered::ToolError(text) => {
                return Err(Raised::error(ErrorKind::ToolError, format!("Random numbers are not given to scripts: {text}")));
            }
        },
    };
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    run.set_random_state(state);
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    Ok(z ^ (z >> 31))
}

#[allow(clippy::cast_precision_loss)] // 53 bits are what a float holds
fn unit<'v>(eval: &Evaluator<'v, '_, '_>) -> starlark::Result<f64> {
    Ok((next_random(eval)? >> 11) as f64 / (1u64 << 53) as f64)
}

/// Below `n`, which is not 0.
fn below<'v>(eval: &Evaluator<'v, '_, '_>, n: usize) -> starlark::Result<usize> {
    let drawn = u128::from(next_random(eval)?) * (n as u128);
    Ok(usize::try_from(drawn >> 64).unwrap_or(0))
}

#[allow(clippy::cast_precision_loss)] // a float in Python too
fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

#[starlark_module]
fn clock(builder: &mut GlobalsBuilder) {
    /// The time of day, as a datetime in UTC.
    fn now<'v>(eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        let micros = dates::now(eval)?;
        Ok(eval.heap().alloc(dates::from_micros(micros, Some(0))?))
    }

    /// From 0 to 1.
    fn random<'v>(eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<f64> {
        unit(eval)
    }
}

#[starlark_module]
fn time(builder: &mut GlobalsBuilder) {
    fn time<'v>(eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<f64> {
        Ok(seconds(dates::now(eval)?))
    }

    fn monotonic<'v>(eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<f64> {
        Ok(seconds(dates::now(eval)?))
    }

    fn perf_counter<'v>(eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<f64> {
        Ok(seconds(dates::now(eval)?))
    }

    /// Nothing is waited for: the script's own time stands still.
    fn sleep<'v>(#[starlark(require = pos)] seconds: Value<'v>) -> starlark::Result<NoneType> {
        float(seconds, "sleep()")?;
        Ok(NoneType)
    }
}

#[starlark_module]
fn random_module(builder: &mut GlobalsBuilder) {
    fn random<'v>(eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<f64> {
        unit(eval)
    }

    fn uniform<'v>(
        #[starlark(require = pos)] low: Value<'v>,
        #[starlark(require = pos)] high: Value<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<f64> {
        let (low, high) = (float(low, "uniform()")?, float(high, "uniform()")?);
        Ok(low + (high - low) * unit(eval)?)
    }

    fn randint<'v>(
        #[starlark(require = pos)] low: i32,
        #[starlark(require = pos)] high: i32,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<i32> {
        let span = usize::try_from(i64::from(high) - i64::from(low) + 1).ok().filter(|n| *n > 0);
        let span = span.ok_or_else(|| Raised::value("randint(a, b) needs a <= b."))?;
        let drawn = i64::from(low) + i64::try_from(below(eval, span)?).unwrap_or(0);
        Ok(i32::try_from(drawn).unwrap_or(low))
    }

    fn choice<'v>(#[starlark(require = pos)] items: Value<'v>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        let items = all(eval.heap(), items)?;
        if items.is_empty() {
            return Err(Raised::of_class("IndexError", "choice() of an empty list. Check it first."));
        }
        Ok(items[below(eval, items.len())?])
    }

    fn sample<'v>(
        #[starlark(require = pos)] items: Value<'v>,
        k: i32,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let mut items = all(eval.heap(), items)?;
        let k = usize::try_from(k).ok().filter(|k| *k <= items.len());
        let k = k.ok_or_else(|| Raised::value("sample() takes no more items than there are."))?;
        for at in 0..k {
            let other = at + below(eval, items.len() - at)?;
            items.swap(at, other);
        }
        items.truncate(k);
        Ok(eval.heap().alloc(items))
    }

    fn shuffle<'v>(#[starlark(require = pos)] _items: Value<'v>) -> starlark::Result<NoneType> {
        Err(Raised::type_of("shuffle() is not there. Write `xs = random.sample(xs, len(xs))`."))
    }

    /// The journal decides, not the script.
    fn seed<'v>(#[starlark(require = pos)] _seed: Option<Value<'v>>) -> starlark::Result<NoneType> {
        Ok(NoneType)
    }
}

#[starlark_module]
fn asyncio(builder: &mut GlobalsBuilder) {
    fn sleep<'v>(#[starlark(require = pos)] _seconds: Value<'v>) -> starlark::Result<NoneType> {
        Ok(NoneType)
    }

    fn gather<'v>(
        #[starlark(args)] values: UnpackTuple<Value<'v>>,
        return_exceptions: Option<bool>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        super::calls::gather(eval, &values.items, return_exceptions.unwrap_or(false))
    }
}

// --- numbers --------------------------------------------------------------------------------------------------------

fn whole<'v>(heap: Heap<'v>, x: f64) -> starlark::Result<Value<'v>> {
    format::integral(x).map(|n| heap.alloc(&n)).map_err(Raised::value)
}

fn math_module(builder: &mut GlobalsBuilder) {
    builder.set("pi", std::f64::consts::PI);
    builder.set("e", std::f64::consts::E);
    builder.set("inf", f64::INFINITY);
    builder.set("nan", f64::NAN);
    math(builder);
}

#[starlark_module]
fn math(builder: &mut GlobalsBuilder) {
    fn floor<'v>(#[starlark(require = pos)] x: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        if x.get_type() == "int" { Ok(x) } else { whole(heap, float(x, "floor()")?.floor()) }
    }

    fn ceil<'v>(#[starlark(require = pos)] x: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        if x.get_type() == "int" { Ok(x) } else { whole(heap, float(x, "ceil()")?.ceil()) }
    }

    fn trunc<'v>(#[starlark(require = pos)] x: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        if x.get_type() == "int" { Ok(x) } else { whole(heap, float(x, "trunc()")?.trunc()) }
    }

    fn sqrt<'v>(#[starlark(require = pos)] x: Value<'v>) -> starlark::Result<f64> {
        let x = float(x, "sqrt()")?;
        if x < 0.0 { Err(Raised::value("sqrt() takes no negative number.")) } else { Ok(x.sqrt()) }
    }

    fn log<'v>(
        #[starlark(require = pos)] x: Value<'v>,
        #[starlark(require = pos)] base: Option<Value<'v>>,
    ) -> starlark::Result<f64> {
        let x = float(x, "log()")?;
        if x <= 0.0 {
            return Err(Raised::value("log() takes positive numbers."));
        }
        base.map_or(Ok(x.ln()), |base| Ok(x.ln() / float(base, "log()")?.ln()))
    }

    fn log2<'v>(#[starlark(require = pos)] x: Value<'v>) -> starlark::Result<f64> {
        Ok(float(x, "log2()")?.log2())
    }

    fn log10<'v>(#[starlark(require = pos)] x: Value<'v>) -> starlark::Result<f64> {
        Ok(float(x, "log10()")?.log10())
    }

    fn exp<'v>(#[starlark(require = pos)] x: Value<'v>) -> starlark::Result<f64> {
        Ok(float(x, "exp()")?.exp())
    }

    fn pow<'v>(#[starlark(require = pos)] x: Value<'v>, #[starlark(require = pos)] y: Value<'v>) -> starlark::Result<f64> {
        Ok(float(x, "pow()")?.powf(float(y, "pow()")?))
    }

    fn fabs<'v>(#[starlark(require = pos)] x: Value<'v>) -> starlark::Result<f64> {
        Ok(float(x, "fabs()")?.abs())
    }

    fn hypot<'v>(#[starlark(require = pos)] x: Value<'v>, #[starlark(require = pos)] y: Value<'v>) -> starlark::Result<f64> {
        Ok(float(x, "hypot()")?.hypot(float(y, "hypot()")?))
    }

    fn sin<'v>(#[starlark(require = pos)] x: Value<'v>) -> starlark::Result<f64> {
        Ok(float(x, "sin()")?.sin())
    }

    fn cos<'v>(#[starlark(require = pos)] x: Value<'v>) -> starlark::Result<f64> {
        Ok(float(x, "cos()")?.cos())
    }

    fn atan2<'v>(#[starlark(require = pos)] y: Value<'v>, #[starlark(require = pos)] x: Value<'v>) -> starlark::Result<f64> {
        Ok(float(y, "atan2()")?.atan2(float(x, "atan2()")?))
    }

    fn radians<'v>(#[starlark(require = pos)] x: Value<'v>) -> starlark::Result<f64> {
        Ok(float(x, "radians()")?.to_radians())
    }

    fn asin<'v>(#[starlark(require = pos)] x: Value<'v>) -> starlark::Result<f64> {
        Ok(float(x, "asin()")?.asin())
    }

    fn isnan<'v>(#[starlark(require = pos)] x: Value<'v>) -> starlark::Result<bool> {
        Ok(float(x, "isnan()")?.is_nan())
    }

    fn isinf<'v>(#[starlark(require = pos)] x: Value<'v>) -> starlark::Result<bool> {
        Ok(float(x, "isinf()")?.is_infinite())
    }

    fn isclose<'v>(
        #[starlark(require = pos)] x: Value<'v>,
        #[starlark(require = pos)] y: Value<'v>,
        rel_tol: Option<Value<'v>>,
        abs_tol: Option<Value<'v>>,
    ) -> starlark::Result<bool> {
        let (x, y) = (float(x, "isclose()")?, float(y, "isclose()")?);
        let relative = rel_tol.map_or(Ok(1e-9), |t| float(t, "isclose()"))?;
        let absolute = abs_tol.map_or(Ok(0.0), |t| float(t, "isclose()"))?;
        Ok((x - y).abs() <= (relative * x.abs().max(y.abs())).max(absolute))
    }

    fn gcd(#[starlark(require = pos)] x: i32, #[starlark(require = pos)] y: i32) -> starlark::Result<i32> {
        let (mut a, mut b) = (x.unsigned_abs(), y.unsigned_abs());
        while b != 0 {
            (a, b) = (b, a % b);
        }
        i32::try_from(a).map_err(|_| Raised::value("gcd() overflows."))
    }

    fn prod<'v>(#[starlark(require = pos)] xs: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        all(heap, xs)?.into_iter().try_fold(heap.alloc(1), |product, x| product.mul(x, heap))
    }
}

#[allow(clippy::cast_precision_loss)] // lists are short
fn mean_of(xs: &[f64]) -> starlark::Result<f64> {
    if xs.is_empty() {
        return Err(Raised::value("The mean of an empty list is asked for. Check it first: `if xs:`."));
    }
    Ok(xs.iter().sum::<f64>() / xs.len() as f64)
}

#[allow(clippy::cast_precision_loss)] // lists are short
fn variance_of(xs: &[f64], less: usize) -> starlark::Result<f64> {
    if xs.len() <= less {
        return Err(Raised::value("The spread of a list takes two numbers or more."));
    }
    let mean = mean_of(xs)?;
    Ok(xs.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (xs.len() - less) as f64)
}

fn floats<'v>(heap: Heap<'v>, xs: Value<'v>, who: &str) -> starlark::Result<Vec<f64>> {
    all(heap, xs)?.into_iter().map(|x| float(x, who)).collect()
}

#[starlark_module]
fn statistics(builder: &mut GlobalsBuilder) {
    fn mean<'v>(#[starlark(require = pos)] xs: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        let mean = mean_of(&floats(heap, xs, "mean()")?)?;
        let integers = all(heap, xs)?.iter().all(|x| x.get_type() == "int");
        if integers && mean.fract().abs() < f64::EPSILON { whole(heap, mean) } else { Ok(heap.alloc(mean)) }
    }

    fn fmean<'v>(#[starlark(require = pos)] xs: Value<'v>, heap: Heap<'v>) -> starlark::Result<f64> {
        mean_of(&floats(heap, xs, "fmean()")?)
    }

    fn median<'v>(#[starlark(require = pos)] xs: Value<'v>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        let heap = eval.heap();
        let sorted = all(heap, xs)?;
        let sorted = methods::sort(eval, sorted, None, false)?;
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => Err(Raised::value("The median of an empty list is asked for. Check it first: `if xs:`.")),
            n if n % 2 == 1 => Ok(sorted[middle]),
            _ => Ok(heap.alloc((float(sorted[middle - 1], "median()")? + float(sorted[middle], "median()")?) / 2.0)),
        }
    }

    fn stdev<'v>(#[starlark(require = pos)] xs: Value<'v>, heap: Heap<'v>) -> starlark::Result<f64> {
        Ok(variance_of(&floats(heap, xs, "stdev()")?, 1)?.sqrt())
    }

    fn pstdev<'v>(#[starlark(require = pos)] xs: Value<'v>, heap: Heap<'v>) -> starlark::Result<f64> {
        Ok(variance_of(&floats(heap, xs, "pstdev()")?, 0)?.sqrt())
    }

    fn variance<'v>(#[starlark(require = pos)] xs: Value<'v>, heap: Heap<'v>) -> starlark::Result<f64> {
        variance_of(&floats(heap, xs, "variance()")?, 1)
    }

    fn mode<'v>(#[starlark(require = pos)] xs: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        let counts = heap.alloc(starlark::values::dict::AllocDict(Vec::<(&str, Value)>::new()));
        defaults::count(heap, counts, xs)?;
        let mut best: Option<(Value, i32)> = None;
        for key in counts.iterate(heap)? {
            let count = counts.at(key, heap)?.unpack_i32().unwrap_or(0);
            if best.is_none_or(|(_, most)| count > most) {
                best = Some((key, count));
            }
        }
        best.map(|(key, _)| key).ok_or_else(|| Raised::value("The mode of an empty list is asked for."))
    }
}

// --- collections ----------------------------------------------------------------------------------------------------

fn collections(builder: &mut GlobalsBuilder) {
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
fn itertools(builder: &mut GlobalsBuilder) {
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
            let by = key.filter(|k| !k.is_none()).map_or(Ok(item), |k| eval.eval_function(k, &[item], &[]))?;
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
        Ok(heap.alloc(rows.iter().map(|row| heap.alloc(AllocTuple(row.iter().map(|at| items[*at]).collect::<Vec<_>>()))).collect::<Vec<_>>()))
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
fn functools(builder: &mut GlobalsBuilder) {
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
        let mut so_far = initial.or_else(|| items.next()).ok_or_else(|| Raised::type_of("reduce() of an empty list. Give it an initial value."))?;
        for item in items {
            so_far = eval.eval_function(function, &[so_far, item], &[])?;
        }
        Ok(so_far)
    }

    fn partial<'v>(
        #[starlark(require = pos)] function: Value<'v>,
        #[starlark(args)] args: UnpackTuple<Value<'v>>,
        #[starlark(kwargs)] kwargs: starlark::values::dict::DictRef<'v>,
        heap: Heap<'v>,
    ) -> starlark::Result<Value<'v>> {
        Ok(super::builtins::partial(heap, function, args.items, kwargs.iter().collect()))
    }
}
