//! The tests of the state machine from outside: golden scripts (`tests/scripts/<what>/<claim>`), random commands
//! against a model, snapshots cut anywhere, and bytes that are no entries or snapshots.

mod bounds;
mod bytes;
mod driver;
mod model;
mod property;
mod replica;
mod script;
mod script_args;
mod terms;
