//! Tasks: paths through modules. Tasks own no module and never import each other.

pub mod ask;
pub mod caption;
