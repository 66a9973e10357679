//! Erasures: what may be missing, and which sealed event says so.

use std::collections::HashMap;

use tollgate_domain::{ErasureId, TenantId};

use super::{Verifier, exact, lines};
use crate::{
    bundle::report::{Finding, Problem},
    erasure::{ACTION, Commitment, Erased, FIELD},
    line::{self, Line},
    merkle::Growing,
    seal::{InclusionProof, SignedSeal},
};

/// The erasures of a bundle. They stand before the chunks, so that each is known when a payload names it.
#[derive(Default)]
pub(super) struct Erasures {
    open: Option<Open>,
    /// By their id as text. 24 bytes for each payload that any of them took away: all that a verifier keeps across chunks.
    known: HashMap<String, Known>,
    /// The logs that their events stand in, each by its newest seal and the first folder that names it.
    heads: Vec<(SignedSeal, String)>,
    /// They have been compared with the tenant of the seals.
    placed: bool,
}

/// The erasure whose list is being read.
#[derive(Default)]
struct Open {
    prefix: String,
    /// None: its event proves nothing, which has been said.
    event: Option<(ErasureId, Commitment)>,
    list: Growing,
    items: Vec<Erased>,
    /// The last file of the list.
    file: Option<String>,
    broken: bool,
}

struct Known {
    prefix: String,
    tenant: TenantId,
    /// None: the list is not what was sealed, which has been said; nothing is known of what went.
    items: Option<Vec<Erased>>,
}

impl Verifier<'_> {
    pub(super) fn take_erasure(&mut self, prefix: &str, name: &str, content: &[u8]) {
        self.end_erasure();
        let event = match self.erasure_event(content) {
            Ok((tenant, erasure, commitment, head)) => {
                if self.erasures.heads.iter().all(|(known, _)| *known != head) {
                    self.erasures.heads.push((head, prefix.to_owned()));
                }
                let known = Known { prefix: prefix.to_owned(), tenant, items: None };
                self.erasures.known.insert(erasure.to_string(), known);
                Some((erasure, commitment))
            }
            Err((problem, text)) => {
                self.whole(problem, name, text);
                None
            }
        };
        self.erasures.open = Some(Open { prefix: prefix.to_owned(), event, ..Open::default() });
    }

    fn erasure_event(&mut self, content: &[u8]) -> Result<(TenantId, ErasureId, Commitment, SignedSeal), (Problem, String)> {
        let edited = |text: &str| (Problem::Edited, text.to_owned());
        let proof: InclusionProof = exact(content).ok_or_else(|| edited("this is no proof that an erasure stands in the log"))?;
        for signed in [&proof.seal, &proof.head] {
            if !self.is_signed(signed) {
                return Err((Problem::Signature, format!("seal {}: {}", signed.seal.sequence, self.unsigned(signed))));
            }
        }
        proof.check(&self.keys).map_err(edited)?;
        let Some(Line::AdminEvent(event)) = line::parse(proof.line.as_bytes()) else {
            return Err(edited("what it proves is no admin event"));
        };
        if event.tenant_id != proof.seal.seal.tenant_id || event.action != ACTION {
            return Err(edited("what it proves is no erasure of this tenant"));
        }
        let erasure: ErasureId = event.target_id.parse().map_err(|_| edited("the event names no erasure"))?;
        let detail: Option<serde_json::Value> = serde_json::from_str(&event.detail).ok();
        let commitment = detail.and_then(|mut detail| serde_json::from_value(detail.get_mut(FIELD)?.take()).ok());
        let commitment: Commitment = commitment.ok_or_else(|| edited("the event does not commit to a list of what went"))?;
        if !commitment.is_signed_by(event.tenant_id, erasure, &self.keys) {
            return Err((Problem::Signature, "what the event says was erased is not signed by a trusted key".to_owned()));
        }
        Ok((event.tenant_id, erasure, commitment, proof.head))
    }

    pub(super) fn take_erased(&mut self, prefix: &str, name: &str, content: &[u8]) {
        if self.erasures.open.as_ref().is_none_or(|open| open.prefix != prefix) {
            self.end_erasure();
            self.whole(Problem::Removed, &format!("{prefix}/proof.json"), "no event of the log stands behind this list");
            self.erasures.open = Some(Open { prefix: prefix.to_owned(), ..Open::default() });
        }
        let Some(mut open) = self.erasures.open.take() else { return };
        open.file = Some(name.to_owned());
        for (number, text) in lines(content).enumerate() {
            match Erased::parse(text) {
                Some(item) if open.items.last().is_none_or(|last| *last < item) => {
                    open.list.push(item.leaf());
                    open.items.push(item);
                }
                other => {
                    open.broken = true;
                    let problem = if other.is_some() { Problem::Reordered } else { Problem::Edited };
                    self.at(problem, name, Some(number + 1), "this line is not one of the list as it was sealed");
                }
            }
        }
        self.erasures.open = Some(open);
    }

    /// The list against what its event commits to.
    pub(super) fn end_erasure(&mut self) {
        let Some(Open { prefix, event: Some((erasure, commitment)), list, items, file, broken }) = self.erasures.open.take()
        else {
            return;
        };
        if !commitment.is_over(&list) {
            if !broken {
                let file = file.unwrap_or_else(|| format!("{prefix}/erased-0001.ndjson"));
                let (here, sealed) = (list.count(), commitment.payloads);
                let text = format!(
                    "this list of what {erasure} took away is not the one that was sealed ({here} lines, sealed were {sealed})"
                );
                let problem = match here.cmp(&sealed) {
                    std::cmp::Ordering::Less => Problem::Truncated,
                    std::cmp::Ordering::Equal => Problem::Edited,
                    std::cmp::Ordering::Greater => Problem::Added,
                };
                self.whole(problem, &file, text);
            }
            return;
        }
        if broken {
            return;
        }
        self.report.erasures += 1;
        if let Some(known) = self.erasures.known.get_mut(&erasure.to_string()) {
            known.items = Some(items);
        }
    }

    /// An erasure speaks for its own tenant alone, and which that is the first seal says.
    pub(super) fn erasures_belong_to(&mut self, tenant: TenantId) {
        if std::mem::replace(&mut self.erasures.placed, true) {
            return;
        }
        let strange: Vec<String> =
            self.erasures.known.values().filter(|known| known.tenant != tenant).map(|known| known.prefix.clone()).collect();
        for prefix in strange {
            self.whole(Problem::Foreign, &format!("{prefix}/proof.json"), "this erasure belongs to another tenant");
        }
        self.erasures.known.retain(|_, known| known.tenant == tenant);
    }

    /// Their events stand in the log of this bundle, and not in another one that the same key once signed: a copy of the
    /// installation, say, in which somebody erased what they liked.
    pub(super) fn erasures_lead_to(&mut self, head: &SignedSeal) {
        for (other, prefix) in std::mem::take(&mut self.erasures.heads) {
            if other != *head {
                let text =
                    format!("the log that this stands in ends with another seal than this one, with {}", head.seal.sequence);
                self.whole(Problem::Edited, &format!("{prefix}/proof.json"), text);
            }
        }
    }

    /// Whether a sealed erasure of this id took this payload away; otherwise the finding that `wrong` makes of it. Where the list
    /// itself is not what was sealed, that has been said.
    pub(super) fn erased(
        &mut self,
        erasure: &str,
        item: &Erased,
        wrong: impl FnOnce(Problem, &'static str) -> Finding,
    ) -> Option<Finding> {
        match self.erasures.known.get(erasure).map(|known| &known.items) {
            Some(Some(items)) if items.binary_search(item).is_ok() => {
                self.report.erased += 1;
                None
            }
            Some(None) => None,
            _ => Some(wrong(Problem::Removed, "payload missing, and no sealed erasure names it")),
        }
    }
}
