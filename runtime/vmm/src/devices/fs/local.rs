//! The server without a ring: bytes in, bytes out.

use std::io;
use std::sync::Arc;

use vm_memory::VolatileSlice;

use super::call::Worker;
use super::descriptors::Budget;
use super::exports::Exports;
use super::server::Server;
use crate::devices::chain::{Readable, Writable};

/// Serves FUSE requests on the calling thread, as the device's workers do: the way in for fuzzing.
pub struct LocalServer {
    server: Arc<Server>,
    worker: Worker,
}

impl LocalServer {
    /// Makes a server of `exports`. The calling thread gets a umask, a working directory and
    /// supplementary groups of its own for good.
    pub fn new(exports: Exports) -> io::Result<Self> {
        let server = Server::new(exports, Budget::of_process())?;
        let worker = server.worker()?;
        Ok(Self { server, worker })
    }

    /// Serves what came as `request`, writes the reply to the start of `reply` and returns its
    /// length. (A request is taken as from guest memory, hence not constant.)
    pub fn serve(&mut self, request: &mut [u8], reply: &mut [u8]) -> u32 {
        let request = Readable::new([VolatileSlice::from(request)].into());
        let reply = Writable::new([VolatileSlice::from(reply)].into());
        self.worker
            .serve(request, reply, |call| self.server.answer(call))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_can_be_served_without_a_ring() {
        std::thread::spawn(|| {
            let mut server = LocalServer::new(Exports::new()).unwrap();
            let mut reply = [0xff; 100];
            assert_eq!(server.serve(&mut [0; 39], &mut reply), 0);
            let mut request = [0; 40];
            request[0] = 40;
            assert_eq!(server.serve(&mut request, &mut reply), 16);
            assert_eq!(reply[4..8], (-libc::EIO).to_le_bytes(), "there was no INIT");
        })
        .join()
        .unwrap();
    }
}
