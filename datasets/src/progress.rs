//! How a fetch tells what it does: a trait, so that the library itself prints nothing.

/// What is being done with an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Bytes come over the network.
    Download,
    /// A package or archive is inflated and written.
    Unpack,
    /// Bytes on disk are hashed.
    Verify,
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Download => "download",
            Self::Unpack => "unpack",
            Self::Verify => "verify",
        })
    }
}

/// Receives what a fetch or a verification does, from several threads at once.
///
/// An item is named by its (action, name); each begins once per try, advances, and finishes, also when it fails.
pub trait Progress: Sync {
    /// An item begins; `total` is its size in bytes where it is known.
    fn begin(&self, action: Action, item: &str, total: Option<u64>);
    /// `position` bytes of the item are done, those of an earlier, resumed download included.
    fn advance(&self, action: Action, item: &str, position: u64);
    /// The item is over.
    fn finish(&self, action: Action, item: &str);
    /// One line for the reader: a source that failed, a wait for another process, an unverified source.
    fn note(&self, message: &str);
}

/// A [`Progress`] that ignores everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn begin(&self, _action: Action, _item: &str, _total: Option<u64>) {}
    fn advance(&self, _action: Action, _item: &str, _position: u64) {}
    fn finish(&self, _action: Action, _item: &str) {}
    fn note(&self, _message: &str) {}
}
