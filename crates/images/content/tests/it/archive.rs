//! Save and load, and archives of other engines.

use berth_content::ContentError;
use serde_json::json;

use crate::support::{add, layer, reference, store};

#[test]
fn an_image_survives_save_and_load_with_its_digest_and_names() {
    let from = store();
    let session = from.store.session().unwrap();
    let base = layer("base", "b");
    let one = add(&session, &[base.clone(), layer("x", "1")], &["one:1", "one:2"]);
    let two = add(&session, &[base, layer("y", "2")], &[]);
    let mut archive = Vec::new();
    let names = vec![reference("one:1"), reference("one:2")];
    from.store.save(&[(&one, names.clone()), (&two, Vec::new())], &mut archive).unwrap();
    let to = store();
    let loaded = to.store.load(&archive[..]).unwrap();
    assert_eq!(loaded.len(), 2);
    assert_eq!((loaded[0].0.digest, &loaded[0].1), (one.digest, &names));
    assert_eq!((loaded[1].0.digest, loaded[1].1.len()), (two.digest, 0));
    assert_eq!(to.store.resolve("one:2").unwrap().digest, one.digest);
    for cut in [600, archive.len() / 2, archive.len() - 3000] {
        assert!(store().store.load(&archive[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn saving_a_damaged_layer_is_an_error() {
    let from = store();
    let session = from.store.session().unwrap();
    let image = add(&session, &[layer("x", "1")], &["app"]);
    let path = from.store.root().join("blobs/sha256").join(image.blobs[0].digest.hex());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[600] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let outcome = from.store.save(&[(&image, Vec::new())], std::io::sink());
    assert!(matches!(outcome, Err(ContentError::Damaged(_))));
}

#[test]
fn docker_archives_load_with_shared_layers_as_links() {
    let one = layer("x", "1");
    let two = layer("y", "2");
    let diff_ids: Vec<_> =
        [&one, &two, &one].iter().map(|tar| berth_content::Digest::of(tar).to_string()).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/x"], "Shell": ["/s"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let manifest = json!([{
        "Config": "c.json", "RepoTags": ["old/app:1"], "Layers": ["1/layer.tar", "2/layer.tar", "3/layer.tar"],
    }]);
    let mut tar = tar::Builder::new(Vec::new());
    let mut file = |name: &str, data: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, name, data).unwrap();
    };
    file("1/layer.tar", &one);
    file("2/layer.tar", &two);
    file("c.json", config.to_string().as_bytes());
    file("manifest.json", manifest.to_string().as_bytes());
    let mut link = tar::Header::new_ustar();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    link.set_cksum();
    tar.append_link(&mut link, "3/layer.tar", "../1/layer.tar").unwrap();
    let archive = tar.into_inner().unwrap();
    let fixture = store();
    let loaded = fixture.store.load(&archive[..]).unwrap();
    let image = &loaded[0].0;
    assert_eq!(image.layers.len(), 3);
    assert_eq!(loaded[0].1, [reference("old/app:1")]);
    assert_eq!(fixture.store.layer_dirs(image).unwrap().len(), 2);
}

#[test]
fn what_is_no_archive_is_refused() {
    let fixture = store();
    for bytes in [&layer("x", "1")[..], &[7; 1000], &[]] {
        assert!(matches!(fixture.store.load(bytes), Err(ContentError::Archive(_))));
    }
}
