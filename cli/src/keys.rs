//! `tollgate secrets`: the keys of what rests sealed in the database, and the way from one to the next.

use std::{
    collections::BTreeMap,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use tollgate_boot::kms::{Kms, KmsCommand};
use tollgate_domain::{Clock, DataKeyId, SystemClock, TenantId, Vault, vault::SERVER};
use tollgate_store::{
    Store,
    secrets::{self, KINDS, Place},
};

use crate::{args, parts, progress::say};

/// Rows that could not be opened and are named one by one.
const NAMED: usize = 20;
/// Between two lines that say how far it has come.
const SPEAK: Duration = Duration::from_secs(2);

pub async fn run(args: args::Secrets) -> Result<ExitCode> {
    match args {
        args::Secrets::Rotate(args) => {
            let (store, vault) = open(&args).await?;
            let unopened = rotate(&store, &vault).await?;
            let complete = status(&store, &vault).await?;
            Ok(if unopened == 0 && complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        args::Secrets::Status(args) => {
            let (store, vault) = open(&args).await?;
            Ok(if status(&store, &vault).await? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        args::Secrets::MakeKey(args) => make_key(args).await.map(|()| ExitCode::SUCCESS),
    }
}

async fn open(args: &args::SecretsOf) -> Result<(Store, Vault)> {
    let config = args.config.load()?;
    let secrets = parts::all_secrets(args.secret.load()?, &config).await?;
    let keys = parts::key_ring(&config, &secrets)?;
    Ok((parts::connect(&args.database.require()?, 1, keys).await?, secrets.vault))
}

/// Only the key goes to standard output, so that it can be piped into a secret store.
async fn make_key(args: args::MakeKey) -> Result<()> {
    let mut key = [0; 32];
    aws_lc_rs::rand::fill(&mut key).ok().context("the system gives no randomness")?;
    let Some(name) = args.wrap else {
        say(BASE64.encode(key));
        return Ok(());
    };
    let config = args.config.load()?;
    let kms = KmsCommand::new(&config.secrets);
    let wrapped = kms.wrap(&name, &key).await.map_err(|why| anyhow!(why))?;
    // A key that cannot be unwrapped must not come into use.
    if kms.unwrap(&name, &wrapped).await.map_err(|why| anyhow!(why))? != key {
        bail!("secrets.kms_command unwraps another key than it has wrapped");
    }
    say(BASE64.encode(wrapped));
    Ok(())
}

/// Answers how many rows could not be opened.
async fn rotate(store: &Store, vault: &Vault) -> Result<usize> {
    let key = vault.current();
    say(format_args!("sealing under the key {} ({:?})", key.id(), key.name()));
    let tenants = secrets::tenants(store).await.context("cannot read the tenants")?;
    let (mut resealed, mut unopened, mut spoke) = (0, 0, Instant::now());
    for (at, tenant) in tenants.iter().enumerate() {
        for kind in &KINDS {
            let mut place: Option<Place> = None;
            loop {
                let round = secrets::rotate(store, vault, (*tenant, kind), place, SystemClock.now()).await;
                let round = round.with_context(|| format!("stopped at {tenant}; run it again to go on"))?;
                resealed += round.resealed;
                for ((id, more), why) in &round.unopened {
                    unopened += 1;
                    if unopened <= NAMED {
                        let place = format!("{id} {more}");
                        say(format_args!("{tenant}: {} {}: {why}", kind.name, place.trim_end()));
                    }
                }
                if spoke.elapsed() >= SPEAK {
                    spoke = Instant::now();
                    say(format_args!("{resealed} rows sealed anew, at tenant {} of {}", at + 1, tenants.len()));
                }
                place = round.next;
                if place.is_none() {
                    break;
                }
            }
        }
    }
    say(format_args!("{resealed} rows sealed anew, {unopened} could not be opened"));
    Ok(unopened)
}

/// Rows by the key that they are sealed under; false where that key is not here.
async fn status(store: &Store, vault: &Vault) -> Result<bool> {
    let mut rows: BTreeMap<(Option<DataKeyId>, &str), u64> = BTreeMap::new();
    for tenant in secrets::tenants(store).await.context("cannot read the tenants")? {
        count(store, tenant, &mut rows).await.with_context(|| format!("cannot count the rows of {tenant}"))?;
    }
    let of = |key: Option<DataKeyId>| -> Vec<(&str, u64)> {
        KINDS.iter().filter_map(|kind| Some((kind.name, *rows.get(&(key, kind.name))?))).collect()
    };
    let told = |rows: &[(&str, u64)]| {
        let parts: Vec<_> = rows.iter().map(|(kind, rows)| format!("{rows} {kind}")).collect();
        if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
    };
    let (current, mut older, mut idle) = (vault.current().id(), 0, Vec::new());
    for key in vault.keys() {
        let held = of(Some(key.id()));
        let seals = if key.id() == current { ", which seals" } else { "" };
        say(format_args!("{} {:?}{seals}: {}", key.id(), key.name(), told(&held)));
        if key.id() != current {
            older += held.iter().map(|(_, rows)| rows).sum::<u64>();
            if held.is_empty() && key.name() != SERVER {
                idle.push(format!("{:?}", key.name()));
            }
        }
    }
    let before = of(None);
    if !before.is_empty() {
        older += before.iter().map(|(_, rows)| rows).sum::<u64>();
        say(format_args!("{SERVER:?}, from before keys had names: {}", told(&before)));
    }
    let missing: Vec<_> = rows.keys().filter_map(|(key, _)| *key).filter(|key| vault.key(*key).is_none()).collect();
    for key in missing.iter().enumerate().filter(|(at, key)| !missing[..*at].contains(key)).map(|(_, key)| key) {
        say(format_args!(
            "{key}, WHICH IS NOT HERE: {}. List that key as a [[secrets.key]] behind the first",
            told(&of(Some(*key)))
        ));
    }
    if older > 0 {
        say(format_args!("{older} rows are under older keys: `tollgate secrets rotate` seals them anew"));
    } else if missing.is_empty() {
        say("every row is under the key that seals");
    }
    if !idle.is_empty() {
        say(format_args!("needed no more, once every process has {:?} first: {}", vault.current().name(), idle.join(", ")));
    }
    Ok(missing.is_empty())
}

async fn count(store: &Store, tenant: TenantId, rows: &mut BTreeMap<(Option<DataKeyId>, &'static str), u64>) -> Result<()> {
    for held in secrets::held(store, tenant).await? {
        *rows.entry((held.key, held.kind)).or_default() += held.rows;
    }
    Ok(())
}
