//! What several examples do alike.

use coordd_client::SessionState;
use coordd_client::recipes::Sessions;
use futures::StreamExt as _;

/// Says what becomes of the connection, in one session after the other.
pub(crate) async fn tell_connection(name: &str, sessions: &Sessions) {
    let mut clients = sessions.stream();
    while let Some(client) = clients.next().await {
        let (mut states, mut verb) = (client.states(), "connected");
        while let Some(state) = states.next().await {
            match state {
                SessionState::Connecting => {}
                SessionState::Connected { node_id, address } => {
                    println!(
                        "[{name}] {verb} to node {node_id} at {address}, session {:#x}",
                        client.session_id()
                    );
                    verb = "reconnected";
                }
                // What it has in its session it has as long as the timeout has not passed.
                SessionState::Suspended => {
                    println!("[{name}] disconnected, and looks for another node");
                }
                SessionState::Expired(end) => {
                    println!("[{name}] the session has ended ({end}), and with it all it had; opens another");
                    break;
                }
                SessionState::Closed => break,
            }
        }
    }
}
