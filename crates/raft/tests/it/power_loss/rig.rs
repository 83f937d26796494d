//! Lives and losses of power, one after the other, on one disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::disk::{Broken, Disk, Promise};
use super::process::{Checker, End, Plan, Verdict, live};
use super::promises::{Found, Promises};
use super::trace::{DiskCall, Event, Trace};
use super::world::{Random, World};

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trial {
    pub(crate) seed: u64,
    pub(crate) promise: Promise,
    /// `small` or `node`.
    pub(crate) sizes: &'static str,
    /// Lives on one disk.
    pub(crate) lives: usize,
    /// Steps of a life, at most.
    pub(crate) steps: usize,
    /// Moments of each life at which the power fails.
    pub(crate) crash_points: usize,
    /// Worlds at each of them.
    pub(crate) worlds: usize,
    /// Classes of worlds to choose from.
    pub(crate) classes: &'static [World],
    /// A refusal is enough to end it.
    pub(crate) ends_at_refusal: bool,
    /// No new crash point after this, if so many worlds were tried.
    pub(crate) deadline: Instant,
    pub(crate) worlds_min: usize,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) rounds: usize,
    pub(crate) lives: usize,
    /// Rounds that ended early because a kill left a trace that does not fit to the files.
    pub(crate) given_up: usize,
    pub(crate) promises: u64,
    pub(crate) crash_points: usize,
    pub(crate) worlds: usize,
    /// By what the disk promises, the class of the world, and the reason.
    pub(crate) refused: BTreeMap<(Promise, World, String), usize>,
    /// What was found that must not be: something acknowledged was gone, something came from nowhere, or a store that
    /// opened did not work.
    pub(crate) lost: Vec<String>,
}

impl Figures {
    pub(crate) fn refusals(&self, promise: Promise) -> usize {
        self.refused.iter().filter(|((by, ..), _)| *by == promise).map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((promise, world, reason), count) in &self.refused {
            writeln!(f, "refused {count:5}  {promise:?} {world:?}: {reason}")?;
        }
        for lost in self.lost.iter().take(10) {
            writeln!(f, "LOST {lost}")?;
        }
        let total = self.refusals(Promise::Posix) + self.refusals(Promise::Journaled);
        write!(
            f,
            "rounds={} given_up={} lives={} promises={} crash_points={} worlds={} refused={} refused_journaled={} lost={}",
            self.rounds,
            self.given_up,
            self.lives,
            self.promises,
            self.crash_points,
            self.worlds,
            total,
            self.refusals(Promise::Journaled),
            self.lost.len()
        )
    }
}

/// Runs trials in a directory, and adds up what came of them.
#[derive(Debug)]
pub(crate) struct Rig {
    dir: PathBuf,
    checker: Checker,
    images: usize,
    pub(crate) figures: Figures,
}

impl Rig {
    pub(crate) fn new(dir: &Path, sizes: &str) -> Rig {
        Rig { dir: dir.to_owned(), checker: Checker::new(sizes), images: 0, figures: Figures::default() }
    }

    /// Whether there is no time for more, or no reason.
    pub(crate) fn is_over(&self, trial: Trial) -> bool {
        let late = Instant::now() > trial.deadline && self.figures.worlds >= trial.worlds_min;
        late || !self.figures.lost.is_empty()
    }

    /// One disk: its first start, and what follows.
    pub(crate) fn round(&mut self, trial: Trial) {
        let mut random = Random::new(trial.seed);
        let mut root = self.fresh_dir();
        let mut disk = Disk::new(trial.promise);
        let mut promises = Promises::default();
        let mut number = 0;
        for life in 0..trial.lives {
            if self.is_over(trial) {
                break;
            }
            let end = match random.below(4) {
                0 => End::Close,
                1 => End::Kill(1 + random.below(trial.steps * 2)),
                _ => End::Stop,
            };
            let steps = 1 + random.below(trial.steps);
            let plan = Plan { seed: random.next() >> 1, steps, end };
            let trace = live(&root, trial.sizes, plan, number);
            self.figures.lives += 1;
            let moments = choose_moments(&trace, trial.crash_points, &mut random);
            let state = (&mut disk, &mut promises);
            let crashed = self.replay(trial, life, &trace, number, state, &moments, &mut random);
            number += trace.events.len() + trace.unfinished.len() + 1;
            if !self.figures.lost.is_empty() {
                break;
            }
            if let Err(differences) = settle_unfinished(&mut disk, number, &trace.unfinished, &root) {
                // strace may make up that an interrupted call has succeeded. Without a kill there is no excuse.
                assert!(matches!(end, End::Kill(_)), "the trace was misread: {differences:?}");
                self.figures.given_up += 1;
                break;
            }
            // The process is dead. Now and then so is the machine, at one of the moments that were looked at.
            if let Some((image, kept)) = crashed
                && random.percent(70)
            {
                std::fs::remove_dir_all(&root).expect("it was made here");
                root = self.fresh_dir();
                image.save(&root).expect("room for a disk");
                (disk, promises) = (image, kept);
            }
        }
        std::fs::remove_dir_all(&root).expect("it was made here");
        self.figures.rounds += 1;
        self.figures.promises += promises.kept;
    }

    /// A life with one sync taken out, and the power lost all over it; until that is noticed. Says how.
    pub(crate) fn notices(&mut self, trial: Trial, trace: &Trace, broken: Broken) -> Option<String> {
        self.figures = Figures::default();
        let mut random = Random::new(trial.seed);
        let (mut missed, mut renames) = (Vec::new(), Vec::new());
        let mut disk = Disk::new(trial.promise).with_broken(Some(broken));
        for (at, event) in trace.events.iter().enumerate() {
            let Event::Disk(call) = event else { continue };
            if let DiskCall::Sync { path, data_only, .. } = call
                && disk.is_broken(path, *data_only)
            {
                missed.push(at);
            }
            if matches!(call, DiskCall::Rename { .. }) && !missed.is_empty() {
                renames.push(at);
            }
            disk.apply(at, call);
        }
        assert!(!missed.is_empty(), "there is no such sync: {broken:?}");
        // What a sync is for is seen soon after it, or as soon as something was acknowledged.
        let mut moments = BTreeSet::new();
        for _ in 0..trial.crash_points {
            let at = missed[random.below(missed.len())];
            moments.insert(at + [0, 1, 2, 3, 4, 6, 10, 20, 50][random.below(9)]);
            if random.percent(15) {
                moments.insert(random.below(trace.events.len()));
            } else if random.percent(40) && !renames.is_empty() {
                moments.insert(renames[random.below(renames.len())] - 1);
            }
        }
        let mut disk = Disk::new(trial.promise).with_broken(Some(broken));
        let mut promises = Promises::default();
        self.replay(trial, 0, trace, 0, (&mut disk, &mut promises), &moments, &mut random);
        let lost = self.figures.lost.first().map(|lost| format!("lost: {lost}"));
        lost.or_else(|| self.figures.refused.keys().next().map(|(.., reason)| format!("refused: {reason}")))
    }

    /// A life from the first start on.
    pub(crate) fn first_life(&mut self, trial: Trial) -> Trace {
        let root = self.fresh_dir();
        live(&root, trial.sizes, Plan { seed: trial.seed, steps: trial.steps, end: End::Close }, 0)
    }

    /// Goes through a life, and lets the power fail on the way. Returns a disk after one of these failures, with what
    /// had been promised until then.
    #[expect(clippy::too_many_arguments, reason = "the case, the life, and the state it goes through")]
    fn replay(
        &mut self,
        trial: Trial,
        life: usize,
        trace: &Trace,
        first: usize,
        (disk, promises): (&mut Disk, &mut Promises),
        moments: &BTreeSet<usize>,
        random: &mut Random,
    ) -> Option<(Disk, Promises)> {
        let mut crashed = None;
        for (at, event) in trace.events.iter().enumerate() {
            match event {
                Event::Told(line) => {
                    if let Err(lost) = promises.on_line(line) {
                        self.lost(trial, life, at, "no power loss", lost);
                        return None;
                    }
                }
                Event::Disk(call) => disk.apply(first + at, call),
            }
            if !moments.contains(&at) || self.is_over(trial) {
                continue;
            }
            self.figures.crash_points += 1;
            for _ in 0..trial.worlds {
                let world = trial.classes[random.below(trial.classes.len())];
                let image = disk.after_power_loss(&world.fates(disk, random));
                let again = random.percent(10);
                if self.open_image(trial, life, at, world, &image, promises, again) && random.percent(20) {
                    crashed = Some((image, promises.clone()));
                }
                let refused = trial.ends_at_refusal && !self.figures.refused.is_empty();
                if refused || !self.figures.lost.is_empty() {
                    return None;
                }
            }
        }
        crashed
    }

    /// Whether a node starts on the image; counts what came of it.
    #[expect(clippy::too_many_arguments, reason = "each is a part of the name of the case")]
    fn open_image(
        &mut self,
        trial: Trial,
        life: usize,
        at: usize,
        world: World,
        image: &Disk,
        promises: &Promises,
        again: bool,
    ) -> bool {
        self.figures.worlds += 1;
        let root = self.fresh_dir();
        image.save(&root).expect("room for a disk");
        let verdict = self.checker.check(&root, again);
        let refusal = match verdict {
            Verdict::Opens(state) => {
                if let Err(lost) = promises.judge(&Found::parse(&state)) {
                    self.lost(trial, life, at, &format!("{world:?}"), lost);
                    self.keep(image);
                    return false;
                }
                std::fs::remove_dir_all(&root).expect("it was made here");
                return true;
            }
            Verdict::Broken(why) => {
                self.lost(trial, life, at, &format!("{world:?}"), why);
                self.keep(image);
                return false;
            }
            Verdict::Refused(why) => why,
            Verdict::Died(why) => format!("died: {why}"),
        };
        if std::env::var_os("COORDD_POWER_LOSS_VERBOSE").is_some() {
            println!("seed {} life {life} event {at} {world:?}: {refusal}", trial.seed);
        }
        *self.figures.refused.entry((trial.promise, world, shorten(&refusal))).or_default() += 1;
        std::fs::remove_dir_all(&root).expect("it was made here");
        false
    }

    fn lost(&mut self, trial: Trial, life: usize, at: usize, world: &str, what: String) {
        let Trial { seed, promise, .. } = trial;
        self.figures.lost.push(format!("seed {seed} {promise:?} life {life} event {at}, {world}: {what}"));
    }

    /// Leaves a disk for whoever looks into a failure.
    fn keep(&self, image: &Disk) {
        if let Some(dir) = std::env::var_os("COORDD_POWER_LOSS_KEEP") {
            let dir = PathBuf::from(dir).join(format!("image-{}", self.images));
            std::fs::create_dir_all(&dir).expect("a place for a disk");
            image.save(&dir).expect("room for a disk");
            println!("the disk is kept in {}", dir.display());
        }
    }

    fn fresh_dir(&mut self) -> PathBuf {
        self.images += 1;
        let dir = self.dir.join(format!("disk{}", self.images));
        std::fs::create_dir(&dir).expect("a directory of its own");
        dir
    }
}

/// Moments all over the life, a third of them while the store is being opened; all of them if there are not more.
fn choose_moments(trace: &Trace, count: usize, random: &mut Random) -> BTreeSet<usize> {
    if count >= trace.events.len() {
        return (0..trace.events.len()).collect();
    }
    let opened = trace.events.iter().position(|event| matches!(event, Event::Told(_)));
    let opened = opened.unwrap_or(trace.events.len());
    let mut moments = BTreeSet::new();
    for number in 0..count {
        moments.insert(match number % 3 {
            0 => random.below(opened),
            _ => opened + random.below(trace.events.len().saturating_sub(opened)),
        });
    }
    moments
}

/// The process may have died in the middle of calls: the real files tell which of them happened. Fails if they do not fit
/// to the trace.
fn settle_unfinished(
    disk: &mut Disk,
    number: usize,
    unfinished: &[DiskCall],
    root: &Path,
) -> Result<(), Vec<String>> {
    let mut differences = Vec::new();
    for chosen in 0..1u32 << unfinished.len() {
        let mut tried = disk.clone();
        for (at, call) in unfinished.iter().enumerate().filter(|(at, _)| chosen >> at & 1 == 1) {
            tried.apply(number + at, call);
        }
        differences = tried.differences(root).expect("readable");
        if differences.is_empty() {
            *disk = tried;
            return Ok(());
        }
    }
    Err(differences)
}

/// A reason without its numbers and paths.
fn shorten(reason: &str) -> String {
    let words = reason.split(' ').filter(|word| !word.contains("/disk"));
    let text: Vec<String> = words.map(|word| word.replace(|c: char| c.is_ascii_digit(), "#")).collect();
    text.join(" ").replace("##", "#").chars().take(150).collect()
}

/// For `Trial::deadline`.
pub(crate) fn after(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}
