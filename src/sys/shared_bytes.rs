pub use crate::frame::Segment as SharedBytes;
