//! `math` and `statistics`.

use starlark::environment::GlobalsBuilder;
use starlark::eval::Evaluator;
use starlark::starlark_module;
use starlark::values::{Heap, Value};

use super::super::raised::Raised;
use super::super::{defaults, format, methods};
use super::{all, float};

fn whole<'v>(heap: Heap<'v>, x: f64) -> starlark::Result<Value<'v>> {
    format::integral(x).map(|n| heap.alloc(&n)).map_err(Raised::value)
}

pub fn math_module(builder: &mut GlobalsBuilder) {
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
pub fn statistics(builder: &mut GlobalsBuilder) {
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
