//! The command line: flags to work, one file per subcommand.

pub(crate) mod bench;
