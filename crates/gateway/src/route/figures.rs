//! What a pool on trial did, beside what other pools did with requests of the same kind. Old figures
//! fade by count, not by time: of a pool that gets one request in a hundred, the last minute says
//! nothing.
//!
//! Knows counts and times; what is worse is decided in `verdict.rs`.

use std::time::Duration;

use serde::Serialize;

use crate::money::Money;
use crate::pools::latency::Histogram;

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Did {
    /// Nothing that could be used, or a refusal.
    Failed,
    Served {
        time: Time,
        tokens: u64,
        /// Nothing if the price is not known.
        cost: Option<Money>,
    },
}

/// How long it took. Streams are compared with streams only, whole answers with whole ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Time {
    /// To the first token, and of each further one.
    Stream { ttft: Duration, tpot: Option<Duration> },
    /// By the answer's tokens.
    Whole { per_token: Duration },
}

/// Which side of a comparison a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The pool on trial.
    Candidate,
    /// All others.
    Usual,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) requests: u64,
    pub(crate) failures: u64,
    pub(crate) ttft: Histogram,
    pub(crate) tpot: Histogram,
    /// Of whole answers, per token.
    pub(crate) whole: Histogram,
    /// Of requests whose cost is known.
    tokens: u64,
    cost: Money,
}

impl Figures {
    fn note(&mut self, did: &Did) {
        self.requests += 1;
        match did {
            Did::Failed => self.failures += 1,
            Did::Served { time, tokens, cost } => {
                match time {
                    Time::Stream { ttft, tpot } => {
                        self.ttft.observe(*ttft);
                        if let Some(tpot) = tpot {
                            self.tpot.observe(*tpot);
                        }
                    }
                    Time::Whole { per_token } => self.whole.observe(*per_token),
                }
                if let Some(cost) = cost {
                    self.tokens += tokens;
                    self.cost += *cost;
                }
            }
        }
    }

    pub(crate) fn failure_share(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.failures as f64 / self.requests as f64)
    }

    fn usd_per_million(&self) -> Option<f64> {
        (self.tokens > 0).then(|| self.cost.dollars() / self.tokens as f64 * 1e6)
    }
}

/// How the texts of answers to the same request compare.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Agreement {
    pub(crate) compared: u64,
    pub(crate) same: u64,
    /// Sum of the shares of each text in which both were the same, from its beginning on.
    agreed: f64,
}

impl Agreement {
    fn note(&mut self, is_same: bool, agreed: f64) {
        self.compared += 1;
        self.same += u64::from(is_same);
        self.agreed += agreed;
    }

    pub(crate) fn mean_agreed(&self) -> Option<f64> {
        (self.compared > 0).then(|| self.agreed / self.compared as f64)
    }
}

/// Both sides over the same time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Period {
    pub(crate) candidate: Figures,
    pub(crate) usual: Figures,
    pub(crate) agreement: Agreement,
}

/// The last one to two periods.
#[derive(Clone, Debug)]
pub(crate) struct Comparison {
    /// Requests of the candidate.
    length: u64,
    current: Period,
    /// The period before this one, and this one.
    lately: Period,
}

impl Comparison {
    pub(crate) fn new(length: u64) -> Comparison {
        Comparison { length, current: Period::default(), lately: Period::default() }
    }

    pub(crate) fn note(&mut self, side: Side, did: &Did) {
        if side == Side::Candidate && self.current.candidate.requests >= self.length {
            self.lately = std::mem::take(&mut self.current);
        }
        for period in [&mut self.current, &mut self.lately] {
            match side {
                Side::Candidate => period.candidate.note(did),
                Side::Usual => period.usual.note(did),
            }
        }
    }

    pub(crate) fn compared(&mut self, is_same: bool, agreed: f64) {
        for period in [&mut self.current, &mut self.lately] {
            period.agreement.note(is_same, agreed);
        }
    }

    pub(crate) fn lately(&self) -> &Period {
        &self.lately
    }
}

/// Figures of a pool on trial, and those of the others with the like.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FiguresView {
    pub failure_share: Option<f64>,
    pub usual_failure_share: Option<f64>,
    /// Of streams.
    pub ttft_p50_seconds: Option<f64>,
    pub usual_ttft_p50_seconds: Option<f64>,
    pub tpot_p50_seconds: Option<f64>,
    pub usual_tpot_p50_seconds: Option<f64>,
    /// Of whole answers: their time by their tokens.
    pub whole_tpot_p50_seconds: Option<f64>,
    pub usual_whole_tpot_p50_seconds: Option<f64>,
    /// Of tokens of prompts and answers as they came.
    pub usd_per_million: Option<f64>,
    pub usual_usd_per_million: Option<f64>,
}

impl FiguresView {
    pub(crate) fn of(period: &Period) -> FiguresView {
        let (candidate, usual) = (&period.candidate, &period.usual);
        let median = |times: &Histogram| times.quantile(0.5).map(|time| time.as_secs_f64());
        FiguresView {
            failure_share: candidate.failure_share(),
            usual_failure_share: usual.failure_share(),
            ttft_p50_seconds: median(&candidate.ttft),
            usual_ttft_p50_seconds: median(&usual.ttft),
            tpot_p50_seconds: median(&candidate.tpot),
            usual_tpot_p50_seconds: median(&usual.tpot),
            whole_tpot_p50_seconds: median(&candidate.whole),
            usual_whole_tpot_p50_seconds: median(&usual.whole),
            usd_per_million: candidate.usd_per_million(),
            usual_usd_per_million: usual.usd_per_million(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_figures_fade_by_count_on_both_sides() {
        let mut comparison = Comparison::new(10);
        let served = Did::Served {
            time: Time::Whole { per_token: Duration::from_millis(3) },
            tokens: 1_000,
            cost: Some(Money::from_dollars(0.002)),
        };
        let mut round = |did: &Did| {
            for _ in 0..10 {
                comparison.note(Side::Candidate, did);
                comparison.note(Side::Usual, did);
                comparison.compared(*did != Did::Failed, 0.5);
            }
            comparison.lately().clone()
        };
        assert_eq!(round(&Did::Failed).candidate.failure_share(), Some(1.0));
        let both = round(&served);
        assert_eq!((both.candidate.requests, both.candidate.failures), (20, 10));
        assert_eq!((both.agreement.compared, both.agreement.same), (20, 10));
        let after = round(&served);
        assert_eq!((after.candidate.requests, after.candidate.failures), (20, 0));
        // The others' last one belongs to the period that its candidate's began.
        assert!(after.usual.failures <= 1, "{}", after.usual.failures);
        assert_eq!(after.agreement.mean_agreed(), Some(0.5));
        let view = FiguresView::of(&after);
        assert_eq!((view.usd_per_million, view.ttft_p50_seconds), (Some(2.0), None));
        assert!(view.whole_tpot_p50_seconds.is_some_and(|time| (0.0028..0.0032).contains(&time)));
    }
}
