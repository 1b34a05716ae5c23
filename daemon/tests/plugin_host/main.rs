//! The plugin host against real shared libraries.

mod calls;
mod contract;
mod files;
mod services;
mod support;
