use std::time::Duration;

use coordd_client::{Client, SessionState};

use crate::eventually;

/// Waits until some node holds the client's session, and returns its id.
pub async fn attached_to(client: &Client, within: Duration) -> u64 {
    let mut node = 0;
    eventually(within, "the client is attached", async || match client.state() {
        SessionState::Connected { node_id, .. } => {
            node = node_id;
            true
        }
        _ => false,
    })
    .await;
    node
}
