//! Why a configuration was refused, in the terms of who wrote it.

use std::fmt;
use std::path::PathBuf;

/// A setting that cannot be used, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where the setting was made.
    pub place: Place,
    /// The path of the option, such as `client.ping_interval`, where one is to blame.
    pub key: Option<String>,
    /// What is wrong and what would be right. Never shows a secret.
    pub message: String,
}

/// Where a setting was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file; line and column count from 1 and point at or just behind the setting.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// Line and column, where the parser knows them.
        position: Option<(usize, usize)>,
    },
    /// In this environment variable.
    Environment(String),
    /// In this flag.
    Flag(&'static str),
    /// In several settings that do not fit together.
    Together,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File { path, position: Some((line, column)) } => {
                write!(f, "{}:{line}:{column}: ", path.display())?;
            }
            Place::File { path, position: None } => write!(f, "{}: ", path.display())?,
            Place::Environment(name) => write!(f, "environment variable {name}: ")?,
            Place::Flag(flag) => write!(f, "{flag}: ")?,
            Place::Together => {}
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}
