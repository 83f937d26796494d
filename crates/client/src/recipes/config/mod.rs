//! Configuration that is changed while programs run: typed, validated, followed, with a history. See [`ConfigManager`].

mod change;
mod document;
mod follower;
mod history;
mod key;
mod manager;
mod options;
mod snapshot;
mod text;

pub use change::{ConfigChange, KeyChange};
pub use document::ConfigDocument;
pub use history::ConfigVersion;
pub use key::ConfigKey;
pub use manager::ConfigManager;
pub use options::ConfigOptions;
pub use snapshot::Config;
