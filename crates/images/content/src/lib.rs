//! The image store: blobs by digest, layer snapshots, tags and leases.
//!
//! A plain directory shared by several processes at once (the command line builds and pulls while the server
//! starts containers), so there is no database and no daemon: content is written aside and renamed into place,
//! and a file lock is held only for moments. What is being added is protected from collection by the
//! [`Session`] it is added in, what runs is protected by a [`Lease`].
//!
//! ```text
//! blobs/sha256/<digest>     manifests, indexes, configurations, and layers as they travelled
//! layers/<diff-id>/fs       a layer as a directory for overlayfs, with layer.json beside it
//! tags/<registry>/<repository>/{_tags/<tag>,_digests/<digest>}
//! leases/<name>             what a pod uses
//! cache/<key>               build steps and the layer each gave
//! ingest/<id>/              sessions; nothing in here is visible to readers
//! ```
//!
//! Compressed layers are kept next to their snapshots: `push` and `save` then send the very bytes that were
//! pulled or built, so digests never change on the way through, at the cost of about 40 % more disk.
//!
//! Nothing is synchronised file by file. A snapshot counts within the boot that wrote it, and for good once
//! [`ContentStore::settle`] has synchronised the filesystem and marked it; see [`snapshot`].

mod archive;
mod blob;
mod cache;
mod collect;
mod config;
mod error;
mod image;
mod inherit;
mod lease;
pub mod reference;
mod session;
pub mod snapshot;
mod store;
mod tags;

pub use berth_unpack::{DiffId, Digest};
pub use cache::{CachedLayer, CachedStep};
pub use collect::{Collected, Retention, Usage};
pub use config::{DockerConfig, Healthcheck, encode_config};
pub use error::ContentError;
pub use image::{Image, ImageSummary, LayerBlob};
pub use lease::{Lease, LeaseName};
pub use reference::{Reference, ReferenceError, Tag};
pub use session::{BlobWriter, LayerExpectation, Session};
pub use snapshot::{Directories, LayerFacts, Snapshotter};
pub use store::{ContentStore, Durability};
