use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use coordd_client::Error;
use coordd_client::recipes::config::{ConfigManager, ConfigOptions};
use coordd_client::recipes::{CacheView, PathCache, Sessions, TreeCache};
use futures::{Stream, StreamExt as _};
use serde_json::{Value, json};

use crate::Connection;
use crate::commands::{Commands, unknown};
use crate::report::{error, report};

/// Follows a part of the tree, in one session after the other. A cache says `view` for each state, with its zxid and the data by
/// path; the command `wait ZXID` is answered by `reached`, with a state that shows that change. A configuration says `changed`
/// for each change, with the values before and after. Each says `connected` with the id of every session.
#[derive(Args)]
pub(crate) struct Follower {
    #[arg(long)]
    path: String,

    #[arg(long, value_enum)]
    what: What,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    Tree,
    Children,
    Config,
}

impl Follower {
    pub(crate) async fn run(self, connection: &Connection, mut commands: Commands) -> Result<(), Error> {
        let sessions = Sessions::connect(connection.endpoints.clone(), connection.options()).await?;
        let mut each = sessions.stream();
        tokio::spawn(async move {
            while let Some(client) = each.next().await {
                report("connected", json!({ "session_id": client.session_id() }));
            }
        });
        match self.what {
            What::Tree => {
                let cache = TreeCache::start(&sessions, &self.path);
                tokio::spawn(tell(cache.views()));
                while let Some(zxid) = wait_command(&mut commands).await {
                    say("reached", &cache.wait_for(zxid).await?);
                }
            }
            What::Children => {
                let cache = PathCache::start(&sessions, &self.path);
                tokio::spawn(tell(cache.views()));
                while let Some(zxid) = wait_command(&mut commands).await {
                    say("reached", &cache.wait_for(zxid).await?);
                }
            }
            What::Config => {
                let options = ConfigOptions::new(Value::Null).author(&connection.name);
                let manager = ConfigManager::start(&sessions, &self.path, options).await?;
                report("following", json!({ "value": *manager.current() }));
                let mut changes = manager.changes();
                loop {
                    tokio::select! {
                        change = changes.next() => match change {
                            Some(Ok(change)) => {
                                report("changed", json!({ "old": *change.old.value, "new": *change.new.value }));
                            }
                            Some(Err(failure)) => report("problem", error(&failure)),
                            None => break,
                        },
                        _ = commands.next() => break,
                    }
                }
            }
        }
        sessions.close().await
    }
}

async fn wait_command(commands: &mut Commands) -> Option<u64> {
    let words = commands.next().await?;
    match &words[..] {
        [wait, zxid] if wait == "wait" => Some(zxid.parse().expect("a zxid")),
        _ => unknown(&words),
    }
}

async fn tell(mut views: impl Stream<Item = CacheView> + Unpin) {
    while let Some(view) = views.next().await {
        say("view", &view);
    }
}

fn say(event: &str, view: &CacheView) {
    let data =
        view.iter().map(|znode| (znode.path.to_string(), String::from_utf8_lossy(&znode.data).into_owned()));
    report(event, json!({ "zxid": view.zxid(), "data": data.collect::<BTreeMap<_, _>>() }));
}
