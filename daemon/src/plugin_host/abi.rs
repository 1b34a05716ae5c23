//! From a memory file to the root of a plugin: the daemon's only module that
//! names `abi_stable`, and its only unsafe code.

use std::{error::Error, os::fd::{AsRawFd, IntoRawFd}};

use abi_stable::{
    StableAbi,
    abi_stability::abi_checking::{AbiInstabilityErrors, check_layout_compatibility},
    library::{AbiHeaderRef, LibHeader, RootModule},
    sabi_types::VersionNumber,
    type_layout::TypeLayout,
};
use claviger_plugin_api::abi::{PluginRootRef, ROOT_SYMBOL};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::{
    error::{PluginLoadError, one_line},
    image::Image,
};

/// Loads the bytes and takes the plugin's root, after its layout was checked.
/// Runs the library's constructors: its hash and its version were compared before.
pub(super) fn open(image: Image, name: &str) -> Result<PluginRootRef, PluginLoadError> {
    let file = image.into_memory_file(name)?;
    // The name differs from that of every other plugin as long as the descriptor stays open. It must:
    // asked for a name that it knows, `dlopen` gives the library it has, whatever the name stands for now.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // SAFETY: the file is a library for this machine whose segments lie inside it. Its constructors are
    // trusted as the operator trusts the plugin.
    let library = unsafe { Library::open(Some(path.as_str()), RTLD_NOW | RTLD_LOCAL) };
    let library = library.map_err(|error| PluginLoadError::Open(reason(&error, &path)))?;
    // From here on the library stays, whatever comes; see the module's head.
    let _: i32 = file.into_raw_fd();
    let header = header(&library, &path);
    std::mem::forget(library);
    root(header?)
}

fn header(library: &Library, path: &str) -> Result<&'static LibHeader, PluginLoadError> {
    // SAFETY: a plugin exports its header under this name. The header begins with a magic text and the
    // version of abi_stable, which `upgrade` compares before it reads anything else.
    let header = unsafe { library.get::<AbiHeaderRef>(ROOT_SYMBOL) }.map(|symbol| *symbol);
    let header = header.map_err(|error| PluginLoadError::Root(reason(&error, path)))?;
    header.upgrade().map_err(|error| PluginLoadError::Root(one_line(&error.to_string())))
}

fn root(header: &'static LibHeader) -> Result<PluginRootRef, PluginLoadError> {
    let theirs = VersionNumber::new(header.version_strings());
    let theirs = theirs.map_err(|error| PluginLoadError::Root(one_line(&error.to_string())))?;
    let ours = VersionNumber::new(<PluginRootRef as RootModule>::VERSION_STRINGS).map_err(|error| PluginLoadError::Root(one_line(&error.to_string())))?;
    if theirs.major != ours.major {
        return Err(PluginLoadError::ApiVersion(theirs.to_string()));
    }
    let layout = header.layout().ok_or_else(|| PluginLoadError::Layout("it holds no layout".into()))?;
    check_layout(layout, theirs.minor < ours.minor).map_err(|errors| PluginLoadError::Layout(summary(&errors)))?;
    // SAFETY: the layout of the root and of all it refers to was checked just now.
    unsafe { header.unchecked_layout::<PluginRootRef>() }
        .map_err(|error| PluginLoadError::Root(one_line(&error.to_string())))
}

/// The check takes "found has more functions than expected" as the only
/// lawful difference; with an older plugin it is the daemon that has more.
fn check_layout(theirs: &'static TypeLayout, older: bool) -> Result<(), AbiInstabilityErrors> {
    let ours = <PluginRootRef as StableAbi>::LAYOUT;
    if older { check_layout_compatibility(theirs, ours) } else { check_layout_compatibility(ours, theirs) }
}

/// The first difference; all of them would be hundreds of lines.
fn summary(errors: &AbiInstabilityErrors) -> String {
    let Some(first) = errors.errors.first() else { return "unknown difference".into() };
    let place = first.stack_trace.last().map(|place| one_line(&place.found.to_string()));
    let kind = first.errs.first().map(|kind| format!("{kind:?}")).unwrap_or_default();
    let kind: String = kind.chars().take_while(|c| c.is_alphanumeric()).collect();
    let place: String = place.unwrap_or_default().chars().take(80).collect();
    if place.is_empty() { kind } else { format!("{kind} at {place}") }
}

/// What the loader said: it is the source of the error, and not its text.
fn reason(error: &libloading::Error, path: &str) -> String {
    let text = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    one_line(text.trim_start_matches(path).trim_start_matches(": "))
}
