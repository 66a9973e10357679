//! Uses of servers and tools against the catalogue.

use std::collections::BTreeSet;

use tollgate_codemode::wire::{CatalogTool, ErrorKind};

use super::super::hints;
use super::literals::problem;
use super::values::{Thing, Values, plain_arguments};
use super::walk::{Role, Site};
use super::{COLLECTED, Finding};
use crate::python::ast::{Argument, Expr, Expression};

pub struct Checker<'a> {
    pub source: &'a str,
    pub values: &'a Values<'a>,
    /// Servers that the script asks for what they have: it knows how to go without.
    pub probed: BTreeSet<&'a str>,
    pub findings: Vec<Finding>,
}

/// Servers that `hasattr` is asked about, and `getattr` with a name that only the run can tell.
pub fn probed<'a>(sites: &[Site], values: &Values<'a>) -> BTreeSet<&'a str> {
    let look = |site: &Site| {
        let Role::Probe = site.role else { return None };
        values.server(site.scope, site.expression)
    };
    sites.iter().filter_map(look).map(|server| server.name.as_str()).collect()
}

/// Every tool that the script names, called there or not, and every server of which it may use any.
pub fn may_call(sites: &[Site], values: &Values) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for site in sites {
        match (values.of(site.scope, site.expression), site.role) {
            (Thing::Tool(server, tool), _) => {
                out.insert(format!("{}.{}", server.name, tool.name));
            }
            (Thing::Server(_), Role::Base | Role::Probe) => {}
            (Thing::Server(_), Role::Alias(owner, name)) if values.only(owner, name).is_some() => {}
            (Thing::Server(server), _) => {
                out.insert(format!("{}.?", server.name));
            }
            (Thing::NoTool | Thing::Unknown, _) => {}
        }
        // `getattr(crm, name)`
        let Expr::Call(function, arguments) = &site.expression.kind else { continue };
        if function.name() == Some("getattr")
            && values.is_given(site.scope, "getattr")
            && let Some(first) = arguments.first()
            && let Some(server) = values.server(site.scope, &first.value)
            && !matches!(arguments.get(1).map(|a| &a.value.kind), Some(Expr::Text(_)))
        {
            out.insert(format!("{}.?", server.name));
        }
    }
    out
}

impl Checker<'_> {
    pub fn site(&mut self, site: &Site) {
        match &site.expression.kind {
            Expr::Attribute(base, name) => self.attribute(site, base, name),
            Expr::Call(function, arguments) => self.call(site, function, arguments),
            _ => {}
        }
    }

    fn attribute(&mut self, site: &Site, base: &Expression, name: &str) {
        let Some(server) = self.values.server(site.scope, base) else { return };
        if server.tools.iter().any(|tool| tool.name == name) || self.probed.contains(server.name.as_str()) {
            return;
        }
        let tools = || server.tools.iter().map(|tool| tool.name.as_str());
        self.findings.push(Finding {
            at: site.expression.at,
            kind: ErrorKind::UnknownTool,
            message: hints::no_such_tool(name, &server.name, tools()),
            choice: hints::available_tools(tools()),
        });
    }

    fn call(&mut self, site: &Site, function: &Expression, arguments: &[Argument]) {
        let at = site.expression.at;
        if let Thing::Tool(_, tool) = self.values.of(site.scope, function) {
            return self.arguments(site.scope, at, tool, arguments);
        }
        let Some(name) = function.name().filter(|n| self.values.is_given(site.scope, n)) else { return };
        match (name, arguments) {
            ("try_call", [first, rest @ ..]) if first.star.is_empty() && first.name.is_none() => {
                match (self.values.of(site.scope, &first.value), self.called(site.scope, &first.value)) {
                    (Thing::Tool(_, tool), _) => self.arguments(site.scope, at, tool, rest),
                    (_, Some(called)) => self.add(
                        first.value.at,
                        format!(
                            "try_call() takes the tool itself, uncalled, then its arguments: `try_call({called}, key=value)`."
                        ),
                    ),
                    _ => {}
                }
            }
            ("parallel", _) => {
                let Some([Expression { kind: Expr::List(items), .. }]) = plain_arguments(arguments).as_deref() else { return };
                for item in items {
                    if let Some(called) = self.called(site.scope, item) {
                        let message =
                            format!("parallel() takes functions, not results. Write `lambda: {called}(..)` for each call.");
                        self.add(item.at, message);
                    }
                }
            }
            _ => {}
        }
    }

    /// `server.tool` where the expression is a call of it.
    fn called(&self, scope: usize, e: &Expression) -> Option<String> {
        let Expr::Call(function, _) = &e.kind else { return None };
        match self.values.of(scope, function) {
            Thing::Tool(server, tool) => Some(format!("{}.{}", server.name, tool.name)),
            _ => None,
        }
    }

    fn add(&mut self, at: usize, message: String) {
        self.findings.push(Finding { at, kind: ErrorKind::Arguments, message, choice: String::new() });
    }

    /// The same rules as `tools::bind`, which has the last word.
    fn arguments(&mut self, scope: usize, at: usize, tool: &CatalogTool, arguments: &[Argument]) {
        let refuse = |at, message| Finding { at, kind: ErrorKind::Arguments, message, choice: hints::parameters(tool) };
        let mut found = Vec::new();
        let mut given = vec![false; tool.params.len()];
        let mut extra: BTreeSet<&str> = BTreeSet::new();
        // Keywords that were meant by another name: what is said of that name says it all.
        let mut meant: BTreeSet<&str> = BTreeSet::new();
        let starred = arguments.iter().position(|a| a.star == "*").unwrap_or(arguments.len());
        let positional = arguments.iter().filter(|a| a.star.is_empty() && a.name.is_none());
        let count = positional.clone().count();
        if count > tool.params.len() {
            let message = format!("{}() takes {} arguments, {count} were given.", tool.name, tool.params.len());
            found.push(refuse(at, message));
        }
        let places = arguments[..starred].iter().filter(|a| a.star.is_empty() && a.name.is_none());
        let mut typed: Vec<(usize, &Argument)> = Vec::new();
        for (index, argument) in places.enumerate().take(tool.params.len()) {
            given[index] = true;
            typed.push((index, argument));
        }
        for argument in arguments {
            let Some(name) = argument.name.as_deref() else { continue };
            if found.len() > COLLECTED {
                break;
            }
            let place = self.keyword_at(argument, name);
            match tool.params.iter().position(|p| p.name == name).or_else(|| tool.params.iter().position(|p| p.key == name)) {
                Some(index) if given[index] => found.push(refuse(place, format!("{}() got '{name}' twice.", tool.name))),
                Some(index) => {
                    given[index] = true;
                    typed.push((index, argument));
                }
                None if !extra.insert(name) => found.push(refuse(place, format!("{}() got '{name}' twice.", tool.name))),
                None if tool.open => {}
                None => {
                    meant.extend(hints::nearest(name, tool.params.iter().map(|p| p.name.as_str())));
                    found.push(refuse(place, hints::unknown_parameter(name, tool)));
                }
            }
        }
        if arguments.iter().all(|a| a.star.is_empty()) {
            let missing: Vec<String> = tool
                .params
                .iter()
                .zip(&given)
                .filter(|(param, given)| param.required && !**given && !meant.contains(param.name.as_str()))
                .map(|(param, _)| format!("'{}'", param.name))
                .collect();
            if !missing.is_empty() {
                found.push(refuse(at, format!("{}() needs {}.", tool.name, missing.join(", "))));
            }
        }
        for (index, argument) in typed {
            let Some(literal) = self.values.literal(scope, &argument.value) else { continue };
            if let Some(message) = problem(&tool.name, &tool.params[index], literal) {
                found.push(Finding { at: argument.value.at, kind: ErrorKind::Arguments, message, choice: String::new() });
            }
        }
        self.findings.append(&mut found);
    }

    /// Where `name=` stands before the argument's value.
    fn keyword_at(&self, argument: &Argument, name: &str) -> usize {
        let at = argument.value.at;
        let before = self.source.get(..at).unwrap_or_default().trim_end();
        let before = before.strip_suffix('=').map_or("", str::trim_end);
        let name = if before.ends_with(name) { name } else { name.trim_end_matches('_') };
        if !name.is_empty() && before.ends_with(name) { before.len() - name.len() } else { at }
    }
}
