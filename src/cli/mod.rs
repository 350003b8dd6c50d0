//! The command line: from arguments to an exit code, one file per subcommand.

mod bench;
mod codes;
mod config;
mod logging;
mod serve;
mod token;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A realtime server: messages from your backend to browsers and devices.
#[derive(Debug, Parser)]
#[command(name = "tiderace", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Arguments),
    /// Load generator for this server and its peers.
    Bench(bench::BenchArgs),
    Watch(watch::Arguments),
    Token(token::Arguments),
    /// Print every code that clients are told, with what they do then and what it means
    Codes,
    #[command(subcommand)]
    Config(config::Command),
}

/// Runs the program with the arguments of the process. A failure is told on stderr.
pub fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Serve(arguments) => serve::run(arguments),
        Command::Bench(arguments) => bench::run(arguments).map_err(Into::into),
        Command::Watch(arguments) => return watch::run(arguments),
        Command::Token(arguments) => return token::run(arguments),
        Command::Codes => codes::run().map_err(Into::into),
        Command::Config(command) => return config::run(&command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tiderace: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
