//! The control queue: the driver says how many of the queue pairs it uses (virtio 1.2, section
//! 5.1.6.5.6). Nothing else is offered.

use std::sync::Arc;

use runvm_sys::tap::Tap;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_ERR, VIRTIO_NET_OK,
};
use virtio_queue::DescriptorChain;
use vm_memory::{GuestMemoryMmap, Permissions};

use super::ring::Ring;
use crate::devices::Interrupt;
use crate::devices::span::Span;

/// How many commands are answered before the other queues get their turn.
const TURN: usize = 16;

/// Class, command and the number of pairs.
const COMMAND_BYTES: usize = 4;

/// The control queue and what it rules over.
pub(super) struct Control {
    pub(super) ring: Ring,
    pub(super) taps: Arc<[Tap]>,
}

impl Control {
    /// Answers what commands there are; says whether there may be more.
    pub(super) fn serve(&mut self, memory: &GuestMemoryMmap, interrupt: &dyn Interrupt) -> bool {
        for _ in 0..TURN {
            let Some(chain) = self.ring.next_chain(memory) else {
                self.ring.tell(memory, interrupt);
                return false;
            };
            let head = chain.head_index();
            let written = self.answer(memory, chain).map_or(0, |()| 1);
            self.ring.give_back(memory, &[(head, written)]);
        }
        self.ring.tell(memory, interrupt);
        true
    }

    /// Obeys one command; `None` where there is no room for the answer.
    fn answer(
        &self,
        memory: &GuestMemoryMmap,
        chain: DescriptorChain<&GuestMemoryMmap>,
    ) -> Option<()> {
        let reply = Span::gather(memory, chain.clone().writable(), Permissions::Write)?;
        if reply.len() == 0 {
            return None;
        }
        let command = Span::gather(memory, chain.readable(), Permissions::Read)?;
        let mut bytes = [0; COMMAND_BYTES];
        let obeyed = command.len() == COMMAND_BYTES && {
            command.copy_to(&mut bytes);
            self.obey(bytes)
        };
        let answer = if obeyed {
            VIRTIO_NET_OK
        } else {
            VIRTIO_NET_ERR
        };
        reply.copy_from(&[u8::try_from(answer).unwrap_or(1)]);
        Some(())
    }

    fn obey(&self, [class, command, low, high]: [u8; COMMAND_BYTES]) -> bool {
        let wanted = (VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET);
        let pairs = usize::from(u16::from_le_bytes([low, high]));
        (u32::from(class), u32::from(command)) == wanted
            && (1..=self.taps.len()).contains(&pairs)
            && attach(&self.taps, pairs)
    }
}

/// Has the frames come to the first `pairs` of a tap's queues.
pub(super) fn attach(taps: &[Tap], pairs: usize) -> bool {
    // A tap of one queue cannot be without it.
    let several = taps.iter().enumerate().filter(|_| taps.len() > 1);
    let mut done = several.map(|(number, tap)| tap.set_attached(number < pairs));
    done.all(|done| done.is_ok())
}
