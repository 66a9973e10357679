//! Reading a window of calls through its blocks.

use std::time::{Duration, Instant};

use futures::TryStreamExt;
use sqlx::{Postgres, QueryBuilder, Row, postgres::PgRow};
use tollgate_domain::{
    Decision, KeyId, Outcome, TeamId, TenantId, ToolId, UpstreamId, ids,
    search::{Words, filter},
};
use uuid::Uuid;

use super::build::BLOCK;
use crate::{
    calls::{CallFilter, LIST_PAYLOAD, LIST_PAYLOADS, Payloads, Slice, ToolCall, call_conditions, select_calls, tool_call},
    error::{StoreError, StoreResult},
    page::Page,
    tx::Tx,
};

/// How long one page is looked for. What was found by then is the page, and it says where the next goes on.
const PATIENCE: Duration = Duration::from_secs(2);
/// Rows whose texts are read by one query.
const BATCH: i64 = 128;
/// Blocks that one query looks at: few at first, because what is frequent is found in them.
const FIRST_LOOK: i64 = 16;
const LONGEST_LOOK: i64 = 2048;
/// Tokens that are looked up in a filter; more would seldom rule out more.
const MAX_TOKENS: usize = 8;
/// A payload that takes this many bytes packed is read off the threads that serve.
const LARGE: usize = 32 << 10;

/// Whether this filter is better served by a walk than by one query: a parent has an index of its own, and without any
/// condition every row is one of the page.
pub(crate) fn is_for(filter: &CallFilter) -> bool {
    let by_parent = filter.llm_request_id.is_some() || filter.script_run_id.is_some();
    filter.text.is_some() || (!by_parent && !asked(filter).is_empty())
}

/// What is known of a call besides its texts, as a block's filter holds it.
pub(super) fn fields(call: &ToolCall, mut take: impl FnMut(&str, &str)) {
    let mut id = |name, id: Option<Uuid>| id.into_iter().for_each(|id| take(name, &ids::encode(id)));
    id("key", Some(call.key_id.uuid()));
    id("team", call.team_id.map(TeamId::uuid));
    id("tool", call.tool_id.map(ToolId::uuid));
    id("upstream", call.upstream_id.map(UpstreamId::uuid));
    call.outcome.into_iter().for_each(|outcome| take("outcome", outcome.as_str()));
    take("decision", call.decision.as_str());
}

/// What a block must hold to be worth reading.
fn asked(filter: &CallFilter) -> Vec<u64> {
    let ids = [
        ("key", filter.key_id.map(KeyId::uuid)),
        ("team", filter.team_id.map(TeamId::uuid)),
        ("tool", filter.tool_id.map(ToolId::uuid)),
        ("upstream", filter.upstream_id.map(UpstreamId::uuid)),
    ];
    let words = [("outcome", filter.outcome.map(Outcome::as_str)), ("decision", filter.decision.map(Decision::as_str))];
    let ids = ids.into_iter().filter_map(|(name, id)| Some(filter::field(name, &ids::encode(id?))));
    let words = words.into_iter().filter_map(|(name, word)| Some(filter::field(name, word?)));
    let tokens = filter.text.iter().flat_map(Words::tokens).take(MAX_TOKENS).map(filter::token);
    ids.chain(tokens).chain(words).collect()
}

/// A page, or as much of it as was found in time.
///
/// # Errors
/// When the database does not answer.
pub(crate) async fn list(tx: &mut Tx, tenant: TenantId, filter: &CallFilter, slice: Slice) -> StoreResult<Page<ToolCall>> {
    let walk = Walk {
        tx,
        tenant,
        filter,
        slice,
        left: Span::of(filter, slice),
        progressed: false,
        until: Instant::now() + PATIENCE,
        found: Vec::new(),
        bytes: LIST_PAYLOADS,
    };
    walk.run().await
}

/// Ids from the first to the last, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    first: Uuid,
    last: Uuid,
}

impl Span {
    fn new(first: Uuid, last: Uuid) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    fn of(filter: &CallFilter, slice: Slice) -> Option<Self> {
        let mut first = filter.from.map_or(Uuid::nil(), ids::floor);
        let mut last = filter.to.map_or(Some(Uuid::max()), |to| before(ids::floor(to)))?;
        match slice.page.after {
            Some(at) if slice.ascending => first = first.max(after(at)?),
            Some(at) => last = last.min(before(at)?),
            None => {}
        }
        Self::new(first, last)
    }

    fn and(self, other: Self) -> Option<Self> {
        Self::new(self.first.max(other.first), self.last.min(other.last))
    }

    /// What is left once everything up to the far end of `done` has been passed.
    fn beyond(self, done: Self, ascending: bool) -> Option<Self> {
        if ascending { Self::new(after(done.last)?, self.last) } else { Self::new(self.first, before(done.first)?) }
    }

    /// What comes before `other` on the way.
    fn up_to(self, other: Self, ascending: bool) -> Option<Self> {
        if ascending { Self::new(self.first, before(other.first)?) } else { Self::new(after(other.last)?, self.last) }
    }
}

fn after(id: Uuid) -> Option<Uuid> {
    id.as_u128().checked_add(1).map(Uuid::from_u128)
}

fn before(id: Uuid) -> Option<Uuid> {
    id.as_u128().checked_sub(1).map(Uuid::from_u128)
}

struct Block {
    span: Span,
    /// Few enough calls to be read at once.
    counted: bool,
    suspect: bool,
}

struct Walk<'a> {
    tx: &'a mut Tx,
    tenant: TenantId,
    filter: &'a CallFilter,
    slice: Slice,
    /// What has not been passed yet.
    left: Option<Span>,
    /// Something has been passed: a page that has seen nothing could not say where the next goes on.
    progressed: bool,
    until: Instant,
    found: Vec<ToolCall>,
    /// Bytes of payload that the page may still take.
    bytes: usize,
}

impl Walk<'_> {
    async fn run(mut self) -> StoreResult<Page<ToolCall>> {
        if self.filter.llm_request_id.is_some() || self.filter.script_run_id.is_some() {
            // The parent's index names the rows; blocks could not do better.
            if let Some(span) = self.left {
                self.read(span).await?;
            }
            return Ok(self.page());
        }
        let asked = asked(self.filter);
        let mut look = FIRST_LOOK;
        while let Some(span) = self.left.filter(|_| !self.is_over()) {
            let blocks = self.blocks(span, &asked, look).await?;
            look = (look * 4).min(LONGEST_LOOK);
            if blocks.is_empty() {
                self.read_uncovered(span).await?;
            }
            for block in blocks {
                self.pass(block).await?;
                if self.is_over() {
                    break;
                }
            }
        }
        Ok(self.page())
    }

    /// The page is full, or its time is.
    fn is_over(&self) -> bool {
        self.missing() <= 0 || (self.progressed && Instant::now() >= self.until)
    }

    fn missing(&self) -> i64 {
        self.slice.page.fetch() - i64::try_from(self.found.len()).unwrap_or(i64::MAX)
    }

    fn page(self) -> Page<ToolCall> {
        if self.missing() <= 0 {
            return self.slice.page.cut(self.found, |call| call.id.uuid());
        }
        // A page starts beyond a position, and everything on the near side of what is left has been seen.
        let near = |span: Span| if self.slice.ascending { before(span.first) } else { after(span.last) };
        Page { items: self.found, next: self.left.and_then(near) }
    }

    /// The next blocks on the way through `span`.
    async fn blocks(&mut self, span: Span, asked: &[u64], look: i64) -> StoreResult<Vec<Block>> {
        let mut query = QueryBuilder::new(
            "SELECT b.first_call_id, b.last_call_id, b.calls IS NOT NULL AS counted,
                    EXISTS (SELECT FROM late_calls l WHERE l.tenant_id = b.tenant_id
                            AND l.call_id BETWEEN b.first_call_id AND b.last_call_id)
                    OR CASE WHEN octet_length(b.filter) = 0 THEN true ELSE true",
        );
        asked.iter().flat_map(|hash| filter::probes(*hash)).for_each(|probe| push_probe(&mut query, probe));
        query.push(" END AS suspect FROM call_blocks b WHERE b.tenant_id = ").push_bind(self.tenant.uuid());
        query.push(" AND b.first_call_id <= ").push_bind(span.last).push(" AND b.last_call_id >= ").push_bind(span.first);
        // The same once more, as the index knows it: blocks do not overlap.
        query.push(" AND b.first_call_id >= COALESCE((SELECT c.first_call_id FROM call_blocks c WHERE c.tenant_id = ");
        query.push_bind(self.tenant.uuid()).push(" AND c.first_call_id <= ").push_bind(span.first);
        query.push(" ORDER BY c.first_call_id DESC LIMIT 1), ").push_bind(Uuid::nil()).push(")");
        query
            .push(" ORDER BY b.first_call_id ")
            .push(if self.slice.ascending { "LIMIT " } else { "DESC LIMIT " })
            .push_bind(look);
        // Its text depends on how many tokens there are: not worth a place among the prepared statements.
        let rows = query.build().persistent(false).fetch_all(&mut **self.tx).await?;
        let block = |row: &PgRow| {
            let span = Span { first: row.try_get(0)?, last: row.try_get(1)? };
            Ok(Block { span, counted: row.try_get(2)?, suspect: row.try_get(3)? })
        };
        rows.iter().map(block).collect()
    }

    /// Go to the far end of a block, reading what lies before it and, under suspicion, the block itself.
    async fn pass(&mut self, block: Block) -> StoreResult<()> {
        let ascending = self.slice.ascending;
        if let Some(gap) = self.left.and_then(|left| left.up_to(block.span, ascending)) {
            self.read_uncovered(gap).await?;
        }
        if self.is_over() {
            return Ok(());
        }
        let Some(part) = self.left.and_then(|left| left.and(block.span)) else { return Ok(()) };
        match (block.suspect, block.counted) {
            (false, _) => {
                self.left = self.left.and_then(|left| left.beyond(part, ascending));
                self.progressed = true;
            }
            (true, true) => self.read(part).await?,
            (true, false) => self.read_uncovered(part).await?,
        }
        Ok(())
    }

    /// Read a range that may hold any number of calls, so many at a time.
    async fn read_uncovered(&mut self, span: Span) -> StoreResult<()> {
        let mut span = Some(span);
        while let Some(part) = span.filter(|_| !self.is_over()) {
            let mut query = QueryBuilder::new("SELECT call_id FROM tool_call_events WHERE kind = 0 AND tenant_id = ");
            query.push_bind(self.tenant.uuid());
            within(&mut query, "call_id", part, self.slice.ascending);
            query.push(" OFFSET ").push_bind(BLOCK - 1).push(" LIMIT 1");
            let end: Option<Uuid> = query.build_query_scalar().fetch_optional(&mut **self.tx).await?;
            let near = match end {
                Some(end) if self.slice.ascending => Span { first: part.first, last: end },
                Some(end) => Span { first: end, last: part.last },
                None => part,
            };
            self.read(near).await?;
            span = part.beyond(near, self.slice.ascending);
        }
        Ok(())
    }

    /// Take what fits out of a range of about a block's size, and go to its far end unless the page or its time ends.
    async fn read(&mut self, span: Span) -> StoreResult<()> {
        let ascending = self.slice.ascending;
        let mut span = Some(span);
        while let Some(part) = span.filter(|_| !self.is_over()) {
            let most = if self.filter.text.is_some() { BATCH } else { self.missing() };
            let last = self.read_batch(part, most).await?;
            let done = last.map_or(part, |last| Span { first: last, last });
            self.left = self.left.and_then(|left| left.beyond(done, ascending));
            self.progressed = true;
            span = part.beyond(done, ascending);
        }
        Ok(())
    }

    /// Take what fits out of the next `most` rows; the last of them, or `None` at the end of the range.
    async fn read_batch(&mut self, span: Span, most: i64) -> StoreResult<Option<Uuid>> {
        let payloads = if self.filter.text.is_some() { Payloads::All } else { Payloads::Small };
        let mut query = select_calls(self.tenant, payloads);
        call_conditions(&mut query, "t", self.filter);
        within(&mut query, "t.call_id", span, self.slice.ascending);
        query.push(" LIMIT ").push_bind(most);
        let (mut read, mut last) = (0, None);
        let mut rows = query.build().fetch(&mut **self.tx);
        while let Some(row) = rows.try_next().await? {
            (read, last) = (read + 1, Some(row.try_get("call_id")?));
            let call = match &self.filter.text {
                Some(words) => says(row, words).await?.map(|call| small(call, self.bytes > 0)),
                None => {
                    let mut call = tool_call(&row, self.bytes > 0)?;
                    call.truncated |= row.try_get::<Option<bool>, _>("cut")?.unwrap_or(false);
                    Some(call)
                }
            };
            let Some(call) = call else { continue };
            self.bytes = self.bytes.saturating_sub(payloads_of(&call).map(String::len).sum());
            self.found.push(call);
            if i64::try_from(self.found.len()).is_ok_and(|found| found >= self.slice.page.fetch()) {
                return Ok(last);
            }
        }
        Ok(last.filter(|_| read == most))
    }
}

/// One bit of the filter. Of a filter that lies outside the row, `substring` reads one slice.
fn push_probe(query: &mut QueryBuilder<Postgres>, probe: filter::Probe) {
    query.push(" AND get_byte(substring(b.filter FROM (").push_bind(i64::from(probe.byte));
    query.push(" % octet_length(b.filter))::int + 1 FOR 1), 0) & ").push_bind(i32::from(probe.mask)).push(" <> 0");
}

fn within(query: &mut QueryBuilder<Postgres>, id: &'static str, span: Span, ascending: bool) {
    query.push(" AND ").push(id).push(" BETWEEN ").push_bind(span.first).push(" AND ").push_bind(span.last);
    query.push(" ORDER BY ").push(id).push(if ascending { "" } else { " DESC" });
}

fn payloads_of(call: &ToolCall) -> impl Iterator<Item = &String> {
    [&call.arguments, &call.result].into_iter().flatten()
}

/// The call with its payloads, if they say what is asked for.
async fn says(row: PgRow, words: &Words) -> StoreResult<Option<ToolCall>> {
    let size = |column: &str| row.try_get::<Option<&[u8]>, _>(column).map(|packed| packed.map_or(0, <[u8]>::len));
    let large = size("arguments")? + size("result")? > LARGE;
    let words = words.clone();
    let look = move || {
        let call = tool_call(&row, true)?;
        Ok(words.occur_in(payloads_of(&call).map(String::as_str)).then_some(call))
    };
    if !large {
        return look();
    }
    tokio::task::spawn_blocking(look).await.map_err(|e| StoreError::Corrupt(format!("a search ended early: {e}")))?
}

/// As a list shows it: without its large payloads, or without any.
fn small(mut call: ToolCall, payloads: bool) -> ToolCall {
    let limit = if payloads { usize::try_from(LIST_PAYLOAD).unwrap_or(0) } else { 0 };
    for payload in [&mut call.arguments, &mut call.result] {
        if payload.as_ref().is_some_and(|text| !payloads || text.len() > limit) {
            *payload = None;
            call.truncated = true;
        }
    }
    call
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(first: u128, last: u128) -> Option<Span> {
        Span::new(Uuid::from_u128(first), Uuid::from_u128(last))
    }

    #[test]
    fn spans_end_where_the_next_begins() {
        let (whole, middle) = (span(10, 20).unwrap(), span(13, 15).unwrap());
        assert_eq!((whole.up_to(middle, true), whole.beyond(middle, true)), (span(10, 12), span(16, 20)));
        assert_eq!((whole.up_to(middle, false), whole.beyond(middle, false)), (span(16, 20), span(10, 12)));
        assert_eq!((whole.up_to(whole, true), whole.beyond(whole, false), span(2, 1)), (None, None, None));
        let all = Span { first: Uuid::nil(), last: Uuid::max() };
        assert_eq!((all.beyond(all, true), all.beyond(all, false), all.up_to(all, true)), (None, None, None));
        assert_eq!(whole.and(span(0, 12).unwrap()), span(10, 12));
    }
}
