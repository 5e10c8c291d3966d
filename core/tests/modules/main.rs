//! ONNX Runtime, packs and the module registry, on tiny graphs. Needs the set-up's ONNX Runtime in `ATOM_CACHE`.

mod artifacts;
mod governed;
mod manifest;
mod manifest_decoder;
mod registry;
mod session;
mod support;
