//! How far a long operation is, and whether to stop.

/// Watches a long operation. Called from any thread, often: an implementation counts, it does not draw.
pub trait Progress: Send + Sync {
    /// How much there is to do in all, once that is known, in bytes.
    fn set_total(&self, _bytes: u64) {}

    /// `bytes` more are done.
    fn advance(&self, bytes: u64);

    /// Whether the operation shall stop with [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled).
    fn cancelled(&self) -> bool {
        false
    }
}

/// Watches nothing and never stops.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn advance(&self, _bytes: u64) {}
}
