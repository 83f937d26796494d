use serde::Serialize;

use super::row::{self, Blob};
use super::{Section, VERSION};
use crate::Tree;

/// A chunk is closed once it is this large: it exceeds this by one row at most.
const CHUNK_BYTES: usize = 512 << 10;

impl Tree {
    /// The tree as chunks of about half a mebibyte, made one by one as they are asked for. The caller stores them,
    /// in this order, with checksums of its own. [`crate::TreeLoader`] reads them.
    pub fn snapshot_chunks(&self) -> impl Iterator<Item = Vec<u8>> {
        let header = row::Header {
            last_zxid: self.last_zxid,
            time_ms: self.time_ms,
            next_id: self.znodes.next_id(),
            next_acl: self.acls.next(),
            history_start: self.history.start(),
        };
        let trailer = row::Trailer { znodes: self.znodes.len(), digest: self.digest() };
        let origins = self.origins.iter().map(|(node, progress)| row::Origin {
            node,
            incarnation: progress.incarnation,
            last_seq: progress.last_seq,
        });
        let quotas = self.quotas.iter().map(|(path, usage)| row::Quota {
            path,
            quota: usage.quota,
            count: usage.count,
            bytes: usage.bytes,
        });
        chunks(Section::Header, std::iter::once(header))
            .chain(chunks(Section::Acls, self.acls.iter()))
            .chain(chunks(Section::Origins, origins))
            .chain(chunks(Section::Quotas, quotas))
            .chain(chunks(Section::Sessions, self.live_rows()))
            .chain(chunks(Section::Ended, self.ended_rows()))
            .chain(chunks(Section::Results, self.result_rows()))
            .chain(chunks(Section::Znodes, self.znode_rows()))
            .chain(chunks(Section::Events, self.history.iter()))
            .chain(chunks(Section::Trailer, std::iter::once(trailer)))
    }

    fn live_rows(&self) -> impl Iterator<Item = row::Live> {
        self.sessions.iter_live().map(|session| row::Live {
            opening: session.opening.clone(),
            opened_zxid: session.opened_zxid,
            opened_ms: session.opened_ms,
            last_seq: session.last_seq,
            acked: session.acked,
        })
    }

    fn ended_rows(&self) -> impl Iterator<Item = row::Ended> {
        self.sessions.iter_ended().map(|session| row::Ended {
            id: session.id,
            password: session.password,
            client_name: session.client_name.clone(),
            reason: session.reason.clone(),
            zxid: session.zxid,
            ended_ms: session.ended_ms,
            last_seq: session.last_seq,
            acked: session.acked,
        })
    }

    fn result_rows(&self) -> impl Iterator<Item = row::Recorded<'_>> {
        let live = self.sessions.iter_live().map(|session| (session.id(), &session.results));
        let ended = self.sessions.iter_ended().map(|session| (session.id, &session.results));
        live.chain(ended).flat_map(|(session, results)| {
            results.iter().map(move |recorded| row::Recorded {
                session,
                zxid: recorded.zxid,
                bytes: Blob(&recorded.bytes),
            })
        })
    }

    fn znode_rows(&self) -> impl Iterator<Item = row::Znode<'_>> {
        self.znodes.iter().map(|(key, znode)| row::Znode {
            parent: key.parent,
            name: &key.name,
            czxid: znode.czxid,
            mzxid: znode.mzxid,
            ctime: znode.ctime,
            mtime: znode.mtime,
            version: znode.version,
            aversion: znode.aversion,
            acl: znode.acl,
            kind: znode.kind,
            dir: znode.dir.as_deref().cloned(),
            data: Blob(&znode.data),
        })
    }
}

fn chunks<T: Serialize>(
    section: Section,
    mut rows: impl Iterator<Item = T>,
) -> impl Iterator<Item = Vec<u8>> {
    std::iter::from_fn(move || {
        let mut row = rows.next()?;
        let mut chunk = Vec::with_capacity(CHUNK_BYTES / 8);
        chunk.extend([VERSION, section as u8]);
        loop {
            postcard::to_io(&row, &mut chunk)
                .expect("a vector takes any bytes, and every row has an encoding");
            if chunk.len() >= CHUNK_BYTES {
                return Some(chunk);
            }
            match rows.next() {
                Some(next) => row = next,
                None => return Some(chunk),
            }
        }
    })
}
