//! The tools, one file per noun.

pub mod customers;
pub mod discounts;
pub mod inventory;
pub mod mail;
pub mod orders;

use schemars::JsonSchema;
use serde::Deserialize;

const LIMIT_MAX: u32 = 100;

/// How many to show at most.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct Limit(#[schemars(range(min = 1, max = 100))] u32);

impl Default for Limit {
    fn default() -> Self {
        Self(20)
    }
}

impl serde::Serialize for Limit {
    /// Only to show the default in the schema.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.0)
    }
}

/// A page of `all`, and how many there are.
fn page<T>(all: Vec<T>, limit: Limit, offset: u32) -> Result<(Vec<T>, usize), String> {
    if limit.0 == 0 || limit.0 > LIMIT_MAX {
        return Err(format!("limit must be between 1 and {LIMIT_MAX}, not {}", limit.0));
    }
    let total = all.len();
    Ok((all.into_iter().skip(offset as usize).take(limit.0 as usize).collect(), total))
}
