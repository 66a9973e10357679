//! The advisory locks, so that no two things share a number. The first three are taken by functions of the migrations, which spell them.

/// Whoever makes or drops partitions.
pub(crate) const PARTITIONS: i64 = 7_420_001;
// 7_420_002, in `tollgate_admin_chain`: the chain of admin changes, from its end to the commit that extends it.
/// One sealer in all: seals are chained.
pub(crate) const SEALER: i64 = 7_420_003;
/// One indexer of calls in all.
pub(crate) const INDEXER: i64 = 7_420_004;
/// One checker of the rollups in all.
pub(crate) const CHECKER: i64 = 7_420_005;
