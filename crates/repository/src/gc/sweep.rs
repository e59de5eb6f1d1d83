//! The packs that the regions hold, laid beside what is needed of them: both in order, so that neither is ever held whole.

use std::collections::BTreeSet;
use std::io;

use breakwater_core::SessionId;

use super::Figure;
use crate::format::pack::{KeyKind, PackId};
use crate::format::references::{FrameRange, PackRanges};

/// A pack that some region holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedPack {
    /// What it holds.
    pub kind: KeyKind,
    /// The pack.
    pub pack: PackId,
    /// Its bytes.
    pub size: u64,
}

/// What is known of a session when its packs are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its packs stay, whatever is needed of them.
    Stays,
    /// Its packs stay as far as they are needed.
    Judged,
    /// Its packs go: it moved frames and was fenced.
    Doomed,
    /// Nothing is known of it.
    Stray,
}

/// What is to become of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes.
    Delete(ListedPack),
    /// The ranges are moved, then it goes.
    Repack(ListedPack, Vec<FrameRange>),
}

/// What a sweep saw.
#[derive(Clone, Debug, Default)]
pub struct Swept {
    /// All packs.
    pub packs: Figure,
    /// Those of sessions of which nothing is known.
    pub strays: Figure,
    /// Those that go.
    pub delete: Figure,
    /// Those that are moved.
    pub repack: Figure,
    /// What of these is needed: about what the new packs will have.
    pub moved_bytes: u64,
    /// Judged sessions of which some pack stays as it is.
    pub kept: BTreeSet<SessionId>,
}

/// Walks `packs` (in order) beside `live` (in order), and hands out what is to become of each one that does not stay.
/// `repack_below` is in percent of a pack's bytes.
pub fn sweep<E: From<io::Error>>(
    packs: impl Iterator<Item = Result<ListedPack, E>>,
    live: impl Iterator<Item = io::Result<PackRanges>>,
    fate: impl Fn(SessionId) -> Fate,
    repack_below: u8,
    mut verdict: impl FnMut(Verdict) -> io::Result<()>,
) -> Result<Swept, E> {
    let mut swept = Swept::default();
    let mut live = live.peekable();
    for pack in packs {
        let pack = pack?;
        swept.packs.add(pack.size);
        let key = (pack.kind, pack.pack);
        // What lies before is needed of packs that are not there any more.
        while let Some(passed) = live.next_if(|next| next.as_ref().map_or(true, |next| next.key() < key)) {
            passed?;
        }
        match fate(pack.pack.session) {
            Fate::Stays => {}
            Fate::Stray => swept.strays.add(pack.size),
            Fate::Doomed => {
                swept.delete.add(pack.size);
                verdict(Verdict::Delete(pack))?;
            }
            Fate::Judged => {
                let needed = live.next_if(|next| next.as_ref().is_ok_and(|next| next.key() == key)).transpose()?;
                let bytes = needed.as_ref().map_or(0, PackRanges::bytes);
                match needed {
                    None => {
                        swept.delete.add(pack.size);
                        verdict(Verdict::Delete(pack))?;
                    }
                    Some(needed) if bytes.saturating_mul(100) < pack.size.saturating_mul(u64::from(repack_below)) => {
                        swept.repack.add(pack.size);
                        swept.moved_bytes += bytes;
                        verdict(Verdict::Repack(pack, needed.ranges))?;
                    }
                    Some(_) => {
                        swept.kept.insert(pack.pack.session);
                    }
                }
            }
        }
    }
    Ok(swept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pack_has_its_verdict() {
        let id = |session: u8, number| PackId { session: SessionId::from_bytes([session; 16]), number };
        let listed = |session, number| ListedPack { kind: KeyKind::Content, pack: id(session, number), size: 1000 };
        let needed = |session, number, length| PackRanges {
            kind: KeyKind::Content,
            pack: id(session, number),
            ranges: vec![FrameRange { offset: 128, length }],
        };
        let packs = [listed(1, 0), listed(1, 1), listed(1, 2), listed(2, 0), listed(3, 0), listed(4, 0), listed(5, 0)];
        let live = [
            needed(0, 9, 5),
            needed(1, 1, 499),
            needed(1, 2, 500),
            needed(1, 3, 5),
            needed(3, 0, 900),
            needed(9, 0, 1),
        ];
        let fate = |session: SessionId| match session.as_bytes()[0] {
            1 => Fate::Judged,
            2 => Fate::Stays,
            3 => Fate::Doomed,
            4 => Fate::Stray,
            _ => Fate::Judged,
        };
        let mut verdicts = Vec::new();
        let swept = sweep::<io::Error>(packs.into_iter().map(Ok), live.into_iter().map(Ok), fate, 50, |verdict| {
            verdicts.push(verdict);
            Ok(())
        });
        let swept = swept.unwrap();
        let range = FrameRange { offset: 128, length: 499 };
        assert_eq!(
            verdicts,
            [
                Verdict::Delete(listed(1, 0)),
                Verdict::Repack(listed(1, 1), vec![range]),
                Verdict::Delete(listed(3, 0)),
                Verdict::Delete(listed(5, 0)),
            ]
        );
        assert_eq!((swept.packs.objects, swept.strays.objects, swept.moved_bytes), (7, 1, 499));
        assert_eq!(swept.kept, BTreeSet::from([SessionId::from_bytes([1; 16])]));
    }
}
