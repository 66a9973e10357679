//! What a tenant's scripts may take: what its admins have set, and never more than the installation's configuration says.

use std::time::Duration;

use tollgate_boot::config::ScriptLimits as Ceilings;
use tollgate_codemode::wire::Limits;
use tollgate_store::script_limits::ScriptLimits;

/// In force for one run.
#[derive(Debug, Clone, Copy)]
pub struct RunLimits {
    /// Of each step; they are stored with the run, since a replay needs the same.
    pub step: Limits,
    /// Of the whole run.
    pub wall: Duration,
    /// Of one answer to a model.
    pub answer_chars: usize,
}

impl RunLimits {
    #[must_use]
    pub fn of(ceilings: &Ceilings, own: &ScriptLimits) -> Self {
        let step = Limits {
            ticks: least(ceilings.ticks, own.ticks),
            heap_bytes: least(ceilings.heap_bytes, own.heap_bytes),
            log_bytes: least(ceilings.log_bytes, own.log_bytes),
            result_bytes: least(ceilings.result_bytes, own.result_bytes),
            source_bytes: ceilings.source_bytes,
            calls: least(ceilings.calls, own.calls),
            step_milliseconds: least(ceilings.step_milliseconds, own.step_milliseconds),
            ..Limits::default()
        };
        let answer_chars = match own.answer_chars {
            Some(_) => least(ceilings.result_bytes, own.answer_chars),
            None => ceilings.answer_chars,
        };
        Self { step, wall: Duration::from_secs(least(ceilings.wall_seconds, own.wall_seconds)), answer_chars }
    }
}

fn least<T: TryFrom<i64> + Ord + Copy>(ceiling: T, own: Option<i64>) -> T {
    own.and_then(|own| T::try_from(own).ok()).map_or(ceiling, |own| own.min(ceiling))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_sets_less_and_never_more() {
        let ceilings = Ceilings::default();
        let none = RunLimits::of(&ceilings, &ScriptLimits::default());
        assert_eq!((none.step.calls, none.wall.as_secs(), none.answer_chars), (200, 120, 25_000));
        let own = ScriptLimits {
            calls: Some(3),
            wall_seconds: Some(10_000),
            answer_chars: Some(100_000),
            heap_bytes: Some(i64::MAX),
            ..ScriptLimits::default()
        };
        let set = RunLimits::of(&ceilings, &own);
        assert_eq!((set.step.calls, set.wall.as_secs(), set.answer_chars), (3, 120, 100_000));
        assert_eq!(set.step.heap_bytes, ceilings.heap_bytes);
    }
}
