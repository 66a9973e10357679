//! Recorded scripts, run again: the sandbox gets source, catalogue, journal and limits, and must come to the same end.

use std::{
    io::{BufReader, BufWriter},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tollgate_codemode::wire::{GATEWAY_PREFIX, JournalEntry, Language, Outcome, Step, StepReply, read_frame, write_frame};
use tollgate_evidence::bundle::{Replay, RunRecord};

pub struct Sandbox {
    program: PathBuf,
    /// One for each language.
    engines: Vec<String>,
    child: Option<Child>,
}

impl Sandbox {
    /// # Errors
    /// When the sandbox cannot be started.
    pub fn new(program: PathBuf) -> Result<Self> {
        let version = Command::new(&program).arg("--version").env_clear().output();
        let version = version.with_context(|| format!("cannot start the sandbox {}", program.display()))?;
        let engines = String::from_utf8_lossy(&version.stdout).lines().map(|line| line.trim().to_owned()).collect();
        Ok(Self { engines, program, child: None })
    }

    fn step(&mut self, step: &Step) -> Result<StepReply> {
        let mut child = match self.child.take() {
            Some(child) => child,
            None => Command::new(&self.program)
                .env_clear()
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()?,
        };
        let to = child.stdin.as_mut().context("the sandbox has no input")?;
        let from = child.stdout.as_mut().context("the sandbox has no output")?;
        let reply = write_frame(&mut BufWriter::new(to), step).and_then(|()| read_frame(&mut BufReader::new(from)));
        match reply {
            Ok(Some(reply)) => {
                self.child = Some(child);
                Ok(reply)
            }
            broken => {
                let _ = child.kill();
                let _ = child.wait();
                broken?.context("the sandbox ended while the script ran")
            }
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Replay for Sandbox {
    fn replay(&mut self, run: &RunRecord) -> Result<(), String> {
        let step = step(run).map_err(|e| format!("its record cannot be read: {e:#}"))?;
        let reply = self.step(&step).map_err(|e| format!("it cannot be run again: {e:#}"))?;
        compare(run, &reply).map_err(|difference| {
            if self.engines.contains(&run.engine) {
                difference
            } else {
                format!(
                    "{difference} (it ran under {}, and this is {}: use the tollgate that recorded it)",
                    run.engine,
                    self.engines.join(" and ")
                )
            }
        })
    }
}

fn step(run: &RunRecord) -> Result<Step> {
    let journal: Vec<JournalEntry> = run.journal.values().map(|entry| serde_json::from_str(entry)).collect::<Result<_, _>>()?;
    // What no call stands behind can only be what the gateway answers by itself.
    for entry in &journal {
        let without = i32::try_from(entry.sequence).is_ok_and(|sequence| run.without_call.contains(&sequence));
        if without != entry.tool_id.starts_with(GATEWAY_PREFIX) {
            bail!("what it was answered at {} under {} does not go with a call", entry.sequence, entry.tool_id);
        }
    }
    Ok(Step {
        language: Language::of_engine(&run.engine),
        source: run.source.clone().unwrap_or_default(),
        catalog: serde_json::from_str(run.catalog.as_deref().unwrap_or("{}"))?,
        journal,
        limits: serde_json::from_str(&run.limits)?,
    })
}

fn value(text: Option<&String>) -> Value {
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null)
}

fn compare(run: &RunRecord, reply: &StepReply) -> Result<(), String> {
    let logs = Value::from(reply.logs.clone());
    let ticks = i64::try_from(reply.ticks).ok();
    let (state, result, error) = match &reply.outcome {
        Outcome::Done { result } => ("done", result.clone(), Value::Null),
        Outcome::Failed { error } => ("failed", Value::Null, serde_json::to_value(error).unwrap_or_default()),
        // It waits for a call that was never made: the run was stopped from outside (cancelled, out of time, its key ended).
        Outcome::Need { .. } if run.state == "failed" => ("failed", Value::Null, value(run.error.as_ref())),
        Outcome::Need { .. } => return Err("it asks for a call that its journal does not hold".to_owned()),
    };
    // Stopped before its first step was over: there is nothing to compare with.
    if run.ticks == Some(0) && run.state == "failed" {
        return Ok(());
    }
    let same = [
        ("state", Value::from(state), Value::from(run.state.clone())),
        ("result", result, value(run.result.as_ref())),
        ("error", error, value(run.error.as_ref())),
        ("logs", logs, value(run.logs.as_ref())),
        ("ticks", Value::from(ticks), Value::from(run.ticks)),
    ];
    match same.into_iter().find(|(_, again, recorded)| again != recorded) {
        None => Ok(()),
        Some((what, again, recorded)) => Err(format!("its {what} is {}, and {} was recorded", clip(&again), clip(&recorded))),
    }
}

fn clip(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 120 { text } else { text.chars().take(120).chain("...".chars()).collect() }
}
