//! Running requests.

use std::sync::Arc;

use super::handles::Handles;
use super::request::Request;
use super::response::Response;
use super::work::Work;
use crate::caption::OnText;
use crate::control::CancelToken;
use crate::error::Result;
use crate::runtime::Runtime;

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
        self.prepare(request, cancel.clone())?.run(on_text)
    }
    /// Looks up what `request` names. Its deadline counts from here.
    pub(super) fn prepare(&self, request: Request, cancel: CancelToken) -> Result<Work> {
        Work::new(&self.runtime, &self.handles, request, cancel)
    }
}
