//! The listening socket of a shard.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel queues until the shard accepts them; the kernel caps it at
/// `net.core.somaxconn`.
pub const BACKLOG: i32 = 4096;

/// Opens a listening socket. With `reuse_port` every shard opens one at the same address and the
/// kernel spreads connections over them. Accepted sockets inherit `TCP_NODELAY`: a shard joins what
/// belongs together itself.
///
/// # Errors
/// The address is in use, not ours, or not allowed; [`super::requirements::explain_bind`] says it
/// in words.
pub fn listener(address: SocketAddr, reuse_port: bool, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted server must not wait for the last connections of its predecessor to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpStream};

    use super::*;

    const ANY_PORT: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

    #[test]
    fn shards_share_a_port_and_strangers_do_not() {
        let first = listener(ANY_PORT.into(), true, BACKLOG).unwrap();
        let address = first.local_addr().unwrap();
        listener(address, true, BACKLOG).unwrap();
        let error = listener(address, false, BACKLOG).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn accepted_sockets_inherit_nodelay() {
        let listener = listener(ANY_PORT.into(), false, BACKLOG).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(listener.accept().unwrap().0.nodelay().unwrap());
    }
}
