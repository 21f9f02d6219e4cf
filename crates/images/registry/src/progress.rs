//! What a transfer tells while it runs.

use berth_content::Digest;

/// Hears of bytes. Called from several tasks; must not block.
pub trait LayerProgress: Send + Sync {
    /// A layer of this many compressed bytes is about to be moved.
    fn started(&self, layer: &Digest, size: u64);

    /// So many bytes of it have been moved in all.
    fn advanced(&self, layer: &Digest, bytes: u64);

    /// It is there: unpacked, uploaded, or there all along.
    fn finished(&self, layer: &Digest);
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl LayerProgress for Silent {
    fn started(&self, _: &Digest, _: u64) {}

    fn advanced(&self, _: &Digest, _: u64) {}

    fn finished(&self, _: &Digest) {}
}
