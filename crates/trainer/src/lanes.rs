//! Lanes: the fixed parts into which a batch is cut, each computed by a thread of its own.

use std::{
    convert::Infallible,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use forebay::Runtime;

/// The rows of each lane: as even as `rows` allows, no lane empty.
pub(crate) fn cut(rows: usize, lanes: usize) -> Vec<Range<usize>> {
    let lanes = lanes.min(rows);
    (0..lanes).map(|lane| rows * lane / lanes..rows * (lane + 1) / lanes).collect()
}

/// What `work` makes of each lane, in lane order.
pub(crate) fn across<T: Send>(
    runtime: &Runtime,
    lanes: &[Range<usize>],
    work: impl Fn(Range<usize>) -> T + Sync,
) -> Vec<T> {
    let results: Vec<Mutex<Option<T>>> = lanes.iter().map(|_| Mutex::new(None)).collect();
    let Ok(()) = runtime.workers("lane", lanes.len(), |lane| {
        let result = work(lanes[lane].clone());
        *results[lane].lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        Ok::<_, Infallible>(())
    });
    let results = results.into_iter();
    let results = results.map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner));
    results.map(|result| result.expect("every worker ran to its end")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_lies_in_one_lane() {
        for rows in 1..40 {
            for lanes in 1..9 {
                let cut = cut(rows, lanes);
                assert!(cut.len() <= lanes && cut.iter().all(|lane| !lane.is_empty()));
                assert!(cut.windows(2).all(|pair| pair[0].end == pair[1].start));
                assert_eq!((cut[0].start, cut[cut.len() - 1].end), (0, rows));
            }
        }
    }

    #[test]
    fn results_come_in_lane_order() {
        let lanes = cut(7, 3);
        let results = across(&Runtime::system(), &lanes, |rows| rows.start);
        assert_eq!(results, [0, 2, 4]);
    }
}
