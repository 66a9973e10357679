//! The memory of one QuickJS runtime: counted by the sizes that were asked for, so that two replays run out of it at the same
//! place.

// The trait is unsafe to implement; every request is passed on as it came.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::rc::Rc;

use rquickjs::allocator::{Allocator, RustAllocator};

#[derive(Debug, Default)]
pub struct Usage {
    used: Cell<usize>,
    limit: Cell<usize>,
    over: Cell<bool>,
}

impl Usage {
    pub fn new(limit: usize) -> Rc<Self> {
        Rc::new(Self { used: Cell::new(0), limit: Cell::new(limit), over: Cell::new(false) })
    }

    /// Whether a request was refused. The script may have caught that; it ends all the same.
    pub fn is_over(&self) -> bool {
        self.over.get()
    }

    fn take(&self, more: usize) -> bool {
        let fits = self.used.get().checked_add(more).is_some_and(|sum| sum <= self.limit.get());
        if !fits {
            self.over.set(true);
        }
        fits
    }
}

pub struct Counted(pub Rc<Usage>);

impl Counted {
    fn given(&self, pointer: *mut u8) -> *mut u8 {
        if !pointer.is_null() {
            // SAFETY: the pointer comes from this allocator.
            self.0.used.set(self.0.used.get() + unsafe { RustAllocator::usable_size(pointer) });
        }
        pointer
    }
}

// SAFETY: all memory is `RustAllocator`'s; a refused request answers null, as the contract allows.
unsafe impl Allocator for Counted {
    fn alloc(&mut self, size: usize) -> *mut u8 {
        if !self.0.take(size) {
            return std::ptr::null_mut();
        }
        let pointer = RustAllocator.alloc(size);
        self.given(pointer)
    }

    fn calloc(&mut self, count: usize, size: usize) -> *mut u8 {
        let fits = count.checked_mul(size).is_some_and(|bytes| self.0.take(bytes));
        if !fits {
            self.0.over.set(true);
            return std::ptr::null_mut();
        }
        let pointer = RustAllocator.calloc(count, size);
        self.given(pointer)
    }

    unsafe fn dealloc(&mut self, pointer: *mut u8) {
        // SAFETY: the caller's contract: the pointer is ours.
        unsafe {
            self.0.used.set(self.0.used.get().saturating_sub(RustAllocator::usable_size(pointer)));
            RustAllocator.dealloc(pointer);
        }
    }

    unsafe fn realloc(&mut self, pointer: *mut u8, new_size: usize) -> *mut u8 {
        // SAFETY: as above; QuickJS passes null and zero to `alloc` and `dealloc` itself.
        let old = unsafe { RustAllocator::usable_size(pointer) };
        if !self.0.take(new_size.saturating_sub(old)) {
            return std::ptr::null_mut();
        }
        // SAFETY: as above.
        let moved = unsafe { RustAllocator.realloc(pointer, new_size) };
        if !moved.is_null() {
            self.0.used.set(self.0.used.get().saturating_sub(old));
        }
        self.given(moved)
    }

    unsafe fn usable_size(pointer: *mut u8) -> usize {
        // SAFETY: the caller's contract.
        unsafe { RustAllocator::usable_size(pointer) }
    }
}
