//! Small images.

use berth_content::{
    ContentStore, DockerConfig, Durability, Image, LayerExpectation, Reference, Session,
    encode_config,
};
use oci_spec::image::{ImageConfiguration, ImageConfigurationBuilder, RootFsBuilder};
use serde_json::json;

pub struct Fixture {
    pub _folder: tempfile::TempDir,
    pub store: ContentStore,
}

pub fn store() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let store = ContentStore::open(folder.path().join("images")).unwrap();
    // A flush of the whole machine's disk per test would be felt by everything else on it.
    let store = store.with_durability(Durability::ThisBoot);
    Fixture { _folder: folder, store }
}

pub fn reference(name: &str) -> Reference {
    name.parse().unwrap()
}

/// A layer with one file.
pub fn layer(name: &str, data: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    tar.append_data(&mut header, name, data.as_bytes()).unwrap();
    tar.into_inner().unwrap()
}

/// Adds an image of these layers within a session.
pub fn add(session: &Session, layers: &[Vec<u8>], tags: &[&str]) -> Image {
    let mut diff_ids = Vec::new();
    let mut descriptors = Vec::new();
    for layer in layers {
        let unpacked = session.add_layer(&layer[..], LayerExpectation::default()).unwrap();
        diff_ids.push(unpacked.diff_id.to_string());
        descriptors.push(json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": unpacked.digest, "size": unpacked.compressed,
        }));
    }
    let rootfs = RootFsBuilder::default().typ("layers").diff_ids(diff_ids).build().unwrap();
    let config: ImageConfiguration = ImageConfigurationBuilder::default()
        .architecture("amd64")
        .os("linux")
        .rootfs(rootfs)
        .build()
        .unwrap();
    let shell = DockerConfig { shell: Some(vec!["/bin/sh".into()]), ..DockerConfig::default() };
    let config = encode_config(&config, &shell).unwrap();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": session.put_blob(&config).unwrap(), "size": config.len(),
        },
        "layers": descriptors,
    });
    let manifest = session.put_blob(manifest.to_string().as_bytes()).unwrap();
    let tags: Vec<Reference> = tags.iter().map(|tag| reference(tag)).collect();
    session.finish(&manifest, &tags).unwrap()
}
