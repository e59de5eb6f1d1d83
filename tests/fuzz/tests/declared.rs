//! What people and other programs declare: documents and addresses.

use breakwater_controller::objects::document;
use breakwater_core::{Name, PlaceUrl};
use breakwater_fuzz::{Bound, targets};

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
    addresses_of_places(vec![b"file:///srv/east".to_vec(), b"memory:".to_vec(), b"s3://bucket/p?region=x&ca=%2Fetc".to_vec()], Bound::SMALL, |bytes| {
        if let Ok(url) = text(bytes).parse::<PlaceUrl>() {
            let shown = url.to_string();
            assert_eq!(shown.parse(), Ok(url), "{shown}");
        }
    });
}
