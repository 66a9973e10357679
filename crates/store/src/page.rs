//! Keyset pages: a page is what follows the last id of the page before it, never an offset.

use uuid::Uuid;

/// At most this many items a page.
pub const MAX_PAGE: u32 = 1000;

#[derive(Debug, Clone, Copy)]
pub struct PageRequest {
    /// 1 to [`MAX_PAGE`].
    pub limit: u32,
    /// The last id of the page before; ids sort by time.
    pub after: Option<Uuid>,
}

impl PageRequest {
    /// One more than asked for, so that the page knows whether another follows.
    #[must_use]
    pub const fn fetch(&self) -> i64 {
        self.limit as i64 + 1
    }

    /// Cut what [`Self::fetch`] brought to the page; `id` names the keyset column.
    #[must_use]
    pub fn cut<T>(&self, mut items: Vec<T>, id: impl Fn(&T) -> Uuid) -> Page<T> {
        let more = items.len() > self.limit as usize;
        items.truncate(self.limit as usize);
        let next = if more { items.last().map(id) } else { None };
        Page { items, next }
    }
}

#[derive(Debug, Clone)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Where the next page starts; `None` on the last.
    pub next: Option<Uuid>,
}
