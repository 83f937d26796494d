//! G6: who may end a session for its silence.

use coordd_tree::{Batch, Command, EndReason, Entry, ErrorKind, OpenSession, Origin, Tree};

fn entry(first_seq: u64, command: Command) -> Entry {
    let batch = Batch { origin: Origin { node: 1, incarnation: 1 }, first_seq, commands: vec![command] };
    Entry { time_ms: 1, batches: vec![batch], ..Entry::default() }
}

fn expiry(term: u64) -> Command<'static> {
    let reason = EndReason::Expired { silent_ms: 10_000, term, last_node: 1 };
    Command::EndSession { session: 7, reason }
}

#[test]
fn an_expiry_that_an_earlier_leader_decided_ends_nothing() {
    let mut tree = Tree::new();
    let opening =
        OpenSession { session: 7, password: [1; 16], timeout_ms: 10_000, client_name: String::new() };
    tree.apply_in_term(2, &entry(1, Command::OpenSession(opening)), |_, _, _, _| {});
    let mut kinds = Vec::new();
    tree.apply_in_term(3, &entry(2, expiry(2)), |_, _, _, applied| {
        kinds.push(applied.result.map_err(|refused| refused.kind));
        assert_eq!(applied.ended, None);
    });
    assert_eq!(kinds, [Err(ErrorKind::GuardFailed)]);
    assert!(tree.session(7).is_some());
    tree.apply_in_term(3, &entry(3, expiry(3)), |_, _, _, applied| assert_eq!(applied.ended, Some(7)));
    assert!(tree.session(7).is_none());
}
