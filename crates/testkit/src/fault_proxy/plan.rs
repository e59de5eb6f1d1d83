//! Which faults there are, how often each is drawn, and the dice.

/// What can happen to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// The connection is reset before the store hears of the request.
    ResetBefore,
    /// The connection is reset with half of the request on its way.
    ResetInRequest,
    /// The store has done it, and the connection is reset with half of the answer on its way.
    ResetInAnswer,
    /// The store has done it, and nothing of the answer arrives.
    ResetAfter,
    /// The answer ends in good order before the length that it promised.
    Truncate,
    /// This request and some after it are answered with 500 or 503, with or without a time to wait.
    Storm,
    /// The answer comes in small pieces with pauses.
    Trickle,
    /// A put arrives twice; which of the answers the client gets is open.
    Twice,
    /// The client's connection is reset, and its put arrives after later requests of others, or of its own.
    Late,
    /// A list lacks its last object and does not say so.
    ShortList,
    /// A list ends after its first page and says that it is whole.
    LostPage,
    /// A list says what it said the last time.
    StaleList,
}

/// How often faults are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Odds {
    /// Of so many requests, one meets a fault; 0: none does.
    one_in: u64,
    lying_lists: bool,
}

/// What can happen to any request that has a body in its answer.
const ANY: [FaultKind; 7] = [
    FaultKind::ResetBefore,
    FaultKind::ResetInRequest,
    FaultKind::ResetInAnswer,
    FaultKind::ResetAfter,
    FaultKind::Truncate,
    FaultKind::Storm,
    FaultKind::Trickle,
];
const PUTS: [FaultKind; 2] = [FaultKind::Twice, FaultKind::Late];
const LISTS: [FaultKind; 3] = [FaultKind::ShortList, FaultKind::LostPage, FaultKind::StaleList];

impl Odds {
    /// Of `one_in` requests, one meets a fault.
    pub fn one_in(one_in: u64) -> Odds {
        Odds { one_in, lying_lists: false }
    }

    /// The same, and lists lie.
    #[must_use]
    pub fn with_lying_lists(self) -> Odds {
        Odds { lying_lists: true, ..self }
    }

    /// No faults.
    pub fn none() -> Odds {
        Odds::one_in(0)
    }

    pub(super) fn draw(self, dice: &mut Dice, is_put: bool, is_list: bool, is_head: bool) -> Option<FaultKind> {
        if self.one_in == 0 || dice.below(self.one_in) != 0 {
            return None;
        }
        let mut kinds = ANY.to_vec();
        // The answer to a HEAD has no body to cut.
        kinds.retain(|kind| !(is_head && *kind == FaultKind::Truncate));
        if is_put {
            // As often as all others together: they are what a store of objects must fear most.
            kinds.extend(PUTS.repeat(3));
        }
        if is_list && self.lying_lists {
            kinds.extend(LISTS.repeat(3));
        }
        let at = usize::try_from(dice.below(kinds.len() as u64)).unwrap_or_default();
        kinds.get(at).copied()
    }
}

/// Numbers that look random and follow from a seed: SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that give the same numbers for the same seed.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// A number below `bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).checked_rem(bound).unwrap_or_default()
    }
}
