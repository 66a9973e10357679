//! Servers and tools as values. A tool value carries its place in the catalog, so it means the same tool under any alias.

// The derives of `ProvidesStaticType` expand to an unsafe marker impl; there is no other unsafe here.
#![allow(unsafe_code)]

use std::fmt;

use allocative::Allocative;
use serde_json::{Map, Value as Json};
use starlark::any::ProvidesStaticType;
use starlark::eval::{Arguments, Evaluator};
use starlark::values::{Heap, NoSerialize, StarlarkPagablePanic, StarlarkValue, Value, starlark_value};
use tollgate_codemode::wire::{CatalogServer, CatalogTool, ErrorKind};

use super::convert::{self, ConvertError};
use super::hints;
use super::limits::{ARGUMENT_BYTES, Limit};
use super::raised::Raised;
use super::run::{Answered, Run};

/// The global `crm`.
#[derive(Debug, ProvidesStaticType, NoSerialize, Allocative, StarlarkPagablePanic)]
pub struct Server {
    index: usize,
    name: String,
    tools: Vec<String>,
}
starlark::starlark_simple_value!(Server);

impl Server {
    #[must_use]
    pub fn new(index: usize, server: &CatalogServer) -> Self {
        Self { index, name: server.name.clone(), tools: server.tools.iter().map(|t| t.name.clone()).collect() }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<server {}>", self.name)
    }
}

#[starlark_value(type = "server")]
impl<'v> StarlarkValue<'v> for Server {
    /// A name that is no tool becomes a value too: it fails when it is called, with the names that exist. (Starlark's own
    /// error could not say which kind of mistake this is.)
    fn get_attr(&self, name: &str, heap: Heap<'v>) -> Option<Value<'v>> {
        let tool = self.tools.iter().position(|t| t == name);
        Some(heap.alloc(Tool { server: self.index, tool, label: format!("{}.{name}", self.name) }))
    }

    fn has_attr(&self, name: &str, _heap: Heap<'v>) -> bool {
        self.tools.iter().any(|t| t == name)
    }

    fn dir_attr(&self) -> Vec<String> {
        self.tools.clone()
    }
}

/// `crm.find_customer`, uncalled.
#[derive(Debug, ProvidesStaticType, NoSerialize, Allocative, StarlarkPagablePanic)]
pub struct Tool {
    server: usize,
    /// None where the server has no tool of that name.
    tool: Option<usize>,
    label: String,
}
starlark::starlark_simple_value!(Tool);

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<tool {}>", self.label)
    }
}

#[starlark_value(type = "tool")]
impl<'v> StarlarkValue<'v> for Tool {
    fn invoke(&self, _me: Value<'v>, args: &Arguments<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        let positional: Vec<Value> = args.positions(eval.heap())?.collect();
        let named = args.names_map()?;
        match self.call(eval, &positional, named.iter().map(|(k, v)| (k.as_str(), *v)))? {
            Answered::Value(value) => Ok(value),
            Answered::ToolError(text) => Err(Raised::error(ErrorKind::ToolError, format!("{} failed: {text}", self.label))),
        }
    }
}

impl Tool {
    /// # Errors
    /// When the server has no such tool; the message names those it has.
    pub fn check(&self, run: &Run) -> starlark::Result<usize> {
        self.tool.ok_or_else(|| {
            let server = run.server(self.server);
            let name = self.label.strip_prefix(&server.name).unwrap_or(&self.label).trim_start_matches('.');
            let message = hints::unknown_tool(name, &server.name, server.tools.iter().map(|t| t.name.as_str()));
            Raised::error(ErrorKind::UnknownTool, message)
        })
    }

    pub fn call<'v, 'n>(
        &self,
        eval: &Evaluator<'v, '_, '_>,
        positional: &[Value<'v>],
        named: impl Iterator<Item = (&'n str, Value<'v>)>,
    ) -> starlark::Result<Answered<'v>> {
        let run = Run::of(eval);
        let tool = &run.server(self.server).tools[self.check(run)?];
        let arguments = bind(tool, eval.heap(), positional, named)?;
        run.call(eval, self.server, tool, arguments)
    }
}

/// Match what the script passed to the tool's parameters, under the names of its schema.
fn bind<'v, 'n>(
    tool: &CatalogTool,
    heap: Heap<'v>,
    positional: &[Value<'v>],
    named: impl Iterator<Item = (&'n str, Value<'v>)>,
) -> starlark::Result<Map<String, Json>> {
    let refuse = |problem: String| Raised::error(ErrorKind::Arguments, hints::arguments(&problem, tool));
    if positional.len() > tool.params.len() {
        return Err(refuse(format!("{}() takes {} arguments, {} were given.", tool.name, tool.params.len(), positional.len())));
    }
    let mut given: Vec<Option<Value>> = positional.iter().copied().map(Some).collect();
    given.resize(tool.params.len(), None);
    let mut extra = Vec::new();
    for (name, value) in named {
        // The schema's own name is accepted as well: models have seen it in documentation.
        match tool.params.iter().position(|p| p.name == name).or_else(|| tool.params.iter().position(|p| p.key == name)) {
            Some(at) if given[at].is_some() => return Err(refuse(format!("{}() got '{name}' twice.", tool.name))),
            Some(at) => given[at] = Some(value),
            None if tool.open => extra.push((name, value)),
            None => return Err(refuse(hints::unknown_parameter(name, tool))),
        }
    }

    let mut arguments = Map::new();
    let mut left = ARGUMENT_BYTES;
    let declared = tool.params.iter().zip(given).map(|(param, value)| (param.key.as_str(), param.required, value));
    for (key, required, value) in declared.chain(extra.into_iter().map(|(key, value)| (key, true, Some(value)))) {
        match value {
            None if required => {
                return Err(refuse(format!("{}() needs '{}'.", tool.name, hints::python_name(tool, key))));
            }
            None => {}
            Some(value) if value.is_none() && !required => {}
            Some(value) => {
                let json = convert::to_json(heap, value, left).map_err(|e| argument_error(&e, tool, key))?;
                left = left.saturating_sub(key.len());
                arguments.insert(key.to_owned(), json);
            }
        }
    }
    Ok(arguments)
}

fn argument_error(error: &ConvertError, tool: &CatalogTool, key: &str) -> starlark::Error {
    match error {
        ConvertError::TooLarge => Raised::limit(Limit::Arguments),
        ConvertError::TooDeep => Raised::limit(Limit::ValueDepth),
        ConvertError::Unsupported { what, path } => Raised::error(
            ErrorKind::Arguments,
            format!(
                "{}(): '{}{path}' holds {what}, which JSON cannot express. Pass plain data.",
                tool.name,
                hints::python_name(tool, key)
            ),
        ),
    }
}
