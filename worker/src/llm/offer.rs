//! The tools of a key as a model is offered them through the LLM door.

use std::{collections::HashMap, sync::Arc};

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

/// All that a key's model may be offered: made once for all requests of keys that see the same. Names are looked up, never taken apart.
#[derive(Debug, Default)]
pub struct Catalog {
    tools: Vec<Offered>,
    names: HashMap<String, Behind>,
}

/// What the model of one request is offered.
#[derive(Debug, Clone, Default)]
pub struct Offer {
    catalog: Arc<Catalog>,
    /// Names that the request itself brings along: they are its own.
    own: Vec<String>,
}

impl Catalog {
    fn of(caller: &Caller) -> Self {
        let mut catalog = Self::default();
        if caller.scope().has_code() {
            for tool in meta_tools_in(caller.languages, caller.visible().library.is_large()) {
                let name = tool["name"].as_str().unwrap_or_default();
                if let Some(meta) = MetaTool::find(caller, name) {
                    catalog.add(name, &tool, Behind::Meta(meta));
                }
            }
        }
        for scoped in caller.scope().exposed(Exposure::Classic) {
            let name = fitted(&scoped.tool.classic_name(), scoped.tool.id);
            catalog.add(&name, &scoped.tool.definition, Behind::Tool(scoped.tool.id));
        }
        catalog
    }

    fn add(&mut self, name: &str, definition: &Value, behind: Behind) {
        if self.names.contains_key(name) {
            return;
        }
        let description = definition["description"].as_str().or_else(|| definition["title"].as_str()).unwrap_or_default();
        let mut parameters = definition["inputSchema"].clone();
        if !parameters.is_object() {
            parameters = json!({"type": "object", "properties": {}});
        }
        let bytes = name.len() + description.len() + parameters.to_string().len() + 60;
        self.names.insert(name.to_owned(), behind);
        self.tools.push(Offered { name: name.to_owned(), description: description.to_owned(), parameters, bytes });
    }
}

impl Offer {
    /// What the caller's model sees, but for tools whose names the request itself brings along.
    #[must_use]
    pub fn of(caller: &Caller, own: &[&str]) -> Self {
        let catalog = caller.visible().catalog.get_or_init(|| Arc::new(Catalog::of(caller)));
        let own = own.iter().filter(|name| catalog.names.contains_key(**name)).map(|name| (*name).to_owned()).collect();
        Self { catalog: Arc::clone(catalog), own }
    }

    /// In the order in which they are offered.
    #[must_use]
    pub fn tools(&self) -> Vec<&Offered> {
        self.catalog.tools.iter().filter(|tool| !self.own.contains(&tool.name)).collect()
    }

    #[must_use]
    pub fn behind(&self, name: &str) -> Option<Behind> {
        self.catalog.names.get(name).copied().filter(|_| !self.own.iter().any(|own| own == name))
    }

    /// How many tools there are, and about how many tokens of a prompt they are.
    #[must_use]
    pub fn size(&self) -> (usize, u64) {
        let tools = self.tools();
        (tools.len(), estimate(tools.iter().map(|tool| tool.bytes).sum()))
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
    fn what_a_request_brings_along_is_its_own() {
        let mut catalog = Catalog::default();
        let meta = Behind::Meta(MetaTool::SearchTools);
        for (name, behind) in [("searchTools", meta), ("crm__find", Behind::Tool(ToolId::from(Uuid::from_u128(1))))] {
            catalog.add(name, &json!({"description": "d", "inputSchema": {"type": "object"}}), behind);
        }
        // The name is taken.
        catalog.add("crm__find", &json!({"title": "other"}), meta);
        let catalog = Arc::new(catalog);
        let all = Offer { catalog: Arc::clone(&catalog), own: Vec::new() };
        let names = |offer: &Offer| offer.tools().into_iter().map(|tool| tool.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&all), ["searchTools", "crm__find"]);
        let some = Offer { catalog, own: vec!["crm__find".into()] };
        assert_eq!(
            (names(&some), some.behind("crm__find"), some.behind("searchTools")),
            (vec!["searchTools".into()], None, Some(meta))
        );
        assert!(some.size().0 == 1 && some.size().1 < all.size().1);
    }

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
