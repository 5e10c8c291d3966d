//! What one client has open, by number.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::request::{IngestHandle, StoreHandle};
use crate::error::{Error, ErrorKind, Result};
use crate::index::Store;
use crate::runtime::Indexing;

/// The stores and ingests that one client has open. Requests name them by number; dropping this closes them all.
///
/// A program that links the library is one client. A service has one of these for each connection, so that no client
/// reaches another's stores. Numbers are never reused. Thread-safe; the lock is held to look a number up, nothing more.
#[derive(Default)]
pub struct Handles {
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    last: u64,
    stores: HashMap<StoreHandle, Store>,
    ingests: HashMap<IngestHandle, Arc<Indexing>>,
}

impl Open {
    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

impl Handles {
    fn lock(&self) -> MutexGuard<'_, Open> {
        // Every change is one call of a map's.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an open store a number.
    pub fn add_store(&self, store: Store) -> StoreHandle {
        let mut open = self.lock();
        let handle = StoreHandle(open.number());
        open.stores.insert(handle, store);
        handle
    }

    /// Gives an open ingest a number.
    pub fn add_ingest(&self, ingest: Arc<Indexing>) -> IngestHandle {
        let mut open = self.lock();
        let handle = IngestHandle(open.number());
        open.ingests.insert(handle, ingest);
        handle
    }

    /// The store of that number.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when none is open.
    pub fn store(&self, handle: StoreHandle) -> Result<Store> {
        let found = self.lock().stores.get(&handle).cloned();
        found.ok_or_else(|| missing("store", handle.0))
    }

    /// The ingest of that number, to push frames into.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when none is open.
    pub fn ingest(&self, handle: IngestHandle) -> Result<Arc<Indexing>> {
        let found = self.lock().ingests.get(&handle).cloned();
        found.ok_or_else(|| missing("ingest", handle.0))
    }

    /// Forgets a store; it is closed when the requests and ingests that use it have ended.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when none is open.
    pub fn close_store(&self, handle: StoreHandle) -> Result<()> {
        let closed = self.lock().stores.remove(&handle);
        // Dropped without the lock.
        closed.map(drop).ok_or_else(|| missing("store", handle.0))
    }

    /// Forgets an ingest; unless a request still uses it, that stops it after the frame at hand.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when none is open.
    pub fn close_ingest(&self, handle: IngestHandle) -> Result<()> {
        let closed = self.lock().ingests.remove(&handle);
        // Dropped without the lock: that waits for the ingest's threads.
        closed.map(drop).ok_or_else(|| missing("ingest", handle.0))
    }
}

fn missing(what: &str, number: u64) -> Error {
    Error::new(ErrorKind::NotFound, format!("no {what} {number} is open"))
        .remedy("use the number that opening it gave, before closing it")
}
