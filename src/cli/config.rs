//! `tiderace config`: is a file right, and what could stand in one.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};

use super::serve;
use crate::config::{self, Loaded};

/// Check a configuration file, or show all options.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say whether a file can be served with, and what in it has no effect or lets everybody in,
    /// by the server's own judgement: the exit code is 0 if `serve --config FILE` takes it.
    /// Variables that begin with TIDERACE_ or CENTRIFUGO_ count, as they do for the server
    Check {
        /// Configuration file: .toml, .json, .yaml or .yml, written for tiderace or Centrifugo v6
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print every option with its default and what it means
    Default {
        /// How; JSON has no room for explanations
        #[arg(long, value_enum, default_value_t = Format::Toml)]
        format: Format,
    },
}

/// The formats of a configuration file.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Format {
    Toml,
    Json,
    Yaml,
}

/// Does it. What is wrong with a file stands on stderr, one line per fault or warning.
pub(super) fn run(command: &Command) -> ExitCode {
    match command {
        Command::Default { format } => {
            let format = match format {
                Format::Toml => config::Format::Toml,
                Format::Json => config::Format::Json,
                Format::Yaml => config::Format::Yaml,
            };
            // Whoever reads may have seen enough before the end.
            match std::io::stdout().write_all(config::defaults(format).as_bytes()) {
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                    eprintln!("the options cannot be written: {error}");
                    ExitCode::FAILURE
                }
                _ => ExitCode::SUCCESS,
            }
        }
        Command::Check { file } => match serve::prepare_file(file, std::env::vars_os()) {
            Ok(Loaded { warnings, .. }) => {
                for warning in &warnings {
                    eprintln!("warning: {warning}");
                }
                let many = if warnings.len() == 1 { "" } else { "s" };
                println!("{} can be served with, {} warning{many}", file.display(), warnings.len());
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
    }
}
