//! Who may do what through the admin door: one matrix, walked by a test.

use crate::call::words;

words! {
    /// A role within one tenant. The platform's operator stands above them as an owner of every tenant.
    Role {
        Owner = "owner",
        /// Everything but owners and the tenant's deletion.
        Admin = "admin",
        /// Reads, revokes keys, edits upstreams, decides on calls that wait.
        Operator = "operator",
        /// Prices, budgets, reports.
        Finance = "finance",
        /// Reads reports, tool calls and exports.
        Auditor = "auditor",
    }
}

/// What a route does, as far as authority goes. Each route names exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Create, list tenants: the platform's operator alone.
    Platform,
    ReadTenant,
    WriteTenant,
    DeleteTenant,
    /// Admins and service tokens: whoever may write these decides who else may.
    ReadAdmins,
    WriteAdmins,
    /// Teams, keys, tool groups, upstreams, tools.
    ReadConfig,
    WriteTeams,
    WriteKeys,
    RevokeKeys,
    WriteToolGroups,
    WriteUpstreams,
    /// Approve a quarantined definition.
    ApproveTools,
    /// Calls that wait for people.
    ReadApprovals,
    DecideApprovals,
    /// Prices and budgets.
    ReadPrices,
    WritePrices,
    /// Budgets and limits, and reports that are delivered.
    WriteBudgets,
    ReadReports,
    /// Tool calls, LLM requests, script runs, and their export.
    ReadAudit,
    /// What is kept of the trail and for how long, and what is erased from it.
    WriteAudit,
    /// Have the trail written to one of the operator's destinations.
    ExportAudit,
    ReadAdminEvents,
}

impl Action {
    pub const ALL: &'static [Self] = &[
        Self::Platform,
        Self::ReadTenant,
        Self::WriteTenant,
        Self::DeleteTenant,
        Self::ReadAdmins,
        Self::WriteAdmins,
        Self::ReadConfig,
        Self::WriteTeams,
        Self::WriteKeys,
        Self::RevokeKeys,
        Self::WriteToolGroups,
        Self::WriteUpstreams,
        Self::ApproveTools,
        Self::ReadApprovals,
        Self::DecideApprovals,
        Self::ReadPrices,
        Self::WritePrices,
        Self::WriteBudgets,
        Self::ReadReports,
        Self::ReadAudit,
        Self::WriteAudit,
        Self::ExportAudit,
        Self::ReadAdminEvents,
    ];
}

impl Role {
    /// The matrix. Whatever it does not name is forbidden.
    #[must_use]
    pub const fn may(self, action: Action) -> bool {
        use Action as A;
        match self {
            Self::Owner => !matches!(action, A::Platform),
            Self::Admin => !matches!(action, A::Platform | A::DeleteTenant),
            Self::Operator => matches!(
                action,
                A::ReadTenant
                    | A::ReadConfig
                    | A::RevokeKeys
                    | A::WriteUpstreams
                    | A::ReadApprovals
                    | A::DecideApprovals
                    | A::ReadPrices
                    | A::ReadReports
                    | A::ReadAudit
                    | A::ReadAdminEvents
            ),
            Self::Finance => matches!(
                action,
                A::ReadTenant | A::ReadConfig | A::ReadPrices | A::WritePrices | A::WriteBudgets | A::ReadReports
            ),
            Self::Auditor => {
                matches!(
                    action,
                    A::ReadTenant | A::ReadReports | A::ReadAudit | A::ExportAudit | A::ReadApprovals | A::ReadAdminEvents
                )
            }
        }
    }

    /// Whether this role may hand out `other`: an admin makes no owners.
    #[must_use]
    pub const fn may_grant(self, other: Self) -> bool {
        match self {
            Self::Owner => true,
            Self::Admin => !matches!(other, Self::Owner),
            Self::Operator | Self::Finance | Self::Auditor => false,
        }
    }
}
