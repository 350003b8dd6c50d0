//! A section of the configuration, declared once: fields, defaults, readings and documentation.
//!
//! [`section!`] makes a struct of the declaration and the [`Section`] that files, environment
//! variables, flags and the printed defaults walk. A section's options come before its lists and
//! these before its sub-sections; the options of a `flat` field are the section's own.

use super::value::Value;

/// What stands at a name of a section, to be filled.
pub(super) enum Child<'a> {
    /// An option.
    Option(Box<dyn FnOnce(Value) -> Result<(), String> + 'a>),
    /// A section of its own.
    Section(&'a mut dyn Section),
    /// A list of sections.
    List(&'a mut dyn List),
}

/// What stands at a name of a section, to be shown.
pub(super) struct Entry {
    pub(super) name: &'static str,
    /// What it means, in one paragraph.
    pub(super) doc: String,
    pub(super) kind: Kind,
}

/// What an [`Entry`] holds.
pub(super) enum Kind {
    /// An option with its value.
    Option(Value),
    /// A list of sections with these entries each.
    List(Vec<Entry>),
    /// A section with its entries.
    Section(Vec<Entry>),
}

/// A part of the configuration, without its type.
pub(super) trait Section {
    /// What is called so.
    fn child(&mut self, name: &str) -> Option<Child<'_>>;

    /// All that there is, with values as files write them.
    fn entries(&self) -> Vec<Entry>;
}

/// A list of sections, without their type.
pub(super) trait List {
    /// Forgets all elements.
    fn clear(&mut self);

    /// A new element with its defaults.
    fn push(&mut self) -> &mut dyn Section;

    /// Takes the last element away.
    fn pop(&mut self);

    /// The element with this number.
    fn element(&mut self, index: usize) -> Option<&mut dyn Section>;
}

impl<T: Section + Default> List for Vec<T> {
    fn clear(&mut self) {
        self.clear();
    }

    fn push(&mut self) -> &mut dyn Section {
        Vec::push(self, T::default());
        self.last_mut().expect("it was just pushed")
    }

    fn pop(&mut self) {
        self.pop();
    }

    fn element(&mut self, index: usize) -> Option<&mut dyn Section> {
        self.get_mut(index).map(|element| element as &mut dyn Section)
    }
}

/// The lines of a documentation comment as one paragraph.
pub(super) fn paragraph(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Declares a section: its struct, its defaults, and the [`Section`] of it.
macro_rules! section {
    (
        $(#[$meta:meta])*
        $name:ident {
            $( $(#[doc = $doc:literal])+ $field:ident: $type:ty = $default:expr, $read:expr; )*
        }
        $( lists { $( $(#[doc = $ldoc:literal])+ $list:ident: $ltype:ty; )+ } )?
        $( sections { $( $(#[doc = $sdoc:literal])+ $section:ident: $stype:ty; )+ } )?
        $( flat { $(#[doc = $fdoc:literal])+ $flat:ident: $ftype:ty; } )?
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $(
                $(#[doc = $doc])+
                #[doc = concat!("\n\nDefault: `", stringify!($default), "`.")]
                pub $field: $type,
            )*
            $($( $(#[doc = $ldoc])+ pub $list: Vec<$ltype>, )+)?
            $($( $(#[doc = $sdoc])+ pub $section: $stype, )+)?
            $( $(#[doc = $fdoc])+ pub $flat: $ftype, )?
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $( $field: $default, )*
                    $($( $list: Vec::new(), )+)?
                    $($( $section: Default::default(), )+)?
                    $( $flat: Default::default(), )?
                }
            }
        }

        $crate::config::section::walk! {
            $name {
                $( $(#[doc = $doc])+ $field, $read; )*
            }
            $( lists { $( $(#[doc = $ldoc])+ $list: $ltype; )+ } )?
            $( sections { $( $(#[doc = $sdoc])+ $section; )+ } )?
            $( flat { $flat } )?
        }
    };
}

/// Makes a [`Section`] of a struct that exists.
macro_rules! walk {
    (
        $name:ident {
            $( $(#[doc = $doc:literal])+ $field:ident, $read:expr; )*
        }
        $( lists { $( $(#[doc = $ldoc:literal])+ $list:ident: $ltype:ty; )+ } )?
        $( sections { $( $(#[doc = $sdoc:literal])+ $section:ident; )+ } )?
        $( flat { $flat:ident } )?
    ) => {
        impl $crate::config::section::Section for $name {
            fn child(&mut self, name: &str) -> Option<$crate::config::section::Child<'_>> {
                use $crate::config::section::Child;
                $(
                    if name == stringify!($field) {
                        let field = &mut self.$field;
                        return Some(Child::Option(Box::new(move |value| {
                            *field = $read(value)?;
                            Ok(())
                        })));
                    }
                )*
                $($(
                    if name == stringify!($list) {
                        return Some(Child::List(&mut self.$list));
                    }
                )+)?
                $($(
                    if name == stringify!($section) {
                        return Some(Child::Section(&mut self.$section));
                    }
                )+)?
                $( if let Some(child) = self.$flat.child(name) { return Some(child); } )?
                None
            }

            fn entries(&self) -> Vec<$crate::config::section::Entry> {
                use $crate::config::section::{Entry, Kind, paragraph};
                let mut entries = vec![
                    $(Entry {
                        name: stringify!($field),
                        doc: paragraph(concat!($($doc),+)),
                        kind: Kind::Option($crate::config::show::Show::show(&self.$field)),
                    },)*
                    $($(Entry {
                        name: stringify!($list),
                        doc: paragraph(concat!($($ldoc),+)),
                        kind: Kind::List(<$ltype>::default().entries()),
                    },)+)?
                    $($(Entry {
                        name: stringify!($section),
                        doc: paragraph(concat!($($sdoc),+)),
                        kind: Kind::Section(self.$section.entries()),
                    },)+)?
                ];
                $( entries.extend(self.$flat.entries()); )?
                // Options first: what follows a table of TOML would be in it.
                entries.sort_by_key(|entry| match entry.kind {
                    Kind::Option(_) => 0,
                    Kind::List(_) => 1,
                    Kind::Section(_) => 2,
                });
                entries
            }
        }
    };
}

pub(super) use {section, walk};
