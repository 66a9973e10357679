//! Output: Markdown on standard output, what is going on meanwhile on standard error.

use std::{fmt::Display, io::Write};

/// A Markdown table in the making.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(columns: &[&str]) -> Self {
        let rule = columns.iter().enumerate().map(|(n, _)| if n == 0 { "---".to_owned() } else { "---:".to_owned() });
        Self { rows: vec![columns.iter().map(|&column| column.to_owned()).collect(), rule.collect()] }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub fn print(&self) {
        for row in &self.rows {
            line(format_args!("| {} |", row.join(" | ")));
        }
        line("");
    }
}

/// A line of the report. A reader that has gone away is no failure of the measurement.
pub fn line(text: impl Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A line for whoever waits.
pub fn note(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "bench: {text}");
}

/// What the numbers were measured on.
pub fn machine(postgres: &str) {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let model =
        file("/proc/cpuinfo").lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ").map(|m| m.1.to_owned()));
    let memory =
        file("/proc/meminfo").lines().find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    let gib = memory.map_or(0, |kib: u64| kib >> 20);
    let build = if cfg!(debug_assertions) { "a development build: not for comparing" } else { "release build" };
    line(format_args!(
        "tollgate {} ({build}), Postgres {postgres}, Linux {}, {cores} cores ({}), {gib} GiB, load before {}\n",
        env!("CARGO_PKG_VERSION"),
        file("/proc/sys/kernel/osrelease").trim(),
        model.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        file("/proc/loadavg").split(' ').next().unwrap_or("?"),
    ));
}

/// With a comma at each thousand.
pub fn count(n: impl TryInto<u64>) -> String {
    let digits = n.try_into().unwrap_or(0).to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub fn mib(bytes: impl TryInto<u64>) -> String {
    count(bytes.try_into().unwrap_or(0) >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        let texts: Vec<_> = [0_u64, 7, 999, 1000, 1_234_567].map(count).into();
        assert_eq!(texts, ["0", "7", "999", "1,000", "1,234,567"]);
    }
}
