//! Where data goes and in which form: `-o table | json | yaml`.

use std::{
    fmt,
    io::{self, Write as _},
};

use anyhow::Context as _;
use clap::ValueEnum;
use serde::Serialize;

/// `-o`.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Output {
    /// Form of the output: a table is for people, the fields of the others are stable
    #[arg(short = 'o', long = "output", value_name = "FORM", default_value = "table")]
    form: Form,
}

/// Forms of data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
    /// For programs and people
    Yaml,
}

impl Output {
    /// True when people read it.
    pub fn is_table(self) -> bool {
        self.form == Form::Table
    }

    /// Writes `data`, or for people what `table` makes of it.
    pub fn print<T: Serialize>(self, data: &T, table: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
        let text = match self.form {
            Form::Table => table(data),
            Form::Json => serde_json::to_string_pretty(data).context("write JSON")? + "\n",
            Form::Yaml => serde_yaml::to_string(data).context("write YAML")?,
        };
        to_stdout(&text)
    }
}

/// Writes to standard output.
pub fn to_stdout(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("write to standard output")
}

/// Writes a line to standard error; when that fails there is nobody left to tell.
pub fn to_stderr(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// True when the reader of our output went away, as `head` does.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}
