use std::collections::BTreeMap;

use super::layout::{AgentRecord, Layout, Placement};
use super::status::CopyState;
use crate::Stat;

/// One change of the placements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The copy is to run there. `before`: the placement that this replaces.
    Place { copy: u32, placement: Placement, before: Option<Stat> },
    /// There are fewer copies than this one's number.
    Remove { copy: u32, before: Stat },
}

/// What is to be changed so that each copy is placed on an agent that is there, has room, and is not known to fail it. A pure
/// function of what the tree says.
///
/// A copy stays where it is unless its agent is gone or has no room for it, it keeps failing there and has somewhere else
/// to go, or, when everything runs, one agent has two copies more than another: then one copy moves at a time.
pub(super) fn plan(layout: &Layout) -> Vec<Step> {
    let Some(spec) = &layout.spec else { return Vec::new() };
    let mut steps: Vec<Step> = layout
        .placements
        .range(spec.copies..)
        .map(|(copy, (_, before))| Step::Remove { copy: *copy, before: *before })
        .collect();
    let mut rooms = Rooms::new(layout, spec.copies);
    for copy in 0..spec.copies {
        let before = layout.placements.get(&copy);
        if let Some(placement) = next_placement(copy, layout, &mut rooms) {
            steps.push(Step::Place { copy, placement, before: before.map(|(_, stat)| *stat) });
        }
    }
    if steps.is_empty() {
        steps.extend(spread(layout, spec.copies, &rooms));
    }
    steps
}

/// How many copies each agent has, and how many it takes.
struct Rooms<'a> {
    agents: BTreeMap<&'a str, (u32, u32)>,
}

impl<'a> Rooms<'a> {
    fn new(layout: &'a Layout, copies: u32) -> Self {
        let capacity = |record: &AgentRecord| record.capacity.unwrap_or(u32::MAX);
        let mut agents: BTreeMap<&str, (u32, u32)> =
            layout.agents.iter().map(|(id, (record, _))| (id.as_str(), (0, capacity(record)))).collect();
        for (placement, _) in layout.placements.range(..copies).map(|(_, found)| found) {
            if let Some((has, _)) = agents.get_mut(placement.agent.as_str()) {
                *has += 1;
            }
        }
        Self { agents }
    }

    /// The agent with the fewest copies that has room and is not among these; of equals, the first.
    fn best(&self, but: &BTreeMap<String, u64>) -> Option<&'a str> {
        let open = self.agents.iter().filter(|(id, (has, takes))| has < takes && !but.contains_key(**id));
        open.min_by_key(|(_, (has, _))| *has).map(|(id, _)| *id)
    }

    fn is_over(&self, agent: &str) -> bool {
        self.agents.get(agent).is_none_or(|(has, takes)| has > takes)
    }

    fn give(&mut self, agent: &str) {
        if let Some((has, _)) = self.agents.get_mut(agent) {
            *has += 1;
        }
    }

    fn take(&mut self, agent: &str) {
        if let Some((has, _)) = self.agents.get_mut(agent) {
            *has = has.saturating_sub(1);
        }
    }
}

/// The copy's new placement; `None`: it stays as it is.
fn next_placement(copy: u32, layout: &Layout, rooms: &mut Rooms) -> Option<Placement> {
    let now = layout.placements.get(&copy).map(|(placement, _)| placement.clone()).unwrap_or_default();
    let run = layout.running.get(&copy).filter(|(run, _)| run.agent == now.agent);
    let failing = run.filter(|(run, _)| run.is_failing).map(|(_, stat)| stat.mzxid);
    let mut failed_on = valid(&now, layout);
    let to = if rooms.is_over(&now.agent) {
        // Better where it has failed than nowhere.
        let to = rooms.best(&failed_on).or_else(|| rooms.best(&BTreeMap::new()));
        // An agent that is there runs no more than it takes, also if nobody else has room.
        to.or_else(|| layout.agents.contains_key(&now.agent).then_some(""))?
    } else {
        failed_on.insert(now.agent.clone(), failing?);
        rooms.best(&failed_on)?
    };
    rooms.take(&now.agent);
    rooms.give(to);
    Some(Placement { agent: to.to_owned(), failed_on })
}

/// The agents on which the copy has failed, as far as that still counts.
fn valid(placement: &Placement, layout: &Layout) -> BTreeMap<String, u64> {
    let mut failed_on = placement.failed_on.clone();
    failed_on.retain(|agent, zxid| {
        let joined = layout.agents.get(agent).map(|(_, stat)| stat.czxid);
        joined.is_some_and(|joined| joined.max(layout.spec_zxid) < *zxid)
    });
    failed_on
}

/// One copy from who has the most to who has two less, once all run: a move costs a restart.
fn spread(layout: &Layout, copies: u32, rooms: &Rooms) -> Option<Step> {
    let runs = |copy: &u32| {
        let placed = layout.placements.get(copy).map(|(placement, _)| &placement.agent);
        let run = layout.running.get(copy).map(|(run, _)| run);
        run.is_some_and(|run| run.state == CopyState::Running && Some(&run.agent) == placed)
    };
    if !(0..copies).all(|copy| runs(&copy)) {
        return None;
    }
    let (from, (most, _)) = rooms.agents.iter().max_by_key(|(_, (has, _))| *has)?;
    let own = layout.placements.range(..copies).rev().filter(|(_, (placement, _))| placement.agent == **from);
    own.filter_map(|(copy, (placement, before))| {
        let failed_on = valid(placement, layout);
        let to = rooms.best(&failed_on)?;
        let (fewest, _) = rooms.agents.get(to)?;
        let placement = Placement { agent: to.to_owned(), failed_on };
        (fewest + 2 <= *most).then_some(Step::Place { copy: *copy, placement, before: Some(*before) })
    })
    .next()
}

#[cfg(test)]
mod tests {
    use super::super::layout::RunRecord;
    use super::super::spec::HealerSpec;
    use super::*;

    fn layout(copies: u32, agents: &[(&str, Option<u32>)], placed: &[&str]) -> Layout {
        let agents = agents
            .iter()
            .map(|(id, capacity)| ((*id).to_owned(), (AgentRecord { capacity: *capacity }, Stat::default())));
        let placement = |agent: &&str| Placement { agent: (*agent).to_owned(), ..Placement::default() };
        let placements = (0..).zip(placed).map(|(copy, agent)| (copy, (placement(agent), Stat::default())));
        let mut layout = Layout {
            spec: Some(HealerSpec::new(copies, ["x"])),
            agents: agents.collect(),
            placements: placements.collect(),
            ..Layout::default()
        };
        run_all(&mut layout);
        layout
    }

    /// Every copy runs where it is placed, if its agent is there.
    fn run_all(layout: &mut Layout) {
        layout.running.clear();
        for (copy, (placement, _)) in &layout.placements {
            if layout.agents.contains_key(&placement.agent) {
                let run = RunRecord {
                    agent: placement.agent.clone(),
                    state: CopyState::Running,
                    pid: None,
                    restarts: 0,
                    is_failing: false,
                    last_exit: None,
                };
                layout.running.insert(*copy, (run, Stat::default()));
            }
        }
    }

    /// Carries the steps out until there are no more; returns how many there were.
    fn converge(layout: &mut Layout) -> usize {
        let mut count = 0;
        loop {
            let steps = plan(layout);
            if steps.is_empty() {
                return count;
            }
            count += steps.len();
            assert!(count < 1_000, "it does not come to an end: {steps:?}");
            for step in steps {
                match step {
                    Step::Remove { copy, .. } => drop(layout.placements.remove(&copy)),
                    Step::Place { copy, placement, .. } => {
                        drop(layout.placements.insert(copy, (placement, Stat::default())));
                    }
                }
            }
            run_all(layout);
        }
    }

    fn placed(layout: &Layout) -> Vec<&str> {
        layout.placements.values().map(|(placement, _)| placement.agent.as_str()).collect()
    }

    #[test]
    fn copies_are_spread_and_stay_where_they_are() {
        let mut healer = layout(5, &[("a", None), ("b", None)], &[]);
        assert_eq!(converge(&mut healer), 5);
        assert_eq!(placed(&healer), ["a", "b", "a", "b", "a"]);
        // Of a dead agent only.
        healer.agents.remove("b");
        healer.agents.insert("c".into(), Default::default());
        assert_eq!(converge(&mut healer), 2);
        assert_eq!(placed(&healer), ["a", "c", "a", "c", "a"]);
        // One that comes gets its share, one copy at a time.
        healer.agents.insert("d".into(), Default::default());
        assert_eq!(plan(&healer).len(), 1);
        assert_eq!(converge(&mut healer), 1);
        assert_eq!(placed(&healer), ["a", "c", "a", "c", "d"]);
    }

    #[test]
    fn fewer_copies_are_those_with_the_lowest_numbers() {
        let mut healer = layout(1, &[("a", None), ("b", None)], &["b", "a", "b"]);
        assert_eq!(converge(&mut healer), 2);
        assert_eq!(placed(&healer), ["b"]);
        healer.spec = Some(HealerSpec::new(0, ["x"]));
        converge(&mut healer);
        assert!(placed(&healer).is_empty());
    }

    #[test]
    fn no_agent_gets_more_than_it_takes() {
        let mut healer = layout(5, &[("a", Some(1)), ("b", Some(2))], &[]);
        converge(&mut healer);
        assert_eq!(placed(&healer), ["a", "b", "b"]);
        // It takes less than before.
        healer.agents.insert("b".into(), (AgentRecord { capacity: Some(0) }, Stat::default()));
        converge(&mut healer);
        assert_eq!(placed(&healer), ["a", "", ""], "two have no place, and are not to run");
        healer.agents.insert("c".into(), Default::default());
        converge(&mut healer);
        assert_eq!(placed(&healer), ["a", "c", "c", "c", "c"]);
        // Nobody is there.
        healer.agents.clear();
        assert_eq!(converge(&mut healer), 0);
    }

    #[test]
    fn a_copy_that_keeps_failing_goes_where_it_has_not_failed_or_stays() {
        let mut zxid = 0;
        let mut fail = |healer: &mut Layout| {
            zxid += 10;
            let (run, stat) = healer.running.get_mut(&0).unwrap();
            (run.is_failing, stat.mzxid) = (true, zxid);
            let steps = plan(healer);
            let [Step::Place { placement, .. }] = &steps[..] else { return format!("{} steps", steps.len()) };
            healer.placements.insert(0, (placement.clone(), Stat::default()));
            run_all(healer);
            placement.agent.clone()
        };
        let mut healer = layout(1, &[("a", None), ("b", None), ("c", Some(0))], &["a"]);
        assert_eq!(fail(&mut healer), "b");
        assert_eq!(fail(&mut healer), "0 steps", "it has failed everywhere and stays");
        healer.agents.insert("d".into(), Default::default());
        assert_eq!(fail(&mut healer), "d");
        assert_eq!(fail(&mut healer), "0 steps");
        // One that has joined anew since then may do better, and so may all with another spec.
        healer.agents.insert("b".into(), (AgentRecord::default(), Stat { czxid: 35, ..Stat::default() }));
        assert_eq!(fail(&mut healer), "b");
        assert_eq!(fail(&mut healer), "0 steps");
        healer.spec_zxid = 65;
        assert_eq!(fail(&mut healer), "a");
        assert_eq!(fail(&mut healer), "d");
    }

    #[test]
    fn nothing_moves_for_balance_to_where_it_has_failed() {
        let mut healer = layout(2, &[("a", None), ("b", None)], &["a", "a"]);
        for (placement, _) in healer.placements.values_mut() {
            placement.failed_on.insert("b".into(), 7);
        }
        assert_eq!(plan(&healer), []);
        healer.spec_zxid = 8;
        assert_eq!(converge(&mut healer), 1);
        assert_eq!(placed(&healer), ["a", "b"]);
    }

    #[test]
    fn nothing_moves_for_balance_while_a_copy_does_not_run() {
        let mut healer = layout(4, &[("a", None), ("b", None)], &["a", "a", "a", "a"]);
        healer.running.remove(&2);
        assert_eq!(plan(&healer), []);
        run_all(&mut healer);
        assert_eq!(converge(&mut healer), 2);
        assert_eq!(placed(&healer), ["a", "a", "b", "b"]);
    }
}
