//! Search of tool calls: by what they say, and by what is rare among them.
//!
//! A *block* is a run of about a thousand calls of one tenant with a filter that says what none of them has. [`build`] makes
//! blocks off the path of a call, [`walk`] reads them: it goes through a window in its order, passes over the blocks that
//! cannot hold what is asked for, and reads the rows of all others and of what no block covers yet. What it finds is
//! decided on the rows alone, so a block that knows too little costs time and never an answer.

mod build;
pub(crate) mod walk;

pub use build::{Indexed, index_all, index_some};
