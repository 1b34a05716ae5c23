//! From a memory file to the root of a plugin: the daemon's only module that
//! names `abi_stable`, and its only unsafe code.

use std::{
    error::Error,
    fs::File,
    os::fd::{AsRawFd, IntoRawFd},
};

use abi_stable::{
    StableAbi,
    abi_stability::abi_checking::{AbiInstabilityErrors, check_layout_compatibility},
    library::{AbiHeaderRef, LibHeader, RootModule},
    sabi_types::VersionNumber,
    type_layout::{TLFieldOrFunction, TypeLayout},
};
use claviger_plugin_api::abi::{PluginRootRef, ROOT_SYMBOL};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::{
    error::{PluginLoadError, one_line},
    image::Image,
};

/// Loads the bytes and takes the plugin's root, after its layout was checked.
/// Runs the library's constructors: its hash and its version were compared before.
/// Also gives the memory file, from which another copy can be loaded.
pub(super) fn open(image: Image, name: &str) -> Result<(PluginRootRef, File), PluginLoadError> {
    let file = image.into_memory_file(name)?;
    let kept = file.try_clone().map_err(PluginLoadError::MemoryFile)?.into();
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
    Ok((root(header?)?, kept))
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
    let ours = VersionNumber::new(<PluginRootRef as RootModule>::VERSION_STRINGS)
        .map_err(|error| PluginLoadError::Root(one_line(&error.to_string())))?;
    if theirs.major != ours.major {
        return Err(PluginLoadError::ApiVersion(theirs.to_string()));
    }
    let layout = header.layout().ok_or_else(|| PluginLoadError::Layout("it holds no layout".into()))?;
    check_layout(<PluginRootRef as StableAbi>::LAYOUT, layout, theirs.minor < ours.minor)
        .map_err(|errors| PluginLoadError::Layout(summary(&errors)))?;
    // SAFETY: the layout of the root and of all it refers to was checked just now.
    unsafe { header.unchecked_layout::<PluginRootRef>() }
        .map_err(|error| PluginLoadError::Root(one_line(&error.to_string())))
}

/// The check takes "found has more functions than expected" as the only
/// lawful difference; with an older plugin it is the daemon that has more.
fn check_layout(
    ours: &'static TypeLayout,
    theirs: &'static TypeLayout,
    older: bool,
) -> Result<(), AbiInstabilityErrors> {
    if older { check_layout_compatibility(theirs, ours) } else { check_layout_compatibility(ours, theirs) }
}

/// The first difference and the innermost place that has a name; all of them
/// would be hundreds of lines.
fn summary(errors: &AbiInstabilityErrors) -> String {
    let Some((error, kind)) = errors.errors.iter().find_map(|error| Some((error, error.errs.first()?))) else {
        return "an unknown difference".into();
    };
    let kind: String = format!("{kind:?}").chars().take_while(|c| c.is_alphanumeric()).collect();
    let names = error.stack_trace.iter().map(|place| match place.found {
        TLFieldOrFunction::Field(field) => field.name(),
        TLFieldOrFunction::Function(function) => function.name.as_str(),
    });
    let mut path: Vec<&str> = names.filter(|name| name.starts_with(|c: char| c.is_alphabetic())).collect();
    path.dedup();
    one_line(&format!("{kind} of {}", path.join(".")))
}

/// What the loader said: it is the source of the error, and not its text.
fn reason(error: &libloading::Error, path: &str) -> String {
    let text = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    one_line(text.trim_start_matches(path).trim_start_matches(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One table as three builds may know it.
    macro_rules! table {
        ($build:ident, { $($field:tt)* }) => {
            #[expect(dead_code, reason = "only the layout is of interest")]
            mod $build {
                #[repr(C)]
                #[derive(abi_stable::StableAbi)]
                #[sabi(kind(Prefix(prefix_ref = TableRef, prefix_fields = TablePrefix)))]
                pub(super) struct Table {
                    $($field)*
                }
            }
        };
    }

    table!(first, { #[sabi(last_prefix_field)] call: extern "C" fn(u32) -> u32, });
    table!(appended, {
        #[sabi(last_prefix_field)] call: extern "C" fn(u32) -> u32,
        more: extern "C" fn(u64),
    });
    table!(changed, { #[sabi(last_prefix_field)] call: extern "C" fn(u64) -> u32, });

    #[test]
    fn tables_may_grow_and_not_change() {
        let first = <first::TableRef as StableAbi>::LAYOUT;
        let appended = <appended::TableRef as StableAbi>::LAYOUT;
        let changed = <changed::TableRef as StableAbi>::LAYOUT;
        for (case, ours, theirs, older, good) in [
            ("same", first, first, false, true),
            ("newer plugin", first, appended, false, true),
            ("older plugin", appended, first, true, true),
            ("older plugin that says it is not", appended, first, false, false),
            ("other parameter", first, changed, false, false),
            ("other parameter, older", appended, changed, true, false),
        ] {
            let result = check_layout(ours, theirs, older).map_err(|errors| summary(&errors));
            assert_eq!(result.is_ok(), good, "{case}: {result:?}");
            let line = result.err().unwrap_or_default();
            assert!(!line.contains('\n') && line.len() < 200, "{case}: {line}");
        }
        let errors = check_layout(first, changed, false).unwrap_err();
        assert!(errors.to_string().lines().count() > 10, "the whole text was worth shortening");
        assert_eq!(summary(&errors), "Name of call");
        println!("{}", summary(&errors));
    }
}
