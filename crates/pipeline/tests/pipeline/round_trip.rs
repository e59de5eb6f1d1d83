//! What was backed up comes back, byte for byte, whatever happened to the tree in between.

use std::sync::Arc;

use breakwater_core::LogPosition;
use breakwater_pipeline::backup::BackupOutcome;
use proptest::prelude::*;

use crate::engine::{Behaviour, FakeSession};
use crate::lab::{EXTENT, Lab};
use crate::tree::{Node, Tree, noise, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_comes_back_as_it_was() {
    let lab = Lab::new(2).await;
    let mut tree = Tree::default();
    tree.directory("base").directory("base/1").directory("empty");
    tree.file("base/1/1259", text(1, EXTENT * 70 + 17)).file("base/1/1260", noise(2, EXTENT * 3));
    tree.file("base/1/zeros", vec![0; EXTENT * 5 + 1]).file("base/1/nothing", Vec::new());
    tree.file("base-1", text(3, 10)).file("global pg_control", noise(4, 8192));
    tree.link("base/1/link", "../../base-1").put(b"odd\xff\n%name", Node::File(Arc::new(noise(5, 99))), 0o600);
    let mut sparse = vec![0; EXTENT * 4];
    sparse[EXTENT * 2 + 5] = 1;
    tree.file("base/1/sparse", sparse);

    let outcome = lab.backup(FakeSession::new(&tree)).await;
    assert_eq!(outcome.manifest.totals.bytes, tree.bytes());
    assert!(outcome.manifest.totals.zeros >= (EXTENT * 8) as u64, "{:?}", outcome.manifest.totals);
    assert!(outcome.manifest.warnings.iter().any(|line| line == "a warning of the engine"));
    let (restored, report) = lab.restore(&outcome.manifest).await;
    assert_eq!(restored, tree);
    assert_eq!(report.served.keys().collect::<Vec<_>>(), ["r0"]);
}

/// More files than a restore keeps in mind after its first look, and than it lays at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_of_very_many_files_comes_back() {
    let lab = Lab::new(1).await;
    let mut tree = Tree::default();
    for directory in 0..34_u8 {
        tree.directory(&format!("d{directory:02}"));
        for number in 0..1000 {
            tree.file(&format!("d{directory:02}/{number:0200}"), vec![directory + 1; number % 7]);
        }
    }
    let first = lab.backup(FakeSession::new(&tree)).await;
    let second = lab.backup(FakeSession::new(&tree)).await;
    assert_eq!((second.totals.new, &second.manifest.tree), (0, &first.manifest.tree));
    let (restored, _) = lab.restore(&first.manifest).await;
    assert_eq!(restored, tree);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unchanged_tree_stores_no_content_and_refers_to_its_leaves() {
    let lab = Lab::new(1).await;
    let mut tree = Tree::default();
    tree.directory("d").file("d/large", noise(1, EXTENT * 80));
    for n in 0..40 {
        tree.file(&format!("d/small{n:03}"), text(n, 5000));
    }
    lab.backup(FakeSession::new(&tree)).await;
    let before = lab.names(0, "data/").await;
    let second = lab.backup(FakeSession::new(&tree)).await;
    assert_eq!(lab.names(0, "data/").await, before);
    assert_eq!((second.totals.new, second.totals.stored), (0, 0));
    assert_eq!(second.totals.unchanged, tree.bytes());
    let (restored, _) = lab.restore(&second.manifest).await;
    assert_eq!(restored, tree);

    // One changed byte in one extent: exactly that extent is new.
    let mut changed = tree.clone();
    let mut content = noise(1, EXTENT * 80);
    content[EXTENT * 41] ^= 1;
    changed.file("d/large", content);
    let third = lab.backup(FakeSession::new(&changed)).await;
    assert_eq!(third.totals.new, EXTENT as u64);
    let (restored, _) = lab.restore(&third.manifest).await;
    assert_eq!(restored, changed);
    let (restored, _) = lab.restore(&second.manifest).await;
    assert_eq!(restored, tree, "the older snapshot is what it was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_content_is_stored_once() {
    let lab = Lab::new(1).await;
    let mut tree = Tree::default();
    for n in 0..12 {
        tree.file(&format!("copy{n:02}"), noise(9, EXTENT * 6));
    }
    let outcome = lab.backup(FakeSession::new(&tree)).await;
    assert_eq!(outcome.totals.new, (EXTENT * 6) as u64);
    assert_eq!(outcome.totals.repeated, (EXTENT * 66) as u64);
    assert_eq!(lab.restore(&outcome.manifest).await.0, tree);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_entries_stand_in_their_place_and_what_comes_last_is_whole() {
    let lab = Lab::new(1).await;
    let mut tree = Tree::default();
    tree.directory("global").file("global/1260", noise(1, 9000)).file("zz", noise(2, 10));
    let mut late = Tree::default();
    late.file("backup_label", text(3, 200)).file("global/pg_control", noise(4, 8192));
    let end = LogPosition::new(1, 0x0100_0028);
    let behaviour = Behaviour { late: late.clone(), needs_log: Some(end), ..Behaviour::default() };
    let outcome = lab.backup(FakeSession::behaving(&tree, behaviour)).await;
    assert_eq!(outcome.manifest.end, Some(end));
    let start = outcome.manifest.start.unwrap();
    assert_eq!(
        lab.gate_calls(),
        [breakwater_engine::RecoveryRange { start, end }],
        "the whole range, not only its end"
    );
    tree.0.extend(late.0);
    assert_eq!(lab.restore(&outcome.manifest).await.0, tree);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_shrank_ends_where_it_ends_now() {
    let lab = Lab::new(1).await;
    let mut tree = Tree::default();
    tree.file("a", noise(1, EXTENT * 9)).file("b", noise(2, EXTENT * 2)).file("c", noise(3, 100));
    let left = EXTENT * 4 + 100;
    let behaviour = Behaviour { truncated: Some((b"a".to_vec(), left)), ..Behaviour::default() };
    let outcome = lab.backup(FakeSession::behaving(&tree, behaviour)).await;
    let Some(item) = tree.0.get_mut(&b"a"[..]) else { panic!("a is there") };
    item.node = Node::File(Arc::new(noise(1, EXTENT * 9)[..left].to_vec()));
    assert_eq!(lab.restore(&outcome.manifest).await.0, tree);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_pages_are_named_and_do_not_stop_the_backup() {
    let lab = Lab::new(1).await;
    let mut tree = Tree::default();
    tree.file("base", noise(1, 8192 * 20));
    let behaviour = Behaviour { damaged: Some((b"base".to_vec(), 13)), ..Behaviour::default() };
    let outcome = lab.backup(FakeSession::behaving(&tree, behaviour)).await;
    assert_eq!(outcome.damaged.len(), 1);
    assert_eq!((outcome.damaged[0].path.as_slice(), outcome.damaged[0].page), (&b"base"[..], 13));
    let warnings = outcome.manifest.warnings.join("\n");
    assert!(warnings.contains("base") && warnings.contains("13"), "{warnings}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patterns_bring_back_what_they_name_and_nothing_else() {
    let lab = Lab::new(1).await;
    let mut tree = Tree::default();
    tree.directory("base").directory("base/1").directory("base/2").directory("global");
    tree.file("base/1/10", noise(1, 50)).file("base/2/10", noise(2, 60)).file("global/10", noise(3, 70));
    let outcome = lab.backup(FakeSession::new(&tree)).await;
    let (restored, _) = lab.restore_only(&outcome.manifest, &["base/2"]).await.unwrap();
    let paths: Vec<_> = restored.0.keys().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
    assert_eq!(paths, ["base", "base/2", "base/2/10"]);
    let error = lab.restore_only(&outcome.manifest, &["base/3"]).await.unwrap_err();
    assert_eq!(error.class(), breakwater_core::ErrorClass::NotFound, "{error}");
}

/// What a step of the property does to one file.
#[derive(Clone, Debug)]
enum Change {
    Write { file: u8, at: u32, length: u16, seed: u64 },
    Zero { file: u8, at: u32, length: u16 },
    Resize { file: u8, length: u32 },
    Remove { file: u8 },
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let file = 0..12u8;
    let at = 0..EXTENT as u32 * 6;
    prop::collection::vec(
        prop_oneof![
            4 => (file.clone(), at.clone(), any::<u16>(), any::<u64>())
                .prop_map(|(file, at, length, seed)| Change::Write { file, at, length, seed }),
            1 => (file.clone(), at.clone(), any::<u16>()).prop_map(|(file, at, length)| Change::Zero { file, at, length }),
            1 => (file.clone(), at).prop_map(|(file, length)| Change::Resize { file, length }),
            1 => file.prop_map(|file| Change::Remove { file }),
        ],
        1..14,
    )
}

fn apply(tree: &mut Tree, change: &Change) {
    let name = |file: u8| format!("{}/f{file:02}", if file.is_multiple_of(3) { "a" } else { "b/c" });
    let mut edit = |file: u8, edit: &mut dyn FnMut(&mut Vec<u8>)| {
        let item = tree.0.get(name(file).as_bytes());
        let mut content = match item.map(|item| &item.node) {
            Some(Node::File(content)) => content.as_ref().clone(),
            _ => Vec::new(),
        };
        edit(&mut content);
        tree.file(&name(file), content);
    };
    let splice = |content: &mut Vec<u8>, at: u32, bytes: &[u8]| {
        let at = at as usize;
        content.resize(content.len().max(at + bytes.len()), 0);
        content[at..at + bytes.len()].copy_from_slice(bytes);
    };
    match change {
        Change::Write { file, at, length, seed } => {
            edit(*file, &mut |content| splice(content, *at, &noise(*seed, usize::from(*length))));
        }
        Change::Zero { file, at, length } => {
            edit(*file, &mut |content| splice(content, *at, &vec![0; usize::from(*length)]))
        }
        Change::Resize { file, length } => edit(*file, &mut |content| content.resize(*length as usize, 0)),
        Change::Remove { file } => drop(tree.0.remove(name(*file).as_bytes())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_history_of_a_tree_can_be_restored(steps in prop::collection::vec(changes(), 1..4)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let lab = Lab::new(1).await;
            let mut tree = Tree::default();
            tree.directory("a").directory("b").directory("b/c").link("b/link", "c");
            let mut history: Vec<(Tree, BackupOutcome)> = Vec::new();
            for changes in &steps {
                changes.iter().for_each(|change| apply(&mut tree, change));
                let outcome = lab.backup(FakeSession::new(&tree)).await;
                history.push((tree.clone(), outcome));
            }
            for (tree, outcome) in &history {
                let (restored, _) = lab.restore(&outcome.manifest).await;
                assert_eq!(&restored, tree);
            }
        });
    }
}
