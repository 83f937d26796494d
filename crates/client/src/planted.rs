//! A bug that is planted on purpose, to see that the tests find it: only with the feature `planted-bugs`, which no release has, and
//! with `COORDD_PLANTED_BUG=double-grant` in the environment. The servers' bugs are in coordd-tree.

/// Who stands second in the line of a lock takes it, too.
pub(crate) fn double_grant() -> bool {
    cfg!(feature = "planted-bugs")
        && std::env::var("COORDD_PLANTED_BUG").is_ok_and(|bug| bug == "double-grant")
}
