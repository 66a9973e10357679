//! Postgres's binary COPY format.

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// 2000-01-01, from where Postgres counts.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

#[derive(Debug, Default)]
pub struct Rows(Vec<u8>);

impl Rows {
    pub fn header() -> Vec<u8> {
        let mut bytes = b"PGCOPY\n\xff\r\n\0".to_vec();
        bytes.extend_from_slice(&[0; 8]);
        bytes
    }

    pub fn trailer() -> Vec<u8> {
        (-1_i16).to_be_bytes().to_vec()
    }

    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Begin a row of this many fields.
    pub fn row(&mut self, fields: i16) {
        self.0.extend_from_slice(&fields.to_be_bytes());
    }

    pub fn bytes(&mut self, value: &[u8]) {
        // Bodies are a few hundred bytes.
        self.0.extend_from_slice(&i32::try_from(value.len()).unwrap_or(i32::MAX).to_be_bytes());
        self.0.extend_from_slice(value);
    }

    pub fn nulls(&mut self, count: usize) {
        (0..count).for_each(|_| self.0.extend_from_slice(&(-1_i32).to_be_bytes()));
    }

    fn or_null<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        match value {
            Some(value) => write(self, value),
            None => self.nulls(1),
        }
    }

    pub fn uuid(&mut self, value: impl Into<Option<Uuid>>) {
        self.or_null(value.into(), |rows, value| rows.bytes(value.as_bytes()));
    }

    pub fn text<'a>(&mut self, value: impl Into<Option<&'a str>>) {
        self.or_null(value.into(), |rows, value| rows.bytes(value.as_bytes()));
    }

    pub fn hash(&mut self, value: impl Into<Option<[u8; 32]>>) {
        self.or_null(value.into(), |rows, value| rows.bytes(&value));
    }

    pub fn small(&mut self, value: i16) {
        self.bytes(&value.to_be_bytes());
    }

    pub fn int(&mut self, value: impl Into<Option<i32>>) {
        self.or_null(value.into(), |rows, value| rows.bytes(&value.to_be_bytes()));
    }

    pub fn big(&mut self, value: impl Into<Option<i64>>) {
        self.or_null(value.into(), |rows, value| rows.bytes(&value.to_be_bytes()));
    }

    pub fn time(&mut self, value: DateTime<Utc>) {
        self.big(value.timestamp_micros() - EPOCH_MICROS);
    }
}
