//! One client's side of a connection, whatever it speaks: why it ended, and whether it might.

use tiderace::hub::ConnRef;

use super::{
    oracle::Oracle,
    random::Random,
    window::Window,
    wire::{Reader, Said},
    wishes::Memory,
};

/// What a client speaks.
pub trait Peer {
    /// What it sends next, of its own accord; may be nothing.
    fn act(&mut self, oracle: &mut Oracle, random: &mut Random) -> Vec<u8>;
    /// Takes what the server said; returns what it answers at once.
    fn heard(&mut self, said: Said, oracle: &mut Oracle, random: &mut Random) -> Vec<u8>;
    /// The last bytes of a client with manners.
    fn goodbye(&mut self, random: &mut Random) -> Vec<u8>;
    /// Nothing is under way: everything that was asked must be answered.
    fn settled(&self);
    /// Its subscriptions by channel.
    fn windows(&self) -> Vec<(usize, &Window)>;
    /// Subscriptions that it has not asked to end.
    fn wanted_windows(&self) -> Vec<&Window>;
    /// Whether the server counts it as a client; and its user, empty if anonymous.
    fn user(&self) -> Option<&str>;
    /// Since when it is a client, and its id.
    fn connected(&self) -> Option<&(u64, String)> {
        None
    }
    /// Where it was in its channels; nothing else is left of it.
    fn memory(&mut self) -> Memory {
        Memory::new()
    }
    /// Whether it may be ended without a close code: it asked for it, or was refused.
    fn may_be_ended(&self) -> bool;
    /// Whether it never gets a close code.
    fn is_http(&self) -> bool;
}

/// A client and its connection.
pub struct Client {
    pub shard: usize,
    pub conn: ConnRef,
    pub reader: Reader,
    pub peer: Box<dyn Peer>,
    /// It began to end the connection, and sends no more.
    pub leaving: bool,
    /// It saw the server's end of the connection.
    pub over: bool,
    /// The close code that it saw.
    pub code: Option<u16>,
}

impl Client {
    /// Whether it is connected and wants to stay.
    pub fn is_live(&self) -> bool {
        !self.leaving && !self.over
    }

    /// Takes bytes of the server; returns what the client answers at once.
    pub fn read(&mut self, bytes: &[u8], oracle: &mut Oracle, random: &mut Random) -> Vec<u8> {
        self.reader.feed(bytes);
        let mut out = Vec::new();
        while let Some(said) = self.reader.next() {
            oracle.tick();
            match said {
                Said::Close(code) => self.code = Some(code),
                said => out.extend(self.peer.heard(said, oracle, random)),
            }
        }
        if self.leaving || self.code.is_some() { Vec::new() } else { out }
    }
}
