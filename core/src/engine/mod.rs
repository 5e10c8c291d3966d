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
mod run;
mod work;

pub use executor::{Executor, ExecutorOptions};
pub use handles::Handles;
pub use request::{
    Ask, Assemble, Caption, Embed, IngestHandle, OpenIngest, OpenStore, Operation, Pictures,
    ReadStore, Request, Search, StoreHandle, StoreRead,
};
pub use response::{Event, IngestInfo, Response, StoreInfo, Text};
pub use run::Engine;
pub use work::Lane;

#[cfg(doc)]
use crate::error::ErrorKind;
