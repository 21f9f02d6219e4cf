//! Compression, digests, limits, and the corners of the tar formats.

use std::io::Write as _;

use berth_unpack::{DiffId, Digest, TarError, TarLimits, UnpackError, UnpackOptions, unpack};
use tar::EntryType;

use crate::support::{Layer, Sandbox};

fn sample() -> Vec<u8> {
    Layer::default().folder("a").file("a/file", "hello").finish()
}

#[test]
fn every_compression_gives_the_same_diff_id() {
    let plain = sample();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain[..700]).unwrap();
    let mut gzip = gzip.finish().unwrap();
    // Two members in a row are one stream (RFC 1952, section 2.2).
    let mut second = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    second.write_all(&plain[700..]).unwrap();
    gzip.extend(second.finish().unwrap());
    let zstd = zstd::encode_all(&plain[..], 1).unwrap();
    for blob in [plain.clone(), gzip, zstd] {
        let sandbox = Sandbox::new();
        let mut kept = Vec::new();
        let root = sandbox.root();
        let unpacked =
            unpack(&blob[..], Some(&mut kept), &root, &UnpackOptions::default()).unwrap();
        assert_eq!(unpacked.diff_id, DiffId(Digest::of(&plain)));
        assert_eq!(unpacked.digest, Digest::of(&blob));
        assert_eq!(unpacked.compressed, blob.len() as u64);
        assert_eq!(kept, blob);
        assert_eq!(std::fs::read_to_string(root.join("a/file")).unwrap(), "hello");
    }
}

#[test]
fn a_wrong_digest_is_an_error() {
    let sandbox = Sandbox::new();
    let wrong = Digest::of(b"something else");
    let options = UnpackOptions { digest: Some(wrong), ..UnpackOptions::default() };
    let outcome = unpack(&sample()[..], None, &sandbox.root(), &options);
    assert!(matches!(outcome, Err(UnpackError::Digest { expected, .. }) if expected == wrong));
    let options = UnpackOptions { diff_id: Some(DiffId(wrong)), ..UnpackOptions::default() };
    let sandbox = Sandbox::new();
    let outcome = unpack(&sample()[..], None, &sandbox.root(), &options);
    assert!(matches!(outcome, Err(UnpackError::DiffId { .. })));
}

#[test]
fn a_truncated_layer_is_an_error_wherever_it_is_cut() {
    let gzip = {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&sample()).unwrap();
        gzip.finish().unwrap()
    };
    for cut in 1..gzip.len() {
        let sandbox = Sandbox::new();
        assert!(sandbox.unpack(&gzip[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn limits_are_kept() {
    let limits = |entries, bytes, header| TarLimits { entries, bytes, header };
    for (limits, tar) in [
        (limits(1, 1 << 20, 1 << 20), sample()),
        (limits(10, 4, 1 << 20), sample()),
        (
            limits(10, 10, 16),
            Layer::default()
                .raw(EntryType::GNULongName, "x", "", 0, &[b'a'; 600])
                .file("x", "")
                .finish(),
        ),
    ] {
        let sandbox = Sandbox::new();
        let options = UnpackOptions { limits, ..UnpackOptions::default() };
        let outcome = unpack(&tar[..], None, &sandbox.root(), &options);
        assert!(matches!(outcome, Err(UnpackError::Tar(TarError::Limit { .. }))), "{outcome:?}");
    }
}

#[test]
fn a_damaged_header_is_an_error() {
    let mut tar = sample();
    tar[0] ^= 1;
    let outcome = Sandbox::new().unpack(&tar);
    assert!(matches!(outcome, Err(UnpackError::Tar(TarError::Checksum(0)))), "{outcome:?}");
}

#[test]
fn later_entries_replace_earlier_ones() {
    let sandbox = Sandbox::new();
    let layer = Layer::default()
        .folder("a/b")
        .file("a/b/c", "1")
        .file("a", "now a file")
        .file("d", "file")
        .folder("d")
        .file("d/e", "2");
    sandbox.unpack(&layer.finish()).unwrap();
    assert_eq!(std::fs::read_to_string(sandbox.root().join("a")).unwrap(), "now a file");
    assert_eq!(std::fs::read_to_string(sandbox.root().join("d/e")).unwrap(), "2");
}
