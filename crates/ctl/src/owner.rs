use std::fmt;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use coordd_client::recipes::{Json, Owner};
use coordd_process::plain;

use crate::json_text::{self, JsonArg};

/// Who asks for a leadership or a lock, as others see it.
#[derive(Args, Clone, Debug)]
pub(crate) struct OwnerArgs {
    /// The name, as others see it. Default: the name of the machine.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    id: Option<String>,

    /// Where others reach it while it holds.
    #[arg(long, default_value = "")]
    address: String,

    /// What else others should know: JSON, or a text that cannot be taken for JSON.
    #[arg(long)]
    data: Option<JsonArg>,
}

impl OwnerArgs {
    pub(crate) fn owner(&self) -> Owner {
        let owner = Owner::new(self.id.clone().unwrap_or_else(machine_name)).address(&self.address);
        match &self.data {
            Some(data) => owner.data(data.json()),
            None => owner,
        }
    }
}

/// An owner in a line for people: what it does not say is left out.
pub(crate) fn write_owner(f: &mut fmt::Formatter<'_>, id: &str, address: &str, data: &Json) -> fmt::Result {
    f.write_str(&plain(id))?;
    if !address.is_empty() {
        write!(f, " {}", plain(address))?;
    }
    if !data.is_null() {
        write!(f, " {}", json_text::shown(data))?;
    }
    Ok(())
}

/// What others see of who gives no name.
pub(crate) fn machine_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
