//! What a server's answers feel like under a load, from the times of its steps: continuous batching as a
//! few equations. Knows no chip and no program.
//!
//! Every engine step runs one decode step of all sequences that are past their prompt, and between them
//! chunks of prompts take their turn. With `rate` requests a second, each of `chunks` prompt chunks of
//! `p` seconds and `output` tokens, a share `rate * chunks * p` of the time goes to prompts, so a token
//! takes `d(rows) / (1 - share)` seconds, `d` being a decode step; and by Little's law as many sequences
//! are decoding as begin in the time that one takes: `rows = rate * output * seconds per token`.
//!
//! A prompt waits for those before it: arrivals by chance and work of equal size are a queue M/D/1, whose
//! mean wait is `busy * work / (2 (1 - busy))` (Pollaczek and Khinchine).

use serde::Serialize;

/// Seconds of the steps of a server.
pub trait Steps {
    /// One decode step of so many sequences, which may be a fraction: a mean.
    fn decode_seconds(&self, rows: f64) -> f64;
    /// All chunks of one prompt, without what runs between them.
    fn prompt_seconds(&self) -> f64;
    /// How many chunks those are.
    fn chunks(&self) -> f64;
}

/// What one request is, and what a server has room for.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub output: f64,
    /// Sequences that can decode at once: as many as the cache has room for and the server lets in.
    pub rows_max: f64,
}

/// What users are promised, on average.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Objectives {
    pub ttft_seconds: Option<f64>,
    pub tpot_seconds: Option<f64>,
}

/// How a server is at a load.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AtLoad {
    pub requests_per_second: f64,
    /// Mean time to the first token.
    pub ttft_seconds: f64,
    /// Mean time per token after it.
    pub tpot_seconds: f64,
    /// Sequences that decode together, on average.
    pub rows: f64,
    /// Of the time in which one prompt at a time can be worked on, what is used.
    pub queue_share: f64,
    /// Of the device's time: prompts, and all.
    pub prompt_share: f64,
    pub busy_share: f64,
}

/// Of the time that prompts and what runs between their chunks may take, and of an answer's wait for those
/// before it: beyond, waiting grows without end, and no estimate is good enough to plan with it.
const BUSY_MAX: f64 = 0.9;

/// Halvings in searches: far below what any figure here is good for.
const HALVINGS: usize = 60;

/// How a server is at so many requests a second; nothing if it cannot keep up.
pub fn at(steps: &impl Steps, shape: &Shape, requests_per_second: f64) -> Option<AtLoad> {
    let prompts = requests_per_second * steps.prompt_seconds();
    if prompts >= 1.0 {
        return None;
    }
    let token_seconds = |rows: f64| steps.decode_seconds(rows) / (1.0 - prompts);
    // The rows that decoding so slowly leads to, against those that make it so slow.
    let follows = |rows: f64| requests_per_second * shape.output * token_seconds(rows);
    if follows(shape.rows_max) > shape.rows_max {
        return None;
    }
    let (mut low, mut high) = (0.0, shape.rows_max);
    for _ in 0..HALVINGS {
        let rows = (low + high) / 2.0;
        match follows(rows) > rows {
            true => low = rows,
            false => high = rows,
        }
    }
    let rows = high;
    // With nobody else there, a step is one of one row.
    let decode = steps.decode_seconds(rows.max(1.0));
    let tpot_seconds = decode / (1.0 - prompts);
    // While a prompt is worked on, each of its chunks is followed by a step of the others.
    let beside = if rows >= 1.0 { decode } else { decode * rows };
    let work = steps.prompt_seconds() + steps.chunks() * beside;
    let busy = requests_per_second * work;
    if busy >= 1.0 {
        return None;
    }
    let waits = busy * work / (2.0 * (1.0 - busy));
    let decoding = if rows < 1.0 { rows } else { 1.0 };
    Some(AtLoad {
        requests_per_second,
        // What is under way when it comes is half done, on average.
        ttft_seconds: waits + beside / 2.0 + work,
        tpot_seconds,
        rows,
        queue_share: busy,
        prompt_share: prompts,
        busy_share: (prompts + decoding * (1.0 - prompts)).min(1.0),
    })
}

/// Whether a server could stay at a load: prompts are not too close to all that it can do, and chance
/// seldom brings more sequences than it has room for. Their number varies by its square root; twice that
/// is left free.
fn lasts(load: &AtLoad, shape: &Shape) -> bool {
    // A server of one at a time is full with one; its others wait with the prompts.
    let room = if shape.rows_max <= 1.0 { load.rows } else { load.rows + 2.0 * load.rows.sqrt() };
    load.queue_share <= BUSY_MAX && room <= shape.rows_max
}

/// Whether it is as was promised.
pub fn meets(load: &AtLoad, objectives: &Objectives) -> bool {
    let within = |is: f64, most: Option<f64>| most.is_none_or(|most| is <= most);
    within(load.ttft_seconds, objectives.ttft_seconds)
        && within(load.tpot_seconds, objectives.tpot_seconds)
}

/// The most requests a second that a server answers as promised; nothing if it does not even for one
/// request at a time.
pub fn most(steps: &impl Steps, shape: &Shape, objectives: &Objectives) -> Option<AtLoad> {
    let good = |rate: f64| {
        at(steps, shape, rate).filter(|load| lasts(load, shape) && meets(load, objectives))
    };
    // A request an hour finds nobody else there.
    let mut best = good(1.0 / 3600.0)?;
    let mut high = 1.0 / steps.prompt_seconds().max(1e-9);
    let mut low = best.requests_per_second;
    if let Some(load) = good(high) {
        return Some(load);
    }
    for _ in 0..HALVINGS {
        let rate = (low + high) / 2.0;
        match good(rate) {
            Some(load) => (best, low) = (load, rate),
            None => high = rate,
        }
    }
    Some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decode steps of 10 ms and 0.1 ms a row; prompts of two chunks, 40 ms together.
    struct Some10;

    impl Steps for Some10 {
        fn decode_seconds(&self, rows: f64) -> f64 {
            0.010 + 0.0001 * rows
        }
        fn prompt_seconds(&self) -> f64 {
            0.040
        }
        fn chunks(&self) -> f64 {
            2.0
        }
    }

    const SHAPE: Shape = Shape { output: 100.0, rows_max: 64.0 };

    #[test]
    fn alone_nobody_waits() {
        let load = at(&Some10, &SHAPE, 1e-6).unwrap();
        assert!((load.ttft_seconds - 0.040).abs() < 1e-6, "{load:?}");
        assert!((load.tpot_seconds - 0.0101).abs() < 1e-6, "{load:?}");
    }

    #[test]
    fn rows_follow_from_littles_law() {
        let load = at(&Some10, &SHAPE, 10.0).unwrap();
        // 10 a second of 40 ms are 0.4 of the time; rows = 1000 (0.010 + 0.0001 rows) / 0.6.
        assert!((load.prompt_share - 0.4).abs() < 1e-9);
        assert!((load.rows - 20.0).abs() < 1e-6, "{load:?}");
        assert!((load.tpot_seconds - 0.020).abs() < 1e-6, "{load:?}");
        // Work of 40 + 2 x 12 ms, 0.64 busy: 56.9 ms of waiting; half a step of 12 ms; the work.
        assert!((load.ttft_seconds - (0.056_889 + 0.006 + 0.064)).abs() < 1e-5, "{load:?}");
    }

    #[test]
    fn the_most_is_just_within_what_is_promised() {
        let promised = Objectives { ttft_seconds: None, tpot_seconds: Some(0.020) };
        let load = most(&Some10, &SHAPE, &promised).unwrap();
        assert!((load.requests_per_second - 10.0).abs() < 1e-6, "{load:?}");
        let impossible = Objectives { ttft_seconds: Some(0.039), tpot_seconds: None };
        assert_eq!(most(&Some10, &SHAPE, &impossible), None);
    }

    #[test]
    fn room_for_few_sequences_bounds_the_load() {
        let few = Shape { rows_max: 8.0, ..SHAPE };
        let load = most(&Some10, &few, &Objectives::default()).unwrap();
        // 4 and twice its root are 8.
        assert!((load.rows - 4.0).abs() < 1e-6, "{load:?}");
        assert_eq!(at(&Some10, &few, 10.0), None);
        // Room for one is used by one at a time.
        let one = Shape { rows_max: 1.0, ..SHAPE };
        let load = most(&Some10, &one, &Objectives::default()).unwrap();
        assert!(load.rows <= 1.0 && load.requests_per_second > 0.5, "{load:?}");
    }

    #[test]
    fn without_promises_waiting_is_still_bounded() {
        let short = Shape { output: 1.0, rows_max: 64.0 };
        let load = most(&Some10, &short, &Objectives::default()).unwrap();
        assert!((load.queue_share - BUSY_MAX).abs() < 1e-6, "{load:?}");
        assert!(load.ttft_seconds < 1.0, "{load:?}");
    }
}
