//! Cost reports, before anything is counted (they sum up the rows then) and after.

use std::{sync::Arc, time::Instant};

use anyhow::{Result, ensure};
use chrono::TimeDelta;
use sqlx::{Connection, PgConnection};
use tollgate_evidence::sign::{KeyRing, Signer};

use super::{
    Bench, at,
    load::Loaded,
    reads::{Answer, Question},
    seconds,
};
use crate::table::{Table, count, line, note};

/// A report from the rollups is to take this share of the time of one from the rows.
const TARGET: f64 = 0.01;

pub async fn run(bench: &Bench, loaded: &Loaded) -> Result<()> {
    line("## Cost reports\n");
    let questions = questions(bench);
    let before = ask(bench, &questions).await?;
    build(bench).await?;
    let after = ask(bench, &questions).await?;
    line(format_args!(
        "Of the largest tenant (70 % of {} calls), through the API, seconds; medians of {} runs behind a first one. Before anything is \
         counted a report sums up the rows.\n",
        count(loaded.calls),
        bench.rounds
    ));
    let mut table = Table::new(&["question", "items", "from rows", "from rollups", "max", "share"]);
    let mut shares = Vec::new();
    for ((question, before), after) in questions.iter().zip(&before).zip(&after) {
        ensure!(after.is_ok(), "{}: {}", question.name, after.status());
        ensure!(!before.is_ok() || before.items == after.items, "{}: {} and {} items", question.name, before.items, after.items);
        let share = after.p50().as_secs_f64() / before.p50().as_secs_f64();
        let slow = if before.is_ok() { seconds(before.p50()) } else { format!("more than {}", seconds(before.p50())) };
        shares.push((question.name.clone(), share));
        table.row(vec![
            question.name.clone(),
            count(after.items),
            slow,
            seconds(after.p50()),
            seconds(after.max()),
            format!("{:.2} %", share * 100.0),
        ]);
    }
    table.print();
    for (name, share) in shares {
        let verdict = if share <= TARGET { "met" } else { "NOT met" };
        line(format_args!("- {name}: {:.2} % of the rows' time, target {:.0} %: {verdict}", share * 100.0, TARGET * 100.0));
    }
    line("");
    Ok(())
}

fn questions(bench: &Bench) -> Vec<Question> {
    let days = |days| format!("from={}&to={}", at(bench.to - TimeDelta::days(days)), at(bench.to));
    let ask = |name: &str, query: String| Question { name: name.to_owned(), path: bench.path(&format!("reports/costs?{query}")) };
    vec![
        ask("everything, 30 days", days(30)),
        ask("per tool, 30 days", format!("group_by=tool&{}", days(30))),
        ask("by key and day, 30 days", format!("group_by=key,day&{}", days(30))),
        ask("by model and outcome, 30 days", format!("group_by=model,outcome&{}", days(30))),
        ask("the 20 dearest of tool and key, 30 days", format!("group_by=tool,key&top=20&{}", days(30))),
        ask("per tool, 30 days and those before", format!("group_by=tool&compare=previous&{}", days(30))),
        ask("per upstream and hour, 7 days", format!("group_by=upstream,hour&{}", days(7))),
        ask("per tool, 1 day", format!("group_by=tool&{}", days(1))),
        ask("per tool, 60 days", format!("group_by=tool&{}", days(60))),
    ]
}

async fn ask(bench: &Bench, questions: &[Question]) -> Result<Vec<Answer>> {
    let mut answers = Vec::with_capacity(questions.len());
    for question in questions {
        note(&question.name);
        answers.push(question.ask(bench).await?);
    }
    Ok(answers)
}

/// What workers do beside the calls, at their leisure.
async fn build(bench: &Bench) -> Result<()> {
    let keys = KeyRing::new(Signer::from_seed(&[0; 32])?, []);
    let store = tollgate_store::connect(&bench.database_url, 4, Arc::new(keys)).await?;
    let begun = Instant::now();
    for tenant in &bench.world.tenants {
        note(format_args!("counting {}", tenant.name));
        while tollgate_store::costs::rollup::build_some(&store, tenant.id.into()).await? {}
    }
    let took = begun.elapsed().as_secs_f64();
    let mut connection = PgConnection::connect(&bench.database_url).await?;
    sqlx::query("VACUUM (ANALYZE) cost_days, cost_quarters, cost_cells").execute(&mut connection).await?;
    let (rows, bytes): (i64, i64) = sqlx::query_as(
        "SELECT sum(c.reltuples)::bigint, sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c
         WHERE c.relname IN ('cost_days', 'cost_quarters', 'cost_cells')",
    )
    .fetch_one(&mut connection)
    .await?;
    line(format_args!("All rows were counted in {took:.0} s, into {} sums that take {} MiB.\n", count(rows), bytes >> 20));
    Ok(connection.close().await?)
}
