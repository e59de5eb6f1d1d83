//! The contract's own suite, on trees with every kind of entry.

use breakwater_engine::conformance;

use crate::kit::{Lab, everything};

#[tokio::test]
async fn a_tree_with_every_kind_of_entry() {
    let lab = Lab::new();
    everything(&lab.root("docs"));
    std::fs::write(lab.root("etc").join("app.conf"), "a = 1").unwrap();
    conformance::run(&lab.engine(&lab.settings(&["docs", "etc"]))).await;
    assert_eq!(std::fs::read_dir(&lab.scratch).unwrap().count(), 0, "nothing is left");
}

#[tokio::test]
async fn an_empty_tree_and_one_that_is_deeper_than_descriptors_are_kept() {
    let lab = Lab::new();
    lab.root("empty");
    let mut deep = lab.root("deep");
    for level in 0..150 {
        deep.push(format!("level-{level}"));
    }
    std::fs::create_dir_all(&deep).unwrap();
    for above in deep.ancestors().take(150) {
        std::fs::write(above.join("level-"), "before").unwrap();
        std::fs::write(above.join("level-z"), "after").unwrap();
    }
    let settings = lab.settings(&["empty", "deep"]);
    conformance::run(&lab.engine(&settings)).await;
    let taken = lab.take(&settings, None).await;
    assert_eq!(taken.entries.len(), 2 + 3 * 150);
    assert_eq!(taken.end.unreadable.count, 0);
}
