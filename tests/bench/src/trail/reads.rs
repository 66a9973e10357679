//! How long people wait for a report or for a search.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use chrono::TimeDelta;
use reqwest::StatusCode;
use serde_json::Value;
use tollgate_domain::{Clock, SystemClock};
use tollgate_evidence::sign::{KeyRing, Signer};

use super::{Bench, at, load::Loaded, rows::RAREST, seconds};
use crate::{
    load::median,
    table::{Table, count, line, note},
    words::ABSENT,
};

/// Pages that are turned before the deep one.
const DEEP: usize = 20;
/// What takes long is asked less often: after this much time, one question has had enough.
const ENOUGH: Duration = Duration::from_secs(30);
/// A search by text looks through this much of the past.
const SEARCH_DAYS: i64 = 30;

/// One question, asked several times.
pub struct Question {
    pub name: String,
    pub path: String,
}

/// What came back, and how long each time took.
pub struct Answer {
    status: StatusCode,
    /// Lines of a report or of a page.
    pub items: usize,
    /// What the API said of itself where it refused.
    detail: String,
    times: Vec<Duration>,
}

pub async fn run(bench: &Bench, loaded: &Loaded) -> Result<()> {
    line("## Searches\n");
    index(bench).await?;
    line(format_args!(
        "Of the largest tenant (70 % of {} calls), through the API, seconds; the first run and {} more, which find in memory what \
         fits.\n",
        count(loaded.calls),
        bench.rounds
    ));
    let mut table = Table::new(&["question", "answer", "items", "first", "p50", "max"]);
    for question in questions(bench, loaded) {
        note(&question.name);
        let answer = question.ask(bench).await?;
        table.row(answer.cells(question.name));
    }
    let (name, answer) = deep_page(bench).await?;
    table.row(answer.cells(name));
    table.print();
    Ok(())
}

/// Searches stand on an index that a worker fills beside the calls. Here nobody has done that yet.
async fn index(bench: &Bench) -> Result<()> {
    let keys = KeyRing::new(Signer::from_seed(&[0; 32])?, []);
    let store = tollgate_store::connect(&bench.database_url, 4, Arc::new(keys)).await?;
    let (begun, mut blocks) = (Instant::now(), 0);
    for tenant in &bench.world.tenants {
        note(format_args!("indexing {}", tenant.name));
        blocks += tollgate_store::search::index_all(&store, tenant.id.into(), SystemClock.now()).await?;
    }
    let took = begun.elapsed().as_secs_f64();
    line(format_args!(
        "The index over all calls: {blocks} blocks of about 1,024 calls in {took:.0} s, one tenant after the other.\n"
    ));
    Ok(())
}

fn questions(bench: &Bench, loaded: &Loaded) -> Vec<Question> {
    let tenant = bench.world.largest();
    let (busy_key, quiet_key) = (&tenant.keys[0].name, &tenant.keys[tenant.keys.len() - 1].name);
    let all = format!("from={}&to={}", at(bench.from), at(bench.to));
    let search = format!("from={}&to={}", at(bench.to - TimeDelta::days(SEARCH_DAYS)), at(bench.to));
    let ask = |name: &str, path: String| Question { name: name.to_owned(), path: bench.path(&path) };
    vec![
        ask("newest calls", "tool-calls?limit=50".to_owned()),
        ask("rare outcome, 60 days", format!("tool-calls?limit=50&outcome={RAREST}&{all}")),
        ask("a busy key, 60 days", format!("tool-calls?limit=50&key_id={busy_key}&{all}")),
        ask("a quiet key, 60 days", format!("tool-calls?limit=50&key_id={quiet_key}&{all}")),
        ask("text: a common word", format!("tool-calls?limit=50&q={}&{search}", loaded.common)),
        ask("text: a rare word", format!("tool-calls?limit=50&q={}&{search}", loaded.rare)),
        ask("text: an order number that one call has", format!("tool-calls?limit=50&q={}&{all}", loaded.needle)),
        ask("text: a word that is nowhere", format!("tool-calls?limit=50&q={ABSENT}&{search}")),
    ]
}

impl Question {
    pub async fn ask(&self, bench: &Bench) -> Result<Answer> {
        let (mut times, mut last) = (Vec::new(), (StatusCode::OK, Value::Null));
        for _ in 0..=bench.rounds {
            let begun = Instant::now();
            last = bench.admin.try_get(&self.path).await?;
            times.push(begun.elapsed());
            if !last.0.is_success() || times.iter().sum::<Duration>() > ENOUGH {
                break;
            }
        }
        Ok(Answer::new(last, times))
    }
}

/// The page behind many others, of the calls of a busy key.
async fn deep_page(bench: &Bench) -> Result<(String, Answer)> {
    let key = &bench.world.largest().keys[0].name;
    let path = bench.path(&format!("tool-calls?limit=1000&key_id={key}"));
    let (mut page, mut pages) = (path.clone(), 0);
    let mut next = page.clone();
    while pages < DEEP {
        page = next;
        let found = bench.admin.get(&page).await?;
        pages += 1;
        let Some(token) = found["next_page"].as_str() else { break };
        next = format!("{path}&page_token={token}");
    }
    let name = format!("page {pages} of a busy key, 1,000 calls a page");
    let answer = Question { name: name.clone(), path: page }.ask(bench).await?;
    ensure!(answer.status.is_success(), "{name}: {} {}", answer.status, answer.detail);
    Ok((name, answer))
}

impl Answer {
    fn new((status, body): (StatusCode, Value), times: Vec<Duration>) -> Self {
        let detail = ["detail", "title"].iter().find_map(|field| body[field].as_str()).unwrap_or_default();
        let errors = body["errors"][0]["message"].as_str().map(|message| format!(": {message}")).unwrap_or_default();
        Self { status, items: body["items"].as_array().map_or(0, Vec::len), detail: format!("{detail}{errors}"), times }
    }

    pub fn is_ok(&self) -> bool {
        self.status.is_success()
    }

    /// What the API said of itself where it refused.
    pub fn status(&self) -> String {
        format!("{}: {}", self.status.as_u16(), self.detail)
    }

    /// Of the runs behind the first, or of that where there is no other.
    pub fn p50(&self) -> Duration {
        Duration::from_secs_f64(median(self.later().iter().map(Duration::as_secs_f64)))
    }

    pub fn max(&self) -> Duration {
        self.later().iter().max().copied().unwrap_or_default()
    }

    fn later(&self) -> &[Duration] {
        self.times.get(1..).filter(|later| !later.is_empty()).unwrap_or(&self.times)
    }

    fn cells(&self, name: String) -> Vec<String> {
        let status =
            if self.status.is_success() { "ok".to_owned() } else { format!("{}: {}", self.status.as_u16(), self.detail) };
        let (first, rest) = self.times.split_first().map_or((Duration::ZERO, &[][..]), |(first, rest)| (*first, rest));
        let p50 = Duration::from_secs_f64(median(rest.iter().map(Duration::as_secs_f64)));
        let mut cells = vec![name, status.replace('|', "/"), count(self.items), seconds(first)];
        if rest.is_empty() {
            cells.extend([String::new(), String::new()]);
        } else {
            cells.extend([seconds(p50), seconds(rest.iter().max().copied().unwrap_or_default())]);
        }
        cells
    }
}
