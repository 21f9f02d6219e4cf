//! Base images of this machine. Debian is made once for all runs, and kept in the target folder.

use std::fs::File;
use std::path::PathBuf;

use berth_build::base::{BaseImage, bootstrap};
use berth_content::{ContentStore, Durability};

use crate::support::{project, reference};

#[test]
fn busybox_is_the_same_every_time() {
    let (one, two) = (project(&[]), project(&[]));
    let image = one.store.resolve("busybox").unwrap();
    assert_eq!(image.digest, two.store.resolve("busybox").unwrap().digest);
    assert_eq!(one.inside(&image, "stat -c %a /tmp; id -un"), "1777\nroot\n");
}

#[test]
fn common_names_are_known() {
    let named = |name: &str| BaseImage::named(&reference(name));
    assert_eq!(named("busybox"), Some(BaseImage::Busybox));
    let bookworm = BaseImage::Debian { suite: "bookworm".into(), include: Vec::new() };
    assert_eq!(named("debian:bookworm-slim"), Some(bookworm));
    assert_eq!(named("debian:12.1"), None);
    assert_eq!(named("ghcr.io/x/busybox"), None);
}

#[test]
fn debian_has_an_apt_that_works() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("debian-images");
    let store = ContentStore::open(&folder).unwrap().with_durability(Durability::ThisBoot);
    let lock = File::create(folder.join("bootstrap")).unwrap();
    lock.lock().unwrap();
    let tag = reference("debian:bookworm");
    let complete = |store: &ContentStore| {
        let image = store.resolve("debian:bookworm").ok()?;
        store.layer_dirs(&image).ok()
    };
    if complete(&store).is_none() {
        bootstrap(&store, &BaseImage::named(&tag).unwrap(), &tag, &mut std::io::stderr()).unwrap();
    }
    drop(lock);
    let mut project = project(&[]);
    project.store = store;
    let image = project.build(
        "FROM debian:bookworm\nRUN apt-get update && apt-get install -y --no-install-recommends hello && rm -rf /var/lib/apt/lists/*\n",
    );
    assert_eq!(project.inside(&image, "hello"), "Hello, world!\n");
    project.store.untag(&reference("result")).unwrap();
}
