//! The program `tiderace`: the library's command line.

fn main() -> std::process::ExitCode {
    tiderace::cli::main()
}
