//! Enumerations: what TypeScript's own compiler makes of them.

use oxc_ast::ast::*;
use oxc_ast_visit::Visit;
use oxc_span::GetSpan;

use super::strip::Strip;
use super::tokens::{is_plain, member_name};

impl Strip<'_> {
    /// An object that knows its members' values, and the names of those that are numbers.
    pub fn enumeration(&mut self, it: &TSEnumDeclaration) {
        let name = it.id.name.as_str();
        let members = &it.body.members;
        let keys: Vec<&str> = members.iter().map(|member| member_name(&member.id).unwrap_or_default()).collect();
        // Several declarations of one enumeration are one object.
        let mut out = format!("var {name} = (($enum) => {{");
        if !keys.contains(&name) {
            out += &format!(" const {name} = $enum;");
        }
        let (mut before, mut at): (Option<String>, u32) = (None, it.span.start);
        for (index, (member, key)) in members.iter().zip(&keys).enumerate() {
            if member_name(&member.id).is_none() {
                return self.refuse(member.span.start, "Write the enum member's name as a plain name.");
            }
            let own = if is_plain(key) { (*key).to_owned() } else { format!("$member{index}") };
            out += &format!(" const {own} = (");
            match (&member.initializer, &before) {
                (Some(value), _) => {
                    // The author's text stays where it is, with its own types left out.
                    self.edits.replace(at, value.span().start, std::mem::take(&mut out));
                    self.visit_expression(value);
                    at = value.span().end;
                }
                (None, Some(before)) => out += &format!("{before} + 1"),
                (None, None) => out.push('0'),
            }
            let quoted = serde_json::Value::from(*key).to_string();
            out += &format!("); $enum[{quoted}] = {own};");
            out += &format!(" if (typeof {own} === \"number\") $enum[{own}] = {quoted};");
            before = Some(own);
        }
        out += &format!(" return $enum; }})({name} ?? {{}});");
        self.edits.replace(at, it.span.end, out);
    }
}
