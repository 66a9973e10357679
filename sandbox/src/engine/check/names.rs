//! Names that nothing binds.

use tollgate_codemode::wire::Catalog;

use super::super::{given, hints, similar_given};
use super::Finding;
use super::walk::{Role, Site};
use crate::python::ast::Expr;
use crate::python::scope::Scopes;

/// The translation knows what to do with them where they are called, or everywhere.
const TRANSLATED: [&str; 4] = ["gather", "super", "asyncio", "load"];

pub fn unknown(sites: &[Site], scopes: &Scopes, catalog: &Catalog) -> Vec<Finding> {
    let mut out = Vec::new();
    for site in sites.iter().filter(|site| !site.lenient) {
        let Expr::Name(name) = &site.expression.kind else { continue };
        let is_known = scopes.resolve(site.scope, name).is_some()
            || catalog.servers.iter().any(|server| server.name == *name)
            || name.starts_with("__")
            || TRANSLATED.contains(&name.as_str())
            || given(name).is_some();
        if is_known {
            continue;
        }
        let similar = hints::nearest(name, scopes.visible(site.scope).into_iter()).map(str::to_owned);
        let similar = similar.or_else(|| similar_given(name));
        let is_server = site.role == Role::Base;
        let (kind, message, choice) = hints::unknown_name(name, is_server, similar.as_deref(), catalog);
        out.push(Finding { at: site.expression.at, kind, message, choice });
        if out.len() > super::COLLECTED {
            break;
        }
    }
    out
}
