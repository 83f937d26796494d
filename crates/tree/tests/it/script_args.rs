//! The arguments of the golden scripts' commands; see [`crate::script`] for their vocabulary.

use std::error::Error;
use std::str::FromStr;

use coordd_tree::{
    Acl, AclEntry, Auth, AuthId, Bounds, Ceilings, Check, CheckKind, Create, CreateMode, Data, MultiOp,
    Perms, Quota, digest_id,
};
use goldenscript::ArgumentConsumer;

use crate::script::parse_mode;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

pub(crate) fn required<'a>(args: &mut ArgumentConsumer<'a>, what: &str) -> Result<&'a str> {
    args.next_pos().ok_or_else(|| format!("{what} is missing").into())
}

pub(crate) fn optional<T: FromStr<Err: Error + 'static>>(
    args: &mut ArgumentConsumer<'_>,
    key: &str,
) -> Result<Option<T>> {
    Ok(args.take_key(key).map(str::parse).transpose()?)
}

/// `auth=super|USER[,USER]` and `ip=ADDRESS`.
pub(crate) fn parse_auth(args: &mut ArgumentConsumer<'_>) -> Result<Auth> {
    let users = args.take_key("auth").unwrap_or("");
    let ids = users.split(',').filter(|user| !user.is_empty()).map(|user| match user {
        "super" => AuthId { scheme: "super".into(), id: String::new() },
        user => AuthId { scheme: "digest".into(), id: digest_id(user, "secret") },
    });
    Ok(Auth { ip: optional(args, "ip")?, ids: ids.collect() })
}

pub(crate) fn parse_create<'a>(args: &mut ArgumentConsumer<'a>) -> Result<Create<'a>> {
    Ok(Create {
        path: required(args, "PATH")?.into(),
        data: Data::Borrowed(args.next_pos().unwrap_or("").as_bytes()),
        acl: args.take_key("acl").map(parse_acl).transpose()?.unwrap_or_default(),
        mode: args.take_key("mode").map_or(Ok(CreateMode::Persistent), parse_mode)?,
        ttl_ms: optional(args, "ttl")?.unwrap_or(0),
        parents: optional(args, "parents")?.unwrap_or(false),
    })
}

pub(crate) fn parse_acl(acl: &str) -> Result<Acl> {
    acl.split(',').filter(|entry| !entry.is_empty()).map(parse_acl_entry).collect()
}

fn parse_acl_entry(entry: &str) -> Result<AclEntry> {
    let mut parts = entry.splitn(3, ':');
    let (Some(perms), Some(scheme)) = (parts.next(), parts.next()) else {
        return Err(format!("{entry} is no ACL entry").into());
    };
    let id = parts.next().unwrap_or("");
    let mut bits = 0;
    for letter in perms.chars() {
        bits |= match letter {
            'r' => Perms::READ.0,
            'w' => Perms::WRITE.0,
            'c' => Perms::CREATE.0,
            'd' => Perms::DELETE.0,
            'a' => Perms::ADMIN.0,
            _ => return Err(format!("{letter} is no permission").into()),
        };
    }
    let id = match scheme {
        "digest" => digest_id(id, "secret"),
        _ => id.to_owned(),
    };
    Ok(AclEntry { perms: Perms(bits), scheme: scheme.to_owned(), id })
}

pub(crate) fn format_acl(acl: &Acl) -> String {
    let entry = |entry: &AclEntry| {
        let letters = "rwcda".char_indices().filter(|(bit, _)| entry.perms.0 & (1 << bit) != 0);
        let letters: String = letters.map(|(_, letter)| letter).collect();
        format!("{letters}:{}:{}", entry.scheme, entry.id)
    };
    acl.iter().map(entry).collect::<Vec<_>>().join(",")
}

pub(crate) fn parse_quota(args: &mut ArgumentConsumer<'_>) -> Result<Quota> {
    Ok(Quota {
        count_soft: optional(args, "count_soft")?,
        count_hard: optional(args, "count_hard")?,
        bytes_soft: optional(args, "bytes_soft")?,
        bytes_hard: optional(args, "bytes_hard")?,
    })
}

/// A condition, by its words.
pub(crate) fn parse_check<'a>(words: &[&'a str]) -> Result<Check<'a>> {
    let (path, kind) = match words {
        [path, "version", version] => (path, CheckKind::Version(version.parse()?)),
        [path, "epoch", epoch] => (path, CheckKind::Epoch(epoch.parse()?)),
        [path, "absent"] => (path, CheckKind::Absent),
        words => return Err(format!("{words:?} is no condition").into()),
    };
    Ok(Check { path: (*path).into(), kind })
}

/// An operation of a multi.
pub(crate) fn parse_op(op: &str) -> Result<MultiOp<'_>> {
    let words: Vec<&str> = op.split_whitespace().collect();
    let version = |word: Option<&&str>| word.map_or(Ok(-1), |word| word.parse::<i32>());
    Ok(match words.as_slice() {
        ["create", path, rest @ ..] => MultiOp::Create(Create {
            path: (*path).into(),
            data: Data::Borrowed(rest.first().copied().unwrap_or("").as_bytes()),
            acl: vec![],
            mode: rest.get(1).map_or(Ok(CreateMode::Persistent), |mode| parse_mode(mode))?,
            ttl_ms: 0,
            parents: false,
        }),
        ["delete", path, rest @ ..] => {
            MultiOp::Delete { path: (*path).into(), version: version(rest.first())? }
        }
        ["set", path, data, rest @ ..] => MultiOp::SetData {
            path: (*path).into(),
            data: Data::Borrowed(data.as_bytes()),
            version: version(rest.first())?,
        },
        ["check", condition @ ..] => MultiOp::Check(parse_check(condition)?),
        _ => return Err(format!("{op:?} is no operation").into()),
    })
}

/// `generation=N` and `ceilings=NAME:N[,NAME:N]`; `None` where there is neither.
pub(crate) fn parse_bounds(args: &mut ArgumentConsumer<'_>) -> Result<Option<Bounds>> {
    let generation: Option<u64> = optional(args, "generation")?;
    let asked: Option<String> = optional(args, "ceilings")?;
    if generation.is_none() && asked.is_none() {
        return Ok(None);
    }
    let mut ceilings = Ceilings::default();
    for one in asked.iter().flat_map(|asked| asked.split(',')) {
        let (name, value) = one.split_once(':').ok_or("a ceiling is NAME:N")?;
        let ceiling = match name {
            "tree_znodes" => &mut ceilings.tree_znodes,
            "removed_event_bytes" => &mut ceilings.removed_event_bytes,
            "ephemerals" => &mut ceilings.ephemerals,
            "quotas" => &mut ceilings.quotas,
            "acl_bytes" => &mut ceilings.acl_bytes,
            name => return Err(format!("unknown ceiling {name}").into()),
        };
        *ceiling = value.parse()?;
    }
    Ok(Some(Bounds { generation: generation.unwrap_or(0), ceilings: asked.map(|_| ceilings) }))
}
