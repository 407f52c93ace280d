//! A server that is to be measured, looked at before: which model, and how prompts get their length.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::runtime::{Builder, Runtime};

use super::client::{Client, Endpoint, Target};
use super::error::LoadError;
use super::measure::{self, Job, Measured, Pace, Progress, Until};
use super::prompts::{Maker, Prompt, Work};

/// A server, and what it is going to be asked. Blocks; one thread does all.
#[derive(Debug)]
pub struct Load {
    runtime: Runtime,
    job: Arc<Job>,
    /// Requests made so far: no later one repeats a prompt.
    sent: u64,
}

impl Load {
    /// Finds the model, and how many tokens words are.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses, or prompts of that length cannot be made.
    pub fn connect(target: &Target, work: Work) -> Result<Load, LoadError> {
        let talks = |prompt: &Prompt| matches!(prompt, Prompt::Messages(_));
        if target.endpoint == Endpoint::Completions
            && work.dataset.iter().any(|prompts| prompts.iter().any(talks))
        {
            return Err(LoadError::Conversations);
        }
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| LoadError::Prepare(error.into()))?;
        let mut client = Client::new(target)?;
        if client.model.is_empty() {
            client.model = runtime.block_on(client.first_model())?;
        }
        let maker = match work.dataset {
            Some(_) => None,
            None => Some(maker(&runtime, &client, &work)?),
        };
        Ok(Load { runtime, job: Arc::new(Job { client, work, maker }), sent: 0 })
    }

    pub fn model(&self) -> &str {
        &self.job.client.model
    }

    pub fn url(&self) -> &str {
        self.job.client.url()
    }

    /// Whether prompts have exactly the length that was asked for, as the server counts.
    pub fn is_exact(&self) -> bool {
        self.job.maker.as_ref().is_some_and(Maker::is_exact)
    }

    /// Sends requests at a pace until there were enough, and waits for their answers. Where `stop`
    /// becomes true, those under way are dropped, and what was done by then is the result.
    ///
    /// # Errors
    /// A rate that is not above 0. Requests that fail are counted.
    pub fn measure(
        &mut self,
        pace: Pace,
        until: Until,
        stop: &AtomicBool,
        report: &mut dyn FnMut(Progress),
    ) -> Result<Measured, LoadError> {
        if let Pace::Rate(rate) = pace
            && !(rate > 0.0 && rate.is_finite())
        {
            return Err(LoadError::Rate { rate });
        }
        let run = measure::run(self.job.clone(), pace, until, self.sent, stop, report);
        let (measured, sent) = self.runtime.block_on(run);
        self.sent += sent;
        Ok(measured)
    }
}

fn maker(runtime: &Runtime, client: &Client, work: &Work) -> Result<Maker, LoadError> {
    let counted = Maker::calibrate(|text| runtime.block_on(client.count_tokens(text)))?;
    let maker = match counted {
        Some(maker) => maker,
        None => {
            let probe = Maker::probe();
            let reported = runtime.block_on(client.prompt_tokens(&probe))?;
            // Of a server that counts nothing at all, a token per word is as good a guess as any.
            Maker::estimate(reported.unwrap_or_else(|| probe.split(' ').count()))
        }
    };
    maker.check(work)?;
    Ok(maker)
}
