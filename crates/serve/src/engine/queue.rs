//! Requests that wait for their turn: by priority, then by turns between owners, then by arrival.
//!
//! Turns are by service: the owner who was given the fewest tokens goes first (Sheng et al., "Fairness
//! in serving large language models", 2024). Who comes after a pause does not make up for it, and when
//! nobody has anything to do, what was given is forgotten.

use std::collections::{BTreeSet, HashMap};

use super::sequence::Sequence;

/// Owners whose service is remembered when they have nothing to do.
const OWNERS_MAX: usize = 4096;

#[derive(Default)]
pub struct Queue {
    waiting: Vec<Sequence>,
    /// Tokens that each owner was given.
    service: HashMap<String, u64>,
}

impl Queue {
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// `running` are the owners of what runs.
    pub fn push<'a>(&mut self, sequence: Sequence, running: impl Iterator<Item = &'a str>) {
        let owner = sequence.request.owner.clone();
        let waiting = self.waiting.iter().map(|other| other.request.owner.clone());
        let active: BTreeSet<String> = running.map(str::to_owned).chain(waiting).collect();
        if active.is_empty() {
            self.service.clear();
        }
        if !active.contains(&owner) {
            let least = active.iter().map(|other| self.served(other)).min().unwrap_or(0);
            let own = self.service.entry(owner.clone()).or_default();
            *own = (*own).max(least);
        }
        // Owners that are gone are not remembered for ever.
        if self.service.len() > OWNERS_MAX {
            self.service.retain(|name, _| *name == owner || active.contains(name));
        }
        self.waiting.push(sequence);
    }

    pub fn iter(&self) -> impl Iterator<Item = &Sequence> {
        self.waiting.iter()
    }

    /// Notes tokens that an owner was given.
    pub fn serve(&mut self, owner: &str, tokens: u64) {
        match self.service.get_mut(owner) {
            Some(service) => *service += tokens,
            None => drop(self.service.insert(owner.to_owned(), tokens)),
        }
    }

    fn served(&self, owner: &str) -> u64 {
        self.service.get(owner).copied().unwrap_or(0)
    }

    /// The place of the one whose turn it is, among those that can go on.
    pub fn next(&self) -> Option<usize> {
        let ready = self.waiting.iter().enumerate().filter(|(_, sequence)| sequence.drawing == 0);
        let order = |&(_, sequence): &(usize, &Sequence)| {
            let request = &sequence.request;
            (request.priority, self.served(&request.owner), sequence.id)
        };
        ready.min_by_key(order).map(|(place, _)| place)
    }

    pub fn get(&self, place: usize) -> Option<&Sequence> {
        self.waiting.get(place)
    }

    pub fn remove(&mut self, place: usize) -> Sequence {
        self.waiting.swap_remove(place)
    }

    pub fn find(&mut self, id: u64) -> Option<&mut Sequence> {
        self.waiting.iter_mut().find(|sequence| sequence.id == id)
    }

    pub fn each(&mut self, change: impl FnMut(&mut Sequence)) {
        self.waiting.iter_mut().for_each(change);
    }

    /// Takes out those for which `gone` holds.
    pub fn take_if(&mut self, gone: impl Fn(&Sequence) -> bool) -> Vec<Sequence> {
        let (out, stay) = std::mem::take(&mut self.waiting).into_iter().partition(|s| gone(s));
        self.waiting = stay;
        out
    }
}
