//! Cursors: a position in a tenant's log, sealed, so that nobody can make one, change one or carry one to another tenant, or to a
//! filter that would skip what the first did not ask for. They do not expire: a collector may stop for weeks.

use tollgate_domain::{Secrets, TenantId};
use tollgate_store::{calls::CallFilter, export::Rows, follow::Start};

/// What a reader reads.
type Read<'a> = (&'a CallFilter, Rows);

use crate::problem::{Kind, Problem};

/// The oldest row that is left.
pub const START: &str = "start";

/// Everything up to `position` that `filter` names has been read.
#[must_use]
pub fn seal(secrets: &Secrets, tenant: TenantId, read: Read<'_>, position: u64) -> String {
    secrets.sealer.seal_text(&purpose(tenant, read), &position.to_be_bytes())
}

/// `start`, or what [`seal`] made for this tenant and this filter, or for none: whoever has read everything may go on with less.
///
/// # Errors
/// 400 for everything else.
pub fn open(secrets: &Secrets, tenant: TenantId, read: Read<'_>, text: &str) -> Result<Start, Problem> {
    if text == START {
        return Ok(Start::Oldest);
    }
    let opened = |read: Read<'_>| secrets.sealer.open_text(&purpose(tenant, read), text).ok();
    let (filter, rows) = read;
    let all = CallFilter::default();
    // Whoever has read more may go on with less.
    let plain = [(filter, rows), (&all, rows), (filter, Rows::All), (&all, Rows::All)].into_iter().find_map(opened);
    let position = plain.and_then(|plain| <[u8; 8]>::try_from(plain).ok()).map(u64::from_be_bytes);
    position.map(Start::At).ok_or_else(|| {
        Problem::because(
            Kind::BadCursor,
            "Send one that this API has given for this tenant and the same filters, as it was, or \"start\".",
        )
    })
}

fn purpose(tenant: TenantId, (filter, rows): Read<'_>) -> String {
    let CallFilter { key_id, team_id, tool_id, upstream_id, outcome, .. } = filter;
    let of = format!("audit-cursor/1/{tenant}/{key_id:?}/{team_id:?}/{tool_id:?}/{upstream_id:?}/{outcome:?}");
    // Cursors of before there was a choice are of calls.
    if rows == Rows::ToolCalls { of } else { format!("{of}/{}", rows.as_str()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t50_every_bit_flip_and_every_other_tenant_is_refused() {
        let secrets = Secrets::from_bytes([7; 32]);
        let (a, b) = (TenantId::from_uuid(uuid::Uuid::from_u128(1)), TenantId::from_uuid(uuid::Uuid::from_u128(2)));
        let all = CallFilter::default();
        let text = seal(&secrets, a, (&all, Rows::ToolCalls), 77);
        let open_for =
            |tenant, text: &str| open(&secrets, tenant, (&all, Rows::ToolCalls), text).map_err(|problem| problem.kind());
        assert_eq!(open_for(a, &text), Ok(Start::At(77)));
        assert_eq!(open_for(a, "start"), Ok(Start::Oldest));
        assert_eq!(open_for(b, &text), Err(Kind::BadCursor));
        assert!(open(&Secrets::from_bytes([8; 32]), a, (&all, Rows::ToolCalls), &text).is_err());
        // Narrower is fine, and another filter or a wider one would skip rows.
        let failed = CallFilter { outcome: Some(tollgate_domain::Outcome::Timeout), ..CallFilter::default() };
        let denied = CallFilter { outcome: Some(tollgate_domain::Outcome::Denied), ..CallFilter::default() };
        assert_eq!(open(&secrets, a, (&failed, Rows::ToolCalls), &text).map_err(|p| p.kind()), Ok(Start::At(77)));
        let narrow = seal(&secrets, a, (&failed, Rows::ToolCalls), 78);
        assert_eq!(open(&secrets, a, (&failed, Rows::ToolCalls), &narrow).map_err(|p| p.kind()), Ok(Start::At(78)));
        assert_eq!(open_for(a, &narrow), Err(Kind::BadCursor));
        assert!(open(&secrets, a, (&denied, Rows::ToolCalls), &narrow).is_err());
        // So it is with the kinds of rows.
        let both = seal(&secrets, a, (&all, Rows::All), 79);
        for rows in [Rows::ToolCalls, Rows::LlmRequests, Rows::All] {
            assert_eq!(open(&secrets, a, (&failed, rows), &both).map_err(|p| p.kind()), Ok(Start::At(79)), "{rows:?}");
            let of_calls = open(&secrets, a, (&all, rows), &text).map_err(|p| p.kind());
            assert_eq!(of_calls.is_ok(), rows == Rows::ToolCalls, "{rows:?}");
        }
        let mut flips = 0;
        for (i, bit) in (0..text.len()).flat_map(|i| (0..8).map(move |bit| (i, bit))) {
            let mut bytes = text.clone().into_bytes();
            bytes[i] ^= 1 << bit;
            let Ok(flipped) = String::from_utf8(bytes) else { continue };
            assert_eq!(open_for(a, &flipped), Err(Kind::BadCursor), "byte {i}, bit {bit}");
            flips += 1;
        }
        assert!(flips > 300, "{flips}");
        for other in ["", "START", "0", &secrets.sealer.seal_text(&purpose(a, (&all, Rows::ToolCalls)), b"77")] {
            assert_eq!(open_for(a, other), Err(Kind::BadCursor), "{other}");
        }
    }
}
