//! Members and rules as they are written, checked against what the upstreams have.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tollgate_domain::{
    UpstreamId,
    scope::{Grant, ToolNames},
    tool::is_tool_name,
};
use tollgate_store::{
    Change,
    groups::{self, KnownTools},
};

use super::{Member, Rule};
use crate::{
    check::Checks,
    problem::{Problem, Stop},
};

/// How a member names all tools of its upstream.
pub const ALL: &str = "*";
const MAX_ENTRIES: usize = 1000;
const MAX_NAMES: usize = 10_000;
/// Names that are offered for one that is unknown.
const OFFERED: usize = 3;

/// Members and rules that can be kept.
#[derive(Debug, Default)]
pub struct Checked {
    pub members: Vec<Grant>,
    pub approval: Vec<(Grant, u8)>,
}

/// What can be said without the database: sizes, stars, numbers. Entries of one upstream are merged.
pub fn check_form(members: Option<&[Member]>, approval: Option<&[Rule]>, checks: &mut Checks) {
    let (members, approval) = (members.unwrap_or_default(), approval.unwrap_or_default());
    checks.require(members.len() <= MAX_ENTRIES, "/members", "name at most 1000 upstreams");
    checks.require(approval.len() <= MAX_ENTRIES, "/approval", "name at most 1000 upstreams");
    let names = members.iter().map(|m| m.tools.len()).sum::<usize>() + approval.iter().map(|r| r.tools.len()).sum::<usize>();
    checks.require(names <= MAX_NAMES, "/members", "name at most 10000 tools; \"*\" names all of an upstream");
    for (i, member) in members.iter().enumerate() {
        check_star(&member.tools, &format!("/members/{i}/tools"), checks);
    }
    for (i, rule) in approval.iter().enumerate() {
        check_star(&rule.tools, &format!("/approval/{i}/tools"), checks);
        checks.require(matches!(rule.confirmations, 1 | 2), &format!("/approval/{i}/confirmations"), "use 1 or 2");
    }
}

fn check_star(tools: &[String], pointer: &str, checks: &mut Checks) {
    if tools.len() > 1 && tools.iter().any(|t| t == ALL) {
        checks.refuse(pointer, "\"*\" is all tools of the upstream: it stands alone");
    }
}

/// Check every upstream and tool against the tenant's, and merge what names the same.
pub async fn resolve(change: &mut Change, members: &[Member], approval: &[Rule]) -> Result<Checked, Stop> {
    let mentioned = members.iter().map(|m| m.upstream_id).chain(approval.iter().map(|r| r.upstream_id));
    let upstreams: Vec<UpstreamId> = mentioned.collect::<BTreeSet<_>>().into_iter().collect();
    let known = groups::known_tools(change, &upstreams).await?;
    Ok(against(&known, members, approval)?)
}

fn against(known: &HashMap<UpstreamId, KnownTools>, members: &[Member], approval: &[Rule]) -> Result<Checked, Problem> {
    let mut checks = Checks::default();
    for (i, member) in members.iter().enumerate() {
        check_entry(known, member.upstream_id, &member.tools, &format!("/members/{i}"), &mut checks);
    }
    for (i, rule) in approval.iter().enumerate() {
        check_entry(known, rule.upstream_id, &rule.tools, &format!("/approval/{i}"), &mut checks);
    }
    checks.done()?;
    Ok(Checked { members: merge_members(members), approval: merge_rules(approval) })
}

fn check_entry(known: &HashMap<UpstreamId, KnownTools>, upstream: UpstreamId, tools: &[String], at: &str, checks: &mut Checks) {
    let Some(of_upstream) = known.get(&upstream) else {
        return checks.refuse(format!("{at}/upstream_id"), "there is no such upstream");
    };
    for (i, tool) in tools.iter().enumerate().filter(|(_, tool)| *tool != ALL) {
        let there = of_upstream.names.contains(tool) || (!of_upstream.discovered && is_tool_name(tool));
        if !there {
            checks.refuse(format!("{at}/tools/{i}"), unknown_tool(tool, &of_upstream.names));
        }
    }
}

fn unknown_tool(tool: &str, names: &[String]) -> String {
    let mut near: Vec<(usize, &String)> = names.iter().map(|name| (strsim::osa_distance(tool, name), name)).collect();
    near.sort();
    // Farther than half of its letters it is another word.
    let near: Vec<String> = near
        .into_iter()
        .filter(|(distance, name)| distance * 2 <= name.chars().count().max(tool.chars().count()))
        .take(OFFERED)
        .map(|(_, name)| format!("{name:?}"))
        .collect();
    if near.is_empty() {
        "the upstream has no such tool".to_owned()
    } else {
        format!("the upstream has no such tool; did you mean {}?", near.join(" or "))
    }
}

fn merge_members(members: &[Member]) -> Vec<Grant> {
    let mut merged: BTreeMap<UpstreamId, BTreeSet<&str>> = BTreeMap::new();
    for member in members {
        merged.entry(member.upstream_id).or_default().extend(member.tools.iter().map(String::as_str));
    }
    merged.into_iter().filter_map(|(upstream, names)| grant(upstream, names)).collect()
}

/// Of two rules for one tool the stricter stays; a name that the star covers as strictly is left out.
fn merge_rules(rules: &[Rule]) -> Vec<(Grant, u8)> {
    let mut strictest: BTreeMap<(UpstreamId, &str), u8> = BTreeMap::new();
    for rule in rules {
        for tool in &rule.tools {
            let needed = strictest.entry((rule.upstream_id, tool)).or_default();
            *needed = rule.confirmations.max(*needed);
        }
    }
    let mut merged: BTreeMap<(UpstreamId, u8), BTreeSet<&str>> = BTreeMap::new();
    for (&(upstream, tool), &needed) in &strictest {
        let covered = tool != ALL && strictest.get(&(upstream, ALL)).is_some_and(|star| *star >= needed);
        if !covered {
            merged.entry((upstream, needed)).or_default().insert(tool);
        }
    }
    merged.into_iter().filter_map(|((upstream, needed), names)| Some((grant(upstream, names)?, needed))).collect()
}

/// An entry without tools grants nothing and is not kept.
fn grant(upstream_id: UpstreamId, names: BTreeSet<&str>) -> Option<Grant> {
    let tools = match names.len() {
        0 => return None,
        _ if names.contains(ALL) => ToolNames::All,
        _ => ToolNames::Named(names.into_iter().map(str::to_owned).collect()),
    };
    Some(Grant { upstream_id, tools })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(n: u128) -> UpstreamId {
        UpstreamId::from_uuid(uuid::Uuid::from_u128(n))
    }

    fn member(n: u128, tools: &[&str]) -> Member {
        Member { upstream_id: upstream(n), tools: tools.iter().map(|&t| t.to_owned()).collect() }
    }

    fn rule(n: u128, tools: &[&str], confirmations: u8) -> Rule {
        Rule { upstream_id: upstream(n), tools: member(n, tools).tools, confirmations }
    }

    fn known() -> HashMap<UpstreamId, KnownTools> {
        let names = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
        HashMap::from([
            (upstream(1), KnownTools { discovered: true, names: names(&["find_customer", "wipe"]) }),
            (upstream(2), KnownTools { discovered: false, names: Vec::new() }),
        ])
    }

    fn refusals(members: &[Member], approval: &[Rule]) -> Vec<(String, String)> {
        let problem = against(&known(), members, approval).unwrap_err();
        problem.errors().iter().map(|e| (e.pointer.clone(), e.message.clone())).collect()
    }

    #[test]
    fn unknown_names_are_refused_where_the_upstream_is_known() {
        let found = refusals(&[member(1, &["find_custmer"]), member(9, &["x"])], &[rule(1, &["zzzzzzzzzzzz"], 1)]);
        assert_eq!(found[0].0, "/members/0/tools/0");
        assert!(found[0].1.contains("find_customer"), "{}", found[0].1);
        assert_eq!(found[1].0, "/members/1/upstream_id");
        assert_eq!(found[2], ("/approval/0/tools/0".to_owned(), "the upstream has no such tool".to_owned()));
        assert!(against(&known(), &[member(2, &["anything"])], &[]).is_ok(), "not discovered yet");
        assert_eq!(refusals(&[member(2, &["any thing"])], &[])[0].0, "/members/0/tools/0");
    }

    #[test]
    fn t42_nothing_named_is_nothing_granted() {
        assert!(against(&known(), &[], &[]).unwrap().members.is_empty());
        assert!(against(&known(), &[member(1, &[])], &[rule(1, &[], 2)]).unwrap().members.is_empty());
        let mut checks = Checks::default();
        check_form(Some(&[member(1, &["*", "wipe"])]), None, &mut checks);
        assert_eq!(checks.done().unwrap_err().errors()[0].pointer, "/members/0/tools");
    }

    #[test]
    fn what_names_the_same_is_merged_and_the_stricter_rule_stays() {
        let checked = against(
            &known(),
            &[member(1, &["wipe"]), member(1, &["wipe", "find_customer"]), member(2, &["a"]), member(2, &["*"])],
            &[rule(1, &["*"], 1), rule(1, &["wipe"], 2), rule(1, &["find_customer"], 1)],
        )
        .unwrap();
        assert_eq!(checked.members.len(), 2);
        assert_eq!(checked.members[0].tools, ToolNames::Named(vec!["find_customer".into(), "wipe".into()]));
        assert_eq!(checked.members[1].tools, ToolNames::All);
        let rules: Vec<_> = checked.approval.iter().map(|(grant, n)| (grant.tools.clone(), *n)).collect();
        assert_eq!(rules, [(ToolNames::All, 1), (ToolNames::Named(vec!["wipe".into()]), 2)]);
    }
}
