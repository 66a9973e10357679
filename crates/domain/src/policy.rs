//! The decision before a call. A [`Permit`] can only be made here, and the upstream opens only to who holds one.

use std::sync::Arc;

use crate::{
    call::words,
    ids::{ApprovalId, ToolId},
    scope::{Scope, ScopedTool},
    tool::{Tool, ToolStatus, sha256},
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
        /// People were asked, and one of them said no.
        ApprovalDenied = "approval_denied",
        /// People were asked, and not enough of them answered in time.
        ApprovalExpired = "approval_expired",
        /// The key has as many calls waiting for people as it may.
        TooManyApprovals = "too_many_approvals",
        /// The upstream's live definition is no longer the approved one.
        DefinitionChanged = "definition_changed",
        /// The named parent request is not one of this key's.
        UnknownParent = "unknown_parent",
        /// The arguments are not a JSON object, or too large.
        BadArguments = "bad_arguments",
        /// The call may cost more than is left of a budget.
        BudgetExhausted = "budget_exhausted",
        /// A rate limit is used up for the moment.
        RateLimited = "rate_limited",
        /// No provider of the tenant serves a model of that name.
        UnknownModel = "unknown_model",
        /// The key may not ask for the model.
        ModelNotAllowed = "model_not_allowed",
        /// A hard budget covers the request, and nobody can say what it may cost.
        UnboundedCost = "unbounded_cost",
    }
}

impl Reason {
    /// What the caller may read. Hidden, quarantined and unknown tools read alike.
    #[must_use]
    pub const fn told(self) -> &'static str {
        match self {
            Self::UnknownTool | Self::NotInScope | Self::Quarantined => "Unknown tool",
            Self::CodeModeOnly => "This tool is called from a script: use executeToolCode",
            Self::ApprovalRequired => "This tool is called only once people have approved the call",
            Self::ApprovalDenied => "The call was not approved: a person has denied it",
            Self::ApprovalExpired => "The call was not approved: nobody decided in time",
            Self::TooManyApprovals => {
                "Too many calls of this key wait for approval already, so none was asked for; wait until some are decided"
            }
            Self::DefinitionChanged => "The tool's definition changed a moment ago and waits for an admin's approval",
            Self::UnknownParent => "The LLM request named as the parent of this call is not one that this key has made",
            Self::UnknownModel => "No provider serves this model on this endpoint",
            Self::UnboundedCost => "The request was not made, because its cost has no bound",
            Self::ModelNotAllowed => "This key may not use this model",
            Self::RateLimited => "The call was not made, because too many are made",
            Self::BudgetExhausted => "The call was not made, because it does not fit a budget",
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
    Held(Held),
}

/// A call that people have to confirm first. Only an approval that was consumed for it makes it a [`Permit`].
#[derive(Debug)]
pub struct Held {
    tool: Arc<Tool>,
    confirmations: u8,
}

/// An approval as its row said when it was consumed: what people had seen when they confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spent {
    pub approval: ApprovalId,
    pub tool: ToolId,
    pub policy: [u8; 32],
    pub arguments: [u8; 32],
}

impl Held {
    #[must_use]
    pub fn tool(&self) -> &Tool {
        &self.tool
    }

    #[must_use]
    pub const fn confirmations(&self) -> u8 {
        self.confirmations
    }

    /// What an approval is given under: with another definition or another number of confirmations it is worth nothing.
    #[must_use]
    pub fn policy(&self) -> [u8; 32] {
        let mut bytes = self.tool.definition_sha256.0.to_vec();
        bytes.push(self.confirmations);
        sha256(&bytes)
    }

    /// Leave for the one call for which `spent` was given; `arguments` is the hash of the call's own.
    ///
    /// # Errors
    /// [`Reason::ApprovalRequired`] when it was given for something else.
    pub fn release(self, spent: &Spent, arguments: &[u8; 32]) -> Result<Permit, Reason> {
        let fits = spent.tool == self.tool.id && spent.policy == self.policy() && spent.arguments == *arguments;
        if fits { Ok(Permit { tool: self.tool }) } else { Err(Reason::ApprovalRequired) }
    }
}

/// Decide on a call of `found`, which came out of the caller's scope.
#[must_use]
pub fn decide(found: &ScopedTool) -> Verdict {
    match found.confirmations {
        0 => Verdict::Permitted(Permit { tool: Arc::clone(&found.tool) }),
        confirmations => Verdict::Held(Held { tool: Arc::clone(&found.tool), confirmations }),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scope::tests::tool;
    use uuid::Uuid;

    fn held(confirmations: u8) -> Held {
        let tool = tool(1, "crm", 1, "wipe", ToolStatus::Approved);
        match decide(&ScopedTool { tool, confirmations }) {
            Verdict::Held(held) => held,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_approval_lets_through_what_it_was_given_for_and_nothing_else() {
        let good = Spent {
            approval: Uuid::from_u128(1).into(),
            tool: Uuid::from_u128(1).into(),
            policy: held(1).policy(),
            arguments: [7; 32],
        };
        assert!(held(1).release(&good, &[7; 32]).is_ok());
        for (spent, held, arguments) in [
            (good.clone(), held(2), [7; 32]),
            (good.clone(), held(1), [8; 32]),
            (Spent { tool: Uuid::from_u128(2).into(), ..good.clone() }, held(1), [7; 32]),
            (Spent { policy: [0; 32], ..good }, held(1), [7; 32]),
        ] {
            assert_eq!(held.release(&spent, &arguments).map(drop), Err(Reason::ApprovalRequired));
        }
    }
}
