//! What people and other programs declare: documents and addresses.

use breakwater_controller::objects::document;
use breakwater_core::Name;
use breakwater_fuzz::{Bound, targets};
use breakwater_storage::Storage;

const DOCUMENTS: &str = "
apiVersion: breakwater/v1
kind: Repository
metadata: {name: main}
spec:
  regions:
    - {name: east, url: file:///srv/east}
    - {name: west, url: /srv/west, role: async}
---
apiVersion: breakwater/v1
kind: Source
metadata: {name: app, namespace: shop}
spec:
  agent: host-a
  sqlite: {path: /srv/app.db}
---
apiVersion: breakwater/v1
kind: Plan
metadata: {name: nightly}
spec: {repository: main, sources: [app]}
";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

targets! {
    documents(
        vec![DOCUMENTS.as_bytes().to_vec(), b"a: &a [*b]\nb: &b {c: *a}\n".to_vec()],
        Bound { base: 1 << 20, per_byte: 2000 },
        |bytes| drop(document::parse(&text(bytes), &Name::new("default").expect("a good name")))
    );
    store_keys(vec![b"/breakwater/v1/default/plan/nightly".to_vec()], Bound::SMALL, |bytes| {
        drop(text(bytes).parse::<breakwater_state::keyspace::Key>())
    });
    addresses_of_places(vec![b"file:///srv/east".to_vec(), b"memory:".to_vec()], Bound::SMALL, |bytes| {
        let text = text(bytes);
        // An address that opens would touch the disk of whoever runs this; those that name a place are left out.
        if !text.starts_with('/') && !text.starts_with("file:") {
            drop(Storage::open_existing(&text));
        }
    });
}
