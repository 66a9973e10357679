//! What a key may see: one resolution, used by every list and every call.

use std::{collections::HashMap, sync::Arc};

use crate::{
    ids::{ToolGroupId, ToolId, UpstreamId},
    tool::{Exposure, Tool, ToolStatus},
};

/// Some tools of one upstream, by name; names that the upstream brings later are covered by `*` alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub upstream_id: UpstreamId,
    pub tools: ToolNames,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolNames {
    All,
    Named(Vec<String>),
}

impl Grant {
    fn covers(&self, tool: &Tool) -> bool {
        self.upstream_id == tool.upstream.id
            && match &self.tools {
                ToolNames::All => true,
                ToolNames::Named(names) => names.contains(&tool.name),
            }
    }
}

#[derive(Debug, Clone)]
pub struct ToolGroup {
    pub id: ToolGroupId,
    pub slug: String,
    pub members: Vec<Grant>,
    /// Calls to these are held until that many different people have confirmed.
    pub approval: Vec<(Grant, u8)>,
}

#[derive(Debug, Clone)]
pub struct ScopedTool {
    pub tool: Arc<Tool>,
    /// Confirmations that a call needs first; 0 is none.
    pub confirmations: u8,
}

/// The resolved set of tools of one key (and of one tool group, on `/mcp/{slug}`).
#[derive(Debug, Default)]
pub struct Scope {
    tools: Vec<ScopedTool>,
    by_id: HashMap<ToolId, usize>,
    by_classic_name: HashMap<String, usize>,
}

impl Scope {
    /// The scope of a key with these groups.
    #[must_use]
    pub fn resolve<'a>(tools: impl IntoIterator<Item = &'a Arc<Tool>>, groups: &[&ToolGroup]) -> Self {
        Self::narrowed(tools, groups, groups)
    }

    /// The one predicate: a tool is in scope if it is approved and one of the groups in `members` names it. No groups, no
    /// tools. `all` are all groups of the key: their approval rules hold on whichever route its calls come.
    #[must_use]
    pub fn narrowed<'a>(tools: impl IntoIterator<Item = &'a Arc<Tool>>, members: &[&ToolGroup], all: &[&ToolGroup]) -> Self {
        let mut scope = Self::default();
        for tool in tools {
            let granted = members.iter().any(|g| g.members.iter().any(|m| m.covers(tool)));
            if !granted || tool.status != ToolStatus::Approved {
                continue;
            }
            // Where several groups grant a tool, the strictest of them decides: a wider key is never a way around.
            let rules = all.iter().flat_map(|g| &g.approval);
            let confirmations = rules.filter(|(grant, _)| grant.covers(tool)).map(|&(_, n)| n).max().unwrap_or(0);
            scope.add(ScopedTool { tool: Arc::clone(tool), confirmations });
        }
        scope
    }

    fn add(&mut self, scoped: ScopedTool) {
        let place = self.tools.len();
        self.by_id.insert(scoped.tool.id, place);
        if scoped.tool.upstream.exposure == Exposure::Classic {
            self.by_classic_name.insert(scoped.tool.classic_name(), place);
        }
        self.tools.push(scoped);
    }

    #[must_use]
    pub fn by_id(&self, id: ToolId) -> Option<&ScopedTool> {
        self.by_id.get(&id).map(|&i| &self.tools[i])
    }

    #[must_use]
    pub fn by_classic_name(&self, name: &str) -> Option<&ScopedTool> {
        self.by_classic_name.get(name).map(|&i| &self.tools[i])
    }

    pub fn iter(&self) -> impl Iterator<Item = &ScopedTool> {
        self.tools.iter()
    }

    pub fn exposed(&self, exposure: Exposure) -> impl Iterator<Item = &ScopedTool> {
        self.tools.iter().filter(move |s| s.tool.upstream.exposure == exposure)
    }

    /// Whether the meta-tools are listed.
    #[must_use]
    pub fn has_code(&self) -> bool {
        self.exposed(Exposure::Code).next().is_some()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::tool::{Binding, DefinitionHash, Upstream};
    use serde_json::json;
    use std::time::Duration;
    use uuid::Uuid;

    pub(crate) fn tool(upstream: u128, upstream_name: &str, id: u128, name: &str, status: ToolStatus) -> Arc<Tool> {
        let upstream = Upstream {
            id: Uuid::from_u128(upstream).into(),
            name: upstream_name.into(),
            description: None,
            exposure: Exposure::Classic,
            binding: Binding::Server,
            timeout: Duration::from_secs(30),
        };
        let definition = json!({"name": name});
        Arc::new(Tool {
            id: Uuid::from_u128(id).into(),
            upstream: Arc::new(upstream),
            name: name.into(),
            status,
            definition_sha256: DefinitionHash::of(&definition).unwrap(),
            definition: Arc::new(definition),
        })
    }

    fn group(members: Vec<Grant>, approval: Vec<(Grant, u8)>) -> ToolGroup {
        ToolGroup { id: Uuid::from_u128(9).into(), slug: "g".into(), members, approval }
    }

    fn all(upstream: u128) -> Grant {
        Grant { upstream_id: Uuid::from_u128(upstream).into(), tools: ToolNames::All }
    }

    fn named(upstream: u128, names: &[&str]) -> Grant {
        Grant {
            upstream_id: Uuid::from_u128(upstream).into(),
            tools: ToolNames::Named(names.iter().map(|&n| n.into()).collect()),
        }
    }

    #[test]
    fn t42_nothing_granted_means_nothing_seen() {
        let tools = [tool(1, "crm", 1, "read", ToolStatus::Approved)];
        assert_eq!(Scope::resolve(&tools, &[]).iter().count(), 0);
        assert_eq!(Scope::resolve(&tools, &[&group(vec![], vec![])]).iter().count(), 0);
        assert_eq!(Scope::resolve(&tools, &[&group(vec![named(1, &[])], vec![])]).iter().count(), 0);
        assert_eq!(Scope::resolve(&tools, &[&group(vec![named(1, &["*"])], vec![])]).iter().count(), 0, "a star is not a name");
        assert_eq!(Scope::resolve(&tools, &[&group(vec![all(2)], vec![])]).iter().count(), 0, "another upstream");
        assert_eq!(Scope::resolve(&tools, &[&group(vec![all(1)], vec![])]).iter().count(), 1);
    }

    #[test]
    fn t01_a_quarantined_tool_is_in_nobodys_scope() {
        let tools = [tool(1, "crm", 1, "read", ToolStatus::Quarantined)];
        let scope = Scope::resolve(&tools, &[&group(vec![all(1)], vec![])]);
        assert!(scope.by_id(Uuid::from_u128(1).into()).is_none() && scope.by_classic_name("crm__read").is_none());
    }

    #[test]
    fn the_strictest_group_decides_on_approval() {
        let tools = [tool(1, "crm", 1, "wipe", ToolStatus::Approved)];
        let (open, strict) = (group(vec![all(1)], vec![]), group(vec![all(1)], vec![(named(1, &["wipe"]), 2)]));
        for groups in [[&open, &strict], [&strict, &open]] {
            assert_eq!(Scope::resolve(&tools, &groups).by_classic_name("crm__wipe").unwrap().confirmations, 2);
        }
    }

    #[test]
    fn one_groups_route_is_no_way_around_anothers_approval() {
        let tools = [tool(1, "crm", 1, "wipe", ToolStatus::Approved)];
        let (open, strict) = (group(vec![all(1)], vec![]), group(vec![], vec![(named(1, &["wipe"]), 1)]));
        let scope = Scope::narrowed(&tools, &[&open], &[&open, &strict]);
        assert_eq!(scope.by_classic_name("crm__wipe").unwrap().confirmations, 1);
    }

    #[test]
    fn t43_what_is_listed_is_what_can_be_called() {
        let tools: Vec<_> = (0..50)
            .map(|i| {
                tool(
                    i % 5,
                    &format!("s{}", i % 5),
                    100 + i,
                    &format!("t{i}"),
                    if i % 7 == 0 { ToolStatus::Quarantined } else { ToolStatus::Approved },
                )
            })
            .collect();
        for mask in 0u128..32 {
            let members = (0..5).filter(|b| mask >> b & 1 == 1).map(all).collect();
            let scope = Scope::resolve(&tools, &[&group(members, vec![])]);
            for tool in &tools {
                let listed = scope.iter().any(|s| s.tool.id == tool.id);
                assert_eq!(listed, scope.by_id(tool.id).is_some());
                assert_eq!(listed, scope.by_classic_name(&tool.classic_name()).is_some());
            }
        }
    }
}
