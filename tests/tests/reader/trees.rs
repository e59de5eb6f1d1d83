//! Trees to back up.

use breakwater_engine::ChangedPages;

use crate::lab::EXTENT;
use crate::tree::{Tree, noise, text};

/// Bytes of a page of the table.
const PAGE: usize = 512;

/// A few files of every simple shape.
pub(crate) fn small_tree() -> Tree {
    let mut tree = Tree::default();
    tree.directory("d").file("d/large", noise(1, EXTENT * 20)).file("d/text", text(2, 5000));
    tree.link("link", "d").file("zeros", vec![0; EXTENT * 2]);
    tree
}

/// Documents that are cut where their content says, and what is neither file nor directory.
pub(crate) fn documents(length: usize) -> Tree {
    let mut tree = Tree::default();
    tree.directory("docs").document("docs/long", text(1, length)).document("docs/short", text(2, 700));
    tree.document("docs/zeros", vec![0; 300_000]).hard_link("docs/twin", "docs/long").fifo("docs/pipe");
    tree.directory("pages").file("pages/table", text(3, EXTENT * 40));
    tree
}

/// The same a day later: something was put into the middle of the document, and a few pages of the table are others.
pub(crate) fn documents_later(first: &Tree, length: usize) -> Tree {
    let mut tree = first.clone();
    let mut long = text(1, length);
    let middle = length / 3;
    long.splice(middle..middle, b"put in between".iter().copied());
    tree.document("docs/long", long).hard_link("docs/twin", "docs/long");
    let mut table = text(3, EXTENT * 40);
    let pages = [5, 6, 17, 120, 319];
    for page in pages {
        table[page * PAGE..(page + 1) * PAGE].copy_from_slice(&noise(page as u64, PAGE));
    }
    tree.file("pages/table", table);
    let ranges = pages.iter().map(|page| *page as u64..*page as u64 + 1).collect();
    tree.1.changed.insert(b"pages/table".to_vec(), ChangedPages { page_size: 512, ranges });
    tree
}
