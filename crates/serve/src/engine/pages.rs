//! The pages of the KV cache: who has which, and which hold beginnings of texts that may come again.
//!
//! A page that is full can be known by its tokens and the page before it, exactly: an entry's parent is
//! another entry's number, so equal beginnings of texts share pages and nothing can be mistaken for
//! something else. Pages that nobody uses keep their contents until memory is needed; the one that was
//! used longest ago goes first.

use std::collections::{BTreeSet, HashMap};

/// A page's number.
pub type PageId = u32;

/// The number of an entry: a page's contents and all that went before. Never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryId(u64);

#[derive(Clone, Debug, Default)]
struct Page {
    users: usize,
    /// What it is known by.
    entry: Option<(EntryId, Key)>,
    /// When it was last let go.
    released: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    parent: EntryId,
    tokens: Box<[u32]>,
}

/// All pages of a cache.
#[derive(Debug)]
pub struct Pages {
    /// Tokens of a page.
    size: usize,
    pages: Vec<Page>,
    /// Without users and without contents of use.
    empty: Vec<PageId>,
    /// Without users, by when they were let go.
    idle: BTreeSet<(u64, PageId)>,
    known: HashMap<Key, (EntryId, PageId)>,
    next_entry: u64,
    clock: u64,
    shares: bool,
}

/// The beginning of a text that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub pages: Vec<PageId>,
    pub entries: Vec<EntryId>,
}

impl Pages {
    /// `shares` says whether contents are kept for others.
    pub fn new(count: usize, size: usize, shares: bool) -> Pages {
        Pages {
            size,
            pages: vec![Page::default(); count],
            empty: (0..count as PageId).rev().collect(),
            idle: BTreeSet::new(),
            known: HashMap::new(),
            // Below it are the roots: one for each adapter that was ever loaded.
            next_entry: 1 << 32,
            clock: 0,
            shares,
        }
    }

    /// What texts with this adapter begin with.
    pub fn root(adapter: u32) -> EntryId {
        EntryId(u64::from(adapter))
    }

    pub fn total(&self) -> usize {
        self.pages.len()
    }

    /// Pages that sequences use.
    pub fn used(&self) -> usize {
        self.total() - self.available()
    }

    /// Pages that can be had.
    pub fn available(&self) -> usize {
        self.empty.len() + self.idle.len()
    }

    /// A page for one sequence alone; what it held is forgotten.
    pub fn take(&mut self) -> Option<PageId> {
        let id = match self.empty.pop() {
            Some(id) => id,
            None => {
                let (_, id) = self.idle.pop_first()?;
                if let Some((_, key)) = self.pages[id as usize].entry.take() {
                    self.known.remove(&key);
                }
                id
            }
        };
        self.pages[id as usize].users = 1;
        Some(id)
    }

    /// The longest beginning of `tokens` that is known, in whole pages, at most `tokens.len() - 1`
    /// tokens, since the last must be run to draw the next. The caller is a user of the pages from now on.
    pub fn find(&mut self, root: EntryId, tokens: &[u32]) -> Found {
        let mut found = Found::default();
        let mut parent = root;
        let whole = tokens.len().saturating_sub(1) / self.size * self.size;
        for part in tokens[..whole].chunks_exact(self.size) {
            let key = Key { parent, tokens: part.into() };
            let Some(&(entry, page)) = self.known.get(&key) else { break };
            found.pages.push(page);
            found.entries.push(entry);
            parent = entry;
        }
        for &id in &found.pages {
            let page = &mut self.pages[id as usize];
            if page.users == 0 {
                self.idle.remove(&(page.released, id));
            }
            page.users += 1;
        }
        found
    }

    /// How many pages of the beginning that [`Pages::find`] would find are in use by others: sharing them
    /// takes nothing.
    pub fn shared(&self, root: EntryId, tokens: &[u32]) -> usize {
        let mut parent = root;
        let whole = tokens.len().saturating_sub(1) / self.size * self.size;
        let known = tokens[..whole].chunks_exact(self.size).map_while(|part| {
            let &(entry, page) = self.known.get(&Key { parent, tokens: part.into() })?;
            parent = entry;
            Some(page)
        });
        known.filter(|&id| self.pages[id as usize].users > 0).count()
    }

    /// Says what a full page holds, so that others find it. Returns the entry's number: that of a page
    /// with the same contents, if there is one already.
    pub fn know(&mut self, id: PageId, parent: EntryId, tokens: &[u32]) -> EntryId {
        debug_assert_eq!(tokens.len(), self.size);
        let key = Key { parent, tokens: tokens.into() };
        if let Some(&(entry, _)) = self.known.get(&key) {
            return entry;
        }
        let entry = EntryId(self.next_entry);
        self.next_entry += 1;
        if self.shares {
            self.pages[id as usize].entry = Some((entry, key.clone()));
            self.known.insert(key, (entry, id));
        }
        entry
    }

    /// Lets go of a sequence's pages, in the order of the sequence.
    pub fn release(&mut self, pages: &[PageId]) {
        // The end of a text goes before its beginning, without which it cannot be found.
        for &id in pages.iter().rev() {
            let page = &mut self.pages[id as usize];
            page.users -= 1;
            if page.users > 0 {
                continue;
            }
            if page.entry.is_some() {
                self.clock += 1;
                page.released = self.clock;
                self.idle.insert((page.released, id));
            } else {
                self.empty.push(id);
            }
        }
    }

    /// Forgets all contents: the device lost them. Users stay.
    pub fn forget(&mut self) {
        self.known.clear();
        for (_, id) in std::mem::take(&mut self.idle) {
            self.empty.push(id);
        }
        for page in &mut self.pages {
            page.entry = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(pages: &mut Pages, root: EntryId, tokens: &[u32]) -> Vec<PageId> {
        let found = pages.find(root, tokens);
        let mut own = found.pages;
        let mut entries = found.entries;
        while own.len() * pages.size < tokens.len() {
            own.push(pages.take().unwrap());
        }
        for index in entries.len()..tokens.len() / pages.size {
            let parent = entries.last().copied().unwrap_or(root);
            let part = &tokens[index * pages.size..(index + 1) * pages.size];
            entries.push(pages.know(own[index], parent, part));
        }
        own
    }

    #[test]
    fn equal_beginnings_share_pages() {
        let mut pages = Pages::new(8, 2, true);
        let root = Pages::root(0);
        let first = taken(&mut pages, root, &[1, 2, 3, 4, 5]);
        let second = taken(&mut pages, root, &[1, 2, 3, 9, 5]);
        assert_eq!(first[0], second[0]);
        assert_ne!(first[1], second[1]);
        assert_eq!(pages.used(), 5);
        assert_eq!(pages.find(Pages::root(1), &[1, 2, 3]), Found::default());
        pages.release(&first);
        pages.release(&second);
        assert_eq!(pages.used(), 0);
        // The last token is always left to run.
        assert_eq!(pages.find(root, &[1, 2]).pages.len(), 0);
        assert_eq!(pages.find(root, &[1, 2, 3, 4]).pages.len(), 1);
        assert_eq!(pages.find(root, &[1, 2, 3, 4, 7]).pages, first[..2]);
    }

    #[test]
    fn memory_comes_from_what_was_used_longest_ago() {
        let mut pages = Pages::new(4, 2, true);
        let root = Pages::root(0);
        let old = taken(&mut pages, root, &[1, 2, 3, 4]);
        pages.release(&old);
        let new = taken(&mut pages, root, &[5, 6, 7, 8]);
        pages.release(&new);
        // The end of the older text goes first, and its beginning next.
        assert_eq!(pages.take(), Some(old[1]));
        assert_eq!(pages.find(root, &[1, 2, 3]).pages, old[..1]);
        pages.release(&old[..1]);
        assert_eq!(pages.take(), Some(new[1]));
        assert_eq!(pages.take(), Some(new[0]));
        assert_eq!(pages.take(), Some(old[0]));
        assert_eq!(pages.take(), None);
    }

    #[test]
    fn a_lost_device_is_forgotten() {
        let mut pages = Pages::new(3, 2, true);
        let root = Pages::root(0);
        let held = taken(&mut pages, root, &[1, 2]);
        let let_go = taken(&mut pages, root, &[3, 4]);
        pages.release(&let_go);
        pages.forget();
        assert_eq!(pages.find(root, &[1, 2, 9]), Found::default());
        assert_eq!(pages.find(root, &[3, 4, 9]), Found::default());
        assert_eq!((pages.used(), pages.available()), (1, 2));
        pages.release(&held);
        assert_eq!(pages.available(), 3);
    }

    #[test]
    fn without_sharing_nothing_is_found() {
        let mut pages = Pages::new(3, 2, false);
        let root = Pages::root(0);
        let own = taken(&mut pages, root, &[1, 2, 3]);
        assert_eq!(pages.find(root, &[1, 2, 3]), Found::default());
        pages.release(&own);
        assert_eq!(pages.available(), 3);
    }
}
