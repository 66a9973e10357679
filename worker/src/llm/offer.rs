//! The tools of a key as a model is offered them through the LLM door.

use std::collections::HashMap;

use serde_json::{Value, json};
use tollgate_codemode::meta_tools_in;
use tollgate_domain::{ToolId, llm::estimate, tool::Exposure};

use super::dialect::Offered;
use crate::{caller::Caller, meta::MetaTool};

/// What all providers take as a function's name.
const MAX_NAME: usize = 64;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    Tool(ToolId),
    Meta(MetaTool),
}

/// All that one key's model is offered. Names are looked up, never taken apart.
#[derive(Debug, Clone, Default)]
pub struct Offer {
    pub tools: Vec<Offered>,
    names: HashMap<String, Behind>,
}

impl Offer {
    /// What the caller's model sees, but for tools whose names the request itself brings along.
    #[must_use]
    pub fn of(caller: &Caller, own: &[&str]) -> Self {
        let mut offer = Self::default();
        if caller.scope().has_code() {
            for tool in meta_tools_in(caller.languages, caller.visible().library.is_large()) {
                let name = tool["name"].as_str().unwrap_or_default();
                if let Some(meta) = MetaTool::find(caller, name) {
                    offer.add(name, &tool, Behind::Meta(meta), own);
                }
            }
        }
        for scoped in caller.scope().exposed(Exposure::Classic) {
            let name = fitted(&scoped.tool.classic_name(), scoped.tool.id);
            offer.add(&name, &scoped.tool.definition, Behind::Tool(scoped.tool.id), own);
        }
        offer
    }

    fn add(&mut self, name: &str, definition: &Value, behind: Behind, own: &[&str]) {
        if own.contains(&name) || self.names.contains_key(name) {
            return;
        }
        let description = definition["description"].as_str().or_else(|| definition["title"].as_str()).unwrap_or_default();
        let mut parameters = definition["inputSchema"].clone();
        if !parameters.is_object() {
            parameters = json!({"type": "object", "properties": {}});
        }
        self.names.insert(name.to_owned(), behind);
        self.tools.push(Offered { name: name.to_owned(), description: description.to_owned(), parameters });
    }

    #[must_use]
    pub fn behind(&self, name: &str) -> Option<Behind> {
        self.names.get(name).copied()
    }

    /// How many tools there are, and about how many tokens of a prompt they are.
    #[must_use]
    pub fn size(&self) -> (usize, u64) {
        let bytes = |tool: &Offered| tool.name.len() + tool.description.len() + tool.parameters.to_string().len() + 60;
        (self.tools.len(), estimate(self.tools.iter().map(bytes).sum()))
    }
}

/// A name that providers take: where it had to be changed, the end of the tool's id keeps it apart from all others.
fn fitted(name: &str, id: ToolId) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.len() <= MAX_NAME && name.chars().all(fits) {
        return name.to_owned();
    }
    let id = id.to_string();
    let end = &id[id.len() - 8..];
    let kept: String = name.chars().map(|c| if fits(c) { c } else { '_' }).take(MAX_NAME - 9).collect();
    format!("{kept}_{end}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn names_fit_and_stay_apart() {
        let id = |n: u128| ToolId::from(Uuid::from_u128(n));
        assert_eq!(fitted("crm__find-1", id(1)), "crm__find-1");
        let long = format!("crm__{}", "x".repeat(100));
        let (a, b) = (fitted(&long, id(1)), fitted(&long, id(2)));
        assert!(a != b && a.len() == MAX_NAME && b.len() == MAX_NAME, "{a} {b}");
        let dotted = fitted("crm__a.b", id(1));
        assert!(dotted.starts_with("crm__a_b_") && dotted.len() == "crm__a_b_".len() + 8, "{dotted}");
        assert_eq!(fitted("crm__żó", id(1)).len(), "crm____".len() + 9);
    }
}
