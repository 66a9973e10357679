//! Functions.

use super::super::ast::{Def, Parameter};
use super::{Emitted, Emitter, Frame};

impl Emitter<'_> {
    pub(super) fn def(&mut self, at: usize, def: &Def) -> Emitted {
        let plain = self.variable(&def.name) == super::plain(&def.name) && def.decorators.is_empty() && !def.waits;
        let name = if plain { super::plain(&def.name).to_owned() } else { self.temporary('f') };
        self.function(at, &name, def)?;
        if plain {
            return Ok(());
        }
        let waiting = if def.waits { format!("__async({name})") } else { name };
        let variable = self.variable(&def.name);
        self.on_line(at, |e| {
            e.push(&format!("{variable} = "));
            for decorator in &def.decorators {
                e.expression(decorator, 12)?;
                e.push("(");
            }
            e.push(&waiting);
            e.push(&")".repeat(def.decorators.len()));
            Ok(())
        })
    }

    fn function(&mut self, at: usize, name: &str, def: &Def) -> Emitted {
        self.on_line(at, |e| {
            e.push(&format!("def {name}("));
            e.parameters(&def.parameters)?;
            e.push("):");
            Ok(())
        })?;
        let outer = std::mem::replace(&mut self.scope, self.scopes.of(def));
        let method = self.class.take().map(|class| (class, def.parameters.first().map(|p| p.name.clone()).unwrap_or_default()));
        let within = if method.is_some() { std::mem::replace(&mut self.method, method) } else { self.method.clone() };
        let handling = std::mem::take(&mut self.handling);
        self.frames.push(Frame::Function);
        self.nested(|e| {
            if e.scopes.has_box(e.scope) {
                let boxed: Vec<String> = def
                    .parameters
                    .iter()
                    .filter(|p| !p.name.is_empty() && e.scopes.is_boxed(e.scope, &p.name))
                    .map(|p| format!("{:?}: {}", p.name, super::plain(&p.name)))
                    .collect();
                e.line(at, &format!("__v{} = {{{}}}", e.scope, boxed.join(", ")));
            }
            e.statements(&def.body)
        })?;
        self.frames.pop();
        (self.scope, self.handling, self.method) = (outer, handling, within);
        Ok(())
    }

    pub(super) fn parameters(&mut self, parameters: &[Parameter]) -> Emitted {
        for (index, parameter) in parameters.iter().enumerate() {
            if index > 0 {
                self.push(", ");
            }
            self.push(parameter.star);
            self.push(super::plain(&parameter.name));
            if let Some(default) = &parameter.default {
                self.push("=");
                self.expression(default, 0)?;
            }
        }
        Ok(())
    }
}
