//! Cursors: a position in a tenant's log, sealed, so that nobody can make one, change one or carry one to another tenant. They do
//! not expire: a collector may stop for weeks.

use tollgate_domain::{Secrets, TenantId};
use tollgate_store::follow::Start;

use crate::problem::{Kind, Problem};

/// The oldest row that is left.
pub const START: &str = "start";

#[must_use]
pub fn seal(secrets: &Secrets, tenant: TenantId, position: u64) -> String {
    secrets.sealer.seal_text(&purpose(tenant), &position.to_be_bytes())
}

/// `start`, or what [`seal`] made for this tenant.
///
/// # Errors
/// 400 for everything else.
pub fn open(secrets: &Secrets, tenant: TenantId, text: &str) -> Result<Start, Problem> {
    if text == START {
        return Ok(Start::Oldest);
    }
    let plain = secrets.sealer.open_text(&purpose(tenant), text).ok();
    let position = plain.and_then(|plain| <[u8; 8]>::try_from(plain).ok()).map(u64::from_be_bytes);
    position.map(Start::At).ok_or_else(|| {
        Problem::because(Kind::BadCursor, "Send one that this API has given for this tenant, as it was, or \"start\".")
    })
}

fn purpose(tenant: TenantId) -> String {
    format!("audit-cursor/1/{tenant}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t50_every_bit_flip_and_every_other_tenant_is_refused() {
        let secrets = Secrets::from_bytes([7; 32]);
        let (a, b) = (TenantId::from_uuid(uuid::Uuid::from_u128(1)), TenantId::from_uuid(uuid::Uuid::from_u128(2)));
        let text = seal(&secrets, a, 77);
        let open_for = |tenant, text: &str| open(&secrets, tenant, text).map_err(|problem| problem.kind());
        assert_eq!(open_for(a, &text), Ok(Start::At(77)));
        assert_eq!(open_for(a, "start"), Ok(Start::Oldest));
        assert_eq!(open_for(b, &text), Err(Kind::BadCursor));
        assert!(open(&Secrets::from_bytes([8; 32]), a, &text).is_err());
        let mut flips = 0;
        for (i, bit) in (0..text.len()).flat_map(|i| (0..8).map(move |bit| (i, bit))) {
            let mut bytes = text.clone().into_bytes();
            bytes[i] ^= 1 << bit;
            let Ok(flipped) = String::from_utf8(bytes) else { continue };
            assert_eq!(open_for(a, &flipped), Err(Kind::BadCursor), "byte {i}, bit {bit}");
            flips += 1;
        }
        assert!(flips > 300, "{flips}");
        for other in ["", "START", "0", &secrets.sealer.seal_text(&purpose(a), b"77")] {
            assert_eq!(open_for(a, other), Err(Kind::BadCursor), "{other}");
        }
    }
}
