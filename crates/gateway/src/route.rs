//! Where a request may go, and in which order: one `Route` for one request, by its model's policy.
//!
//! Chooses among what `pools` knows; sends nothing itself, and decides neither how often nor when it
//! is tried again.

mod affinity;
pub(crate) mod canary;
mod cheapest;
pub(crate) mod entry;
mod fastest;
mod figures;
pub(crate) mod memory;
pub(crate) mod mirror;
mod verdict;
pub(crate) mod weighted;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use self::canary::CanaryTrial;
pub use self::canary::CanaryView;
use self::cheapest::{Objectives, Standing};
pub(crate) use self::entry::Purpose;
use self::entry::{Entry, Member, OnTrial};
pub use self::figures::FiguresView;
use self::figures::Side;
use self::mirror::MirrorTrial;
pub use self::mirror::MirrorView;
use crate::config::{ModelConfig, Policy};
use crate::money::Money;
use crate::pools::backend::{Backend, Slot};
use crate::pools::lease::Lease;
use crate::pools::vitals::{Look, Means, Reading};
use crate::pools::{Pools, Table};

/// So many backends of one pool are tried before another pool is: a second chance near the prompt's
/// cache, but not all the servers of a supplier that is down.
const TRIES_PER_POOL: usize = 2;

/// What a route is looked for.
#[derive(Clone, Copy, Debug)]
pub struct RouteAsk<'a> {
    pub model: &'a str,
    /// Names of pools that the tenant is kept to, or `region:NAME` for all pools there; without any,
    /// all.
    pub allowed_pools: &'a [String],
    /// A hash of the prompt's beginning.
    pub prefix: u64,
    pub prompt_tokens: u64,
    pub max_tokens: u64,
}

/// Why there is no route at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    #[error("there is no model `{asked}`{}", .nearest.as_ref().map(|name| format!("; did you mean `{name}`?")).unwrap_or_default())]
    UnknownModel { asked: String, nearest: Option<String> },
    #[error("none of the pools of `{model}` is one that this key may use")]
    NoPool { model: String },
}

/// The way of one request through the backends of its model.
pub struct Route {
    pools: Arc<Pools>,
    table: Arc<Table>,
    entry: Arc<Entry>,
    allowed_pools: Vec<String>,
    /// Members in the order of preference, as the policy has it for this request.
    order: Vec<usize>,
    /// Ids of backends, and the pool each was of.
    tried: Vec<(u64, String)>,
    /// How often a backend was found.
    leases: u32,
    /// The model's canary, and whether this request is one of its share.
    canary: Option<(Arc<CanaryTrial>, Side)>,
    /// Who compares this request with its copy.
    mirror: Option<Arc<MirrorTrial>>,
    prefix: u64,
}

/// A backend that could take the request now.
struct Candidate<'a> {
    /// Place in the order of preference of its pool.
    member: usize,
    backend: &'a Arc<Backend>,
    reading: Reading,
}

impl Route {
    pub(crate) fn new(
        pools: Arc<Pools>,
        table: Arc<Table>,
        entry: Arc<Entry>,
        ask: &RouteAsk<'_>,
    ) -> Result<Route, RouteError> {
        let mut route = Route {
            pools,
            table,
            entry,
            allowed_pools: ask.allowed_pools.to_vec(),
            order: Vec::new(),
            tried: Vec::new(),
            leases: 0,
            canary: None,
            mirror: None,
            prefix: ask.prefix,
        };
        route.order = route.preferred();
        if route.order.is_empty() {
            return Err(RouteError::NoPool { model: ask.model.to_owned() });
        }
        let canary = route.entry.canary.as_ref().filter(|canary| route.is_allowed(&canary.member));
        route.canary =
            canary.and_then(|canary| Some((Arc::clone(&canary.trial), canary.trial.next_side()?)));
        Ok(route)
    }

    pub fn model(&self) -> &Arc<ModelConfig> {
        &self.entry.model
    }

    /// The most that so many tokens can cost at the pools that this request may go to.
    pub fn dearest(&self, prompt_tokens: u64, completion_tokens: u64) -> Money {
        let canary = self.canary().map(|canary| &canary.member);
        self.members()
            .chain(canary)
            .map(|member| member.pool.cost(prompt_tokens, 0, completion_tokens))
            .max()
            .unwrap_or_default()
    }

    /// The time in which a share of `quantile` of whole (not streamed) answers of this model came in
    /// the last minutes; nothing if there were too few to say.
    pub fn usual_time(&self, quantile: f64) -> Option<Duration> {
        self.entry.memory.usual_time(quantile, Instant::now())
    }

    /// All backends may be tried again: for a second round after a pause.
    pub fn start_over(&mut self) {
        self.tried.clear();
    }

    /// The best backend that was not tried yet and has room. Nothing if there is none now.
    #[expect(clippy::should_implement_trait, reason = "a route has no end: it may start over")]
    pub fn next(&mut self) -> Option<Lease> {
        self.follow_config();
        let now = Instant::now();
        let mut passed: Vec<u64> = Vec::new();
        loop {
            let candidates = self.candidates(now, &passed);
            let chosen = self.choose(&candidates)?;
            let (member, backend) = (chosen.member, Arc::clone(chosen.backend));
            match self.pools.waiting().take(&backend) {
                Some(slot) => return Some(self.lease(member, slot)),
                // Somebody was faster, or waits for it longer.
                None => passed.push(backend.vitals().id),
            }
        }
    }

    /// As `next`, but waits for room, in the order in which requests came, until `until`. When all
    /// backends were tried, all may be tried again: it is the caller who counts tries.
    pub async fn wait(&mut self, until: Instant) -> Option<Lease> {
        if let Some(lease) = self.next() {
            return Some(lease);
        }
        let place = self.pools.waiting().enter(Vec::new());
        loop {
            self.follow_config();
            let untried: Vec<Arc<Backend>> = self.untried().map(|(_, it)| Arc::clone(it)).collect();
            if untried.is_empty() {
                if self.tried.is_empty() {
                    return None;
                }
                self.start_over();
                continue;
            }
            place.wants(untried.iter().map(|backend| backend.vitals().id).collect());
            // What became free between looking and standing in line, or by time alone.
            untried.iter().for_each(|backend| self.pools.waiting().offer(backend));
            if let Some(slot) = place.given() {
                let id = slot.backend().vitals().id;
                let member = self.untried().find(|(_, backend)| backend.vitals().id == id);
                if let Some((member, _)) = member {
                    return Some(self.lease(member, slot));
                }
                continue;
            }
            let now = Instant::now();
            if now >= until {
                return None;
            }
            let chance = untried.iter().filter_map(|backend| {
                match backend.vitals().look(backend.config(), now) {
                    Look::Later(at) => Some(at),
                    _ => None,
                }
            });
            let next_look = chance.min().map_or(until, |at| at.min(until));
            tokio::select! {
                () = place.told() => {}
                () = sleep_until(next_look) => {}
            }
        }
    }

    /// A place at the model's mirror, for a copy of this request: if it is one of the share that is
    /// copied, and there is room. To be asked for once, before any backend is.
    pub(crate) fn mirrors(&mut self) -> Option<(Lease, Arc<MirrorTrial>)> {
        let mirror = self.entry.mirror.as_ref().filter(|mirror| self.is_allowed(&mirror.member))?;
        if !mirror.trial.hit() {
            return None;
        }
        let (member, trial) = (&mirror.member, Arc::clone(&mirror.trial));
        let Some((room, slot)) = trial.room().zip(self.slot_at(member)) else {
            trial.left_out();
            return None;
        };
        self.mirror = Some(Arc::clone(&trial));
        let purpose = Purpose {
            mirror: Some((Arc::clone(&trial), Side::Candidate)),
            is_on_trial: true,
            _room: Some(room),
            ..Purpose::default()
        };
        let (pool, model_name) = (Arc::clone(&member.pool), Arc::clone(&member.model_name));
        Some((Lease::new(pool, model_name, slot, purpose), trial))
    }

    /// Nobody waits for it: only what is free now.
    fn slot_at(&self, member: &Member) -> Option<Slot> {
        let now = Instant::now();
        let backends = member.pool.backends().iter();
        let free = backends.filter_map(|one| match one.vitals().look(one.config(), now) {
            Look::Free(reading) => Some((reading.in_flight, one)),
            _ => None,
        });
        let (_, backend) = free.min_by_key(|(in_flight, _)| *in_flight)?;
        self.pools.waiting().take(backend)
    }

    fn lease(&mut self, index: usize, slot: Slot) -> Lease {
        let member = self.member(index);
        let (pool, model_name) = (Arc::clone(&member.pool), Arc::clone(&member.model_name));
        let mut purpose = Purpose {
            memory: Some(Arc::clone(&self.entry.memory)),
            is_on_trial: index == self.entry.members.len(),
            ..Purpose::default()
        };
        // Only first tries are compared, one for each request: what others failed at, and answers
        // that go on in the middle, are not what a request usually is.
        if self.leases == 0 {
            let side = if purpose.is_on_trial { Side::Candidate } else { Side::Usual };
            purpose.canary = self.canary.as_ref().map(|(trial, _)| (Arc::clone(trial), side));
            purpose.mirror = self.mirror.take().map(|trial| (trial, Side::Usual));
        }
        self.leases += 1;
        self.tried.push((slot.backend().vitals().id, pool.name().to_owned()));
        Lease::new(pool, model_name, slot, purpose)
    }

    /// The config may have changed since: new backends are to be used, removed ones not.
    fn follow_config(&mut self) {
        let table = self.pools.table();
        if Arc::ptr_eq(&table, &self.table) {
            return;
        }
        if let Some(entry) = table.entry(&self.entry.model.name) {
            self.entry = Arc::clone(entry);
            self.order = self.preferred();
        }
        self.table = table;
    }

    fn is_allowed(&self, member: &Member) -> bool {
        let pool = member.pool.config();
        self.allowed_pools.is_empty()
            || self.allowed_pools.iter().any(|allowed| {
                *allowed == pool.name
                    || allowed.strip_prefix("region:").is_some_and(|region| region == pool.region)
            })
    }

    /// Where the canary is, if this request goes there and may still.
    fn canary(&self) -> Option<&OnTrial<CanaryTrial>> {
        let (trial, side) = self.canary.as_ref()?;
        let canary = self.entry.canary.as_ref()?;
        let is_same = Arc::ptr_eq(&canary.trial, trial);
        (is_same && *side == Side::Candidate && !trial.is_rolled_back()).then_some(canary)
    }

    /// The canary stands behind the members.
    fn member(&self, index: usize) -> &Member {
        match &self.entry.canary {
            Some(canary) if index == self.entry.members.len() => &canary.member,
            _ => &self.entry.members[index],
        }
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        self.entry.members.iter().filter(|member| self.is_allowed(member))
    }

    /// The allowed members, the one that the policy prefers first.
    fn preferred(&self) -> Vec<usize> {
        let members = &self.entry.members;
        let mut order: Vec<usize> =
            (0..members.len()).filter(|&index| self.is_allowed(&members[index])).collect();
        match self.entry.model.policy {
            Policy::Weighted => {
                let now = Instant::now();
                let weight = |(index, member): (usize, &Member)| {
                    let has_room = member.pool.backends().iter().any(|backend| {
                        matches!(
                            backend.vitals().look(backend.config(), now),
                            Look::Free(_) | Look::Full
                        )
                    });
                    if order.contains(&index) && has_room { member.weight } else { 0.0 }
                };
                let weights: Vec<f64> = members.iter().enumerate().map(weight).collect();
                order.sort_by(|&left, &right| {
                    members[right].weight.total_cmp(&members[left].weight)
                });
                if let Some(first) = self.entry.memory.next_by_weight(&weights) {
                    order.retain(|&index| index != first);
                    order.insert(0, first);
                }
            }
            Policy::Cheapest => order = self.by_cost(&order),
            Policy::Ordered | Policy::Fastest | Policy::Affinity => {}
        }
        order
    }

    /// Members by the cost of a usual request, as far as they keep the objectives.
    fn by_cost(&self, allowed: &[usize]) -> Vec<usize> {
        let (entry, now) = (&self.entry, Instant::now());
        let mix = entry.memory.mix();
        let standing = |member: &'_ Member| {
            let [prompt, cached, completion] = [mix.prompt, mix.cached, mix.completion];
            let tokens = |count: f64| count.round() as u64;
            member.pool.known_cost(tokens(prompt), tokens(cached), tokens(completion))
        };
        entry.memory.steer(|steering| {
            let means = |member: &Member| member.pool.means(now);
            if steering.is_due(now) {
                let all: Vec<Standing<'_>> = entry
                    .members
                    .iter()
                    .map(|member| Standing {
                        pool: member.pool.name(),
                        cost: standing(member),
                        means: means(member),
                    })
                    .collect();
                let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
                let objectives =
                    Objectives { ttft: seconds(entry.model.ttft), tpot: seconds(entry.model.tpot) };
                steering.look(&all, objectives, now);
            }
            let few: Vec<Standing<'_>> = allowed
                .iter()
                .map(|&index| &entry.members[index])
                .map(|member| Standing {
                    pool: member.pool.name(),
                    cost: standing(member),
                    means: Means::default(),
                })
                .collect();
            steering.order(&few).into_iter().map(|place| allowed[place]).collect()
        })
    }

    fn untried(&self) -> impl Iterator<Item = (usize, &Arc<Backend>)> {
        let canary = self.canary().map(|_| self.entry.members.len());
        self.order.iter().copied().chain(canary).flat_map(|member| {
            let backends = self.member(member).pool.backends().iter();
            backends.map(move |backend| (member, backend)).filter(|(_, backend)| {
                let id = backend.vitals().id;
                !self.tried.iter().any(|(tried, _)| *tried == id)
            })
        })
    }

    fn candidates(&self, now: Instant, passed: &[u64]) -> Vec<Candidate<'_>> {
        let mut candidates: Vec<Candidate<'_>> = self
            .untried()
            .filter(|(_, backend)| !passed.contains(&backend.vitals().id))
            .filter_map(|(member, backend)| match backend.vitals().look(backend.config(), now) {
                Look::Free(reading) => Some(Candidate { member, backend, reading }),
                _ => None,
            })
            .collect();
        if self.canary.is_some() {
            // The canary is asked first and once; then it is for those whom nobody else can take.
            let is_of_canary = |one: &Candidate<'_>| one.member == self.entry.members.len();
            let is_its_turn = self.leases == 0 && candidates.iter().any(is_of_canary);
            if candidates.iter().any(|one| is_of_canary(one) == is_its_turn) {
                candidates.retain(|one| is_of_canary(one) == is_its_turn);
            }
        }
        candidates
    }

    fn choose<'a>(&self, candidates: &'a [Candidate<'a>]) -> Option<&'a Candidate<'a>> {
        let fresh = |candidate: &&Candidate<'_>| self.tries(candidate.member) < TRIES_PER_POOL;
        match self.entry.model.policy {
            Policy::Fastest | Policy::Affinity => {
                let mut open: Vec<&Candidate<'_>> = candidates.iter().filter(fresh).collect();
                if open.is_empty() {
                    open = candidates.iter().collect();
                }
                let chosen = match self.entry.model.policy {
                    Policy::Affinity => {
                        let load = |one: &&Candidate<'_>| {
                            (affinity::number(one.backend.name()), one.reading.in_flight)
                        };
                        affinity::home(self.prefix, &open.iter().map(load).collect::<Vec<_>>())
                    }
                    _ => {
                        let readings: Vec<Reading> = open.iter().map(|one| one.reading).collect();
                        let tokens = self.entry.memory.mix().completion;
                        fastest::of_two(&readings, tokens, |count| fastrand::usize(..count))
                    }
                };
                open.get(chosen?).copied()
            }
            Policy::Cheapest | Policy::Weighted | Policy::Ordered => self.in_order(candidates),
        }
    }

    /// Of the pool that comes first, the backend with the fewest requests under way.
    fn in_order<'a>(&self, candidates: &'a [Candidate<'a>]) -> Option<&'a Candidate<'a>> {
        let member = candidates
            .iter()
            .map(|candidate| candidate.member)
            .min_by_key(|&member| (self.tries(member) >= TRIES_PER_POOL, self.rank(member)))?;
        let of_pool: Vec<&Candidate<'_>> =
            candidates.iter().filter(|candidate| candidate.member == member).collect();
        of_pool.into_iter().min_by_key(|candidate| candidate.reading.in_flight)
    }

    fn tries(&self, member: usize) -> usize {
        let name = self.member(member).pool.name();
        self.tried.iter().filter(|(_, pool)| pool == name).count()
    }

    fn rank(&self, member: usize) -> usize {
        self.order.iter().position(|&index| index == member).unwrap_or(usize::MAX)
    }
}
