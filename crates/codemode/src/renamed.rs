//! Servers that a script cannot reach by their own name, because Python has it for something else.

use crate::names::is_taken;
use crate::wire::Catalog;

/// What to tell the author of a failed script that calls a server by the name that Python keeps for itself: `time.now()` where the
/// server `time` is `time_`.
#[must_use]
pub fn hint(catalog: &Catalog, source: &str) -> Option<String> {
    catalog.servers.iter().find_map(|server| {
        let plain = server.name.strip_suffix('_').filter(|plain| is_taken(plain))?;
        let tool = server.tools.iter().find(|tool| calls(source, plain, &tool.name))?;
        Some(format!(
            "`{plain}` is Python's own word here: the server of that name is `{0}` in scripts. Write {0}.{1}(...).",
            server.name, tool.name
        ))
    })
}

/// Whether `name.tool` stands somewhere in the text as words of their own.
fn calls(source: &str, name: &str, tool: &str) -> bool {
    let asked = format!("{name}.{tool}");
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    source.match_indices(&asked).any(|(at, _)| {
        let before = source.get(..at).and_then(|text| text.chars().next_back());
        let after = source.get(at + asked.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(|c| is_word(c) || c == '.') && !after.is_some_and(is_word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{CatalogServer, CatalogTool};

    #[test]
    fn a_server_under_another_name_is_pointed_out() {
        let tool = |name: &str| CatalogTool { name: name.into(), tool_id: "tool_1".into(), params: Vec::new(), open: false };
        let server =
            |name: &str, tools: &[&str]| CatalogServer { name: name.into(), tools: tools.iter().map(|t| tool(t)).collect() };
        let catalog = Catalog { servers: vec![server("time_", &["now_in"]), server("crm", &["find"]), server("mine_", &["a"])] };
        let told = hint(&catalog, "x = time.now_in(zone=\"UTC\")");
        let expected =
            "`time` is Python's own word here: the server of that name is `time_` in scripts. Write time_.now_in(...).";
        assert_eq!(told.as_deref(), Some(expected));
        for other in ["time.time()", "time_.now_in()", "my.time.now_in()", "time.now_inside()", "crm.find()", "mine.a()", "é"] {
            assert_eq!(hint(&catalog, other), None, "{other}");
        }
    }
}
