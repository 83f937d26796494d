use std::io::Read as _;
use std::path::PathBuf;

use clap::Args;
use coordd_client::Bytes;

use crate::exit::Failure;

/// Where a value comes from.
#[derive(Args, Debug)]
pub(crate) struct Value {
    /// The value; `-` reads it from the standard input. One that begins with a hyphen, other than a number, stands behind `--`.
    #[arg(value_name = "DATA", allow_negative_numbers = true)]
    data: Option<String>,

    /// Read the value from a file.
    #[arg(short, long, value_name = "FILE", conflicts_with = "data")]
    file: Option<PathBuf>,
}

impl Value {
    /// The bytes; `None` if no value was given.
    pub(crate) fn read(self) -> Result<Option<Bytes>, Failure> {
        match (self.data, self.file) {
            (Some(data), _) if data == "-" => {
                let mut bytes = Vec::new();
                std::io::stdin()
                    .read_to_end(&mut bytes)
                    .map_err(|error| Failure::io("reading the standard input", error))?;
                Ok(Some(bytes.into()))
            }
            (Some(data), _) => Ok(Some(data.into())),
            (None, Some(file)) => {
                let bytes = std::fs::read(&file);
                bytes
                    .map(|bytes| Some(bytes.into()))
                    .map_err(|error| Failure::io(format!("reading {}", file.display()), error))
            }
            (None, None) => Ok(None),
        }
    }
}
