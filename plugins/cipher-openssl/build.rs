//! An undefined symbol shows when the plugin is linked, and not when it is loaded.

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,defs");
}
