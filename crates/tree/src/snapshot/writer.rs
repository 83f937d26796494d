use serde::Serialize;

use super::{Section, VERSION, VERSION_1, row};
use crate::{Data, Tree};

/// A chunk is closed once it is this large: it exceeds this by one row at most.
const CHUNK_BYTES: usize = 512 << 10;

impl Tree {
    /// The tree as chunks of about half a mebibyte, made one by one as they are asked for. The caller stores them,
    /// in this order, with checksums of its own. [`crate::TreeLoader`] reads them.
    pub fn snapshot_chunks(&self) -> impl Iterator<Item = Vec<u8>> {
        let is_1 = self.rules == 1;
        let version = if is_1 { VERSION_1 } else { VERSION };
        let common = row::Header1 {
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
        let header = row::Header { common, rules: self.rules };
        let live = move |wanted: bool| wanted.then(|| self.live_rows()).into_iter().flatten();
        chunks(version, Section::Header, is_1.then_some(common).into_iter())
            .chain(chunks(version, Section::Header, (!is_1).then_some(header).into_iter()))
            .chain(chunks(version, Section::Acls, self.acls.iter()))
            .chain(chunks(version, Section::Origins, origins))
            .chain(chunks(version, Section::Quotas, quotas))
            .chain(chunks(version, Section::Sessions, live(is_1).map(|live| live.common)))
            .chain(chunks(version, Section::Sessions, live(!is_1)))
            .chain(chunks(version, Section::Ended, self.ended_rows()))
            .chain(chunks(version, Section::Results, self.result_rows()))
            .chain(chunks(version, Section::Znodes, self.znode_rows()))
            .chain(chunks(version, Section::Events, self.history.iter()))
            .chain(chunks(version, Section::Trailer, std::iter::once(trailer)))
    }

    fn live_rows(&self) -> impl Iterator<Item = row::Live> {
        self.sessions.iter_live().map(|session| row::Live {
            common: row::Live1 {
                opening: session.opening.clone(),
                opened_zxid: session.opened_zxid,
                opened_ms: session.opened_ms,
                last_seq: session.last_seq,
                acked: session.acked,
            },
            attached_zxid: session.attached_zxid,
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
                bytes: Data::Borrowed(&recorded.bytes),
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
            data: Data::Borrowed(&znode.data),
        })
    }
}

fn chunks<T: Serialize>(
    version: u8,
    section: Section,
    mut rows: impl Iterator<Item = T>,
) -> impl Iterator<Item = Vec<u8>> {
    std::iter::from_fn(move || {
        let mut row = rows.next()?;
        let mut chunk = Vec::with_capacity(CHUNK_BYTES / 8);
        chunk.extend([version, section as u8]);
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
