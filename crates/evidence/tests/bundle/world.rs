//! A tenant with a log of a few dozen rows of every kind, and bundles of it.

use chrono::{DateTime, TimeDelta, Utc};
use tollgate_domain::{AdminEventId, CallId, ErasureId, KeyId, LlmRequestId, ScriptRunId, TenantId, WorkerId};
use tollgate_evidence::{
    Hash,
    bundle::{CatalogLine, Content, Writer},
    erasure::{self, Erased},
    line::{
        AdminEvent, CallEnd, CallIntent, Commitment, Forward, Kept, Line, LlmEnd, LlmRequest, Part, ScriptEnd, ScriptJournal,
        ScriptStart,
    },
    merkle::{self, Growing, Nodes},
    seal::{ConsistencyProof, InclusionProof, Seal, SignedSeal},
    sign::Signer,
};
use uuid::Uuid;

pub type Files = Vec<(String, Vec<u8>)>;

pub struct World {
    pub tenant: TenantId,
    pub signer: Signer,
    pub seals: u64,
    pub entries: u64,
    pub files: Files,
    pub all_seals: Vec<SignedSeal>,
    /// What the erasure took away, in order.
    pub erased: Vec<Erased>,
    pub erasure: ErasureId,
}

/// A row with its payloads.
type Row = (Line<'static>, Vec<(Part, Content)>);

struct Maker {
    tenant: TenantId,
    next: u128,
    at: DateTime<Utc>,
    erasing: bool,
    erased: Vec<Erased>,
}

/// How a world differs from the usual one.
pub struct Ways {
    pub seed: [u8; 32],
    /// Of a bundle: its first seal.
    pub from: u64,
    /// The log ends with this seal; nothing was erased in a shorter one.
    pub end: usize,
    /// Another history: its ids begin here.
    pub first_id: u128,
    pub made: DateTime<Utc>,
    /// Payloads that the erasure took from rows that are not in this log's bundles.
    pub also_erased: u64,
}

impl Default for Ways {
    fn default() -> Self {
        Self { seed: [1; 32], from: 1, end: 6, first_id: 0, made: beginning(), also_erased: 0 }
    }
}

pub fn beginning() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).unwrap()
}

/// The erasure of each tenant.
fn erasure(tenant: TenantId) -> ErasureId {
    ErasureId::from_uuid(Uuid::from_u128((tenant.uuid().as_u128() << 64) | 0xe))
}

impl Maker {
    fn id<T: From<Uuid>>(&mut self) -> T {
        self.next += 1;
        self.at += TimeDelta::microseconds(1_234);
        Uuid::from_u128((self.tenant.uuid().as_u128() << 64) | self.next).into()
    }

    fn payload(&mut self, part: Part, body: &str) -> (Commitment, (Part, Content)) {
        let salt = self.next.to_be_bytes();
        (Commitment::to(&salt, body.as_bytes()), (part, Content::of(&salt, body.as_bytes())))
    }

    fn request(&mut self) -> Row {
        let line = LlmRequest {
            tenant_id: self.tenant,
            id: self.id(),
            at: self.at,
            key_id: KeyId::from_uuid(Uuid::from_u128(5)),
            team_id: None,
            origin: "minted".into(),
            method: "tools/call".into(),
            model: None,
            client: Some("test 1".into()),
            prompt_tokens_avoided: None,
            forward: None,
        };
        (Line::LlmRequest(line), Vec::new())
    }

    /// A request that was forwarded to a provider, and its end.
    fn forwarded(&mut self) -> Vec<Row> {
        let (mut row, _) = self.request();
        let (prompt, asked) = self.payload(Part::Prompt, "{\"messages\":[]}");
        let (answer, said) = self.payload(Part::Answer, "{\"choices\":[]}");
        let Line::LlmRequest(line) = &mut row else { unreachable!("it was made a request") };
        let id = line.id;
        line.origin = "llm".into();
        line.forward = Some(Forward {
            root_id: id,
            turn: 1,
            mode: "manual".into(),
            streaming: true,
            worker_id: WorkerId::from_uuid(Uuid::from_u128(8)),
            decision: "permitted".into(),
            reason: None,
            tools_offered: 2,
            tools_tokens: 300,
            quoted_picos: 9,
            currency: "USD".into(),
            prompt,
        });
        let end = LlmEnd {
            tenant_id: self.tenant,
            id,
            at: self.at,
            outcome: "ok".into(),
            error: None,
            provider_id: None,
            provider_name: Some("p".into()),
            model_served: Some("m".into()),
            attempts: "[]".into(),
            usage: "reported".into(),
            input_tokens: 1,
            cached_tokens: 0,
            cache_write_tokens: 0,
            output_tokens: 2,
            reasoning_tokens: 0,
            price: None,
            amount_picos: 3,
            latency_us: Some(4),
            first_token_us: Some(2),
            finish_reason: Some("stop".into()),
            answer: Some(answer),
        };
        vec![(row, vec![asked]), (Line::LlmEnd(end), vec![said])]
    }

    fn intent(&mut self, id: CallId, place: Option<(ScriptRunId, i32)>) -> Row {
        let body = format!("{{\"email\":\"ada{}@example.com\"}}", self.next);
        let (arguments, payload) = self.payload(Part::Arguments, &body);
        let line = CallIntent {
            tenant_id: self.tenant,
            id,
            at: self.at,
            llm_request_id: LlmRequestId::from_uuid(Uuid::from_u128(6)),
            origin: "minted".into(),
            script_run_id: place.map(|p| p.0),
            sequence: place.map(|p| p.1),
            key_id: KeyId::from_uuid(Uuid::from_u128(5)),
            team_id: None,
            upstream_id: None,
            upstream_name: Some("shop".into()),
            tool_id: None,
            tool_name: "find_customer".into(),
            definition_sha256: Some(Hash([7; 32])),
            decision: "permitted".into(),
            reason: None,
            price_id: None,
            quoted_picos: 2_000_000_000,
            currency: "USD".into(),
            worker_id: WorkerId::from_uuid(Uuid::from_u128(8)),
            arguments,
            outcome: None,
            error: None,
            latency_us: None,
            amount_picos: None,
            approval_id: None,
            unit: None,
            unit_picos: None,
            tier: None,
            call_number: None,
        };
        (Line::CallIntent(line), vec![payload])
    }

    fn completion(&mut self, id: CallId, result: Option<(Commitment, (Part, Content))>) -> Row {
        let line = CallEnd {
            tenant_id: self.tenant,
            id,
            at: self.at,
            outcome: "ok".into(),
            error: None,
            latency_us: Some(i64::try_from(self.next).unwrap()),
            amount_picos: 2_000_000_000,
            result: result.as_ref().map(|(commitment, _)| *commitment),
        };
        (Line::CallCompletion(line), result.into_iter().map(|(_, payload)| payload).collect())
    }

    fn script(&mut self, keep_logs: bool) -> Vec<Row> {
        let id: ScriptRunId = self.id();
        let (source, text) = self.payload(Part::Source, "result = shop.a().n");
        let start = ScriptStart {
            tenant_id: self.tenant,
            id,
            at: self.at,
            llm_request_id: LlmRequestId::from_uuid(Uuid::from_u128(6)),
            key_id: KeyId::from_uuid(Uuid::from_u128(5)),
            team_id: None,
            worker_id: WorkerId::from_uuid(Uuid::from_u128(8)),
            engine: "e 1".into(),
            limits: "{}".into(),
            catalog_sha256: Hash::of(&[CATALOG.as_bytes()]),
            source,
            route: None,
        };
        let call: CallId = self.id();
        let (entry, journal) = self.payload(Part::Journal, "{\"sequence\":1}");
        let (result, value) = self.payload(Part::RunResult, "7");
        let (logs, printed) = self.payload(Part::RunLogs, "[]");
        let omitted = Commitment { kept: Some(Kept::Omitted), ..logs };
        let end = ScriptEnd {
            tenant_id: self.tenant,
            id,
            at: self.at,
            state: "done".into(),
            ticks: Some(12),
            result: Some(result),
            logs: Some(if keep_logs { logs } else { omitted }),
            error: None,
            may_call: Some("[\"crm.pay\"]".into()),
        };
        let nested = self.intent(call, Some((id, 1)));
        let journal_line = ScriptJournal { tenant_id: self.tenant, id, sequence: 1, call_id: Some(call), entry };
        vec![
            (Line::ScriptStart(start), vec![text]),
            nested,
            (Line::ScriptJournal(journal_line), vec![journal]),
            (Line::ScriptEnd(end), [Some(value), keep_logs.then_some(printed)].into_iter().flatten().collect()),
        ]
    }

    /// The event of an erasure that took what `erased` names.
    fn erasure(&mut self, signer: &Signer) -> Row {
        self.erased.sort();
        let mut list = Growing::default();
        self.erased.iter().for_each(|item| list.push(item.leaf()));
        let (mut row, id) = (self.event(), erasure(self.tenant));
        let commitment = erasure::Commitment::sign(self.tenant, id, &list, signer);
        if let Line::AdminEvent(event) = &mut row.0 {
            event.action = erasure::ACTION.into();
            event.target_id = id.to_string().into();
            let detail = serde_json::json!({"reason": "asked for", erasure::FIELD: commitment});
            event.detail = tollgate_evidence::line::canonical(&detail).into();
        }
        row
    }

    fn erase(&mut self, id: CallId, part: Part) -> (Part, Content) {
        self.erased.push(Erased { row: id.uuid(), part, sequence: 0 });
        (part, Content::Erased { erasure_id: erasure(self.tenant).to_string() })
    }

    fn event(&mut self) -> Row {
        let line = AdminEvent {
            tenant_id: self.tenant,
            id: AdminEventId::from_uuid(self.id::<AdminEventId>().uuid()),
            at: self.at,
            actor_kind: "service_token".into(),
            actor_id: "svc_1".into(),
            role: Some("owner".into()),
            action: "key.revoke".into(),
            target_id: "vk_1".into(),
            detail: "{\"a\":1}".into(),
            request_id: None,
        };
        (Line::AdminEvent(line), Vec::new())
    }

    /// The rows, seal by seal.
    fn rows(&mut self, signer: &Signer) -> Vec<Vec<Row>> {
        let mut seals = Vec::new();
        for seal in 0..6 {
            let mut rows = vec![self.request()];
            for number in 0..4 {
                let id: CallId = self.id();
                let mut intent = self.intent(id, None);
                if (seal, number) == (1, 3) && self.erasing {
                    intent.1 = vec![self.erase(id, Part::Arguments)];
                }
                rows.push(intent);
                let body = format!("{{\"content\":[{{\"type\":\"text\",\"text\":\"{}\"}}]}}", self.next);
                let (whole, payload) = self.payload(Part::Result, &body);
                let result = match (seal, number) {
                    (1, 1) => {
                        let salt = self.next.to_be_bytes();
                        let kept = Some(Kept::Redacted(Hash::of(&[&salt, b"\"[redacted]\""])));
                        (Commitment { kept, ..whole }, (Part::Result, Content::of(&salt, b"\"[redacted]\"")))
                    }
                    (2, 2) if self.erasing => (whole, self.erase(id, Part::Result)),
                    (3, 3) => {
                        let salt = self.next.to_be_bytes();
                        (Commitment::to(&salt, b"\xff\x00"), (Part::Result, Content::of(&salt, b"\xff\x00")))
                    }
                    _ => (whole, payload),
                };
                rows.push(self.completion(id, Some(result)));
            }
            if seal == 0 || seal == 4 {
                rows.extend(self.script(seal == 0));
            }
            if seal == 2 {
                rows.extend(self.forwarded());
            }
            rows.push(if seal == 5 { self.erasure(signer) } else { self.event() });
            seals.push(rows);
        }
        seals
    }
}

const CATALOG: &str = "{\"servers\":[]}";

impl World {
    pub fn new(tenant: u128) -> Self {
        Self::build(tenant, &Ways::default())
    }

    pub fn signed_by(tenant: u128, seed: &[u8; 32]) -> Self {
        Self::build(tenant, &Ways { seed: *seed, ..Ways::default() })
    }

    /// A bundle from one seal on.
    pub fn range(tenant: u128, from: u64) -> Self {
        Self::build(tenant, &Ways { from, ..Ways::default() })
    }

    pub fn build(tenant: u128, ways: &Ways) -> Self {
        let tenant = TenantId::from_uuid(Uuid::from_u128(tenant));
        let (at, from) = (beginning(), ways.from);
        let signer = Signer::from_seed(&ways.seed).unwrap();
        let mut maker = Maker { tenant, next: ways.first_id, at, erasing: ways.end == 6, erased: Vec::new() };
        let elsewhere = |n| Erased { row: Uuid::from_u128(u128::from(n)), part: Part::Arguments, sequence: 0 };
        maker.erased.extend((0..ways.also_erased).map(elsewhere));
        let mut rows = maker.rows(&signer);
        rows.truncate(ways.end);
        let mut nodes = Nodes::default();
        let mut seals: Vec<SignedSeal> = Vec::new();
        for rows in &rows {
            let leaves: Vec<Hash> = rows.iter().map(|(line, _)| line.leaf()).collect();
            let before = seals.last().map(|signed| &signed.seal);
            let mut seal = Seal {
                tenant_id: tenant,
                sequence: before.map_or(0, |s| s.sequence) + 1,
                first: before.map_or(0, Seal::end),
                count: u32::try_from(rows.len()).unwrap(),
                root: merkle::root(&leaves),
                previous: before.map_or(Hash::ZERO, Seal::hash),
                sealed_at: at,
                tree: Hash::ZERO,
                key_id: signer.public().key_id.clone(),
            };
            nodes.append(seal.sequence - 1, seal.leaf()).unwrap();
            seal.tree = nodes.root_of((0, seal.sequence)).unwrap();
            let signature = tollgate_evidence::hash::to_hex(&signer.sign(&seal.message()));
            seals.push(SignedSeal { seal, signature });
        }
        let chosen: Vec<usize> = (0..seals.len()).filter(|n| seals[*n].seal.sequence >= from).collect();
        let mut writer = Writer::new(&[signer.public().clone()], ways.made).unwrap();
        if !chosen.is_empty() && maker.erasing {
            writer.erasure(&prove(&rows, &seals, &nodes)).unwrap();
            maker.erased.iter().for_each(|item| writer.erased(item).unwrap());
        }
        let mut entries = 0;
        for (number, chunk) in chosen.chunks(2).enumerate() {
            let of_chunk: Vec<SignedSeal> = chunk.iter().map(|n| seals[*n].clone()).collect();
            let lines: Vec<&Row> = chunk.iter().flat_map(|n| &rows[*n]).collect();
            let leaves: Vec<Hash> = lines.iter().map(|(line, _)| line.leaf()).collect();
            let texts: Vec<Option<Vec<u8>>> = lines.iter().map(|(line, _)| Some(line.bytes())).collect();
            writer.chunk(&of_chunk, &leaves, &texts).unwrap();
            if number == 0 {
                let body = CATALOG.to_owned();
                writer.catalogs(&[CatalogLine { sha256: Hash::of(&[CATALOG.as_bytes()]), body }]).unwrap();
            }
            for (position, (_, payloads)) in (of_chunk[0].seal.first..).zip(lines) {
                for (part, content) in payloads {
                    writer.payload(position, *part, content.clone()).unwrap();
                }
            }
            entries += u64::try_from(leaves.len()).unwrap();
        }
        let last = chosen.last().map(|n| seals[*n].clone());
        let proof = last.map(|seal| ConsistencyProof { from: seal.clone(), to: seal, path: Vec::new() });
        let mut archive = writer.take();
        archive.extend(writer.finish(tenant, proof.as_ref(), &signer).unwrap());
        Self {
            tenant,
            signer,
            seals: ways.end as u64,
            entries,
            files: super::unpack(&archive),
            all_seals: seals,
            erased: maker.erased,
            erasure: erasure(tenant),
        }
    }
}

/// That the last row of the last seal, the erasure, stands in the log.
fn prove(rows: &[Vec<Row>], seals: &[SignedSeal], nodes: &Nodes) -> InclusionProof {
    let (rows, seal) = (rows.last().unwrap(), seals.last().unwrap().clone());
    let leaves: Vec<Hash> = rows.iter().map(|(line, _)| line.leaf()).collect();
    let (sequence, at) = (seal.seal.sequence, rows.len() - 1);
    InclusionProof {
        line: String::from_utf8(rows[at].0.bytes()).unwrap(),
        position: seal.seal.first + at as u64,
        path: merkle::inclusion(&leaves, at),
        seal_path: nodes.path(&merkle::inclusion_ranges(sequence - 1, sequence)).unwrap(),
        head: seal.clone(),
        seal,
    }
}

pub fn pack(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, &content[..]).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}
