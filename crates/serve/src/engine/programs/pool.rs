//! How many pages the KV cache gets on a device: as many as there is memory for beside the weights and
//! what the largest program needs while it runs. Asks compilers, by way of the caller, what programs
//! need; knows no device.

use runtime::worker::MemoryUse;

use super::key::{Key, largest};

/// What a device must have for a number of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// So many bytes, of so many that there are.
    Known { needed_bytes: u64, available_bytes: u64 },
    /// Too much, and the compiler did not say how much.
    TooMuch,
}

/// Where a search for the number of pages ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// The most pages that fit, or as many as are of use.
    Fits { pages: usize },
    /// Not even the fewest that are of use fit.
    TooSmall { needed: Needs },
}

/// What is tried next where figures do not help.
const SHRINK: (usize, usize) = (49, 50);

/// More steps than this mean that the compiler's figures make no sense.
const STEPS_MAX: usize = 40;

/// What compiling programs told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compilation {
    /// What each needs of one device, and what a device has for all.
    Done { uses: Vec<(Key, MemoryUse)>, available_bytes: u64 },
    /// One of them did not fit: what that one needs, and what there is, where the compiler says so.
    DoesNotFit { bytes: Option<(u64, u64)> },
}

impl Compilation {
    /// What all of `keys` need together; one that was not compiled counts like the one of its kind that
    /// was.
    fn needs(&self, keys: &[Key]) -> Needs {
        match self {
            Compilation::Done { uses, available_bytes } => {
                let use_of = |key: &Key| {
                    let own = uses.iter().find(|(known, _)| known == key);
                    let similar = || uses.iter().find(|(known, _)| known.kind() == key.kind());
                    own.or_else(similar).map(|&(_, memory)| memory)
                };
                let all: Vec<MemoryUse> = keys.iter().filter_map(use_of).collect();
                let needed_bytes = needed_together(&all);
                Needs::Known { needed_bytes, available_bytes: *available_bytes }
            }
            // A program that alone is too much is as good as all of them.
            &Compilation::DoesNotFit { bytes: Some((needed_bytes, available_bytes)) } => {
                Needs::Known {
                    needed_bytes: needed_bytes.max(available_bytes.saturating_add(1)),
                    available_bytes,
                }
            }
            Compilation::DoesNotFit { bytes: None } => Needs::TooMuch,
        }
    }
}

/// What programs need that stand ready on one device and run one at a time: the arguments of the largest,
/// the code of all, and what the greediest holds while it runs.
fn needed_together(uses: &[MemoryUse]) -> u64 {
    let most = |of: fn(&MemoryUse) -> u64| uses.iter().map(of).max().unwrap_or(0);
    let code: u64 = uses.iter().map(|one| one.generated_code_bytes).sum();
    most(|one| one.argument_bytes) + code + most(beside)
}

/// What a program holds while it runs beside its arguments and its code, which a compiler's own peak may
/// count.
fn beside(one: &MemoryUse) -> u64 {
    let all = one.needed_bytes().saturating_sub(one.argument_bytes);
    all.saturating_sub(one.generated_code_bytes).max(one.temporary_bytes)
}

/// The number of pages for programs whose `keys` depend on it: first the largest of each kind are
/// compiled, which mostly settles it, then all.
///
/// # Errors
/// Those of `compile`.
pub fn fill_device<E>(
    limits: (usize, usize),
    page_bytes: u64,
    keys: impl Fn(usize) -> Vec<Key>,
    mut compile: impl FnMut(&[Key]) -> Result<Compilation, E>,
) -> Result<Pool, E> {
    let pool = size_pool(limits, page_bytes, |pages| {
        let keys = keys(pages);
        Ok(compile(&largest(&keys))?.needs(&keys))
    })?;
    let Pool::Fits { pages } = pool else { return Ok(pool) };
    let mut most = pages;
    loop {
        let keys = keys(most);
        let needed = compile(&keys)?.needs(&keys);
        match needed {
            Needs::Known { needed_bytes, available_bytes } if needed_bytes <= available_bytes => {
                return Ok(Pool::Fits { pages: most });
            }
            _ if most <= limits.0 => return Ok(Pool::TooSmall { needed }),
            _ => most = shrunk(most).max(limits.0),
        }
    }
}

fn shrunk(pages: usize) -> usize {
    (pages / SHRINK.1 * SHRINK.0).min(pages - 1)
}

/// The most pages from `fewest` to `most` whose needs are met. `measure` compiles programs for a number of
/// pages; it is asked for the fewest first, then for what the figures say, which mostly is right.
/// `page_bytes` is what a page takes of one device, at least.
///
/// # Errors
/// Those of `measure`.
fn size_pool<E>(
    (fewest, most): (usize, usize),
    page_bytes: u64,
    mut measure: impl FnMut(usize) -> Result<Needs, E>,
) -> Result<Pool, E> {
    let most = most.max(fewest);
    let first = measure(fewest)?;
    let Needs::Known { needed_bytes: base, available_bytes } = first else {
        return Ok(Pool::TooSmall { needed: first });
    };
    if base > available_bytes {
        return Ok(Pool::TooSmall { needed: first });
    }
    let room = |page_bytes: u64| ((available_bytes - base) / page_bytes.max(1)) as usize;
    let mut pages = fewest.saturating_add(room(page_bytes)).min(most);
    for _ in 0..STEPS_MAX {
        if pages <= fewest {
            break;
        }
        let smaller = shrunk(pages).max(fewest);
        match measure(pages)? {
            Needs::Known { needed_bytes, available_bytes } if needed_bytes <= available_bytes => {
                return Ok(Pool::Fits { pages });
            }
            // What a page really takes, with the padding of its layout and what grows with the pool.
            Needs::Known { needed_bytes, .. } => {
                let grown = needed_bytes.saturating_sub(base).div_ceil((pages - fewest) as u64);
                pages = fewest.saturating_add(room(grown)).min(smaller);
            }
            Needs::TooMuch => pages = smaller,
        }
    }
    Ok(Pool::Fits { pages: fewest })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device of 1000 bytes, of which 400 are taken; pages cost more than they hold.
    fn device(pages: usize) -> Needs {
        Needs::Known { needed_bytes: 400 + 3 * pages as u64, available_bytes: 1000 }
    }

    fn pages_of(limits: (usize, usize), device: impl Fn(usize) -> Needs) -> (Pool, usize) {
        let mut asked = 0;
        let pool = size_pool(limits, 2, |pages| {
            asked += 1;
            Ok::<_, ()>(device(pages))
        });
        (pool.unwrap(), asked)
    }

    #[test]
    fn the_pool_fills_the_device_and_no_more() {
        // 2 bytes a page promise 290; 3 are found, and 200 fit.
        assert_eq!(pages_of((10, 5000), device), (Pool::Fits { pages: 200 }, 3));
        assert_eq!(pages_of((10, 50), device), (Pool::Fits { pages: 50 }, 2));
        assert_eq!(pages_of((10, 10), device), (Pool::Fits { pages: 10 }, 1));
    }

    #[test]
    fn a_compiler_without_figures_is_asked_for_less_and_less() {
        let silent = |pages: usize| match device(pages) {
            Needs::Known { needed_bytes, available_bytes } if needed_bytes > available_bytes => {
                Needs::TooMuch
            }
            known => known,
        };
        let (pool, _) = pages_of((10, 5000), silent);
        let Pool::Fits { pages } = pool else { panic!("{pool:?}") };
        assert!((190..=200).contains(&pages), "{pages}");
    }

    #[test]
    fn one_sequence_that_does_not_fit_is_said_so() {
        let needed = Needs::Known { needed_bytes: 1300, available_bytes: 1000 };
        assert_eq!(pages_of((300, 5000), device).0, Pool::TooSmall { needed });
    }

    #[test]
    fn programs_share_arguments_and_take_turns() {
        let one = MemoryUse {
            argument_bytes: 100,
            output_bytes: 60,
            alias_bytes: 50,
            temporary_bytes: 30,
            generated_code_bytes: 7,
            peak_bytes: None,
        };
        let other =
            MemoryUse { argument_bytes: 90, temporary_bytes: 45, peak_bytes: Some(150), ..one };
        // 100 of arguments, twice 7 of code, and of 40 and 53 the larger.
        assert_eq!(needed_together(&[one, other]), 100 + 14 + 53);
        assert_eq!(needed_together(&[]), 0);
    }
}
