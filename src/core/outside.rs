//! What threads that are no shard ask of one, and what they are told.

use std::sync::Arc;

use bytes::Bytes;

use super::{Core, direct::Sender, gathers::Asker};
use crate::{
    api::{
        Call, Reply,
        watch::{WatchAnswer, WatchCall},
    },
    auth::{Devices, Verdict},
    close::CloseReason,
    hub::{Caller, ConnRef},
    protocol::{Audience, Delivery, Effect, ErrorCode, Now, Outgoing, handler::ConnectionRef},
    proxy::BackendAnswer,
};

/// What a thread that is no shard asks for.
#[derive(Debug)]
pub enum OutsideCall {
    /// What a backend may ask for, too. Answer: [`OutsideAnswer::Called`].
    Call(Call),
    /// Something about devices. Answer: [`OutsideAnswer::Watch`].
    Watch(WatchCall),
    /// Send a message to many connections. Answer: [`OutsideAnswer::Delivered`].
    SendTo {
        /// To whom.
        audience: Audience,
        /// What.
        outgoing: Outgoing,
    },
    /// Send a message to a connection of this shard; no answer, the connection may be gone.
    Send {
        /// The connection.
        connection: ConnectionRef,
        /// The message.
        data: Bytes,
        /// Whether it is text.
        text: bool,
    },
    /// Device tokens are looked up here from now on; no answer. Streams go on: the next heartbeat of a
    /// device whose token is nobody's any more is told so.
    Devices(Arc<Devices>),
    /// What a backend said of a token; no answer.
    Verified {
        /// As in the [`Lookup`](super::Lookup).
        id: u64,
        /// What.
        verdict: Verdict,
    },
    /// What the backend said to a [`Question`](super::Question); no answer.
    Answered {
        /// As in the question.
        id: u64,
        /// What.
        answer: BackendAnswer,
    },
    /// Close a connection of this shard; no answer.
    Close {
        /// The connection.
        connection: ConnectionRef,
        /// Why.
        reason: CloseReason,
    },
}

/// What a thread that is no shard is told.
#[derive(Debug)]
pub enum OutsideAnswer {
    /// What the call came to.
    Called(Result<Reply, ErrorCode>),
    /// What was asked about devices.
    Watch(WatchAnswer),
    /// How many connections the message reached.
    Delivered(Result<Delivery, ErrorCode>),
}

impl Core {
    pub(super) fn call_from_outside(&mut self, now: Now, id: u64, call: OutsideCall) {
        match call {
            OutsideCall::Call(call) => self.call(now, Asker::Outside(id), call),
            OutsideCall::Watch(call) => self.watch_call(now, Caller::Outside(id), call),
            OutsideCall::SendTo { audience, outgoing } => {
                self.send_to(now, Sender::Outside(id), audience, outgoing);
            }
            OutsideCall::Send { connection, data, text } => {
                let bytes = data.to_vec();
                let effect = if text { Effect::Reply(bytes) } else { Effect::Binary(bytes) };
                self.run(now, own(connection), &mut vec![effect]);
            }
            OutsideCall::Devices(devices) => self.watch.devices = Some(devices),
            OutsideCall::Verified { id, verdict } => self.verified(now, id, verdict),
            OutsideCall::Answered { id, answer } => self.backend_answered(now, id, answer),
            OutsideCall::Close { connection, reason } => self.close(now, own(connection), reason),
        }
    }
}

fn own(connection: ConnectionRef) -> ConnRef {
    ConnRef { slot: connection.slot, generation: connection.generation }
}
