//! Queues: what carries frames from a camera to the worker, and work from stage to stage.

pub mod channel;
pub mod ring;
mod ring_sync;
pub mod stage;
pub mod wait_list;
