//! The rule that every cache is measured by: keep what was used last, as many bytes as fit.
//!
//! A simulation without overhead: keys and values alone count. Requests name objects by index, so that the order of use is a list through
//! an array.

/// A cache of so many bytes.
pub struct Lru {
    /// Per object its neighbours in the order of use, newer and older; the last entry is the head of the ring.
    links: Vec<(u32, u32)>,
    /// Per object its bytes while it is held, else 0.
    held: Vec<u32>,
    bytes: u64,
    bytes_max: u64,
}

impl Lru {
    /// A cache for objects `0..count` of at least one byte each.
    pub fn new(count: u32, bytes_max: u64) -> Self {
        let head = (count, count);
        Self { links: vec![head; count as usize + 1], held: vec![0; count as usize], bytes: 0, bytes_max }
    }

    /// Reads an object. Whether it missed; then it was stored with so many bytes.
    pub fn read(&mut self, object: u32, bytes: u32) -> bool {
        let missed = self.held[object as usize] == 0;
        if missed {
            self.store(object, bytes);
        } else {
            self.unlink(object);
            self.link_newest(object);
        }
        missed
    }

    /// Stores an object, and gives up the oldest ones until it fits.
    pub fn store(&mut self, object: u32, bytes: u32) {
        self.remove(object);
        self.held[object as usize] = bytes.max(1);
        self.bytes += bytes.max(1) as u64;
        self.link_newest(object);
        while self.bytes > self.bytes_max {
            self.remove(self.links[self.head()].0);
        }
    }

    /// Removes an object, if it is there.
    pub fn remove(&mut self, object: u32) {
        let bytes = std::mem::take(&mut self.held[object as usize]);
        if bytes > 0 {
            self.bytes -= bytes as u64;
            self.unlink(object);
        }
    }

    fn head(&self) -> usize {
        self.held.len()
    }

    fn unlink(&mut self, object: u32) {
        let (newer, older) = self.links[object as usize];
        self.links[newer as usize].1 = older;
        self.links[older as usize].0 = newer;
    }

    /// Puts an object between the head and what was the newest: the head's older one is the newest, its newer one the oldest.
    fn link_newest(&mut self, object: u32) {
        let head = self.head();
        let newest = self.links[head].1;
        self.links[object as usize] = (head as u32, newest);
        self.links[newest as usize].0 = object;
        self.links[head].1 = object;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_until_the_newest_fits() {
        let mut cache = Lru::new(4, 10);
        assert!(cache.read(0, 4) && cache.read(1, 4) && !cache.read(0, 4));
        // 1 is older than 0 now.
        assert!(cache.read(2, 5) && !cache.read(0, 4) && cache.read(1, 4));
        assert_eq!(cache.held, [4, 4, 0, 0]);
        cache.store(3, 11);
        assert_eq!((cache.bytes, &cache.held[..]), (0, &[0, 0, 0, 0][..]), "what can never fit takes all others along");
        cache.remove(3);
        assert!(cache.read(3, 10) && !cache.read(3, 10));
    }

    #[test]
    fn it_agrees_with_a_list_that_is_searched() {
        let mut random = fastrand::Rng::with_seed(3);
        let (mut cache, mut list) = (Lru::new(50, 100), Vec::<(u32, u32)>::new());
        for _ in 0..20_000 {
            let (object, bytes) = (random.u32(0..50), random.u32(1..30));
            let place = list.iter().position(|(held, _)| *held == object);
            let kept = place.map(|at| list.remove(at));
            match random.u32(0..10) {
                0 => cache.remove(object),
                1 => {
                    cache.store(object, bytes);
                    list.push((object, bytes));
                }
                _ => {
                    assert_eq!(cache.read(object, bytes), kept.is_none());
                    list.push(kept.unwrap_or((object, bytes)));
                }
            }
            while list.iter().map(|(_, bytes)| bytes).sum::<u32>() > 100 {
                list.remove(0);
            }
        }
    }
}
