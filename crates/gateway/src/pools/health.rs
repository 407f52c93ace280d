//! Whether a backend is well, by asking it: so many failures in a row make it ill, so many successes
//! well again.
//!
//! Counts what probes found; who sends them is `rounds.rs`.

use crate::config::HealthConfig;

/// What one probe found.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Finding {
    Well,
    /// It answers, and asks not to be sent anything: 503.
    Draining,
    Ill(String),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Condition {
    /// Nobody has asked yet. It counts as well, or a gateway that starts could serve nobody.
    #[default]
    Unknown,
    Well,
    Draining,
    Ill(String),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Health {
    condition: Condition,
    failures: u32,
    successes: u32,
}

impl Health {
    pub(crate) fn condition(&self) -> &Condition {
        &self.condition
    }

    pub(crate) fn takes_requests(&self) -> bool {
        matches!(self.condition, Condition::Unknown | Condition::Well)
    }

    /// Returns whether it takes requests now and did not before, or the other way round.
    pub(crate) fn found(&mut self, finding: Finding, config: &HealthConfig) -> bool {
        let took = self.takes_requests();
        match finding {
            Finding::Well => {
                self.failures = 0;
                self.successes = self.successes.saturating_add(1);
                if took || self.successes >= config.successes {
                    self.condition = Condition::Well;
                }
            }
            // It says so itself: there is nothing to be sure of.
            Finding::Draining => {
                (self.failures, self.successes) = (0, 0);
                self.condition = Condition::Draining;
            }
            Finding::Ill(why) => {
                self.successes = 0;
                self.failures = self.failures.saturating_add(1);
                // One that was never well needs no benefit of the doubt.
                if self.failures >= config.failures || self.condition != Condition::Well {
                    self.condition = Condition::Ill(why);
                }
            }
        }
        took != self.takes_requests()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rises_and_falls_by_counts_and_drains_at_once() {
        let config = HealthConfig {
            path: "/health".to_owned(),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            failures: 3,
            successes: 2,
        };
        let ill = || Finding::Ill("refused".to_owned());
        let mut health = Health::default();
        assert!(health.takes_requests());
        assert!(health.found(ill(), &config), "a first contact that fails counts at once");
        assert!(!health.found(Finding::Well, &config));
        assert!(health.found(Finding::Well, &config));
        assert!(!health.found(ill(), &config) && !health.found(ill(), &config));
        assert!(!health.found(Finding::Well, &config), "the count starts anew");
        assert!(!health.found(ill(), &config) && !health.found(ill(), &config));
        assert!(health.found(ill(), &config));
        assert_eq!(*health.condition(), Condition::Ill("refused".to_owned()));
        health.found(Finding::Well, &config);
        health.found(Finding::Well, &config);
        assert!(health.found(Finding::Draining, &config));
        assert!(!health.found(Finding::Well, &config));
        assert!(health.found(Finding::Well, &config));
    }
}
