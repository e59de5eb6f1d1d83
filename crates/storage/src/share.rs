//! Extra work as a share of the work: what retries and second reads may cost a place at most.
//!
//! Invariant: of any number of calls in a row, extras are at most `share` times as many, and `most` more.

/// An account of extras: each call pays in a share, each extra costs a whole one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    share: f64,
    most: f64,
    left: f64,
}

impl Share {
    /// `share` extras a call. At most `most` are saved up for bad times, and are there at the start.
    pub(crate) fn new(share: f64, most: u32) -> Share {
        let most = f64::from(most);
        Share { share, most, left: most }
    }

    /// A call is made.
    pub(crate) fn pay_in(&mut self) {
        self.left = (self.left + self.share).min(self.most);
    }

    /// Whether an extra may be made; it is paid for then.
    pub(crate) fn take(&mut self) -> bool {
        let enough = self.left >= 1.0;
        if enough {
            self.left -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn extras_are_a_share_of_the_calls(wishes in proptest::collection::vec(0..4_u32, 1..500), most in 0..20_u32) {
            let mut share = Share::new(0.1, most);
            let mut extras = 0_u32;
            for (calls, wished) in (1_u32..).zip(&wishes) {
                share.pay_in();
                extras += u32::try_from((0..*wished).filter(|_| share.take()).count()).unwrap();
                prop_assert!(f64::from(extras) <= f64::from(calls) * 0.1 + f64::from(most) + 1e-6);
            }
        }
    }

    #[test]
    fn good_times_pay_for_bad_ones_up_to_a_bound() {
        let mut share = Share::new(0.5, 3);
        let taken = |share: &mut Share| (0..100).filter(|_| share.take()).count();
        assert_eq!(taken(&mut share), 3, "there from the start");
        assert_eq!(taken(&mut share), 0);
        (0..4).for_each(|_| share.pay_in());
        assert_eq!(taken(&mut share), 2);
        (0..1000).for_each(|_| share.pay_in());
        assert_eq!(taken(&mut share), 3);
    }
}
