//! Writes a JSON object field by field. Zero values are left out, as the protocol's own encoder
//! does; what is encoded already is put in as it is.

use serde::Serialize;

/// An object that is being written; ends when dropped out of with [`Object::end`].
pub(super) struct Object<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl<'a> Object<'a> {
    /// Begins an object at the end of `out`.
    pub(super) fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, first: true }
    }

    /// Begins a field; its value must be written to the result.
    pub(super) fn field(&mut self, name: &str) -> &mut Vec<u8> {
        if !std::mem::replace(&mut self.first, false) {
            self.out.push(b',');
        }
        self.key(name);
        self.out
    }

    fn key(&mut self, name: &str) {
        write_json(self.out, name);
        self.out.push(b':');
    }

    /// A field that is there also when it is empty.
    pub(super) fn always(&mut self, name: &str, value: &(impl Serialize + ?Sized)) -> &mut Self {
        write_json(self.field(name), value);
        self
    }

    pub(super) fn text(&mut self, name: &str, value: &str) -> &mut Self {
        if value.is_empty() { self } else { self.always(name, value) }
    }

    pub(super) fn number(&mut self, name: &str, value: u64) -> &mut Self {
        if value == 0 { self } else { self.always(name, &value) }
    }

    pub(super) fn flag(&mut self, name: &str, value: bool) -> &mut Self {
        if value { self.always(name, &true) } else { self }
    }

    /// A field that is encoded JSON already.
    pub(super) fn raw(&mut self, name: &str, json: Option<&[u8]>) -> &mut Self {
        if let Some(json) = json {
            self.field(name).extend_from_slice(json);
        }
        self
    }

    /// A list of what is encoded JSON already.
    pub(super) fn raw_list<T: AsRef<[u8]>>(&mut self, name: &str, list: &[T]) -> &mut Self {
        let out = self.field(name);
        out.push(b'[');
        for (place, json) in list.iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            out.extend_from_slice(json.as_ref());
        }
        out.push(b']');
        self
    }

    /// A field that is an object.
    pub(super) fn object(&mut self, name: &str, write: impl FnOnce(&mut Object<'_>)) -> &mut Self {
        let mut object = Object::begin(self.field(name));
        write(&mut object);
        object.end();
        self
    }

    /// Ends the object.
    pub(super) fn end(self) {
        self.out.push(b'}');
    }
}

pub(super) fn write_json<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value)
        .expect("writing to memory cannot fail, and the keys of these types are strings");
}
