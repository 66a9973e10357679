//! What an expression is for certain, as far as that is a server or a tool.

use std::collections::HashMap;

use tollgate_codemode::wire::{Catalog, CatalogServer, CatalogTool};

use super::walk::Binding;
use crate::python::ast::{Argument, Expr, Expression};
use crate::python::scope::Scopes;

/// Names of names of names.
const MAX_ALIASES: usize = 16;

#[derive(Debug, Clone, Copy)]
pub enum Thing<'a> {
    Server(&'a CatalogServer),
    Tool(&'a CatalogServer, &'a CatalogTool),
    NoTool,
    Unknown,
}

pub struct Values<'a> {
    pub scopes: &'a Scopes,
    /// By the scope that owns the name.
    pub bindings: &'a HashMap<usize, HashMap<&'a str, Binding<'a>>>,
    pub catalog: &'a Catalog,
}

impl<'a> Values<'a> {
    pub fn of(&self, scope: usize, e: &Expression) -> Thing<'a> {
        self.follow(scope, e, MAX_ALIASES)
    }

    pub fn server(&self, scope: usize, e: &Expression) -> Option<&'a CatalogServer> {
        match self.of(scope, e) {
            Thing::Server(server) => Some(server),
            _ => None,
        }
    }

    /// Is it the engine's own, not one of the script's?
    pub fn is_given(&self, scope: usize, name: &str) -> bool {
        self.scopes.resolve(scope, name).is_none()
    }

    /// The only value of a name, or nothing.
    pub fn only(&self, owner: usize, name: &str) -> Option<&Binding<'a>> {
        self.bindings.get(&owner)?.get(name).filter(|binding| binding.value.is_some())
    }

    fn follow(&self, scope: usize, e: &Expression, left: usize) -> Thing<'a> {
        if left == 0 {
            return Thing::Unknown;
        }
        match &e.kind {
            Expr::Name(name) => match self.scopes.resolve(scope, name) {
                None => self.catalog.servers.iter().find(|s| s.name == *name).map_or(Thing::Unknown, Thing::Server),
                Some(owner) => match self.only(owner, name) {
                    Some(Binding { scope, value: Some(value) }) => self.follow(*scope, value, left - 1),
                    _ => Thing::Unknown,
                },
            },
            Expr::Attribute(base, name) => self.tool(scope, base, name, left),
            Expr::Call(function, arguments) if function.name() == Some("getattr") && self.is_given(scope, "getattr") => {
                match plain_arguments(arguments).as_deref() {
                    Some([base, Expression { kind: Expr::Text(name), .. }]) => self.tool(scope, base, name, left),
                    _ => Thing::Unknown,
                }
            }
            _ => Thing::Unknown,
        }
    }

    fn tool(&self, scope: usize, base: &Expression, name: &str, left: usize) -> Thing<'a> {
        match self.follow(scope, base, left - 1) {
            Thing::Server(server) => match server.tools.iter().find(|tool| tool.name == name) {
                Some(tool) => Thing::Tool(server, tool),
                None => Thing::NoTool,
            },
            _ => Thing::Unknown,
        }
    }
}

/// The arguments, if all are given by their position alone.
pub fn plain_arguments(arguments: &[Argument]) -> Option<Vec<&Expression>> {
    arguments.iter().map(|a| (a.star.is_empty() && a.name.is_none()).then_some(&a.value)).collect()
}
