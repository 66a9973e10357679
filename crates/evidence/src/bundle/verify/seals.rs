//! Keys, and seals: that each is signed, continues the one before, and is the one that was anchored.

use super::{Trust, Verifier, exact, lines};
use crate::{
    Hash,
    bundle::{KEYS, Keys, PROOF, chunk::Chunk, report::Problem},
    merkle::Nodes,
    seal::{ConsistencyProof, SignedSeal},
    sign::PublicKey,
};

impl Verifier<'_> {
    pub(super) fn take_keys(&mut self, content: &[u8]) {
        let Some(Keys { keys }) = exact(content) else {
            return self.whole(Problem::Edited, KEYS, "these are not the keys of a bundle");
        };
        for key in &keys {
            if key.raw().is_none() {
                self.whole(Problem::Edited, KEYS, format!("key {} is not the one that its name says", key.key_id));
            }
        }
        self.keys = match &self.trust {
            Trust::InBundle => keys,
            Trust::Only(named) => {
                let named = |key: &PublicKey| named.iter().any(|name| *name == key.public_key || *name == key.key_id);
                keys.into_iter().filter(named).collect()
            }
        };
    }

    pub(super) fn is_signed(&mut self, signed: &SignedSeal) -> bool {
        let Some(key) = self.keys.iter().find(|key| signed.is_signed_by(key)) else { return false };
        self.met.insert(format!("{key:?}"));
        true
    }

    /// Why a seal's signature does not count.
    pub(super) fn unsigned(&self, signed: &SignedSeal) -> String {
        let key = &signed.seal.key_id;
        if self.keys.iter().any(|known| known.key_id == *key) {
            return "the signature does not hold: the seal is not what was signed".to_owned();
        }
        match self.trust {
            Trust::InBundle => format!("it is signed by {key}, a key that is not trusted: the bundle does not hold it"),
            Trust::Only(_) => {
                format!("it is signed by {key}, a key that is not trusted: if it is one of the installation's, pass that key too")
            }
        }
    }

    pub(super) fn take_seals(&mut self, prefix: &str, name: &str, content: &[u8]) {
        if !self.files.iter().any(|file| file.name == KEYS) && self.last.is_none() {
            self.whole(Problem::Removed, KEYS, "the keys are missing: no signature can be checked");
        }
        self.end_erasure();
        self.end_chunk();
        self.chunk = Chunk { prefix: prefix.to_owned(), ..Chunk::default() };
        for (number, text) in lines(content).enumerate() {
            let place = Some(number + 1);
            let Some(signed) = exact::<SignedSeal>(text) else {
                self.at(Problem::Edited, name, place, "this is no seal");
                continue;
            };
            if !self.is_signed(&signed) {
                let why = self.unsigned(&signed);
                self.at(Problem::Signature, name, place, format!("seal {}: {why}", signed.seal.sequence));
            }
            self.follow(name, place, &signed);
            self.beside(name, place, &signed);
            if self.report.first_seal == 0 {
                self.report.first_seal = signed.seal.sequence;
                self.report.tenant_id = Some(signed.seal.tenant_id.to_string());
            }
            self.report.last_seal = signed.seal.sequence;
            self.last = Some(signed.clone());
            self.chunk.seals.push(signed);
        }
        // By the last of them: the first may be the one that does not belong here.
        if let Some(tenant) = self.last.as_ref().map(|signed| signed.seal.tenant_id) {
            self.erasures_belong_to(tenant);
        }
    }

    /// Whether a seal continues the one before.
    fn follow(&mut self, name: &str, place: Option<usize>, signed: &SignedSeal) {
        let seal = &signed.seal;
        let Some(before) = self.last.as_ref().map(|signed| &signed.seal) else {
            let beginning = seal.sequence == 1;
            self.nodes = beginning.then(Nodes::default);
            if beginning && (seal.first != 0 || seal.previous != Hash::ZERO) {
                self.at(Problem::Edited, name, place, "the first seal does not begin the log");
            }
            return self.grow(name, place, signed);
        };
        let problem = if seal.tenant_id != before.tenant_id {
            Some((Problem::Foreign, "this seal belongs to another tenant".to_owned()))
        } else if before.sequence.checked_add(1).is_some_and(|next| seal.sequence > next) {
            let text = format!("seal {} follows seal {}: what lies between is missing", seal.sequence, before.sequence);
            Some((Problem::Removed, text))
        } else if seal.sequence <= before.sequence {
            Some((Problem::Reordered, format!("seal {} stands behind seal {}", seal.sequence, before.sequence)))
        } else if seal.previous != before.hash() || seal.first != before.end() {
            Some((
                Problem::Edited,
                format!("seal {} does not continue seal {} as it stands here", seal.sequence, before.sequence),
            ))
        } else {
            None
        };
        match problem {
            Some((problem, text)) => self.at(problem, name, place, text),
            None => self.grow(name, place, signed),
        }
    }

    fn grow(&mut self, name: &str, place: Option<usize>, signed: &SignedSeal) {
        let seal = &signed.seal;
        let Some(nodes) = &mut self.nodes else { return };
        let grown = nodes.append(seal.sequence - 1, seal.leaf()).is_some();
        if !grown || nodes.root_of((0, seal.sequence)) != Some(seal.tree) {
            let text = format!("the tree that seal {} names is not the one over the seals up to it", seal.sequence);
            self.nodes = None;
            self.at(Problem::Edited, name, place, text);
        }
    }

    fn beside(&mut self, name: &str, place: Option<usize>, signed: &SignedSeal) {
        if let Some(text) = self.anchors.and_then(|anchors| anchors.contradicts(&signed.seal)) {
            self.at(Problem::Contradicted, name, place, text);
        }
    }

    /// Whether the log still had what was anchored before the bundle was made.
    pub(super) fn anchored(&mut self) {
        let Some((anchors, last)) = self.anchors.zip(self.last.as_ref()) else { return };
        let made = self.report.created_at.as_deref().and_then(|at| chrono::DateTime::parse_from_rfc3339(at).ok());
        let head = self.head.as_ref().unwrap_or(last).seal.sequence;
        let seals = (self.report.first_seal, self.report.last_seal, head);
        let (covered, lost) = anchors.covered(last.seal.tenant_id, seals, made.map(|at| at.to_utc()));
        self.report.anchored = Some(covered);
        if let Some(lost) = lost {
            let text =
                format!("seal {lost} was anchored before this was made, and the log ends with seal {head}: it was cut off");
            self.whole(Problem::Truncated, PROOF, text);
        }
    }

    pub(super) fn take_proof(&mut self, content: &[u8]) {
        self.end_chunk();
        let Some(proof) = exact::<ConsistencyProof>(content) else {
            return self.whole(Problem::Edited, PROOF, "this is no proof");
        };
        if let Some(strange) = [&proof.to, &proof.from].into_iter().find(|signed| !self.is_signed(signed)) {
            let text = format!("seal {}: {}", strange.seal.sequence, self.unsigned(strange));
            self.whole(Problem::Signature, PROOF, text);
        } else if Some(&proof.from) != self.last.as_ref() || !proof.holds() {
            self.whole(
                Problem::Edited,
                PROOF,
                "the last seal is not shown to be the beginning of the log as it was when this was made",
            );
        } else {
            if proof.to != proof.from {
                self.beside(PROOF, None, &proof.to);
            }
            self.erasures_lead_to(&proof.to);
            self.head = Some(proof.to);
        }
    }
}
