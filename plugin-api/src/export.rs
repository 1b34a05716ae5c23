//! The export macro.

/// Makes a plugin of a crate: once, in `lib.rs`.
///
/// ```
/// use claviger_plugin_api::{Context, InitError, Plugin, export_plugin};
///
/// export_plugin! {
///     name: "example",
///     provides: [cipher, issuer],
///     init: start,
/// }
///
/// fn start(_context: Context) -> Result<Plugin, InitError> {
///     Ok(Plugin::new())
/// }
/// ```
///
/// `provides` names the kinds of component that `init` may deliver: a subset
/// of `cipher`, `user_store`, `state_store`, `issuer` and `custody`. `init` is called
/// once, on a thread that may block; `tracing`, `metrics` and the panic hook
/// reach the host from then on. The version and the description of the
/// plugin are those of its `Cargo.toml`.
///
/// The crate is a `cdylib` (an `rlib` beside it for its own tests), has a
/// `build.rs` of one line, `println!("cargo:rustc-cdylib-link-arg=-Wl,-z,defs")`,
/// so that a missing symbol shows when it is linked and not when it is
/// loaded, and is compiled with `panic = "unwind"`: the host survives a panic
/// only because each call is caught inside the plugin. The macro holds the
/// only unsafe code, so the crate itself can stay `#![forbid(unsafe_code)]`.
#[macro_export]
macro_rules! export_plugin {
    (
        name: $name:expr,
        provides: [$($component:ident),+ $(,)?],
        init: $init:path
        $(, api: $api:expr)?
        $(,)?
    ) => {
        #[cfg(panic = "abort")]
        ::core::compile_error!(
            "a Claviger plugin must be compiled with panic = \"unwind\": a panic would take the daemon with it"
        );

        const _: () = {
            struct Exported;

            impl $crate::abi::Entry for Exported {
                fn init(context: $crate::Context) -> ::core::result::Result<$crate::Plugin, $crate::InitError> {
                    $init(context)
                }
            }

            const PARTS: $crate::description::Parts = $crate::description::Parts {
                name: $name,
                version: ::core::env!("CARGO_PKG_VERSION"),
                description: ::core::env!("CARGO_PKG_DESCRIPTION"),
                api: $crate::__api_version!($($api)?),
                provides: &[$($crate::__component!($component)),+],
            };

            // Both are exported, so that neither linker nor `strip` drops them.
            #[unsafe(no_mangle)]
            #[unsafe(link_section = ".claviger.plugin")]
            pub static CLAVIGER_PLUGIN_DESCRIPTION: [u8; PARTS.json_len()] = PARTS.json();

            #[unsafe(no_mangle)]
            pub static CLAVIGER_PLUGIN_ROOT: $crate::abi::RootHeader = $crate::abi::root_header::<Exported>();
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __component {
    (cipher) => {
        "cipher"
    };
    (user_store) => {
        "user_store"
    };
    (state_store) => {
        "state_store"
    };
    (issuer) => {
        "issuer"
    };
    (custody) => {
        "custody"
    };
    ($other:ident) => {
        ::core::compile_error!("provides: expected cipher, user_store, state_store, issuer or custody")
    };
}

// Tests build plugins that claim another version.
#[doc(hidden)]
#[macro_export]
macro_rules! __api_version {
    () => {
        $crate::description::API_VERSION
    };
    ($api:expr) => {
        $api
    };
}
