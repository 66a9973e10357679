//! The decision before a call. A [`Permit`] can only be made here, and the upstream opens only to who holds one.

use std::sync::Arc;

use crate::{
    call::words,
    scope::{Scope, ScopedTool},
    tool::{Tool, ToolStatus},
};

words! {
    /// Why a call was not permitted. Stands in the audit row; the caller reads [`Reason::told`].
    Reason {
        /// No such tool in the tenant.
        UnknownTool = "unknown_tool",
        /// The tool exists, the key may not see it.
        NotInScope = "not_in_scope",
        /// The key may call the tool from a script, and called it by name.
        CodeModeOnly = "code_mode_only",
        /// The tool's definition is new or changed and waits for an admin.
        Quarantined = "quarantined",
        /// People have to confirm the call first.
        ApprovalRequired = "approval_required",
        /// The upstream's live definition is no longer the approved one.
        DefinitionChanged = "definition_changed",
        /// The named parent request is not one of this key's.
        UnknownParent = "unknown_parent",
        /// The arguments are not a JSON object, or too large.
        BadArguments = "bad_arguments",
    }
}

impl Reason {
    /// What the caller may read. Hidden, quarantined and unknown tools read alike.
    #[must_use]
    pub const fn told(self) -> &'static str {
        match self {
            Self::UnknownTool | Self::NotInScope | Self::Quarantined => "Unknown tool",
            Self::CodeModeOnly => "This tool is called from a script: use executeToolCode",
            Self::ApprovalRequired => "This tool needs the approval of a person before it is called, and none has been given",
            Self::DefinitionChanged => "The tool's definition changed a moment ago and waits for an admin's approval",
            Self::UnknownParent => "The LLM request named as the parent of this call is not one that this key has made",
            Self::BadArguments => "The arguments must be a JSON object within the size limit",
        }
    }
}

/// Leave to make one call of one tool under the definition that was decided upon. Consumed by the call.
#[derive(Debug)]
pub struct Permit {
    tool: Arc<Tool>,
}

impl Permit {
    #[must_use]
    pub fn tool(&self) -> &Tool {
        &self.tool
    }
}

#[derive(Debug)]
pub enum Verdict {
    Permitted(Permit),
    Denied(Reason),
    Held { confirmations: u8 },
}

/// Decide on a call of `found`, which came out of the caller's scope.
#[must_use]
pub fn decide(found: &ScopedTool) -> Verdict {
    match found.confirmations {
        0 => Verdict::Permitted(Permit { tool: Arc::clone(&found.tool) }),
        confirmations => Verdict::Held { confirmations },
    }
}

/// Why a call by name found no tool, for the audit row: `tool` is what the tenant has under that name.
#[must_use]
pub fn absence(scope: &Scope, tool: Option<&Tool>) -> Reason {
    match tool {
        None => Reason::UnknownTool,
        Some(tool) if scope.by_id(tool.id).is_some() => Reason::CodeModeOnly,
        Some(tool) if tool.status == ToolStatus::Quarantined => Reason::Quarantined,
        Some(_) => Reason::NotInScope,
    }
}
