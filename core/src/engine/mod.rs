//! The engine: requests in, responses out, as C, C++, a socket and the command speak to Atom.
//!
//! It sits above `runtime`, which knows the tasks and takes borrowed arguments; the engine gives them a form that can be
//! stored, queued and sent. A blocking call and a queued request run the same [`Engine::run`], so cancel, deadline and
//! errors mean the same in both:
//!
//! - A caption or an answer that is cancelled, or whose deadline passes, ends with the text so far and that reason. Before
//!   the first token it fails with [`ErrorKind::Cancelled`] or [`ErrorKind::DeadlineExceeded`].
//! - Every other operation fails with these.
//! - A request that waits in an [`Executor`] fails with them without having run.

mod executor;
mod handles;
mod request;
mod response;
mod work;

use std::sync::Arc;

pub use executor::{Executor, ExecutorOptions};
pub use handles::Handles;
pub use request::{
    Ask, Assemble, Caption, IngestHandle, OpenIngest, OpenStore, Operation, Pictures, ReadStore,
    Request, Search, StoreHandle, StoreRead,
};
pub use response::{Event, IngestInfo, Response, StoreInfo, Text};
pub use work::{Lane, OnText};

use crate::control::CancelToken;
use crate::error::Result;
use crate::runtime::Runtime;

#[cfg(doc)]
use crate::error::ErrorKind;

/// A runtime, and what one client of it has open. Clones share both; every method may be called from any thread.
#[derive(Clone)]
pub struct Engine {
    runtime: Runtime,
    handles: Arc<Handles>,
}

impl Engine {
    /// The engine of one client.
    pub fn new(runtime: Runtime, handles: Arc<Handles>) -> Self {
        Self { runtime, handles }
    }

    /// The runtime that does the work.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// What the client has open.
    pub fn handles(&self) -> &Arc<Handles> {
        &self.handles
    }

    /// Does what `request` asks for, on this thread. With [`Request::text_events`], `on_text` gets the text of a caption
    /// or an answer piece by piece and may stop it.
    ///
    /// # Errors
    /// What the operation reports: see the method of [`Runtime`] or [`Store`](crate::index::Store) it names.
    pub fn run(
        &self,
        request: Request,
        cancel: &CancelToken,
        on_text: OnText<'_>,
    ) -> Result<Response> {
        work::Work::new(self, request, cancel.clone())?.run(on_text)
    }
}
