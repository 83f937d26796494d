//! How HTTP/2 and gRPC cut a stream of bytes into frames and messages: as much of both as it takes to count.

/// What a client of HTTP/2 sends before its first frame.
const PREFACE_BYTES: usize = 24;
const FRAME_HEADER_BYTES: usize = 9;
const DATA: u8 = 0;

/// Counts the bytes of DATA frames in what a connection receives.
pub(crate) struct DataCounter {
    /// Bytes that belong to nothing that is counted.
    skip: usize,
    /// Bytes of a DATA frame that are to come.
    data: usize,
    header: [u8; FRAME_HEADER_BYTES],
    header_bytes: usize,
}

impl DataCounter {
    pub(crate) fn new() -> Self {
        DataCounter { skip: PREFACE_BYTES, data: 0, header: [0; FRAME_HEADER_BYTES], header_bytes: 0 }
    }

    /// Takes the next bytes; returns how many of them are data.
    pub(crate) fn count(&mut self, mut bytes: &[u8]) -> usize {
        let mut counted = 0;
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
            } else if self.data > 0 {
                let data = self.data.min(bytes.len());
                self.data -= data;
                counted += data;
                bytes = &bytes[data..];
            } else {
                let wanted = FRAME_HEADER_BYTES - self.header_bytes;
                let (head, rest) = bytes.split_at(wanted.min(bytes.len()));
                self.header[self.header_bytes..][..head.len()].copy_from_slice(head);
                self.header_bytes += head.len();
                bytes = rest;
                if self.header_bytes == FRAME_HEADER_BYTES {
                    self.header_bytes = 0;
                    let [a, b, c, kind, ..] = self.header;
                    let length = u32::from_be_bytes([0, a, b, c]) as usize;
                    match kind {
                        DATA => self.data = length,
                        _ => self.skip = length,
                    }
                }
            }
        }
        counted
    }
}

const MESSAGE_HEADER_BYTES: usize = 5;

/// Follows the messages in the body of a request.
#[derive(Default)]
pub(crate) struct MessageCounter {
    header: [u8; MESSAGE_HEADER_BYTES],
    header_bytes: usize,
    /// Bytes of the present message that are to come.
    left: usize,
    /// Bytes of the present message that have come.
    unfinished: usize,
}

impl MessageCounter {
    /// Takes the next bytes; returns how many bytes of complete messages, of these and of earlier ones, end with them.
    pub(crate) fn count(&mut self, mut bytes: &[u8]) -> usize {
        let mut complete = 0;
        while !bytes.is_empty() {
            if self.left == 0 {
                let wanted = MESSAGE_HEADER_BYTES - self.header_bytes;
                let (head, rest) = bytes.split_at(wanted.min(bytes.len()));
                self.header[self.header_bytes..][..head.len()].copy_from_slice(head);
                self.header_bytes += head.len();
                self.unfinished += head.len();
                bytes = rest;
                if self.header_bytes < MESSAGE_HEADER_BYTES {
                    break;
                }
                let [_, a, b, c, d] = self.header;
                self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                self.header_bytes = 0;
            }
            let part = self.left.min(bytes.len());
            self.left -= part;
            self.unfinished += part;
            bytes = &bytes[part..];
            if self.left == 0 {
                complete += std::mem::take(&mut self.unfinished);
            }
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let [_, a, b, c] = (length as u32).to_be_bytes();
        [&[a, b, c, kind, 0, 0, 0, 0, 1][..], &vec![7; length]].concat()
    }

    /// However the bytes are cut, the same number of them is data.
    #[test]
    fn data_frames_are_counted() {
        let sent = [&[b'P'; PREFACE_BYTES][..], &frame(4, 0), &frame(0, 1000), &frame(1, 50), &frame(0, 3)];
        let sent = sent.concat();
        for size in [1, 2, 7, 9, 100, sent.len()] {
            let mut counter = DataCounter::new();
            let counted: usize = sent.chunks(size).map(|chunk| counter.count(chunk)).sum();
            assert_eq!(counted, 1003, "in chunks of {size}");
        }
    }

    /// A message counts as unfinished until its last byte is there.
    #[test]
    fn messages_are_followed() {
        let message = |length: usize| [&[0][..], &(length as u32).to_be_bytes(), &vec![7; length]].concat();
        let sent = [message(10), message(0), message(300)].concat();
        for size in [1, 3, 5, 16, sent.len()] {
            let mut counter = MessageCounter::default();
            let counted: usize = sent.chunks(size).map(|chunk| counter.count(chunk)).sum();
            assert_eq!((counted, counter.unfinished), (sent.len(), 0), "in chunks of {size}");
            assert_eq!(counter.count(&message(100)[..50]), 0);
            assert_eq!(counter.unfinished, 50);
        }
    }
}
