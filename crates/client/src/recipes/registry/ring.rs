use xxhash_rust::xxh3::xxh3_64;

/// Points per unit of weight. With 160 the shares of ten equal members differ by some ten percent.
const POINTS_PER_WEIGHT: u32 = 160;
/// Of one member; keeps a ring small whatever weights somebody writes.
const POINTS_MAX: u32 = 16_000;

/// A ring of virtual points: a key belongs to the first point at or after its hash. A member that comes takes keys only
/// to itself, one that goes gives away only its own. The same members make the same ring in every process, as does the
/// hash (XXH3, 64 bits), so that callers that see the same instances agree.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    /// Sorted by hash; the member's place in `members`.
    points: Vec<(u64, u32)>,
    /// Id and weight, as the ring was built with.
    members: Vec<(String, u32)>,
}

impl Ring {
    pub(crate) fn new<'a>(members: impl Iterator<Item = (&'a str, u32)>) -> Self {
        let members: Vec<_> = members.map(|(id, weight)| (id.to_owned(), weight)).collect();
        let mut points = Vec::new();
        for (member, (id, weight)) in members.iter().enumerate() {
            let count = weight.saturating_mul(POINTS_PER_WEIGHT).clamp(1, POINTS_MAX);
            let member = u32::try_from(member).unwrap_or(u32::MAX);
            points.extend((0..count).map(|point| (xxh3_64(format!("{id}#{point}").as_bytes()), member)));
        }
        // The id decides between points that meet, whatever the order of the members.
        points.sort_unstable_by(|a, b| (a.0, &members[a.1 as usize].0).cmp(&(b.0, &members[b.1 as usize].0)));
        Self { points, members }
    }

    /// Whether it was built of exactly these.
    pub(crate) fn is_of<'a>(&'a self, members: impl Iterator<Item = (&'a str, u32)>) -> bool {
        members.eq(self.members.iter().map(|(id, weight)| (id.as_str(), *weight)))
    }

    /// The members in the order in which `key` prefers them. May name one several times.
    pub(crate) fn preference(&self, key: &[u8]) -> impl Iterator<Item = &str> {
        let hash = xxh3_64(key);
        let first = self.points.partition_point(|(point, _)| *point < hash);
        let (before, after) = self.points.split_at(first);
        after.iter().chain(before).map(|(_, member)| self.members[*member as usize].0.as_str())
    }
}
