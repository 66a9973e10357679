use serde::Deserialize;
use tollgate_domain::{
    UpstreamId,
    tool::{Binding, Exposure},
};
use tollgate_store::upstreams::{self, UpstreamPatch};
use utoipa::ToSchema;

use super::{ToolApproval, Upstream, check_description, check_numbers, transport::Transport};
use crate::{
    check::Checks,
    ctx::{Ctx, Id},
    json::{Json, nullable},
    problem::Answer,
};

/// What can be changed of an upstream; a field that is left out stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamPatchBody {
    /// Null takes it away.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>, max_length = 2000)]
    pub description: Option<Option<String>>,
    /// Replaced as a whole. A header's value that is sent as `***` stays.
    pub transport: Option<Transport>,
    #[schema(value_type = Option<String>)]
    pub exposure: Option<Exposure>,
    #[schema(value_type = Option<String>)]
    pub binding: Option<Binding>,
    #[schema(minimum = 1, maximum = 3_600_000)]
    pub timeout_ms: Option<i32>,
    #[schema(minimum = 10, maximum = 86_400)]
    pub sync_interval_seconds: Option<i32>,
    pub tool_approval: Option<ToolApproval>,
}

/// Change an upstream. Workers connect anew; the pins on its tools stay.
#[utoipa::path(patch, path = "/v1/tenants/{tenant_id}/upstreams/{upstream_id}", request_body = UpstreamPatchBody, responses((status = 200, description = "Changed.", body = Upstream)))]
pub async fn handle(ctx: Ctx, Id(id): Id<UpstreamId>, body: Json<UpstreamPatchBody>) -> Answer {
    let asked = body.value;
    let mut checks = Checks::default();
    check_description(&mut checks, asked.description.as_ref().and_then(|d| d.as_deref()));
    check_numbers(&mut checks, asked.timeout_ms, asked.sync_interval_seconds);
    checks.done()?;

    let mut write = ctx.change().await?;
    let current = upstreams::lock(&mut write, id).await?;
    write.matches(&Upstream::from(current.clone()))?;
    let transport = match asked.transport {
        Some(transport) => Some(transport.store(id, Some(&current), &ctx.app.config, &ctx.app.secrets.vault)?),
        None => None,
    };
    let patch = UpstreamPatch {
        description: asked.description,
        transport,
        exposure: asked.exposure,
        binding: asked.binding,
        timeout_ms: asked.timeout_ms,
        sync_interval_s: asked.sync_interval_seconds,
        tool_approval: asked.tool_approval.map(ToolApproval::as_str),
    };
    upstreams::update(&mut write, id, &patch).await?;
    let changed = upstreams::get(&mut write.tx, ctx.tenant, id, ctx.now).await?;
    write.ok(&Upstream::from(changed)).await
}
