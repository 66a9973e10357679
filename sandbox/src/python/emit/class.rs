//! Classes: the body becomes a function that gives its names in a dict.

use super::super::ast::{Class, Def, Statement, Stmt};
use super::super::scope::address;
use super::{Emitted, Emitter, Frame};

/// Bases that say nothing here.
const SILENT: &[&str] = &["object", "ABC", "Protocol", "TypedDict"];

impl Emitter<'_> {
    pub(super) fn class(&mut self, at: usize, class: &Class) -> Emitted {
        let function = self.temporary('f');
        self.line(at, &format!("def {function}():"));
        let outer = std::mem::replace(&mut self.scope, self.scopes.by_address(address(class)));
        self.frames.push(Frame::Function);
        let mut fields = Vec::new();
        let variable = self.class_name(outer, &class.name);
        self.nested(|e| {
            let names = e.scope;
            e.line(at, &format!("__v{names} = {{}}"));
            for statement in &class.body {
                e.member(statement, &variable, &mut fields)?;
            }
            e.line(at, &format!("return __v{names}"));
            Ok(())
        })?;
        self.frames.pop();
        self.scope = outer;
        self.on_line(at, |e| {
            e.push(&format!("{variable} = __class({:?}, [", class.name));
            for base in &class.bases {
                if base.name().is_some_and(|n| SILENT.contains(&n) && e.is_given(n)) {
                    continue;
                }
                e.expression(base, 0)?;
                e.push(", ");
            }
            let fields = if class.dataclass { format!("{fields:?}") } else { "None".to_owned() };
            e.push(&format!("], {function}(), {fields})"));
            Ok(())
        })
    }

    fn class_name(&self, scope: usize, name: &str) -> String {
        match self.scopes.resolve(scope, name) {
            Some(owner) if self.scopes.is_boxed(owner, name) => format!("__v{owner}[{name:?}]"),
            _ => name.to_owned(),
        }
    }

    fn member(&mut self, statement: &Statement, class: &str, fields: &mut Vec<String>) -> Emitted {
        match &statement.kind {
            Stmt::Def(Def { .. }) => self.class = Some(class.to_owned()),
            Stmt::Annotate(name) => fields.push(name.clone()),
            // Whether it was annotated is not kept; in a dataclass a plain default is a field as well.
            Stmt::Assign(targets, _) => fields.extend(targets.iter().filter_map(|t| t.name().map(str::to_owned))),
            _ => {}
        }
        self.statement(statement)?;
        self.class = None;
        Ok(())
    }
}
