use super::{Mode, ServiceInstance};

/// Which instances a call may go to, before one of them is chosen.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Eligible<'a, T> {
    /// To this one.
    One(&'a T),
    /// To one of these.
    AnyOf(Vec<&'a T>),
    /// To each of these.
    AllOf(Vec<&'a T>),
    /// To nobody, and why.
    Nobody(String),
}

/// What a mode makes of the instances that are healthy. `local`: the caller's own id; `leader`: the id that leads.
pub(crate) fn eligible<'a, T: AsRef<ServiceInstance>>(
    mode: Mode,
    instances: &'a [T],
    local: Option<&str>,
    leader: Option<&str>,
) -> Eligible<'a, T> {
    let find = |id: &str| instances.iter().find(|instance| instance.as_ref().id == id);
    let own = local.and_then(find);
    let all = || instances.iter().collect::<Vec<_>>();
    match mode {
        Mode::Local => match own {
            Some(own) => Eligible::One(own),
            None => Eligible::Nobody("its mode is local, and this process does not offer it".to_owned()),
        },
        Mode::LeaderBased => match (leader, leader.and_then(find)) {
            (_, Some(leader)) => Eligible::One(leader),
            (Some(leader), None) => Eligible::Nobody(format!("its leader {leader:?} is no healthy instance")),
            (None, None) => Eligible::Nobody("it has no leader".to_owned()),
        },
        Mode::LocalFirst if own.is_some() => own.map_or(Eligible::AnyOf(Vec::new()), Eligible::One),
        _ if instances.is_empty() => Eligible::Nobody("it has no healthy instance".to_owned()),
        Mode::LocalFirst | Mode::Distributed => Eligible::AnyOf(all()),
        Mode::Replicated => Eligible::AllOf(all()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn instances(ids: &[&str]) -> Vec<Arc<ServiceInstance>> {
        ids.iter().map(|id| Arc::new(ServiceInstance::new(*id, "h", 1))).collect()
    }

    /// The answer in short: "=a" one, "?ab" any of, "*ab" all of, "!..." nobody.
    fn short(mode: Mode, ids: &[&str], local: Option<&str>, leader: Option<&str>) -> String {
        let instances = instances(ids);
        let list = |of: Vec<&Arc<ServiceInstance>>| of.iter().map(|one| one.id.as_str()).collect::<String>();
        match eligible(mode, &instances, local, leader) {
            Eligible::One(one) => format!("={}", one.id),
            Eligible::AnyOf(any) => format!("?{}", list(any)),
            Eligible::AllOf(all) => format!("*{}", list(all)),
            Eligible::Nobody(reason) => format!("!{reason}"),
        }
    }

    #[test]
    fn a_mode_says_who_may_be_called() {
        let golden = [
            (Mode::Local, "ab", Some("b"), None, "=b"),
            (Mode::Local, "ab", Some("c"), None, "!its mode is local, and this process does not offer it"),
            (Mode::Local, "ab", None, None, "!its mode is local, and this process does not offer it"),
            (Mode::LocalFirst, "ab", Some("b"), None, "=b"),
            (Mode::LocalFirst, "ab", Some("c"), None, "?ab"),
            (Mode::LocalFirst, "ab", None, None, "?ab"),
            (Mode::LocalFirst, "", Some("b"), None, "!it has no healthy instance"),
            (Mode::LeaderBased, "ab", Some("a"), Some("b"), "=b"),
            (Mode::LeaderBased, "ab", Some("a"), Some("c"), "!its leader \"c\" is no healthy instance"),
            (Mode::LeaderBased, "ab", Some("a"), None, "!it has no leader"),
            (Mode::Distributed, "ab", Some("a"), Some("a"), "?ab"),
            (Mode::Distributed, "", None, None, "!it has no healthy instance"),
            (Mode::Replicated, "ab", Some("a"), Some("a"), "*ab"),
            (Mode::Replicated, "", None, None, "!it has no healthy instance"),
        ];
        for (mode, ids, local, leader, expected) in golden {
            let ids: Vec<_> = ids.split("").filter(|id| !id.is_empty()).collect();
            assert_eq!(short(mode, &ids, local, leader), expected, "{mode} {ids:?} {local:?} {leader:?}");
        }
    }
}
