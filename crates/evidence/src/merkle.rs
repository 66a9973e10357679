//! Merkle trees after RFC 6962 (section 2.1): a leaf hashes with 0x00 in front, a node with 0x01, and a tree of *n* leaves splits at
//! the largest power of two below *n*.
//!
//! The tree over a segment's lines is small and computed at once ([`root`], [`inclusion`]). The tree over a tenant's seals grows for
//! years: its complete subtrees are kept as [`Node`]s, from which every root and proof is made with a handful of reads.

use std::collections::HashMap;

use crate::Hash;

/// The hash of a leaf's bytes.
#[must_use]
pub fn leaf(bytes: &[u8]) -> Hash {
    Hash::of(&[&[0], bytes])
}

fn node(left: &Hash, right: &Hash) -> Hash {
    Hash::of(&[&[1], &left.0, &right.0])
}

/// The root over leaf hashes; of none, the hash of nothing.
#[must_use]
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Hash::of(&[]),
        [one] => *one,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node(&root(left), &root(right))
        }
    }
}

/// The largest power of two below `n`, for `n` of 2 and more.
const fn split(n: usize) -> usize {
    1 << (usize::BITS - 1 - (n - 1).leading_zeros())
}

/// The sibling hashes from leaf `index` up to the root over `leaves`.
#[must_use]
pub fn inclusion(leaves: &[Hash], index: usize) -> Vec<Hash> {
    if leaves.len() < 2 || index >= leaves.len() {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    let (mut path, sibling) = if index < left.len() {
        (inclusion(left, index), root(right))
    } else {
        (inclusion(right, index - left.len()), root(left))
    };
    path.push(sibling);
    path
}

/// The root that `leaf` at `index` of a tree of `size` leaves leads to by `path`; `None` when the path has another length than
/// such a tree gives it.
#[must_use]
pub fn climb(leaf: Hash, index: u64, size: u64, path: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    let (mut at, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in path {
        if last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            hash = node(sibling, &hash);
            // A right edge without a sibling on its level moves up as it is.
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

/// Whether a tree of `old_size` leaves with `old_root` is the beginning of one of `new_size` with `new_root`.
#[must_use]
pub fn is_consistent(old_size: u64, old_root: Hash, new_size: u64, new_root: Hash, path: &[Hash]) -> bool {
    if old_size == 0 || old_size > new_size {
        return false;
    }
    if old_size == new_size {
        return path.is_empty() && old_root == new_root;
    }
    let (mut at, mut last) = (old_size - 1, new_size - 1);
    while at & 1 == 1 {
        at >>= 1;
        last >>= 1;
    }
    let mut rest = path.iter();
    // A complete old tree is a node of the new one and not sent again.
    let first = if at == 0 { Some(&old_root) } else { rest.next() };
    let Some(&first) = first else { return false };
    let (mut old, mut new) = (first, first);
    for sibling in rest {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            old = node(sibling, &old);
            new = node(sibling, &new);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            new = node(&new, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && old == old_root && new == new_root
}

/// The root over leaves that come one by one and are not kept: of each complete subtree only its hash is.
#[derive(Debug, Clone, Default)]
pub struct Growing {
    count: u64,
    /// From the largest to the smallest.
    subtrees: Vec<Hash>,
}

impl Growing {
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        for _ in 0..self.count.trailing_ones() {
            if let Some(left) = self.subtrees.pop() {
                hash = node(&left, &hash);
            }
        }
        self.subtrees.push(hash);
        self.count += 1;
    }

    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    #[must_use]
    pub fn root(&self) -> Hash {
        let right = self.subtrees.iter().rev().copied();
        right.reduce(|hash, left| node(&left, &hash)).unwrap_or_else(|| root(&[]))
    }
}

/// A complete subtree: `2^level` leaves from leaf `index * 2^level` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node {
    pub level: u8,
    pub index: u64,
}

/// Leaves `from` to `to - 1`.
type Range = (u64, u64);

/// The complete subtrees of a growing tree, as far as they have been read.
#[derive(Debug, Clone, Default)]
pub struct Nodes(pub HashMap<Node, Hash>);

impl Nodes {
    /// Append leaf number `index`; the nodes that this completes, the leaf first. The nodes of [`edge`] must be known.
    #[must_use]
    pub fn append(&mut self, index: u64, leaf: Hash) -> Option<Vec<(Node, Hash)>> {
        let mut at = Node { level: 0, index };
        let mut hash = leaf;
        let mut made = vec![(at, hash)];
        while at.index & 1 == 1 {
            let left = self.0.get(&Node { level: at.level, index: at.index - 1 })?;
            hash = node(left, &hash);
            at = Node { level: at.level + 1, index: at.index >> 1 };
            made.push((at, hash));
        }
        self.0.extend(made.iter().copied());
        Some(made)
    }

    /// The root of the tree over a range; `None` when a node is not known.
    #[must_use]
    pub fn root_of(&self, (from, to): Range) -> Option<Hash> {
        let mut nodes = cover((from, to)).into_iter().rev();
        let mut hash = *self.0.get(&nodes.next()?)?;
        for left in nodes {
            hash = node(self.0.get(&left)?, &hash);
        }
        Some(hash)
    }

    /// The path of a proof that names `ranges`.
    #[must_use]
    pub fn path(&self, ranges: &[Range]) -> Option<Vec<Hash>> {
        ranges.iter().map(|range| self.root_of(*range)).collect()
    }
}

/// The complete subtrees that make up a range which is itself a subtree of an RFC 6962 tree, from left to right.
#[must_use]
pub fn cover((from, to): Range) -> Vec<Node> {
    let (mut at, mut nodes) = (from, Vec::new());
    while at < to {
        let fits = (to - at).ilog2();
        let level = if at == 0 { fits } else { fits.min(at.trailing_zeros()) };
        nodes.push(Node { level: u8::try_from(level).unwrap_or(63), index: at >> level });
        at += 1 << level;
    }
    nodes
}

/// The nodes that a tree of `size` leaves needs in order to grow and to know its root.
#[must_use]
pub fn edge(size: u64) -> Vec<Node> {
    cover((0, size))
}

/// The ranges whose roots prove leaf `index` of a tree of `size` leaves, from the leaf up.
#[must_use]
pub fn inclusion_ranges(index: u64, size: u64) -> Vec<Range> {
    let (mut from, mut to, mut ranges) = (0, size, Vec::new());
    while to - from > 1 && index < size {
        let middle = from + split64(to - from);
        if index < middle {
            ranges.push((middle, to));
            to = middle;
        } else {
            ranges.push((from, middle));
            from = middle;
        }
    }
    ranges.reverse();
    ranges
}

/// The ranges whose roots prove that a tree of `old` leaves is the beginning of one of `new`.
#[must_use]
pub fn consistency_ranges(old: u64, new: u64) -> Vec<Range> {
    let (mut from, mut to, mut whole, mut ranges) = (0, new, true, Vec::new());
    while old != to && old > 0 && old < new {
        let middle = from + split64(to - from);
        if old <= middle {
            ranges.push((middle, to));
            to = middle;
        } else {
            ranges.push((from, middle));
            from = middle;
            whole = false;
        }
    }
    if !whole {
        ranges.push((from, to));
    }
    ranges.reverse();
    ranges
}

const fn split64(n: u64) -> u64 {
    1 << (u64::BITS - 1 - (n - 1).leading_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn leaves(n: u64) -> Vec<Hash> {
        (0..n).map(|i| leaf(&i.to_be_bytes())).collect()
    }

    fn nodes(n: u64) -> Nodes {
        let mut nodes = Nodes::default();
        for (i, hash) in (0..).zip(leaves(n)) {
            nodes.append(i, hash).unwrap();
        }
        nodes
    }

    /// The test vectors of RFC 6962 as Certificate Transparency's reference implementation has them.
    #[test]
    fn the_roots_of_the_reference_vectors() {
        let inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
        let leaves: Vec<Hash> = inputs.iter().map(|hex| leaf(&crate::hash::from_hex(hex).unwrap())).collect();
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        for (n, expected) in (1..).zip(roots) {
            assert_eq!(root(&leaves[..n]).to_string(), expected, "{n} leaves");
        }
    }

    #[test]
    fn a_root_grows_without_its_leaves() {
        let mut growing = Growing::default();
        assert_eq!(growing.root(), root(&[]));
        for (n, leaf) in (1..).zip(leaves(70)) {
            growing.push(leaf);
            assert_eq!((growing.count(), growing.root()), (n, root(&leaves(n))), "{n} leaves");
        }
    }

    #[test]
    fn kept_nodes_give_the_same_roots_and_proofs_as_all_leaves() {
        for size in 1..70u64 {
            let (all, kept) = (leaves(size), nodes(size));
            let whole = root(&all);
            assert_eq!(kept.root_of((0, size)), Some(whole));
            for index in 0..size {
                let path = kept.path(&inclusion_ranges(index, size)).unwrap();
                let at = usize::try_from(index).unwrap();
                assert_eq!(path, inclusion(&all, at), "{index} of {size}");
                assert_eq!(climb(all[at], index, size, &path), Some(whole), "{index} of {size}");
            }
            for old in 1..=size {
                let path = kept.path(&consistency_ranges(old, size)).unwrap();
                let before = root(&all[..usize::try_from(old).unwrap()]);
                assert!(is_consistent(old, before, size, whole, &path), "{old} of {size}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_other_leaf_place_or_path_climbs_to_the_root(size in 1..200u64, index in 0..200u64, flip in 0..40usize, bit in 0..256usize) {
            let index = index % size;
            let all = leaves(size);
            let whole = root(&all);
            let path = inclusion(&all, usize::try_from(index).unwrap());
            let mine = all[usize::try_from(index).unwrap()];
            prop_assert_ne!(climb(leaf(b"another"), index, size, &path), Some(whole));
            for other in (0..size).filter(|other| *other != index) {
                prop_assert_ne!(climb(mine, other, size, &path), Some(whole), "at {}", other);
            }
            if !path.is_empty() {
                let mut forged = path.clone();
                forged[flip % path.len()].0[bit / 8] ^= 1 << (bit % 8);
                prop_assert_ne!(climb(mine, index, size, &forged), Some(whole));
                prop_assert_eq!(climb(mine, index, size, &path[1..]), None);
            }
        }

        #[test]
        fn another_history_is_not_consistent(old in 1..100u64, more in 1..100u64, at in 0..100u64) {
            let (all, kept) = (leaves(old + more), nodes(old + more));
            let path = kept.path(&consistency_ranges(old, old + more)).unwrap();
            let mut before = all[..usize::try_from(old).unwrap()].to_vec();
            before[usize::try_from(at % old).unwrap()] = leaf(b"rewritten");
            prop_assert!(!is_consistent(old, root(&before), old + more, root(&all), &path));
        }
    }
}
