use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The hash of one element of the state.
///
/// The digest of a set of elements is the wrapping sum of their hashes (AdHash), so that a change costs the hash of
/// what goes and the hash of what comes, however large the rest is, and the order of changes does not matter. It
/// detects corruption and divergence; it does not resist somebody who chooses the contents to collide.
pub(crate) struct Element {
    fixed: [u8; 128],
    len: usize,
    seed: u64,
}

impl Element {
    /// `tag` keeps elements of different kinds apart.
    #[inline]
    pub(crate) fn new(tag: u8) -> Element {
        Element { fixed: [0; 128], len: 0, seed: u64::from(tag) }
    }

    /// Fields of a fixed size. All of them together stay below the size of the buffer.
    #[inline]
    pub(crate) fn u64(&mut self, value: u64) -> &mut Element {
        self.fixed[self.len..self.len + 8].copy_from_slice(&value.to_le_bytes());
        self.len += 8;
        self
    }

    #[inline]
    pub(crate) fn u32(&mut self, value: u32) -> &mut Element {
        self.fixed[self.len..self.len + 4].copy_from_slice(&value.to_le_bytes());
        self.len += 4;
        self
    }

    /// A field of any size. Each one's hash seeds the next, so their order and borders count.
    #[inline]
    pub(crate) fn bytes(&mut self, value: &[u8]) -> &mut Element {
        self.seed = xxh3_64_with_seed(value, self.seed.rotate_left(1));
        self
    }

    #[inline]
    pub(crate) fn hash(&self) -> u64 {
        xxh3_64_with_seed(&self.fixed[..self.len], self.seed)
    }
}

/// The wrapping sum of the hashes of a changing set of elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Digest(u64);

impl Digest {
    pub(crate) fn add(&mut self, hash: u64) {
        self.0 = self.0.wrapping_add(hash);
    }

    pub(crate) fn remove(&mut self, hash: u64) {
        self.0 = self.0.wrapping_sub(hash);
    }

    pub(crate) fn get(self) -> u64 {
        self.0
    }
}

impl FromIterator<u64> for Digest {
    fn from_iter<I: IntoIterator<Item = u64>>(hashes: I) -> Digest {
        Digest(hashes.into_iter().fold(0, u64::wrapping_add))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_of_fields_count() {
        let split = |a: &[u8], b: &[u8]| Element::new(1).bytes(a).bytes(b).hash();
        assert_ne!(split(b"ab", b"c"), split(b"a", b"bc"));
        assert_ne!(split(b"ab", b""), split(b"", b"ab"));
    }

    #[test]
    fn adding_and_removing_leaves_nothing_behind() {
        let [a, b] = [7, 8].map(|field| Element::new(0).u64(field).hash());
        let mut digest = Digest::default();
        digest.add(a);
        digest.add(b);
        digest.remove(a);
        assert_eq!(digest, [b].into_iter().collect());
    }
}
