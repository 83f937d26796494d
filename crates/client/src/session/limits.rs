use coordd_proto::v1;

/// What the node that a session is attached to takes. A node of a version that does not tell has these
/// defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerLimits {
    /// Bytes of one request with all that belongs to it (`--frame-bytes-max`).
    pub frame_bytes: usize,
    /// Bytes of a value (`--value-bytes-max`).
    pub value_bytes: usize,
    /// Bytes of a path.
    pub path_bytes: usize,
    /// Requests of a session under way (`--outstanding-max`). The SDK queues what is beyond.
    pub outstanding: usize,
    /// Watches of a session (`--watches-max`).
    pub watches: usize,
    /// Requests of one frame.
    pub(crate) frame_requests: usize,
    /// Reads of a [`MultiRead`](crate::MultiRead).
    pub multi_reads: usize,
    /// Bytes of values that one [`MultiRead`](crate::MultiRead) answers. A single value is answered, however
    /// large.
    pub multi_read_bytes: usize,
    /// Operations of a [`Multi`](crate::Multi).
    pub multi_ops: usize,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            frame_bytes: 4 << 20,
            value_bytes: 1 << 20,
            path_bytes: 4096,
            outstanding: 1000,
            watches: 100_000,
            frame_requests: 10_000,
            multi_reads: 1000,
            multi_read_bytes: 3 << 20,
            multi_ops: 1000,
        }
    }
}

impl From<&v1::Limits> for ServerLimits {
    fn from(told: &v1::Limits) -> Self {
        let default = Self::default();
        // What a node does not tell is as it was before nodes told.
        let or = |told: u32, default: usize| if told == 0 { default } else { told as usize };
        Self {
            frame_bytes: or(told.frame_bytes, default.frame_bytes),
            value_bytes: or(told.value_bytes, default.value_bytes),
            path_bytes: or(told.path_bytes, default.path_bytes),
            outstanding: or(told.outstanding, default.outstanding),
            watches: or(told.watches, default.watches),
            frame_requests: or(told.frame_requests, default.frame_requests),
            multi_reads: or(told.multi_reads, default.multi_reads),
            multi_read_bytes: or(told.multi_read_bytes, default.multi_read_bytes),
            multi_ops: or(told.multi_ops, default.multi_ops),
        }
    }
}

impl ServerLimits {
    /// A frame is closed when it has reached so many bytes: not more than keeps the pipe busy.
    const FRAME_BYTES: usize = 1 << 20;
    /// Room for a frame's own fields.
    const FRAME_OVERHEAD: usize = 4096;

    /// Bytes of an operation that fits into a frame by itself.
    pub(crate) fn request_bytes(&self) -> usize {
        self.frame_bytes.saturating_sub(Self::FRAME_OVERHEAD)
    }

    /// Bytes of requests after which a frame is closed.
    pub(crate) fn batch_bytes(&self) -> usize {
        Self::FRAME_BYTES.min(self.request_bytes() / 2)
    }

    /// Bytes of a multi or multi-read of many parts, `wanted` at most: half of what a request may have, so
    /// that guards and one part more have room. A part counts as [`part_bytes`](Self::part_bytes).
    pub fn batch(&self, wanted: usize) -> usize {
        wanted.min(self.request_bytes() / 2)
    }

    /// Bytes that a part of a multi or multi-read adds to its request; `content` is what its path and data
    /// have.
    pub const fn part_bytes(content: usize) -> usize {
        content + 64
    }

    /// Parts of a multi or multi-read, `wanted` at most, each with a path of at most so many bytes and no
    /// data. At least one.
    pub fn parts(&self, wanted: usize, path_bytes: usize) -> usize {
        let fitting = self.batch(usize::MAX) / Self::part_bytes(path_bytes);
        wanted.min(fitting).min(self.multi_ops).min(self.multi_reads).max(1)
    }

    /// Bytes of watches that one frame of an attach names beside `fixed` bytes of other fields.
    pub(crate) fn attach_bytes(&self, fixed: usize) -> usize {
        (Self::default().frame_bytes.min(self.frame_bytes) / 4 * 3).saturating_sub(fixed)
    }
}
