//! Layers to root filesystems and back.
//!
//! [`unpack`] turns one compressed layer, straight from a socket, into a directory that overlayfs
//! can use as a lower layer; [`pack()`] turns an overlay upper directory into a layer. This crate sits
//! below the content store, so the digests are declared here.
//!
//! A layer is unpacked alone, never on top of its parents: whiteouts stay whiteouts in overlayfs
//! form. That is what lets every layer of an image unpack in parallel and be shared between images.

pub mod digest;
mod inflate;
mod overlay;
mod pack;
mod pax;
mod pipeline;
mod root;
mod tarball;
mod unpack;

pub use digest::{DiffId, Digest, Hashing, ParseDigestError};
pub use inflate::{Compression, inflated};
pub use overlay::{OverlayForm, Privilege, strip_overlay_traces};
pub use pack::{PackError, PackOptions, Packed, pack};
pub use tarball::{
    Entry, EntryKind, EntryPath, PathError, Segment, TarError, TarLimits, TarReader,
};
pub use unpack::{Dropped, UnpackError, UnpackOptions, Unpacked, extract, unpack};
