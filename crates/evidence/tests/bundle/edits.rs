//! 10,000 single edits, chosen at random: each is found, and the place that is named is the place that was edited.

use std::ops::RangeInclusive;

use tollgate_evidence::bundle::Problem;

use super::{
    check,
    world::{Files, World, pack},
};

const EDITS: u64 = 10_000;

/// The same numbers in every run (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }
}

/// What was done, and where it has to be found.
struct Edit {
    files: Files,
    what: String,
    file: String,
    /// From 1, where the file has lines.
    lines: Option<RangeInclusive<usize>>,
}

fn split(content: &[u8]) -> Vec<Vec<u8>> {
    content.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect()
}

fn has_lines(name: &str) -> bool {
    name.starts_with("chunks/")
}

impl Edit {
    /// `None` where the dice have changed nothing.
    fn roll(dice: &mut Dice, own: &World, other: &World) -> Option<Self> {
        let mut files = own.files.clone();
        let at = dice.roll(files.len());
        let name = files[at].0.clone();
        let kind = dice.roll(9);
        let mut edit = |what: String, lines, content: Vec<u8>| {
            let changed = content != files[at].1;
            files[at].1 = content;
            let files = files.clone();
            changed.then_some(Self { files, what, file: name.clone(), lines })
        };
        let content = own.files[at].1.clone();
        let lines = split(&content);
        match kind {
            0 | 1 => {
                let byte = dice.roll(content.len());
                let line = content[..byte].iter().filter(|b| **b == b'\n').count() + 1;
                let mut new = content.clone();
                new[byte] ^= 1 << dice.roll(8);
                // A line break that comes or goes shifts the lines behind it.
                edit(format!("bit in byte {byte}"), Some(line..=line + 1), new)
            }
            2 => {
                let line = dice.roll(lines.len());
                let rest = [&lines[..line], &lines[line + 1..]].concat().concat();
                edit(format!("line {} deleted", line + 1), Some(line + 1..=line + 1), rest)
            }
            3 => {
                let (a, b) = (dice.roll(lines.len()), dice.roll(lines.len()));
                let mut new = lines.clone();
                new.swap(a, b);
                // Of the first two seals, only the second shows that they were swapped.
                edit(format!("lines {} and {} swapped", a + 1, b + 1), Some(a.min(b) + 1..=a.min(b) + 2), new.concat())
            }
            4 => {
                let end = dice.roll(content.len());
                let line = content[..end].iter().filter(|b| **b == b'\n').count() + 1;
                edit(format!("truncated to {end} bytes"), Some(line..=line + 1), content[..end].to_vec())
            }
            5 => {
                let (from, to) = (dice.roll(lines.len()), dice.roll(lines.len() + 1));
                let mut new = lines.clone();
                new.insert(to, lines[from].clone());
                edit(format!("line {} inserted as line {}", from + 1, to + 1), Some(to + 1..=to + 2), new.concat())
            }
            6 => {
                // The same place in the other tenant's bundle.
                let strange = split(&other.files.iter().find(|(n, _)| *n == name)?.1);
                let line = dice.roll(lines.len().min(strange.len()));
                let mut new = lines.clone();
                new[line].clone_from(&strange[line]);
                // A first seal is nobody's until the second is another's.
                edit(format!("line {} from the other tenant", line + 1), Some(line + 1..=line + 2), new.concat())
            }
            7 => {
                let (_, removed) = files.remove(at);
                (!removed.is_empty()).then_some(Self { files, what: "file deleted".to_owned(), file: name, lines: None })
            }
            _ => {
                let strange = other.files.iter().find(|(n, _)| *n == name)?.1.clone();
                edit("file from the other tenant".to_owned(), None, strange)
            }
        }
    }

    fn must_be_found(&self) -> Result<Problem, String> {
        let report = check(&pack(&self.files));
        let described = || {
            let found: Vec<String> = report.findings.iter().map(|f| format!("{:?} {f}", f.problem)).take(3).collect();
            format!("{} in {}: {found:?}", self.what, self.file)
        };
        let Some(first) = report.findings.first() else { return Err(format!("not found: {}", described())) };
        // The signature is the manifest's.
        let name = if self.file == "manifest.sig" { "manifest.json" } else { &self.file };
        let in_file = |file: &str| file == name || (file.ends_with("/payloads") && name.starts_with(file));
        if !report.findings.iter().any(|f| in_file(&f.file)) {
            return Err(format!("the file is not named: {}", described()));
        }
        if let (Some(lines), true) = (&self.lines, has_lines(name)) {
            let exact = in_file(&first.file)
                && first.line.is_none_or(|line| lines.contains(&line) || first.problem == Problem::Truncated);
            if !exact {
                return Err(format!("lines {lines:?} expected: {}", described()));
            }
        }
        Ok(first.problem)
    }
}

#[test]
fn t55_ten_thousand_single_edits_are_each_found_and_located() {
    let (own, other) = (World::new(1), World::new(2));
    let threads: Vec<_> = (0..2u64)
        .map(|thread| {
            let (own, other) = (World::new(1), World::new(2));
            std::thread::spawn(move || {
                let mut dice = Dice(0x9E37_79B9_7F4A_7C15 ^ (thread + 1));
                let (mut done, mut problems, mut failures) = (0, std::collections::HashMap::new(), Vec::new());
                while done < EDITS / 2 {
                    let Some(edit) = Edit::roll(&mut dice, &own, &other) else { continue };
                    match edit.must_be_found() {
                        Ok(problem) => *problems.entry(problem).or_insert(0) += 1,
                        Err(text) => failures.push(text),
                    }
                    done += 1;
                }
                (problems, failures)
            })
        })
        .collect();
    drop((own, other));
    let mut all = std::collections::HashMap::new();
    let mut failures = Vec::new();
    for thread in threads {
        let (problems, missed) = thread.join().unwrap();
        problems.into_iter().for_each(|(problem, n)| *all.entry(problem).or_insert(0) += n);
        failures.extend(missed);
    }
    assert!(failures.is_empty(), "{} of {EDITS} edits:\n{}", failures.len(), failures[..failures.len().min(8)].join("\n"));
    // Each kind of edit is told from the others.
    for problem in [
        Problem::Edited,
        Problem::Removed,
        Problem::Added,
        Problem::Reordered,
        Problem::Truncated,
        Problem::Foreign,
        Problem::Signature,
    ] {
        assert!(all.get(&problem).is_some_and(|n| *n > 20), "{problem:?}: {all:?}");
    }
}
