//! The `tiderace` program.

mod cli;

use clap::Parser;

#[derive(Parser)]
#[command(name = "tiderace", version)]
enum Command {
    /// Load generator for this server and its peers.
    Bench(cli::bench::BenchArgs),
}

fn main() -> std::process::ExitCode {
    let Command::Bench(args) = Command::parse();
    match cli::bench::run(args) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tiderace: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
