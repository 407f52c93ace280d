//! The same backend for the same beginning of a prompt, so that what it computed before is used again;
//! unless that one has too much more to do than the others.
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998): each backend has a number for each beginning, and the
//! highest wins, so that a backend that comes or goes moves its own share and nothing else. Every gateway
//! comes to the same numbers. The bound is that of "Consistent Hashing with Bounded Loads" (Mirrokni et al.,
//! 2018). Knows names and counts.

/// Nobody has more than this, by the average of those that could take the request.
const LOAD_MAX: f64 = 1.25;

/// A backend's name as a number, the same in every process (FNV-1a).
pub(crate) fn number(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// How much a backend wants a beginning (the finalizer of SplitMix64 over both).
fn wish(prefix: u64, number: u64) -> u64 {
    let mut mixed = prefix ^ number.rotate_left(32);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Which of them, given each one's number and requests under way.
pub(crate) fn home(prefix: u64, backends: &[(u64, u32)]) -> Option<usize> {
    let all: f64 = backends.iter().map(|(_, in_flight)| f64::from(*in_flight)).sum();
    // With this request among them.
    let most = (LOAD_MAX * (all + 1.0) / backends.len() as f64).ceil();
    (0..backends.len())
        .filter(|&index| f64::from(backends[index].1) < most)
        .max_by_key(|&index| wish(prefix, backends[index].0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle(count: usize) -> Vec<(u64, u32)> {
        (0..count).map(|index| (number(&format!("10.0.0.{index}:8000")), 0)).collect()
    }

    #[test]
    fn who_leaves_moves_its_own_share_and_nothing_else() {
        let before = idle(10);
        let mut after = before.clone();
        after.remove(3);
        let mut counts = [0; 10];
        for prefix in 0..10_000_u64 {
            let prefix = wish(prefix, 1);
            let home_before = home(prefix, &before).unwrap();
            counts[home_before] += 1;
            let home_after = home(prefix, &after).unwrap();
            if home_before != 3 {
                assert_eq!(before[home_before].0, after[home_after].0);
            }
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn nobody_has_much_more_than_the_others() {
        let mut backends = idle(4);
        for request in 0..400 {
            // Nine in ten begin alike.
            let prefix = if request % 10 == 0 { request } else { 7 };
            let chosen = home(prefix, &backends).unwrap();
            backends[chosen].1 += 1;
        }
        let most = backends.iter().map(|(_, in_flight)| *in_flight).max().unwrap();
        assert!(most <= 126, "{backends:?}");
        // And the favourite has its full part of it.
        assert!(most >= 120, "{backends:?}");
        assert_eq!(home(1, &[]), None);
    }
}
