//! What can go wrong with checkpoints, and does not cost any: interruption at every write, a full disk,
//! damage of every kind, processes that fail, and checkpoints of other models.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

#[path = "support/checkpoint.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use graph::{DType, Shape};
use proptest::prelude::*;
use support::{
    FailingStore, Failure, assert_is_state, assert_only, half_state, metadata, state, threads,
};
use train::checkpoint::store::FolderStore;
use train::checkpoint::{
    Alone, CheckpointError, Checkpoints, HostArray, HostPart, Keep, Latest, Metadata, Saved, Saver,
    Store, StoreError,
};

fn folder(path: &Path) -> Checkpoints {
    Checkpoints::open(path.to_str().unwrap()).unwrap()
}

fn saver(checkpoints: &Checkpoints, keep: Keep) -> Result<Saver, CheckpointError> {
    Saver::new(checkpoints, Arc::new(Alone), keep)
}

fn save(saver: &mut Saver, step: u64) -> Result<Saved, CheckpointError> {
    saver.save_host(step, state(step), metadata(step)).unwrap().wait()
}

/// A location with checkpoints of these steps.
fn saved(steps: &[u64]) -> (tempfile::TempDir, Checkpoints) {
    let place = tempfile::tempdir().unwrap();
    let checkpoints = folder(place.path());
    let mut saver = saver(&checkpoints, Keep::ALL).unwrap();
    for step in steps {
        save(&mut saver, *step).unwrap();
    }
    (place, checkpoints)
}

fn latest(checkpoints: &Checkpoints) -> Latest {
    checkpoints.latest().unwrap().unwrap()
}

#[test]
fn what_is_saved_is_there() {
    let (place, checkpoints) = saved(&[10, 20]);
    let latest = latest(&checkpoints);
    assert_eq!((latest.checkpoint.step(), latest.damaged.len()), (20, 0));
    assert_is_state(&latest.checkpoint, 20);
    assert_is_state(&checkpoints.at(10).unwrap(), 10);
    assert_only(place.path(), &[10, 20]);
    let error = checkpoints.at(30).unwrap_err().to_string();
    assert!(error.ends_with("has no checkpoint of step 30; it has 10, 20"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    assert!(folder(&empty.path().join("not made yet")).latest().unwrap().is_none());
}

/// As `kill -9` does, at every call that changes something on the disk, while `step` is saved beside a
/// checkpoint of step 10 (or over it). Answers how many such moments there were.
fn kill_at_every_write(step: u64, contents_of: u64, keep: Keep) -> usize {
    for moment in 0.. {
        let (place, checkpoints) = saved(&[10]);
        let inner = Arc::new(FolderStore::new(place.path()));
        let failing = Arc::new(FailingStore::new(inner, Failure::Killed, moment));
        let attempt = saver(&Checkpoints::over(Arc::clone(&failing) as Arc<dyn Store>), keep);
        let outcome = attempt.and_then(|mut saver| {
            saver.save_host(step, state(contents_of), metadata(contents_of))?.wait()
        });
        let killed = failing.is_spent();
        assert!(outcome.is_ok() || killed);

        // The next run finds the old or the new, whole, and what was reported as saved is there.
        let found = latest(&checkpoints);
        assert!(found.damaged.is_empty(), "{:?}", found.damaged);
        let is_new = found.checkpoint.sections()["position"] == contents_of * 1000;
        assert!(is_new || outcome.is_err(), "moment {moment}");
        assert_is_state(&found.checkpoint, if is_new { contents_of } else { 10 });

        // It removes what was left, and nothing else.
        drop(saver(&checkpoints, keep).unwrap());
        assert_eq!(latest(&checkpoints).checkpoint.step(), found.checkpoint.step());
        assert_only(place.path(), &checkpoints.list().unwrap());
        if !killed {
            return moment as usize;
        }
    }
    unreachable!("there is an end to every save")
}

#[test]
fn an_interrupted_save_costs_nothing() {
    let moments = kill_at_every_write(20, 20, Keep::ALL);
    assert!(moments >= 7, "only {moments} moments");
    kill_at_every_write(20, 20, Keep { last: 1, best: 0 });
}

#[test]
fn an_interrupted_save_over_an_existing_step_costs_nothing() {
    kill_at_every_write(10, 77, Keep::ALL);
}

#[test]
fn a_full_disk_costs_only_the_new_checkpoint() {
    let total: i64 = state(20).iter().map(|array| array.bytes() as i64).sum();
    let mut failed_at_manifest = false;
    for room in (0..total + 4000).step_by(97) {
        let (place, checkpoints) = saved(&[10]);
        let inner = Arc::new(FolderStore::new(place.path()));
        let failing = Arc::new(FailingStore::new(inner, Failure::Full, room));
        let over = Checkpoints::over(Arc::clone(&failing) as Arc<dyn Store>);
        let mut saver = saver(&over, Keep { last: 1, best: 0 }).unwrap();
        let outcome = save(&mut saver, 20);
        if !failing.is_spent() {
            outcome.unwrap();
            assert_only(place.path(), &[20]);
            assert!(failed_at_manifest);
            return;
        }
        let error = outcome.unwrap_err();
        assert!(matches!(error, CheckpointError::Store(StoreError::Full { .. })), "{error}");
        failed_at_manifest |= error.to_string().contains("manifest.json");
        // Nothing of it is left, so the disk has its room back, and the old one is there.
        assert_only(place.path(), &[10]);
        assert_is_state(&latest(&checkpoints).checkpoint, 10);
        // Training went on; later there is room.
        failing.set_budget(i64::MAX);
        save(&mut saver, 30).unwrap();
        assert_only(place.path(), &[30]);
    }
    panic!("there was never room enough");
}

fn data_file(place: &Path, step: u64) -> PathBuf {
    let entries = fs::read_dir(place.join(format!("step-{step:08}"))).unwrap();
    let mut paths = entries.map(|entry| entry.unwrap().path());
    paths.find(|path| path.extension().unwrap() == "safetensors").unwrap()
}

/// Damages the newest of two checkpoints and demands that the older one is taken, and why.
fn falls_back(damage: impl Fn(&Path), reason: &str) {
    let (place, checkpoints) = saved(&[10, 20]);
    damage(place.path());
    let found = latest(&checkpoints);
    assert_eq!(found.checkpoint.step(), 10);
    assert_is_state(&found.checkpoint, 10);
    let [damaged] = &found.damaged[..] else { panic!("{:?}", found.damaged) };
    assert_eq!(damaged.step, 20);
    assert!(damaged.reason.contains(reason), "{reason}: {}", damaged.reason);
    assert!(damaged.reason.contains("step-00000020"), "{}", damaged.reason);
    // Nobody else's business is cleaned away, and the step can be saved anew.
    let mut saver = saver(&checkpoints, Keep::ALL).unwrap();
    save(&mut saver, 20).unwrap();
    assert_is_state(&latest(&checkpoints).checkpoint, 20);
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn damage_falls_back_to_the_checkpoint_before() {
    let manifest = |place: &Path| place.join("step-00000020/manifest.json");
    falls_back(|place| fs::remove_file(data_file(place, 20)).unwrap(), "does not exist");
    let cut_off = |place: &Path| change(&data_file(place, 20), |bytes| bytes.truncate(1000));
    falls_back(cut_off, "has 1000 bytes and was saved with");
    let longer = |place: &Path| change(&data_file(place, 20), |bytes| bytes.push(0));
    falls_back(longer, "and was saved with");
    falls_back(|place| change(&data_file(place, 20), |bytes| bytes[20] ^= 1), "its header");
    let at_end = |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1;
    falls_back(
        |place| change(&data_file(place, 20), at_end),
        "the checksum of `model/norm` at [0]",
    );
    falls_back(|place| change(&manifest(place), |bytes| bytes.truncate(100)), "not a manifest");
    falls_back(|place| fs::write(manifest(place), b"").unwrap(), "not a manifest");
    falls_back(|place| fs::write(manifest(place), b"{\"a\": [1e999]}").unwrap(), "not a manifest");
    let other_step = |place: &Path| {
        fs::copy(place.join("step-00000010/manifest.json"), manifest(place)).unwrap();
    };
    falls_back(other_step, "it is the manifest of step 10");
    let seed = |bytes: &mut Vec<u8>| {
        let place = bytes.windows(5).position(|window| window == b"20000").unwrap();
        bytes[place] = b'3';
    };
    falls_back(|place| change(&manifest(place), seed), "do not have the checksum");
}

#[test]
fn without_any_intact_checkpoint_nothing_is_started() {
    let (place, checkpoints) = saved(&[10, 20]);
    for step in [10, 20] {
        change(&data_file(place.path(), step), |bytes| bytes.truncate(5));
    }
    let error = checkpoints.latest().unwrap_err();
    let CheckpointError::AllDamaged { damaged, .. } = &error else { panic!("{error}") };
    assert_eq!(damaged.iter().map(|damaged| damaged.step).collect::<Vec<_>>(), [20, 10]);
    assert!(error.to_string().contains("step 10: "), "{error}");
    assert!(error.to_string().ends_with(", or start the run anew"), "{error}");
}

#[test]
fn reading_notices_damage_without_being_asked_to_check() {
    let (place, checkpoints) = saved(&[10]);
    let checkpoint = checkpoints.at(10).unwrap();
    let shape = Shape::new(DType::Bf16, &[("embed", 12)]);
    change(&data_file(place.path(), 10), |bytes| *bytes.last_mut().unwrap() ^= 128);
    let mut bytes = vec![0; shape.bytes()];
    let error = checkpoint.read("model/norm", &support::whole(&shape), &mut bytes).unwrap_err();
    assert!(matches!(error, CheckpointError::Checksum { .. }), "{error}");
    // The other arrays are as they were.
    let shape = Shape::scalar(DType::S64);
    let mut bytes = vec![0; shape.bytes()];
    checkpoint.read("count", &support::whole(&shape), &mut bytes).unwrap();
}

#[test]
fn files_that_are_not_ours_stay() {
    let (place, checkpoints) = saved(&[10]);
    let foreign = ["notes.txt", "step-00000020/notes.txt", "step-x/data.bin", "step-00000010/my"];
    for name in foreign {
        let path = place.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"precious").unwrap();
    }
    let unfinished = "step-00000020/data-00000-of-00001-0badcafe.safetensors";
    fs::write(place.path().join(unfinished), b"unfinished").unwrap();
    let mut saver = saver(&checkpoints, Keep { last: 1, best: 0 }).unwrap();
    assert!(!place.path().join(unfinished).exists());
    save(&mut saver, 30).unwrap();
    assert_eq!(checkpoints.list().unwrap(), [30]);
    for name in foreign {
        assert_eq!(fs::read(place.path().join(name)).unwrap(), b"precious", "{name}");
    }
}

/// A checkpoint that only a newer program can read is neither passed over nor cleaned away.
#[test]
fn a_newer_programs_checkpoint_is_left_alone() {
    let (place, checkpoints) = saved(&[10, 20]);
    let path = place.path().join("step-00000020/manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    let (_, inner) = text.split_once("\"manifest\":").unwrap();
    let inner = inner.strip_suffix('}').unwrap().replace("\"version\":1", "\"version\":2");
    let checksum = xxhash_rust::xxh3::xxh3_128(inner.as_bytes());
    let text = format!("{{\"checksum\":\"{checksum:032x}\",\"manifest\":{inner}}}");
    fs::write(&path, text).unwrap();
    let error = checkpoints.latest().unwrap_err().to_string();
    assert!(error.contains("`fungible-checkpoint`, version 2, which this program"), "{error}");
    let before = support::files(place.path());
    drop(saver(&checkpoints, Keep { last: 1, best: 1 }).unwrap());
    assert_eq!(support::files(place.path()), before);
}

#[test]
fn the_newest_and_the_best_are_kept() {
    let place = tempfile::tempdir().unwrap();
    let checkpoints = folder(place.path());
    let keep = Keep { last: 2, best: 1 };
    let losses = [(10, 3.0), (20, 1.0), (30, 2.0), (40, 2.5)];
    let mut removed = Vec::new();
    for (step, loss) in losses {
        // A new process each time, which has to find the metrics again.
        let mut saver = saver(&checkpoints, keep).unwrap();
        let metadata = Metadata { metric: Some(loss), ..metadata(step) };
        let saved = saver.save_host(step, state(step), metadata).unwrap().wait().unwrap();
        assert_eq!(saved.warning, None);
        removed.extend(saved.removed);
    }
    assert_only(place.path(), &[20, 30, 40]);
    assert_eq!(removed, [10]);
    let mut saver = saver(&checkpoints, keep).unwrap();
    assert_eq!(saver.remove_after(20).unwrap(), [30, 40]);
    save(&mut saver, 25).unwrap();
    assert_only(place.path(), &[20, 25]);
}

#[test]
fn two_runs_do_not_share_a_folder() {
    let (place, checkpoints) = saved(&[10]);
    let first = saver(&checkpoints, Keep::ALL).unwrap();
    let Err(error) = saver(&checkpoints, Keep::ALL) else { panic!("both save there") };
    assert!(error.to_string().contains("another run is saving checkpoints in"), "{error}");
    // To look is allowed.
    assert_is_state(&latest(&checkpoints).checkpoint, 10);
    // All processes of a run hear of it.
    let outcomes = two_processes(both_at(place.path()), |_, checkpoints, exchange| {
        Saver::new(&checkpoints, exchange, Keep::ALL).err().unwrap().to_string()
    });
    assert_eq!(outcomes, [error.to_string(), format!("process 0 failed: {error}")]);
    drop(first);
    saver(&checkpoints, Keep::ALL).unwrap();
}

#[test]
fn a_checkpoint_of_another_model_says_what_differs() {
    let (_place, checkpoints) = saved(&[10]);
    let checkpoint = checkpoints.at(10).unwrap();
    let error = |change: &dyn Fn(&mut support::Shapes)| {
        let mut shapes = support::shapes();
        change(&mut shapes);
        let expected: Vec<(&str, &Shape)> =
            shapes.iter().map(|(name, shape)| (*name, shape)).collect();
        checkpoint.expect(&expected).unwrap_err().to_string()
    };
    let differs = error(&|shapes| shapes[0].1.axes[1].1 = 13);
    let both = "its `model/w` is f32[mlp 16, embed 12], here it is f32[mlp 16, embed 13]";
    assert!(differs.contains(both), "{differs}");
    let renamed = error(&|shapes| shapes[0].1.axes[0].0 = "embed_out");
    assert!(renamed.contains("here it is f32[embed_out 16, embed 12]"), "{renamed}");
    let narrower = error(&|shapes| shapes[0].1.dtype = DType::Bf16);
    assert!(narrower.contains("here it is bf16[mlp 16, embed 12]"), "{narrower}");
    let missing = error(&|shapes| shapes[2].0 = "muon/w");
    assert!(missing.contains("has no `muon/w`, which this one needs (f32[mlp 16"), "{missing}");
    let unexpected = error(&|shapes| drop(shapes.remove(2)));
    assert!(unexpected.contains("it has `adam.m/w` (f32[mlp 16, embed 12]), for"), "{unexpected}");
}

#[test]
fn a_second_save_waits_for_the_first() {
    let place = tempfile::tempdir().unwrap();
    let checkpoints = folder(place.path());
    let mut saver = saver(&checkpoints, Keep::ALL).unwrap();
    let mut first = saver.save_host(10, state(10), metadata(10)).unwrap();
    let second = saver.save_host(20, state(20), metadata(20)).unwrap();
    // So the first is done.
    assert_eq!(first.poll().unwrap().unwrap().step, 10);
    assert_eq!(second.wait().unwrap().step, 20);
    // A saver that goes away finishes first, though nobody keeps the ticket.
    drop(saver.save_host(30, state(30), metadata(30)).unwrap());
    drop(saver);
    assert_only(place.path(), &[10, 20, 30]);
}

/// Runs two processes, each with its own store, and answers what each got.
fn two_processes<T: Send>(
    stores: [Arc<dyn Store>; 2],
    run: impl Fn(usize, Checkpoints, Arc<dyn train::checkpoint::Exchange>) -> T + Sync,
) -> Vec<T> {
    let run = &run;
    std::thread::scope(|scope| {
        let started: Vec<_> = threads(2)
            .into_iter()
            .zip(stores)
            .enumerate()
            .map(|(index, (exchange, store))| {
                scope.spawn(move || run(index, Checkpoints::over(store), exchange))
            })
            .collect();
        started.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn both_at(place: &Path) -> [Arc<dyn Store>; 2] {
    [0, 1].map(|_| Arc::new(FolderStore::new(place)) as Arc<dyn Store>)
}

#[test]
fn two_processes_save_one_checkpoint() {
    let place = tempfile::tempdir().unwrap();
    two_processes(both_at(place.path()), |index, checkpoints, exchange| {
        assert!(checkpoints.agree_on_latest(&*exchange).unwrap().is_none());
        let mut saver = Saver::new(&checkpoints, exchange, Keep { last: 2, best: 0 }).unwrap();
        for step in [10, 20, 30] {
            let ticket = saver.save_host(step, half_state(step, index), metadata(step)).unwrap();
            assert_eq!(ticket.wait().unwrap().step, step);
        }
    });
    assert_only(place.path(), &[20, 30]);
    assert_eq!(support::files(place.path()).len(), 2 * (1 + 3));
    // One process reads what two wrote.
    let checkpoint = latest(&folder(place.path())).checkpoint;
    assert_is_state(&checkpoint, 30);
    // Both agree, though only one of them looks at the damaged part.
    let mut files = fs::read_dir(place.path().join("step-00000030")).unwrap();
    let damaged = files.find_map(|entry| {
        let path = entry.unwrap().path();
        path.to_str().unwrap().contains("data-00001-of-00002").then_some(path)
    });
    change(&damaged.unwrap(), |bytes| *bytes.last_mut().unwrap() ^= 1);
    let found = two_processes(both_at(place.path()), |_, checkpoints, exchange| {
        checkpoints.agree_on_latest(&*exchange).unwrap().unwrap()
    });
    for latest in &found {
        assert_eq!((latest.checkpoint.step(), &latest.damaged), (20, &found[0].damaged));
        assert_is_state(&latest.checkpoint, 20);
    }
}

#[test]
fn a_process_that_fails_fails_the_save_for_all() {
    for failing in [0, 1] {
        let place = tempfile::tempdir().unwrap();
        let mut stores = both_at(place.path());
        let inner = Arc::clone(&stores[failing]);
        let full = Arc::new(FailingStore::new(inner, Failure::Full, i64::MAX));
        stores[failing] = Arc::clone(&full) as Arc<dyn Store>;
        let outcomes = two_processes(stores, |index, checkpoints, exchange| {
            let mut saver = Saver::new(&checkpoints, exchange, Keep::ALL).unwrap();
            let save = |saver: &mut Saver, step| {
                saver.save_host(step, half_state(step, index), metadata(step)).unwrap().wait()
            };
            save(&mut saver, 10).unwrap();
            if index == failing {
                full.set_budget(500);
            }
            save(&mut saver, 20).unwrap_err().to_string()
        });
        for (index, said) in outcomes.iter().enumerate() {
            assert!(said.contains("the disk is full while writing"), "process {index}: {said}");
            assert_eq!(said.starts_with("process"), index != failing, "process {index}: {said}");
        }
        assert_only(place.path(), &[10]);
    }
}

#[test]
fn processes_that_save_to_different_places_are_told() {
    let places = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let stores = [0, 1].map(|at| Arc::new(FolderStore::new(places[at].path())) as Arc<dyn Store>);
    let outcomes = two_processes(stores, |index, checkpoints, exchange| {
        let mut saver = Saver::new(&checkpoints, exchange, Keep::ALL).unwrap();
        let ticket = saver.save_host(10, half_state(10, index), metadata(10)).unwrap();
        ticket.wait().unwrap_err().to_string()
    });
    for said in outcomes {
        assert!(said.contains("all processes must save to the same place"), "{said}");
    }
}

/// Arrays cut into a grid of chunks, as a mesh would.
fn grid(sizes: &[usize], pieces: &[usize]) -> (Shape, Vec<u8>, HostArray) {
    const AXES: [&str; 3] = ["x", "y", "z"];
    let axes: Vec<(&'static str, usize)> = AXES.into_iter().zip(sizes.iter().copied()).collect();
    let shape = Shape::new(DType::U16, &axes);
    let bytes = support::contents("grid", 1, shape.bytes());
    let mut array = HostArray::whole("grid", graph::Role::Parameter, &shape, Vec::new());
    array.extent = sizes.iter().zip(pieces).map(|(size, pieces)| size / pieces).collect();
    array.parts.clear();
    for number in 0..pieces.iter().product() {
        let mut rest = number;
        let mut ranges = Vec::new();
        for (&pieces, &extent) in pieces.iter().zip(&array.extent).rev() {
            ranges.insert(0, rest % pieces * extent..(rest % pieces + 1) * extent);
            rest /= pieces;
        }
        let mut part = vec![0; array.extent.iter().product::<usize>() * 2];
        runtime::layout::cut(&bytes, sizes, 2, &ranges, &mut part);
        array.parts.push(HostPart { ranges, bytes: part });
    }
    (shape, bytes, array)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However it was cut, any part of it can be read.
    #[test]
    fn any_part_of_any_grid_is_read(
        cut in proptest::collection::vec((1usize..4, 1usize..5), 0..4),
        ends in proptest::collection::vec((0.0..1.0, 0.0..1.0), 3),
    ) {
        let sizes: Vec<usize> = cut.iter().map(|(pieces, extent)| pieces * extent).collect();
        let pieces: Vec<usize> = cut.iter().map(|(pieces, _)| *pieces).collect();
        let (_, bytes, array) = grid(&sizes, &pieces);
        let place = tempfile::tempdir().unwrap();
        let checkpoints = folder(place.path());
        let mut saver = saver(&checkpoints, Keep::ALL).unwrap();
        saver.save_host(1, vec![array], Metadata::default()).unwrap().wait().unwrap();
        let checkpoint = latest(&checkpoints).checkpoint;
        let at = |share: f64, size: usize| (share * (size + 1) as f64) as usize;
        let wanted: Vec<_> = sizes
            .iter()
            .zip(&ends)
            .map(|(&size, &(one, other))| at(f64::min(one, other), size)..at(f64::max(one, other), size))
            .collect();
        let length = wanted.iter().map(ExactSizeIterator::len).product::<usize>() * 2;
        let (mut found, mut expected) = (vec![1; length], vec![2; length]);
        checkpoint.read("grid", &wanted, &mut found).unwrap();
        runtime::layout::cut(&bytes, &sizes, 2, &wanted, &mut expected);
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn only_the_bytes_that_are_needed_are_read() {
    let (_, bytes, array) = grid(&[64, 65536], &[2, 2]);
    let place = tempfile::tempdir().unwrap();
    let checkpoints = folder(place.path());
    let mut saver = saver(&checkpoints, Keep::ALL).unwrap();
    saver.save_host(1, vec![array], Metadata::default()).unwrap().wait().unwrap();
    let inner = Arc::new(FolderStore::new(place.path()));
    let counting = Arc::new(FailingStore::new(inner, Failure::Full, 0));
    let checkpoint = Checkpoints::over(Arc::clone(&counting) as Arc<dyn Store>).at(1).unwrap();
    // A quarter of the rows, and a quarter of the columns: whole rows of chunks, and parts of rows
    // that lie too far apart to be read together.
    for wanted in [[16..32, 0..65536], [0..64, 30000..46384]] {
        let before = counting.read_bytes.load(Ordering::SeqCst);
        let mut part = vec![0; bytes.len() / 4];
        checkpoint.read("grid", &wanted, &mut part).unwrap();
        let read_bytes = counting.read_bytes.load(Ordering::SeqCst) - before;
        assert_eq!(read_bytes as usize, bytes.len() / 4, "{wanted:?}");
    }
    let error = checkpoint.read("grid", &[0..65, 0..1], &mut [0; 130]).unwrap_err().to_string();
    assert_eq!(
        error,
        "`grid` cannot be read: it is u16[x 64, y 65536], which has no part [0..65, 0..1]"
    );
    let error = checkpoint.read("grid", &[0..1, 0..2], &mut [0; 3]).unwrap_err().to_string();
    assert_eq!(error, "`grid` cannot be read: the part takes 4 bytes and there is room for 3");
}
