//! The nouns and rules of Tollgate, pure: no I/O, no SQL, no HTTP, no clock of its own.

pub mod approval;
pub mod budget;
pub mod call;
pub mod clock;
pub mod ids;
pub mod json;
pub mod key;
pub mod llm;
pub mod llm_price;
pub mod money;
pub mod policy;
pub mod price;
pub mod rate;
pub mod redact;
pub mod role;
pub mod scope;
pub mod seal;
pub mod search;
pub mod tool;
pub mod vault;
pub mod zone;

pub use approval::ApprovalState;
pub use budget::Budget;
pub use call::{Decision, Durability, Origin, Outcome};
pub use clock::{Clock, SystemClock};
pub use ids::*;
pub use key::{Pepper, Secret, SecretKind};
pub use money::{Currency, Picos};
pub use redact::{Redacted, RedactionPattern, RedactionRules, Redactor, RuleError};
pub use role::{Action, Role};
pub use seal::{Sealer, Secrets};
pub use vault::{DataKey, DataKeyId, Unopened, Vault};
pub use zone::TimeZone;
