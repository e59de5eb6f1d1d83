//! The listings of several regions walked side by side, in key order, one row a name.
//!
//! Invariant: memory holds one name of each region, however long the listings are; a region whose listing broke off is
//! never said to miss anything.

use std::time::Duration;

use breakwater_core::{Chain, ErrorClass};
use breakwater_storage::{Listing, ObjectMeta};
use futures::StreamExt;

use super::error::Failure;

/// A name and the regions that hold it, with the sizes there.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) holders: Vec<(usize, u64)>,
}

impl Row {
    /// The largest of the sizes; they are all equal unless something is wrong.
    pub(crate) fn size(&self) -> u64 {
        self.holders.iter().map(|(_, size)| *size).max().unwrap_or(0)
    }

    pub(crate) fn is_in(&self, region: usize) -> bool {
        self.holders.iter().any(|(holder, _)| *holder == region)
    }
}

struct Side {
    region: usize,
    listing: Listing,
    head: Option<ObjectMeta>,
    state: State,
}

enum State {
    /// `head` is to be filled.
    Empty,
    Filled,
    Ended,
    Broken(Failure),
}

pub(crate) struct Merge {
    sides: Vec<Side>,
    patience: Duration,
}

impl Merge {
    /// Walks `listings`, given with the numbers of their regions. A listing that gives nothing for `patience` breaks off.
    pub(crate) fn new(listings: Vec<(usize, Listing)>, patience: Duration) -> Merge {
        let side = |(region, listing)| Side { region, listing, head: None, state: State::Empty };
        Merge { sides: listings.into_iter().map(side).collect(), patience }
    }

    /// The next name; none at the end of all listings.
    pub(crate) async fn next(&mut self) -> Option<Row> {
        let patience = self.patience;
        let fills =
            self.sides.iter_mut().filter(|side| matches!(side.state, State::Empty)).map(|side| side.fill(patience));
        futures::future::join_all(fills).await;
        let name = self.sides.iter().filter_map(|side| side.head.as_ref()).map(|head| &head.key).min()?.clone();
        let mut holders = Vec::new();
        for side in &mut self.sides {
            if let Some(head) = side.head.take_if(|head| head.key == name) {
                side.state = State::Empty;
                holders.push((side.region, head.size));
            }
        }
        Some(Row { name, holders })
    }

    /// Whether the listing of this region is whole so far.
    pub(crate) fn is_sound(&self, region: usize) -> bool {
        self.sides.iter().any(|side| side.region == region && !matches!(side.state, State::Broken(_)))
    }

    /// The listings that broke off.
    pub(crate) fn broken(&self) -> Vec<(usize, Failure)> {
        let failure = |side: &Side| match &side.state {
            State::Broken(failure) => Some((side.region, failure.clone())),
            _ => None,
        };
        self.sides.iter().filter_map(failure).collect()
    }
}

impl Side {
    async fn fill(&mut self, patience: Duration) {
        self.state = match tokio::time::timeout(patience, self.listing.next()).await {
            Ok(Some(Ok(meta))) => {
                self.head = Some(meta);
                State::Filled
            }
            Ok(None) => State::Ended,
            Ok(Some(Err(error))) => State::Broken(Failure::new(error.class(), Chain(&error).to_string())),
            Err(_) => State::Broken(Failure::new(ErrorClass::Unavailable, "no answer to a list")),
        };
    }
}
