//! What a plugin may answer instead of a result, and what the host then does.

/// Why a plugin could not start. The message is shown to the operator as one
/// line behind the plugin's name; it must not hold a secret.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// The plugin's own configuration is wrong. Say which key and what was expected.
    #[error("configuration: {0}")]
    Configuration(String),
    /// Something the plugin needs is away (a server, a file, a token).
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// Anything else. The host reports it and keeps the plugin out.
    #[error("{0}")]
    Failed(String),
}

/// Errors of the cipher calls. None of them carries key material.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CipherError {
    /// `open`: the tag does not match. Expected of hostile input; the host
    /// answers as for any envelope that does not authenticate.
    #[error("the ciphertext does not authenticate")]
    Rejected,
    /// A buffer handed in has the wrong size. A fault of the caller.
    #[error("a buffer has the wrong size")]
    BadSize,
    /// The library underneath failed. The host logs it and answers *unavailable*.
    #[error("the cipher library failed")]
    Failed,
    /// The plugin panicked; the host counts it and answers *unavailable*.
    #[error("the plugin panicked")]
    Panicked,
}

/// Errors of stores, state stores and issuers. A refusal is never one of
/// them: what the host maps to *denied* is always a value, so a store that is
/// away can never look like a user who is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PluginError {
    /// Away, or too slow; a write that is answered so may have happened. The
    /// host answers *unavailable* (503); what only reads it may try again
    /// within its deadline.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// A queue or pool is full, and surely nothing was done. The host may try
    /// again within its deadline, writes too, and answers as for `Unavailable`.
    #[error("busy")]
    Busy,
    /// There is no room for what was to be stored (a module's last object, a
    /// server's memory); nothing was done. The host answers as for
    /// `Unavailable`, and goes on with what needs no room.
    #[error("full: {0}")]
    Full(String),
    /// Stored data cannot be read. The host alarms and answers *unavailable*.
    #[error("corrupt: {0}")]
    Corrupt(String),
    /// The caller broke the contract (sizes, empty keys). A fault of the host.
    #[error("invalid call: {0}")]
    InvalidCall(String),
    /// The call did not end within the host's deadline. Made by the host.
    #[error("no answer within the deadline")]
    DeadlineExceeded,
    /// The plugin panicked; the host counts it and answers *unavailable*.
    #[error("the plugin panicked")]
    Panicked,
}
