//! A bare io_uring server that answers so many bytes with so many bytes and understands nothing: the floor below which no
//! server on this kernel can get.
//!
//! Lives here: counting bytes. Not here: the ring (`pump`).

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::doors::raw::Raw;
use crate::pump::{Event, Pump};

#[derive(Default)]
struct Client {
    /// Bytes of a request that is not yet complete.
    pending: usize,
    /// Bytes of answers that wait for the message in flight.
    owed: usize,
    sending: bool,
    spare: Vec<u8>,
}

/// Serves until the process is ended.
pub fn serve(address: &str, exchange: Raw) -> Result<(), String> {
    let listener = TcpListener::bind(address).map_err(|error| format!("cannot listen on {address}: {error}"))?;
    let mut pump = Pump::new(CONNECTIONS_MAX).map_err(|error| format!("no io_uring: {error}"))?;
    pump.listen(OwnedFd::from(listener));
    let mut clients: Vec<Client> = Vec::new();
    clients.resize_with(CONNECTIONS_MAX, Client::default);
    let (mut events, mut ready) = (Vec::new(), Vec::new());
    loop {
        pump.turn(Duration::from_secs(1), &mut events).map_err(|error| format!("io_uring fails: {error}"))?;
        for event in events.drain(..) {
            match event {
                Event::Accepted { socket } => {
                    let _ = socket2::SockRef::from(&socket).set_tcp_nodelay(true);
                    if let Ok(token) = pump.add(socket) {
                        clients[token as usize] = Client::default();
                    }
                }
                Event::Received { token, buffer, length } => {
                    let client = &mut clients[token as usize];
                    client.pending += length as usize;
                    client.owed += client.pending / exchange.request_bytes * exchange.reply_bytes;
                    client.pending %= exchange.request_bytes;
                    pump.release(buffer);
                    ready.push(token);
                }
                Event::Sent { token, buffer } => {
                    let client = &mut clients[token as usize];
                    client.sending = false;
                    client.spare = buffer;
                    ready.push(token);
                }
                Event::Closed { token, .. } => clients[token as usize] = Client::default(),
            }
        }
        for token in ready.drain(..) {
            let client = &mut clients[token as usize];
            if client.owed > 0 && !client.sending {
                client.sending = true;
                let mut message = std::mem::take(&mut client.spare);
                message.resize(std::mem::take(&mut client.owed), b'r');
                pump.send(token, message);
            }
        }
    }
}

const CONNECTIONS_MAX: usize = 4096;
