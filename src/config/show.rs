//! Values of options as a file writes them, for the list of defaults.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use super::value::Value;
use super::{ErrorMode, LogFormat, Secret};
use crate::channels::{Pattern, ProxyName, RecoveryMode, SlowConsumer};

/// A field that can be written to a file. What is written is read as the same again, but for
/// secrets, which are never written.
pub(super) trait Show {
    /// The field as a value.
    fn show(&self) -> Value;
}

fn text(text: impl Into<String>) -> Value {
    Value::Text(text.into())
}

impl Show for bool {
    fn show(&self) -> Value {
        Value::Bool(*self)
    }
}

macro_rules! show_numbers {
    ($($type:ty),+) => {
        $(impl Show for $type {
            fn show(&self) -> Value {
                Value::Integer(i128::try_from(*self).expect("no option is a 128-bit number"))
            }
        })+
    };
}

show_numbers!(u16, u32, u64, usize);

impl Show for Option<NonZeroUsize> {
    fn show(&self) -> Value {
        self.map_or(0, NonZeroUsize::get).show()
    }
}

impl Show for String {
    fn show(&self) -> Value {
        text(self.as_str())
    }
}

impl Show for Option<String> {
    fn show(&self) -> Value {
        text(self.as_deref().unwrap_or_default())
    }
}

impl Show for Option<Pattern> {
    fn show(&self) -> Value {
        text(self.as_ref().map_or("", Pattern::as_str))
    }
}

impl Show for Option<Secret> {
    fn show(&self) -> Value {
        text("")
    }
}

impl Show for BTreeMap<String, Secret> {
    fn show(&self) -> Value {
        Value::Table(self.keys().map(|name| (name.clone(), text(""))).collect())
    }
}

impl Show for Vec<String> {
    fn show(&self) -> Value {
        Value::List(self.iter().map(Show::show).collect())
    }
}

impl Show for IpAddr {
    fn show(&self) -> Value {
        text(self.to_string())
    }
}

impl Show for ProxyName {
    fn show(&self) -> Value {
        self.0.show()
    }
}

impl Show for Duration {
    fn show(&self) -> Value {
        let (seconds, millis) = (self.as_secs(), self.as_millis());
        text(match seconds {
            _ if self.subsec_millis() != 0 => format!("{millis}ms"),
            0 => "0s".into(),
            _ if seconds % 3600 == 0 => format!("{}h", seconds / 3600),
            _ => format!("{seconds}s"),
        })
    }
}

impl Show for LogFormat {
    fn show(&self) -> Value {
        text(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

impl Show for ErrorMode {
    fn show(&self) -> Value {
        text(match self {
            Self::Body => "",
            Self::Transport => "transport",
        })
    }
}

impl Show for RecoveryMode {
    fn show(&self) -> Value {
        text(match self {
            Self::Stream => "stream",
            Self::Cache => "cache",
        })
    }
}

impl Show for SlowConsumer {
    fn show(&self) -> Value {
        text(match self {
            Self::Disconnect => "disconnect",
            Self::DropOldest => "drop_oldest",
            Self::Latest => "latest",
        })
    }
}
