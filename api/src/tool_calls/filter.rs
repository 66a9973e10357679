//! The filter of the three lists of what has happened: LLM requests, script runs, tool calls.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use tollgate_domain::{Decision, KeyId, LlmRequestId, Outcome, ScriptRunId, TeamId, ToolId, UpstreamId, search::Words};
use tollgate_store::{
    PageRequest,
    calls::{CallFilter, Slice},
};
use utoipa::IntoParams;

use crate::{check::Checks, problem::Problem};

/// serde cannot refuse unknown parameters of a struct that is flattened into another; so both have all fields.
macro_rules! trail_query {
    ($(#[$doc:meta])* $name:ident { $($more:tt)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default, Deserialize, IntoParams)]
        #[serde(deny_unknown_fields)]
        #[into_params(parameter_in = Query)]
        pub struct $name {
            $($more)*
            #[param(value_type = Option<String>)]
            pub key_id: Option<KeyId>,
            #[param(value_type = Option<String>)]
            pub team_id: Option<TeamId>,
            #[param(value_type = Option<String>)]
            pub tool_id: Option<ToolId>,
            #[param(value_type = Option<String>)]
            pub upstream_id: Option<UpstreamId>,
            #[param(value_type = Option<String>)]
            pub llm_request_id: Option<LlmRequestId>,
            #[param(value_type = Option<String>)]
            pub script_run_id: Option<ScriptRunId>,
            /// `ok`, `tool_error`, `upstream_error`, `timeout`, `cancelled`, `denied`, `held` or `unknown`.
            #[param(value_type = Option<String>)]
            pub outcome: Option<Outcome>,
            /// `permitted`, `denied` or `held`.
            #[param(value_type = Option<String>)]
            pub decision: Option<Decision>,
            /// Opened at this time or later, RFC 3339, to the millisecond.
            pub from: Option<DateTime<Utc>>,
            /// Opened before this time.
            pub to: Option<DateTime<Utc>>,
            /// `desc`, newest first (when left out), or `asc`.
            #[param(value_type = Option<String>)]
            pub order: Option<Order>,
        }

        impl $name {
            #[must_use]
            pub fn filter(&self) -> CallFilter {
                CallFilter {
                    key_id: self.key_id,
                    team_id: self.team_id,
                    tool_id: self.tool_id,
                    upstream_id: self.upstream_id,
                    llm_request_id: self.llm_request_id,
                    script_run_id: self.script_run_id,
                    outcome: self.outcome,
                    decision: self.decision,
                    text: None,
                    from: self.from,
                    to: self.to,
                }
            }

            #[must_use]
            pub fn slice(&self, page: PageRequest) -> Slice {
                Slice { page, ascending: self.order == Some(Order::Asc) }
            }
        }
    };
}

trail_query! {
    /// The parameters that speak of a call find the requests and runs that have such a call.
    TrailQuery {}
}

trail_query! {
    /// Of the calls themselves.
    CallQuery {
        /// Words, parted by blanks, that must all occur in arguments or result, in any case; 1 to 200 characters. Words are
        /// whole: `ann` does not find `annual`. `ada@example.com` finds these three words where they follow one another.
        /// Requires `from`, and a window of at most 92 days.
        pub q: Option<String>,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    Asc,
    Desc,
}

/// The longest window in which texts are searched.
const MAX_WINDOW_DAYS: i64 = 92;

impl CallQuery {
    /// The filter with its search.
    ///
    /// # Errors
    /// 422 when `q` asks for nothing, or in no window.
    pub fn search(&self, now: DateTime<Utc>) -> Result<CallFilter, Problem> {
        let Some(q) = &self.q else { return Ok(self.filter()) };
        let mut checks = Checks::default();
        let text = Words::parse(q).map_err(|e| checks.refuse("?q", e.to_string())).ok();
        match self.from {
            None => checks.refuse("?from", "a search needs a window: say from when"),
            Some(from) => {
                // Without an end the window grows while its pages are read.
                let slack = if self.to.is_none() { TimeDelta::hours(1) } else { TimeDelta::zero() };
                let window = self.to.unwrap_or(now).signed_duration_since(from) - slack;
                let sentence = format!("search at most {MAX_WINDOW_DAYS} days at a time: give a later from or an earlier to");
                checks.require(window <= TimeDelta::days(MAX_WINDOW_DAYS), "?from", &sentence);
            }
        }
        checks.done()?;
        Ok(CallFilter { text, ..self.filter() })
    }
}
