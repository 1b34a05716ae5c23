//! Links the plugin so that a missing symbol shows here and not when it is loaded.

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,defs");
}
