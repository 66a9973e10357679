//! What the prelude asks of the engine, and the engine of the prelude.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use rquickjs::function::Rest;
use rquickjs::object::Property;
use rquickjs::{Array, Ctx, Error, Exception, Function, IntoJs, Object, Result, String as Text, Value};
use serde_json::{Map, Value as Json};
use tollgate_codemode::wire::{Answer, CatalogTool, ErrorKind};

use super::errors::{Place, Reader};
use super::run::{Asked, Run};
use super::value::{self, ConvertError, Manner};
use crate::engine::hints;
use crate::engine::limits::{ARGUMENT_BYTES, Limit, TEXT_BYTES};

const PRELUDE: &str = include_str!("prelude.js");

/// The functions that the prelude gives the engine.
pub struct Prelude<'js>(Object<'js>);

/// Objects of which JSON knows nothing.
pub enum Parts<'js> {
    /// A list behind a proxy.
    List,
    /// Keys and values in turn.
    Map(Array<'js>),
    Set(Array<'js>),
    /// `new Number(5)`.
    Box(Value<'js>),
    /// What it is called.
    Strange(String),
}

/// What the prelude tells of an exception.
pub struct Described {
    pub kind: String,
    pub stack: String,
    pub name: String,
    /// None where something was thrown that is no error.
    pub message: Option<String>,
    pub label: String,
}

impl<'js> Prelude<'js> {
    /// Prepare the context: servers, clock, log.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn install(ctx: &Ctx<'js>, run: &Rc<Run>, reader: &Rc<Reader>) -> Result<Self> {
        let names: Vec<&str> = run.catalog.servers.iter().map(|server| server.name.as_str()).collect();
        let options = || {
            let mut options = rquickjs::context::EvalOptions::default();
            options.filename = Some("tollgate".to_owned());
            options
        };
        let prelude: Function = ctx.eval_with_options(PRELUDE, options())?;
        Ok(Self(prelude.call((host(ctx, run, reader)?, names))?))
    }

    #[must_use]
    pub fn of(object: Object<'js>) -> Self {
        Self(object)
    }

    #[must_use]
    pub fn object(&self) -> &Object<'js> {
        &self.0
    }

    fn function(&self, name: &str) -> Result<Function<'js>> {
        value::function(&self.0, name)
    }

    /// Settle the promise of a call.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn deliver(&self, ctx: &Ctx<'js>, sequence: u32, answer: &Answer) -> Result<()> {
        let deliver = self.function("deliver")?;
        match answer {
            Answer::Value(json) => deliver.call((sequence, true, value::from_json(ctx, json)?)),
            Answer::Error(text) => deliver.call((sequence, false, text.as_str())),
        }
    }

    /// # Errors
    /// What the script's own code throws while it is asked.
    pub fn describe(&self, error: &Value<'js>) -> Result<Described> {
        let found: Object = self.function("describe")?.call((error.clone(),))?;
        Ok(Described {
            kind: found.get("kind")?,
            stack: found.get("stack")?,
            name: found.get("name")?,
            message: found.get("message")?,
            label: found.get("label")?,
        })
    }

    /// Why a promise was rejected that nobody has looked at.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn unhandled(&self, main: &Value<'js>) -> Result<Option<Value<'js>>> {
        let found: Option<Object> = self.function("unhandled")?.call((main.clone(),))?;
        found.map(|entry| entry.get("reason")).transpose()
    }

    /// # Errors
    /// When memory runs out.
    pub fn rejection(&self, promise: Value<'js>, reason: Value<'js>, handled: bool) -> Result<()> {
        self.function("rejection")?.call((promise, reason, handled))
    }

    /// What it is, if it is more than an object with fields.
    ///
    /// # Errors
    /// When memory runs out, and what a proxy of the script throws.
    pub fn parts(&self, value: &Value<'js>) -> Result<Option<Parts<'js>>> {
        let Some(found): Option<Object> = self.function("parts")?.call((value.clone(),))? else { return Ok(None) };
        let kind: String = found.get("kind")?;
        Ok(Some(match kind.as_str() {
            "list" => Parts::List,
            "map" => Parts::Map(found.get("items")?),
            "set" => Parts::Set(found.get("items")?),
            "box" => Parts::Box(found.get("value")?),
            _ => Parts::Strange(kind),
        }))
    }

    /// The text, and the replacement character for every half of a pair that stands alone.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn utf8(&self, text: &Text<'js>) -> Result<String> {
        match text.to_string() {
            Err(Error::Utf8(_)) => self.function("whole")?.call((text.clone(),)),
            read => read,
        }
    }

    /// # Errors
    /// When memory runs out.
    pub fn text(&self, value: &Value<'js>) -> Result<String> {
        self.function("text")?.call((value.clone(),))
    }
}

fn host<'js>(ctx: &Ctx<'js>, run: &Rc<Run>, reader: &Rc<Reader>) -> Result<Object<'js>> {
    let host = Object::new(ctx.clone())?;
    let new = |name: &str, function: Function<'js>| host.set(name, function);
    let r = Rc::clone(run);
    let tools = move |ctx: Ctx<'js>, server: usize| -> Result<Array<'js>> {
        let tools = r.catalog.servers.get(server).map(|s| s.tools.as_slice()).unwrap_or_default();
        guarded(&ctx, &r, || value::list(&ctx, tools.iter().map(|tool| tool.name.as_str().into_js(&ctx))))
    };
    new("tools", Function::new(ctx.clone(), tools)?)?;
    let r = Rc::clone(run);
    let find = move |ctx: Ctx<'js>, server: usize, name: String| -> Result<i32> {
        let found = || r.catalog.servers.get(server).and_then(|s| s.tools.iter().position(|t| t.name == name));
        guarded(&ctx, &r, || Ok(found().and_then(|at| i32::try_from(at).ok()).unwrap_or(-1)))
    };
    new("find", Function::new(ctx.clone(), find)?)?;
    let r = Rc::clone(run);
    // Milliseconds, as JavaScript counts.
    let now = move |ctx: Ctx<'js>| running(&ctx, &r, |run| run.now().map(|micros| micros.div_euclid(1000)));
    new("now", Function::new(ctx.clone(), now)?)?;
    let r = Rc::clone(run);
    new("random", Function::new(ctx.clone(), move |ctx: Ctx<'js>| running(&ctx, &r, Run::random))?)?;
    let r = Rc::clone(run);
    let log = move |ctx: Ctx<'js>, engine: Object<'js>, values: Array<'js>| {
        guarded(&ctx, &r, || log(&ctx, &r, &Prelude(engine), &values))
    };
    new("log", Function::new(ctx.clone(), log)?)?;
    let (r, at) = (Rc::clone(run), Rc::clone(reader));
    let call = move |ctx: Ctx<'js>, engine: Object<'js>, rest: Rest<Value<'js>>| -> Result<Value<'js>> {
        guarded(&ctx, &r, || call(&ctx, &r, &at, &Prelude(engine), &rest))
    };
    new("call", Function::new(ctx.clone(), call)?)?;
    Ok(host)
}

/// A panic of the engine's ends the run: it must not come to the script as an exception, which could be caught.
fn guarded<'js, T>(ctx: &Ctx<'js>, run: &Run, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        run.give_up();
        Err(Exception::throw_message(ctx, "The script has ended."))
    })
}

/// What only a script that has not ended is told: nobody would answer it any more.
fn running<'js, T>(ctx: &Ctx<'js>, run: &Run, ask: impl FnOnce(&Run) -> Option<T>) -> Result<Option<T>> {
    if run.is_closed() {
        return Err(Exception::throw_message(ctx, "The script has ended."));
    }
    guarded(ctx, run, || Ok(ask(run)))
}

fn log<'js>(ctx: &Ctx<'js>, run: &Run, prelude: &Prelude<'js>, values: &Array<'js>) -> Result<()> {
    let mut line = String::new();
    for at in 0..values.len() {
        line.push_str(if at > 0 { " " } else { "" });
        let item: Value = values.get(at)?;
        match value::show(prelude, &item, TEXT_BYTES) {
            Ok(text) => line.push_str(&text),
            Err(ConvertError::Thrown) if ctx.has_exception() => return Err(Error::Exception),
            Err(ConvertError::TooLarge) => {
                run.stop(Limit::Text);
                return Ok(());
            }
            Err(_) => line.push_str("[object]"),
        }
        if line.len() > run.limits.log_bytes {
            break;
        }
    }
    run.charge(1);
    run.print(&line);
    Ok(())
}

/// `rest` is the server, the tool (or -1), its name, what the script has passed, and the stack.
fn call<'js>(ctx: &Ctx<'js>, run: &Run, reader: &Reader, prelude: &Prelude<'js>, rest: &[Value<'js>]) -> Result<Value<'js>> {
    let [server, tool, name, given, stack] = rest else { return Err(Error::Unknown) };
    let server = server.as_int().and_then(|at| run.catalog.servers.get(usize::try_from(at).ok()?));
    let Some(server) = server else { return Err(Error::Unknown) };
    let name: String = name.get()?;
    let Some(tool) = tool.as_int().and_then(|at| server.tools.get(usize::try_from(at).ok()?)) else {
        let message = hints::unknown_tool(&name, &server.name, server.tools.iter().map(|t| t.name.as_str()));
        return refuse(ctx, ErrorKind::UnknownTool, &message);
    };
    let arguments = match bind(run, tool, prelude, &given.get::<Vec<Value>>()?) {
        Ok(arguments) => arguments,
        Err(Refused::Thrown) => return Err(Error::Exception),
        Err(Refused::Told(kind, message)) => return refuse(ctx, kind, &message),
    };
    let line = reader.place_of_call(&stack.get::<String>()?, &name).map_or(0, |Place { line, .. }| line);
    let asked = Asked { tool_id: &tool.tool_id, server: &server.name, tool: &tool.name, arguments, line };
    match run.call(asked) {
        Ok(sequence) => sequence.into_js(ctx),
        Err((kind, message)) => refuse(ctx, kind, &message),
    }
}

fn refuse<'js>(ctx: &Ctx<'js>, kind: ErrorKind, message: &str) -> Result<Value<'js>> {
    let told = Object::new(ctx.clone())?;
    // Defined, not set: a setter of the script's on every object's parent must not take them.
    told.prop("kind", Property::from(serde_json::to_value(kind).unwrap_or_default().as_str().unwrap_or_default()))?;
    told.prop("message", Property::from(message))?;
    Ok(told.into_value())
}

enum Refused {
    Thrown,
    Told(ErrorKind, String),
}

/// Match what the script passed to the tool's parameters, under the names of its schema.
fn bind<'js>(
    run: &Run,
    tool: &CatalogTool,
    prelude: &Prelude<'js>,
    given: &[Value<'js>],
) -> std::result::Result<Map<String, Json>, Refused> {
    let told = |problem: String| Refused::Told(ErrorKind::Arguments, hints::arguments(&problem, tool));
    let object = match given {
        [] => None,
        [one] if one.is_undefined() => None,
        [one] if one.is_object() && !one.is_array() && !one.is_function() && !one.is_promise() => one.as_object(),
        _ => return Err(told(super::hints::one_object(tool))),
    };
    if let [one] = given
        && object.is_some()
        && prelude.parts(one).map_err(|_| Refused::Thrown)?.is_some()
    {
        return Err(told(super::hints::one_object(tool)));
    }
    let mut declared: Vec<Option<Value>> = vec![None; tool.params.len()];
    let mut extra = Vec::new();
    // As JavaScript's own texts: rquickjs reads keys as UTF-8 without a look, and up to the first null.
    let keys: Vec<Text> = match object {
        Some(object) => object.keys::<Text>().collect::<Result<_>>().map_err(|_| Refused::Thrown)?,
        None => Vec::new(),
    };
    for key in keys {
        let value: Value = match object.map(|object| object.get(key.as_value().clone())) {
            Some(Ok(value)) => value,
            _ => return Err(Refused::Thrown),
        };
        let key = match key.to_string() {
            Ok(key) => key,
            Err(Error::Utf8(_)) => {
                let shown = prelude.utf8(&key).map_err(|_| Refused::Thrown)?;
                return Err(told(format!("{}(): the name '{shown}' holds half of a character.", tool.name)));
            }
            Err(_) => return Err(Refused::Thrown),
        };
        // The schema's own name is accepted as well: models have seen it in documentation.
        let at = tool.params.iter().position(|p| p.name == key).or_else(|| tool.params.iter().position(|p| p.key == key));
        match at {
            _ if value.is_undefined() => {}
            Some(at) if declared[at].is_some() => return Err(told(format!("{}() got '{key}' twice.", tool.name))),
            Some(at) => declared[at] = Some(value),
            None if tool.open => extra.push((key, value)),
            None => return Err(told(hints::unknown_parameter(&key, tool))),
        }
    }
    let mut arguments = Map::new();
    let mut left = ARGUMENT_BYTES;
    let declared = tool.params.iter().zip(declared).map(|(p, value)| (p.key.as_str(), p.required, value));
    let extra = extra.iter().map(|(key, value)| (key.as_str(), true, Some(value.clone())));
    for (key, required, value) in declared.chain(extra) {
        match value {
            None if required => return Err(told(format!("{}() needs '{}'.", tool.name, hints::python_name(tool, key)))),
            None => {}
            Some(value) if value.is_null() && !required => {}
            Some(value) => {
                let json = value::to_json(prelude, &value, left, Manner::Arguments).map_err(|e| unfit(run, &e, tool, key))?;
                left = left.saturating_sub(key.len() + json.to_string().len());
                arguments.insert(key.to_owned(), json);
            }
        }
    }
    Ok(arguments)
}

fn unfit(run: &Run, error: &ConvertError, tool: &CatalogTool, key: &str) -> Refused {
    let limit = match error {
        ConvertError::Thrown => return Refused::Thrown,
        ConvertError::TooLarge => Limit::Arguments,
        ConvertError::TooDeep => Limit::ValueDepth,
        ConvertError::Unsupported { what, path } => {
            let name = hints::python_name(tool, key);
            let message = format!("{}(): '{name}{path}' holds {what}, which JSON cannot express. Pass plain data.", tool.name);
            return Refused::Told(ErrorKind::Arguments, message);
        }
    };
    run.stop(limit);
    Refused::Told(ErrorKind::Limit, limit.to_string())
}

#[cfg(test)]
mod tests {
    use rquickjs::{Context, Runtime};
    use tollgate_codemode::wire::{Catalog, Limits};

    use super::*;

    #[test]
    fn a_panic_ends_the_run_whatever_the_script_catches() {
        let run = Rc::new(Run::new(Catalog { servers: Vec::new() }, Vec::new(), Limits::default()));
        let context = Context::full(&Runtime::new().unwrap()).unwrap();
        let caught: String = context.with(|ctx| {
            let r = Rc::clone(&run);
            let boom = move |ctx: Ctx<'_>| guarded(&ctx, &r, || -> Result<()> { panic!("a defect") });
            ctx.globals().set("boom", Function::new(ctx.clone(), boom).unwrap()).unwrap();
            ctx.eval("let e; try { boom() } catch (x) { e = x } JSON.stringify(Object.getOwnPropertyNames(e)) + e.message")
                .unwrap()
        });
        assert!(caught.ends_with("The script has ended."), "an error as any other: {caught}");
        assert!(run.is_broken() && run.stops());
        assert!(run.call(Asked { tool_id: "t", server: "s", tool: "t", arguments: Map::new(), line: 1 }).is_err());
    }
}
