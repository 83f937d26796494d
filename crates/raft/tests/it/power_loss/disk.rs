//! A disk that can lose its power: what is durable, and, in order, what is not yet.
//!
//! Two kinds, see [`Promise`]: one that does nothing but what POSIX demands, and one that does what the usual file
//! systems do on a disk with a volatile cache.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::trace::{DiskCall, is_scratch};

pub(crate) const SECTOR_BYTES: u64 = 512;
const PAGE_BYTES: u64 = 4096;
type Page = Arc<[u8; PAGE_BYTES as usize]>;
type Inode = usize;
const ROOT: Inode = 0;

/// What a disk promises beyond the one sync that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Promise {
    /// A sync covers the file or the directory it is called on, and nothing else. Names and sizes, too, become durable in
    /// any order. sync_file_range does nothing.
    Posix,
    /// As ext4 and XFS do it: names and sizes become durable in their order, and a sync that has any of its own to write
    /// makes all before it durable. A sync of any file empties the device's cache, so what sync_file_range had handed to
    /// the device is durable then, if it overwrote blocks that the file had before.
    Journaled,
}

/// The content of a file. Pages that are not there are zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pages: HashMap<u64, Page>,
    pub(crate) len: u64,
}

impl Content {
    fn write(&mut self, mut offset: u64, mut data: &[u8]) {
        self.len = self.len.max(offset + data.len() as u64);
        while !data.is_empty() {
            let within = (offset % PAGE_BYTES) as usize;
            let bytes = data.len().min(PAGE_BYTES as usize - within);
            let page =
                self.pages.entry(offset / PAGE_BYTES).or_insert_with(|| Arc::new([0; PAGE_BYTES as usize]));
            Arc::make_mut(page)[within..within + bytes].copy_from_slice(&data[..bytes]);
            (offset, data) = (offset + bytes as u64, &data[bytes..]);
        }
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.pages.retain(|page, _| page * PAGE_BYTES < len);
            let within = (len % PAGE_BYTES) as usize;
            if let Some(page) = self.pages.get_mut(&(len / PAGE_BYTES)) {
                Arc::make_mut(page)[within..].fill(0);
            }
        }
        self.len = len;
    }

    /// Whether the blocks of the range were there before.
    fn has(&self, offset: u64, len: u64) -> bool {
        offset + len <= self.len
            && (offset / PAGE_BYTES..(offset + len).div_ceil(PAGE_BYTES))
                .all(|page| self.pages.contains_key(&page))
    }

    fn save(&self, path: &Path) -> io::Result<()> {
        let file = fs::File::create(path)?;
        file.set_len(self.len)?;
        for (page, bytes) in &self.pages {
            let at = page * PAGE_BYTES;
            let end = (self.len.saturating_sub(at)).min(PAGE_BYTES) as usize;
            file.write_all_at(&bytes[..end], at)?;
        }
        Ok(())
    }

    fn load(path: &Path) -> io::Result<Content> {
        let bytes = fs::read(path)?;
        let mut content = Content { len: bytes.len() as u64, ..Content::default() };
        for (page, data) in bytes.chunks(PAGE_BYTES as usize).enumerate() {
            // A hole is zeros; written zeros are the same to whoever reads them.
            if data.iter().any(|byte| *byte != 0) {
                content.write(page as u64 * PAGE_BYTES, data);
            }
        }
        content.len = bytes.len() as u64;
        Ok(content)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        for (page, data) in &self.pages {
            let at = (page * PAGE_BYTES) as usize;
            let end = bytes.len().min(at + PAGE_BYTES as usize);
            bytes[at..end].copy_from_slice(&data[..end - at]);
        }
        bytes
    }
}

#[derive(Clone, Debug)]
enum Node {
    File(Content),
    Dir(BTreeMap<String, Inode>),
}

/// A change that a loss of power may take, whole or in parts.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    inode: Inode,
    /// For reports, and for worlds that take a file's changes.
    pub(crate) path: PathBuf,
    number: usize,
    pub(crate) change: Change,
    /// sync_file_range was called on it and has returned.
    submitted: Option<usize>,
}

#[derive(Clone, Debug)]
pub(crate) enum Change {
    Write { offset: u64, data: Arc<[u8]>, grows: bool },
    SetLen(u64),
    Link { name: String, inode: Inode },
    Unlink { name: String },
    Rename { from: String, to: String, inode: Inode },
}

impl Pending {
    /// Names and sizes.
    pub(crate) fn is_metadata(&self) -> bool {
        !matches!(self.change, Change::Write { grows: false, .. })
    }
}

/// What becomes of a pending change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost,
    Kept,
    /// Of a write: these sectors, counted from that of its first byte; and whether the file grew as far as the write.
    Torn {
        sectors: Vec<bool>,
        grown: bool,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Disk {
    promise: Promise,
    /// What is durable.
    nodes: Vec<Arc<Node>>,
    /// The names as the process sees them.
    names: HashMap<PathBuf, Inode>,
    sizes: HashMap<Inode, u64>,
    pending: Vec<Pending>,
    /// For the test of the test.
    broken: Option<Broken>,
}

/// A sync that was taken out: it says that it is done, and does nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Broken {
    /// The path from the root; with `*` at the end, of all whose paths begin so.
    pub(crate) path: &'static str,
    /// Only fdatasync, or only fsync.
    pub(crate) data_only: Option<bool>,
}

impl Disk {
    pub(crate) fn new(promise: Promise) -> Disk {
        Disk {
            promise,
            nodes: vec![Arc::new(Node::Dir(BTreeMap::new()))],
            names: HashMap::from([(PathBuf::new(), ROOT)]),
            sizes: HashMap::new(),
            pending: Vec::new(),
            broken: None,
        }
    }

    pub(crate) fn with_broken(mut self, broken: Option<Broken>) -> Disk {
        self.broken = broken;
        self
    }

    pub(crate) fn promise(&self) -> Promise {
        self.promise
    }

    pub(crate) fn pending(&self) -> &[Pending] {
        &self.pending
    }

    /// The call, which is the event `number` of the trace.
    pub(crate) fn apply(&mut self, number: usize, call: &DiskCall) {
        match call {
            DiskCall::Open { path, truncate } => match self.names.get(path).copied() {
                Some(inode) if *truncate && self.sizes.get(&inode) != Some(&0) => {
                    self.push(inode, path, number, Change::SetLen(0));
                }
                Some(_) => {}
                None => self.create(path, number, Node::File(Content::default())),
            },
            DiskCall::Mkdir { path } => self.create(path, number, Node::Dir(BTreeMap::new())),
            DiskCall::Write { path, offset, data } => {
                // A file without a name cannot be found after a loss of power.
                let Some(inode) = self.names.get(path).copied() else { return };
                let grows = offset + data.len() as u64 > self.sizes[&inode];
                self.push(
                    inode,
                    path,
                    number,
                    Change::Write { offset: *offset, data: data[..].into(), grows },
                );
            }
            DiskCall::SetLen { path, len } => {
                let Some(inode) = self.names.get(path).copied() else { return };
                self.push(inode, path, number, Change::SetLen(*len));
            }
            DiskCall::Rename { from, to } => {
                let inode = self.names.remove(from).expect("what is renamed is there");
                assert_eq!(
                    from.parent(),
                    to.parent(),
                    "renames within a directory are all that is understood"
                );
                self.names.insert(to.clone(), inode);
                let dir = self.parent(to);
                self.push(dir, to, number, Change::Rename { from: name_of(from), to: name_of(to), inode });
            }
            DiskCall::Unlink { path } => {
                self.names.remove(path).expect("what is removed is there");
                let dir = self.parent(path);
                self.push(dir, path, number, Change::Unlink { name: name_of(path) });
            }
            DiskCall::Sync { path, data_only, began } => {
                let broken = self.is_broken(path, *data_only);
                if !broken && let Some(inode) = self.names.get(path).copied() {
                    self.sync(inode, *began);
                }
            }
            DiskCall::Submit { path, offset, len, began } => {
                let Some(inode) = self.names.get(path).copied() else { return };
                for pending in &mut self.pending {
                    if let Change::Write { offset: at, data, .. } = &pending.change
                        && pending.inode == inode
                        && pending.number < *began
                        && *offset <= *at
                        && at + data.len() as u64 <= offset + len
                    {
                        pending.submitted.get_or_insert(number);
                    }
                }
            }
        }
    }

    /// Whether this sync is the one that was taken out.
    pub(crate) fn is_broken(&self, path: &Path, data_only: bool) -> bool {
        let Some(broken) = self.broken else { return false };
        let is_path = match (path.to_str(), broken.path.strip_suffix('*')) {
            (Some(path), Some(begin)) => path.starts_with(begin),
            (path, None) => path == Some(broken.path),
            _ => false,
        };
        is_path && broken.data_only.is_none_or(|only| only == data_only)
    }

    fn create(&mut self, path: &Path, number: usize, node: Node) {
        let inode = self.nodes.len();
        self.nodes.push(Arc::new(node));
        self.names.insert(path.to_owned(), inode);
        self.sizes.insert(inode, 0);
        let dir = self.parent(path);
        self.push(dir, path, number, Change::Link { name: name_of(path), inode });
    }

    fn parent(&self, path: &Path) -> Inode {
        self.names[path.parent().expect("a name has a directory")]
    }

    fn push(&mut self, inode: Inode, path: &Path, number: usize, change: Change) {
        match &change {
            Change::Write { offset, data, .. } => {
                let size = self.sizes.get_mut(&inode).expect("a file has a size");
                *size = (*size).max(offset + data.len() as u64);
            }
            Change::SetLen(len) => drop(self.sizes.insert(inode, *len)),
            Change::Link { .. } | Change::Unlink { .. } | Change::Rename { .. } => {}
        }
        self.pending.push(Pending { inode, path: path.to_owned(), number, change, submitted: None });
    }

    /// A sync of `inode` that began before the event `began`.
    fn sync(&mut self, inode: Inode, began: usize) {
        let covered = |pending: &Pending| pending.number < began;
        // A file that was made in this transaction has its name in it.
        let writes_metadata = self.pending.iter().any(|pending| {
            covered(pending)
                && pending.is_metadata()
                && (pending.inode == inode
                    || matches!(pending.change, Change::Link { inode: linked, .. } if linked == inode))
        });
        let mut kept: Vec<Pending> = Vec::new();
        for pending in std::mem::take(&mut self.pending) {
            let own = pending.inode == inode;
            let resized = kept
                .iter()
                .any(|earlier| earlier.inode == pending.inode && matches!(earlier.change, Change::SetLen(_)));
            let durable = covered(&pending)
                && match self.promise {
                    Promise::Posix => own,
                    Promise::Journaled => {
                        let device = match &pending.change {
                            Change::Write { offset, data, .. } => {
                                !resized
                                    && pending.submitted.is_some_and(|submitted| submitted < began)
                                    && self.file(pending.inode).has(*offset, data.len() as u64)
                            }
                            _ => false,
                        };
                        own || device || (writes_metadata && pending.is_metadata())
                    }
                };
            if !durable {
                kept.push(pending);
                continue;
            }
            Disk::settle(&mut self.nodes, &pending, &Fate::Kept);
            if let Change::SetLen(len) = pending.change {
                // What was written before it beyond the new end is nowhere.
                kept.retain(|earlier| match &earlier.change {
                    Change::Write { offset, data, .. } => {
                        earlier.inode != pending.inode || offset + data.len() as u64 <= len
                    }
                    _ => true,
                });
            }
        }
        self.pending = kept;
    }

    fn file(&self, inode: Inode) -> &Content {
        match &*self.nodes[inode] {
            Node::File(content) => content,
            Node::Dir(_) => panic!("a directory is not written"),
        }
    }

    fn settle(nodes: &mut [Arc<Node>], pending: &Pending, fate: &Fate) {
        if *fate == Fate::Lost {
            return;
        }
        match (Arc::make_mut(&mut nodes[pending.inode]), &pending.change) {
            (Node::File(content), Change::Write { offset, data, .. }) => match fate {
                Fate::Torn { sectors, grown } => {
                    if *grown {
                        let end = offset + data.len() as u64;
                        content.len = content.len.max(end);
                    }
                    for (at, _) in sectors.iter().enumerate().filter(|(_, kept)| **kept) {
                        let range = sector_of_write(*offset, data.len(), at);
                        content.write(offset + range.start as u64, &data[range]);
                    }
                }
                _ => content.write(*offset, data),
            },
            (Node::File(content), Change::SetLen(len)) => content.set_len(*len),
            (Node::Dir(entries), Change::Link { name, inode }) => drop(entries.insert(name.clone(), *inode)),
            (Node::Dir(entries), Change::Unlink { name }) => drop(entries.remove(name)),
            (Node::Dir(entries), Change::Rename { from, to, inode }) => {
                entries.remove(from);
                entries.insert(to.clone(), *inode);
            }
            _ => panic!("a change of another kind of file: {pending:?}"),
        }
    }

    /// The disk after a loss of power in which each pending change had the fate that `fates` says. Everything on it is
    /// durable.
    pub(crate) fn after_power_loss(&self, fates: &[Fate]) -> Disk {
        let mut nodes = self.nodes.clone();
        for (pending, fate) in self.pending.iter().zip(fates) {
            Disk::settle(&mut nodes, pending, fate);
        }
        let mut disk = Disk { nodes, ..Disk::new(self.promise).with_broken(self.broken) };
        disk.read_names(ROOT, PathBuf::new());
        disk
    }

    fn read_names(&mut self, dir: Inode, path: PathBuf) {
        let Node::Dir(entries) = (*self.nodes[dir]).clone() else { return };
        for (name, inode) in entries {
            let path = path.join(name);
            self.names.insert(path.clone(), inode);
            match &*self.nodes[inode] {
                Node::File(content) => drop(self.sizes.insert(inode, content.len)),
                Node::Dir(_) => {
                    self.sizes.insert(inode, 0);
                    self.read_names(inode, path);
                }
            }
        }
    }

    /// Writes the durable files below `dir`.
    pub(crate) fn save(&self, dir: &Path) -> io::Result<()> {
        let mut names: Vec<_> = self.names.iter().filter(|(path, _)| !path.as_os_str().is_empty()).collect();
        names.sort();
        for (path, inode) in names {
            match &*self.nodes[*inode] {
                Node::File(content) => content.save(&dir.join(path))?,
                Node::Dir(_) => fs::create_dir(dir.join(path))?,
            }
        }
        Ok(())
    }

    /// What differs between the files below `dir` and what a process sees here. Nothing, if the trace was read right.
    pub(crate) fn differences(&self, dir: &Path) -> io::Result<Vec<String>> {
        let all = vec![Fate::Kept; self.pending.len()];
        let whole = self.after_power_loss(&all);
        let mut differences = Vec::new();
        let mut found = Vec::new();
        read_tree(dir, &mut found)?;
        for path in &found {
            let relative = path.strip_prefix(dir).expect("it was found there");
            match whole.names.get(relative).map(|inode| &*whole.nodes[*inode]) {
                None => differences.push(format!("{} is there", relative.display())),
                Some(Node::Dir(_)) => {}
                Some(Node::File(content)) => {
                    if Content::load(path)?.bytes() != content.bytes() {
                        differences.push(format!("{} has other content", relative.display()));
                    }
                }
            }
        }
        if found.len() + 1 != whole.names.len() {
            differences.push(format!("{} names instead of {}", found.len(), whole.names.len() - 1));
        }
        Ok(differences)
    }
}

fn read_tree(dir: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for file in fs::read_dir(dir)? {
        let file = file?;
        if is_scratch(Path::new(&file.file_name())) {
            continue;
        }
        found.push(file.path());
        if file.file_type()?.is_dir() {
            read_tree(&file.path(), found)?;
        }
    }
    Ok(())
}

fn name_of(path: &Path) -> String {
    match path.components().next_back() {
        Some(Component::Normal(name)) => name.to_string_lossy().into_owned(),
        _ => panic!("not a name: {path:?}"),
    }
}

/// How many sectors a write touches.
pub(crate) fn sectors_of_write(offset: u64, bytes: usize) -> usize {
    ((offset + bytes as u64).div_ceil(SECTOR_BYTES) - offset / SECTOR_BYTES) as usize
}

/// The part of a write's data that is in its sector `at`.
fn sector_of_write(offset: u64, bytes: usize, at: usize) -> std::ops::Range<usize> {
    let begin = (offset / SECTOR_BYTES + at as u64) * SECTOR_BYTES;
    let end = (begin + SECTOR_BYTES - offset) as usize;
    (begin.saturating_sub(offset) as usize)..end.min(bytes)
}
