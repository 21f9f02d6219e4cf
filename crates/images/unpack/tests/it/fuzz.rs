//! Random layers: nothing may panic, and nothing may appear outside the root.

use proptest::prelude::*;
use tar::EntryType;

use crate::support::{Layer, Sandbox};

fn name() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "a",
        "b",
        "c",
        "..",
        ".",
        "",
        ".wh.a",
        ".wh.b",
        ".wh..wh..opq",
        ".wh.",
        "precious",
        "root",
    ]);
    prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"))
}

fn kind() -> impl Strategy<Value = EntryType> {
    prop::sample::select(vec![
        EntryType::Regular,
        EntryType::Directory,
        EntryType::Symlink,
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Fifo,
        EntryType::Char,
        EntryType::GNULongName,
        EntryType::GNULongLink,
        EntryType::XHeader,
        EntryType::GNUSparse,
        EntryType::new(b'?'),
    ])
}

fn entry() -> impl Strategy<Value = (EntryType, String, String, Vec<u8>)> {
    let data = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        name().prop_map(String::into_bytes),
        name().prop_map(|name| {
            let record = format!(" path={name}\n");
            format!("{}{record}", record.len() + 2).into_bytes()
        }),
    ];
    (kind(), name(), name(), data)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_escapes(entries in prop::collection::vec(entry(), 1..10)) {
        let sandbox = Sandbox::new();
        let layer = entries.iter().fold(Layer::default(), |layer, (kind, name, link, data)| {
            layer.raw(*kind, name, link, 0o777, data)
        });
        let _outcome = sandbox.unpack(&layer.finish());
        sandbox.assert_unharmed();
    }

    #[test]
    fn noise_is_refused_or_harmless(bytes in prop::collection::vec(any::<u8>(), 0..2000), flip in any::<prop::sample::Index>()) {
        let sandbox = Sandbox::new();
        let _outcome = sandbox.unpack(&bytes);
        let mut layer = Layer::default().folder("a").file("a/b", "data").finish();
        let at = flip.index(layer.len());
        layer[at] ^= bytes.first().copied().unwrap_or(1);
        let _outcome = sandbox.unpack(&layer);
        sandbox.assert_unharmed();
    }
}
