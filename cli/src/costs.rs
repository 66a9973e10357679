//! `tollgate costs check`: the sums that reports are made of, against the rows of the audit trail.

use std::process::ExitCode;

use anyhow::{Context, Result};
use chrono::DateTime;
use tollgate_domain::{Clock, SystemClock, money::decimal};
use tollgate_evidence::sign::{KeyRing, Signer};
use tollgate_store::costs::rollup;

use crate::{args::CostsCheck, parts, progress::say};

pub async fn check(args: CostsCheck) -> Result<ExitCode> {
    let keys = if args.repair {
        parts::key_ring(&args.config.load()?, &parts::secrets(args.secret.load()?))?
    } else {
        // It writes nothing, and so signs nothing.
        KeyRing::new(Signer::from_seed(&[0; 32])?, [])
    };
    let store = parts::connect(&args.database.require()?, 1, keys).await?;
    let (mut stretches, mut differ) = (0_u64, 0_u64);
    for tenant in rollup::tenants(&store).await.context("cannot read the tenants")? {
        let mut since = DateTime::UNIX_EPOCH;
        while let Some(checked) = rollup::check(&store, tenant, since).await.context("cannot compare")? {
            (stretches, since) = (stretches + 1, checked.to);
            let Some(drift) = &checked.drift else { continue };
            differ += 1;
            let (sums, calls, amount) = (drift.sums, drift.calls, decimal(drift.amount));
            let (requests, llm_amount) = (drift.llm_requests, decimal(drift.llm_amount));
            say(format_args!(
                "{tenant} {} to {}: {sums} sums differ, by {calls} calls and {amount}, {requests} LLM requests and {llm_amount}",
                checked.from, checked.to
            ));
            if args.repair {
                rollup::repair(&store, &checked, SystemClock.now()).await.context("cannot repair")?;
            }
        }
    }
    let uncounted = rollup::uncounted(&store).await?.len();
    if uncounted > 0 {
        say(format_args!("{uncounted} tenants are not counted yet in whole: reports read their rows, and a worker counts them"));
    }
    say(match (differ, args.repair) {
        (0, _) => format!("the sums are what the rows say ({stretches} stretches of a day at most)"),
        (_, true) => format!("{differ} of {stretches} stretches differed and were made anew"),
        (_, false) => format!("{differ} of {stretches} stretches differ; --repair makes them anew from the rows"),
    });
    Ok(if differ == 0 || args.repair { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
