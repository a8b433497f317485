//! Fixed-size slots for payloads in one block of memory. No I/O.

/// The block. Pages are touched only as slots are first used, and used slots are used again first.
pub(super) struct Arena {
    bytes: Vec<u8>,
    slot_bytes: usize,
    free: Vec<u32>,
    /// Slots from here on were never used.
    untouched: u32,
    slots: u32,
}

impl Arena {
    /// Room for `slots` payloads of `slot_bytes`.
    pub(super) fn new(slots: u32, slot_bytes: usize) -> Self {
        Self {
            bytes: vec![0; slots as usize * slot_bytes],
            slot_bytes,
            free: Vec::new(),
            untouched: 0,
            slots,
        }
    }

    /// Copies `payload`, which must have the size of a slot, into a free one. `None` if there is none.
    pub(super) fn store(&mut self, payload: &[u8]) -> Option<u32> {
        let slot = self.free.pop().or_else(|| {
            let slot = self.untouched;
            (slot < self.slots).then(|| {
                self.untouched += 1;
                slot
            })
        })?;
        let start = slot as usize * self.slot_bytes;
        self.bytes[start..start + self.slot_bytes].copy_from_slice(payload);
        Some(slot)
    }

    /// The payload in `slot`.
    pub(super) fn payload(&self, slot: u32) -> &[u8] {
        let start = slot as usize * self.slot_bytes;
        &self.bytes[start..start + self.slot_bytes]
    }

    /// Gives slots back.
    pub(super) fn free(&mut self, slots: &[u32]) {
        self.free.extend_from_slice(slots);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_used_again_only_after_it_was_freed() {
        let mut arena = Arena::new(2, 3);
        let (a, b) = (arena.store(b"abc").unwrap(), arena.store(b"def").unwrap());
        assert_eq!(arena.store(b"ghi"), None);
        arena.free(&[a]);
        assert_eq!(arena.store(b"ghi"), Some(a));
        assert_eq!((arena.payload(a), arena.payload(b)), (&b"ghi"[..], &b"def"[..]));
    }
}
