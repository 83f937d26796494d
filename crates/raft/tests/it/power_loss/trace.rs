//! What a process did to the files below a directory, in order, as strace saw it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// All calls that change a file or a name, that make something durable, or that would do so past this reader's eyes.
const CALLS: &str = "openat,open,creat,close,write,writev,pwrite64,pwritev,pwritev2,ftruncate,truncate,fallocate,\
    rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,link,linkat,symlink,symlinkat,fsync,fdatasync,\
    sync_file_range,sync,syncfs,msync,lseek,dup,dup2,dup3,copy_file_range,sendfile,splice,io_uring_setup,mmap";
/// More than the store writes at once, also with files of the size that a node has.
const STRING_BYTES_MAX: usize = 40 << 20;

/// Whether the path belongs to what each start removes unread: sled's database. It is on no disk here, so a store that
/// looked for anything in it would not find it.
pub(crate) fn is_scratch(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str().as_encoded_bytes().starts_with(b"db-"))
}

/// The arguments of strace for [`parse`].
pub(crate) fn strace_args(trace: &Path) -> Vec<String> {
    // --seccomp-bpf: the other calls run at their usual speed.
    let args = ["-f", "-qq", "-y", "--seccomp-bpf", "-s"].map(str::to_owned).into_iter();
    let rest = [
        STRING_BYTES_MAX.to_string(),
        "-e".into(),
        format!("trace={CALLS}"),
        "-e".into(),
        "signal=none".into(),
    ];
    args.chain(rest).chain(["-o".into(), trace.display().to_string()]).collect()
}

/// A change of the files, or a sync of some.
#[derive(Clone, Debug)]
pub(crate) enum DiskCall {
    /// A file that is there afterwards, empty if `truncate`.
    Open {
        path: PathBuf,
        truncate: bool,
    },
    Mkdir {
        path: PathBuf,
    },
    Write {
        path: PathBuf,
        offset: u64,
        data: Vec<u8>,
    },
    SetLen {
        path: PathBuf,
        len: u64,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Unlink {
        path: PathBuf,
    },
    /// fsync and fdatasync, which differ in what they say of names and nothing else that matters here. `began`: the
    /// number of the event before which it was called; what came later may not be covered.
    Sync {
        path: PathBuf,
        data_only: bool,
        began: usize,
    },
    /// sync_file_range: handed to the device, and in its cache.
    Submit {
        path: PathBuf,
        offset: u64,
        len: u64,
        began: usize,
    },
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Disk(DiskCall),
    /// A line on stdout.
    Told(String),
}

/// A trace. `unfinished` are changes that the process died in: each may have happened or not.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) events: Vec<Event>,
    pub(crate) unfinished: Vec<DiskCall>,
}

/// Reads strace's output; keeps what concerns files below `root`, with their paths relative to it. Its
/// first event has the number `first`.
pub(crate) fn parse(text: &[u8], root: &Path, first: usize) -> Trace {
    let mut reader = Reader { root, trace: Trace::default(), positions: HashMap::new() };
    let mut begun: HashMap<&[u8], (Vec<u8>, usize)> = HashMap::new();
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let at = line.iter().position(|byte| *byte == b' ').expect("strace -f: a process id first");
        let (pid, call) = (&line[..at], line[at..].trim_ascii_start());
        let now = first + reader.trace.events.len();
        if call.starts_with(b"+++") || call.starts_with(b"---") {
            continue;
        }
        // Detached: the process was killed, and strace with it.
        let head = call.strip_suffix(b" <unfinished ...>").or_else(|| call.strip_suffix(b" <detached ...>"));
        if let Some(head) = head {
            begun.insert(pid, (head.to_vec(), now));
        } else if let Some(resumed) = call.strip_prefix(b"<... ") {
            let (mut whole, began) = begun.remove(pid).expect("what is resumed was begun");
            let tail = find(resumed, b" resumed>").expect("how strace resumes") + b" resumed>".len();
            whole.extend_from_slice(&resumed[tail..]);
            reader.call(&whole, began);
        } else {
            reader.call(call, now);
        }
    }
    let mut dead: Vec<_> = begun.into_values().filter(|(head, _)| head.contains(&b'(')).collect();
    dead.sort_by_key(|(_, began)| *began);
    for (head, began) in dead {
        let call = [&head[..], b") = ?"].concat();
        reader.call(&call, began);
    }
    reader.trace
}

struct Reader<'a> {
    root: &'a Path,
    trace: Trace,
    /// Where the next `write` on a descriptor goes.
    positions: HashMap<u64, u64>,
}

/// An argument: text as it stands, or the content of a string.
#[derive(Debug)]
enum Arg {
    Word(String),
    Bytes(Vec<u8>),
}

impl Reader<'_> {
    fn call(&mut self, call: &[u8], began: usize) {
        let (name, args, rest) = split_call(call);
        let result = String::from_utf8_lossy(rest).trim_start().to_owned();
        let result = result.strip_prefix("= ").unwrap_or(&result).to_owned();
        // A call that failed changed nothing. Of one that the process did not live to see the end of, nobody knows.
        if result.starts_with('-') {
            return;
        }
        // strace also makes up results for calls that a kill interrupts; no write to a file is short but these.
        let expected = match &name[..] {
            "write" | "pwrite64" => args.get(2).map(|count| count.word().to_owned()),
            "ftruncate" | "rename" | "unlink" | "unlinkat" | "mkdir" | "fsync" | "fdatasync" => {
                Some("0".into())
            }
            _ => None,
        };
        if result.starts_with('?') || expected.is_some_and(|expected| expected != result) {
            return self.unfinished(&name, &args, began);
        }
        for event in self.decode(&name, &args, &result, began) {
            self.trace.events.push(event);
        }
    }

    fn unfinished(&mut self, name: &str, args: &[Arg], began: usize) {
        if matches!(name, "write" | "pwrite64" | "ftruncate" | "rename" | "unlink" | "unlinkat" | "mkdir") {
            let asked = args.get(2).map_or("0".into(), |arg| arg.word().to_owned());
            for event in self.decode(name, args, &asked, began) {
                if let Event::Disk(call) = event {
                    self.trace.unfinished.push(call);
                }
            }
        }
    }

    fn decode(&mut self, name: &str, args: &[Arg], result: &str, began: usize) -> Vec<Event> {
        let mut events = Vec::new();
        match name {
            "openat" => {
                let (Arg::Bytes(path), Arg::Word(flags)) = (&args[1], &args[2]) else {
                    panic!("openat {args:?}")
                };
                let (fd, _) = split_fd(result);
                self.positions.insert(fd, 0);
                let path = directory_of(&args[0]).join(&*String::from_utf8_lossy(path));
                let Some(path) = self.below(&path) else { return events };
                assert!(
                    !flags.contains("O_APPEND") && !flags.contains("O_TMPFILE"),
                    "not understood: {flags}"
                );
                let truncate = flags.contains("O_TRUNC");
                if truncate || flags.contains("O_CREAT") {
                    events.push(Event::Disk(DiskCall::Open { path, truncate }));
                }
            }
            "write" => {
                let (fd, path) = split_fd(args[0].word());
                let written: u64 = result.parse().expect("a count");
                let data = args[1].written(written);
                if fd == 1 {
                    let lines = String::from_utf8(data).expect("text");
                    events.extend(lines.lines().map(|line| Event::Told(line.to_owned())));
                } else if let Some(path) = self.below(&path) {
                    let position = self.positions.get_mut(&fd).expect("it was opened");
                    let offset = *position;
                    *position += written;
                    events.push(Event::Disk(DiskCall::Write { path, offset, data }));
                }
            }
            "pwrite64" => {
                let Some(path) = self.below(&split_fd(args[0].word()).1) else { return events };
                let data = args[1].written(result.parse().expect("a count"));
                events.push(Event::Disk(DiskCall::Write { path, offset: args[3].number(), data }));
            }
            "lseek" => {
                let (fd, _) = split_fd(args[0].word());
                self.positions.insert(fd, result.parse().expect("a position"));
            }
            "ftruncate" => {
                let Some(path) = self.below(&split_fd(args[0].word()).1) else { return events };
                events.push(Event::Disk(DiskCall::SetLen { path, len: args[1].number() }));
            }
            "fallocate" => {
                assert!(
                    args[1].word().contains("FALLOC_FL_KEEP_SIZE"),
                    "changes what is in a file: {name} {args:?}"
                );
            }
            "rename" => {
                let (from, to) = (self.below(&args[0].path()), self.below(&args[1].path()));
                match (from, to) {
                    (Some(from), Some(to)) => events.push(Event::Disk(DiskCall::Rename { from, to })),
                    (None, None) => {}
                    _ => panic!("a rename out of the directory: {args:?}"),
                }
            }
            "unlink" | "rmdir" => {
                events.extend(self.below(&args[0].path()).map(|path| Event::Disk(DiskCall::Unlink { path })));
            }
            "unlinkat" => {
                let path = self.below(&directory_of(&args[0]).join(args[1].path()));
                events.extend(path.map(|path| Event::Disk(DiskCall::Unlink { path })));
            }
            "mkdir" => {
                events.extend(self.below(&args[0].path()).map(|path| Event::Disk(DiskCall::Mkdir { path })));
            }
            "fsync" | "fdatasync" => {
                let path = self.below(&split_fd(args[0].word()).1);
                let data_only = name == "fdatasync";
                events.extend(path.map(|path| Event::Disk(DiskCall::Sync { path, data_only, began })));
            }
            "sync_file_range" => {
                let Some(path) = self.below(&split_fd(args[0].word()).1) else { return events };
                let (offset, len) = (args[1].number(), args[2].number());
                events.push(Event::Disk(DiskCall::Submit { path, offset, len, began }));
            }
            "mmap" => {
                let shared = args[3].word().contains("MAP_SHARED") && args[2].word().contains("PROT_WRITE");
                assert!(!shared || !self.concerns(args), "writes past this reader's eyes: mmap {args:?}");
            }
            "close" => {}
            _ => assert!(!self.concerns(args), "a call that this reader does not know: {name} {args:?}"),
        }
        events
    }

    /// Relative to the root; the root itself is the empty path.
    fn below(&self, path: &Path) -> Option<PathBuf> {
        path.strip_prefix(self.root).ok().filter(|path| !is_scratch(path)).map(Path::to_owned)
    }

    fn concerns(&self, args: &[Arg]) -> bool {
        let root = self.root.to_string_lossy();
        args.iter().any(|arg| match arg {
            Arg::Word(word) => word.contains(&*root),
            Arg::Bytes(bytes) => find(bytes, root.as_bytes()).is_some(),
        })
    }
}

impl Arg {
    fn word(&self) -> &str {
        match self {
            Arg::Word(word) => word,
            Arg::Bytes(_) => panic!("a string where a word belongs: {self:?}"),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Arg::Bytes(bytes) => bytes,
            Arg::Word(_) => panic!("a word where a string belongs: {self:?}"),
        }
    }

    /// What was written of it.
    fn written(&self, count: u64) -> Vec<u8> {
        let bytes = self.bytes().get(..count as usize);
        bytes.unwrap_or_else(|| panic!("{count} bytes written of {self:?}")).to_vec()
    }

    fn number(&self) -> u64 {
        self.word().parse().unwrap_or_else(|_| panic!("not a number: {self:?}"))
    }

    fn path(&self) -> PathBuf {
        String::from_utf8_lossy(self.bytes()).into_owned().into()
    }
}

/// The directory that a path is relative to: `AT_FDCWD</cwd>` or `5</a/path>`.
fn directory_of(arg: &Arg) -> PathBuf {
    arg.word().split_once('<').map_or(PathBuf::new(), |(_, path)| path.trim_end_matches('>').into())
}

/// `5</a/path>` to its two parts.
fn split_fd(word: &str) -> (u64, PathBuf) {
    let (fd, path) = word.split_once('<').unwrap_or((word, ""));
    let path = path.strip_suffix('>').unwrap_or(path);
    (fd.parse().unwrap_or_else(|_| panic!("not a descriptor: {word}")), path.into())
}

/// Name, arguments, and what stands after the closing parenthesis.
fn split_call(call: &[u8]) -> (String, Vec<Arg>, &[u8]) {
    let open = call.iter().position(|byte| *byte == b'(').expect("a call has parentheses");
    let name = String::from_utf8_lossy(&call[..open]).into_owned();
    let mut args = Vec::new();
    let mut word = Vec::new();
    let mut string = None;
    let mut depth = 0;
    let mut at = open + 1;
    loop {
        let byte = *call.get(at).unwrap_or_else(|| panic!("a call without an end: {name}"));
        at += 1;
        match byte {
            b'"' => {
                let (bytes, end) = unquote(call, at);
                assert!(!call[end..].starts_with(b"..."), "{name}: a string that strace cut off");
                (string, at) = (Some(bytes), end);
            }
            b'<' | b'[' | b'{' | b'(' => {
                depth += 1;
                word.push(byte);
            }
            b'>' | b']' | b'}' | b')' if depth > 0 => {
                depth -= 1;
                word.push(byte);
            }
            b',' | b')' if depth == 0 => {
                args.push(match string.take() {
                    Some(bytes) => Arg::Bytes(bytes),
                    None => {
                        let word = word.trim_ascii();
                        let word = word.strip_suffix(b"<unfinished ...>").unwrap_or(word).trim_ascii();
                        Arg::Word(String::from_utf8_lossy(word).into_owned())
                    }
                });
                word.clear();
                if byte == b')' {
                    return (name, args, &call[at..]);
                }
            }
            _ => word.push(byte),
        }
    }
}

/// The content of a string in C's notation that begins at `at`, and where what follows it begins.
fn unquote(text: &[u8], mut at: usize) -> (Vec<u8>, usize) {
    let mut bytes = Vec::new();
    loop {
        let byte = text[at];
        at += 1;
        match byte {
            b'"' => return (bytes, at),
            b'\\' => {
                let escaped = text[at];
                at += 1;
                bytes.push(match escaped {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    b'v' => 0x0b,
                    b'f' => 0x0c,
                    b'0'..=b'7' => {
                        let mut value = u32::from(escaped - b'0');
                        let mut digits = 1;
                        while digits < 3 && matches!(text[at], b'0'..=b'7') {
                            value = value * 8 + u32::from(text[at] - b'0');
                            (at, digits) = (at + 1, digits + 1);
                        }
                        u8::try_from(value).expect("an octal byte")
                    }
                    other => other,
                });
            }
            _ => {
                // Long stretches of letters are the rule.
                let end =
                    text[at..].iter().position(|byte| matches!(byte, b'"' | b'\\')).expect("an end") + at;
                bytes.extend_from_slice(&text[at - 1..end]);
                at = end;
            }
        }
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[test]
fn a_trace_is_read_as_it_was_written() {
    let text = br#"7 openat(AT_FDCWD</work>, "/r/a", O_WRONLY|O_CREAT|O_TRUNC|O_CLOEXEC, 0666) = 5</r/a>
7 write(5</r/a>, "x\0\0017\"\\,)\n", 9) = 9
8 pwrite64(6</r/b>, "abc", 3, 4096 <unfinished ...>
7 fsync(5</r/a> <unfinished ...>
8 <... pwrite64 resumed>) = 3
7 <... fsync resumed>) = 0
7 write(5</r/a>, "y", 1) = 1
7 write(1<pipe:[1]>, "acknowledged 1\n", 15) = 15
7 unlink("/r/none") = -1 ENOENT (No such file or directory)
7 fsync(9</elsewhere>) = 0
8 pwrite64(6</r/b>, "end", 3, 0 <unfinished ...>) = ?
7 fsync(5</r/a> <detached ...>
8 +++ killed by SIGKILL +++
"#;
    let trace = parse(text, Path::new("/r"), 0);
    let told: Vec<String> = trace.events.iter().map(|event| format!("{event:?}")).collect();
    assert_eq!(told.len(), 6, "{told:#?}");
    assert!(told[0].contains("Open") && told[0].contains("truncate: true"), "{told:?}");
    let Event::Disk(DiskCall::Write { offset: 0, data, .. }) = &trace.events[1] else { panic!("{told:?}") };
    assert_eq!(data, b"x\0\x017\"\\,)\n");
    // The write that had not returned when the fsync began stands before it, and is not covered.
    assert!(told[2].contains("offset: 4096"), "{told:?}");
    assert!(told[3].contains("Sync") && told[3].contains("began: 2"), "{told:?}");
    assert!(told[4].contains("offset: 9"), "{told:?}");
    assert_eq!(told[5], "Told(\"acknowledged 1\")");
    assert!(matches!(&trace.unfinished[..], [DiskCall::Write { offset: 0, .. }]));
}
