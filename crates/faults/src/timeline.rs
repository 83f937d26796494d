//! A history as a picture: a row a client, a bar an operation, a tick what else a client has written down, a line a fault, around what
//! was found.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;

use crate::checkers::Verdict;
use crate::history::{Done, History, What};

/// How much before and after a finding is drawn.
const AROUND_NS: u64 = 2_000_000_000;
/// A browser takes more, a reader does not.
const BARS_MAX: usize = 4000;
const WIDTH: u64 = 2400;

const STYLE: &str = "body{font:13px sans-serif}.row{position:relative;height:16px;border-bottom:1px solid #eee}\
.name{position:absolute;left:0;width:150px;overflow:hidden;white-space:nowrap;font-size:11px}\
.bar{position:absolute;height:12px;top:2px;min-width:2px;background:#8ac}.write{background:#c96}.open{background:#bbb}\
.found{background:#d00}.tick{position:absolute;height:16px;border-left:1px solid #484}\
.fault{position:absolute;top:0;bottom:0;border-left:1px solid #d0d}.moment{border-left:2px solid #d00}";

/// What is drawn of a client.
#[derive(Default)]
struct Row<'a> {
    ops: Vec<&'a Done>,
    lines: Vec<&'a (u64, What)>,
}

/// Writes an HTML file. It shows the time around the first finding, or the end of the history if there is none.
pub(crate) fn draw(history: &History, verdict: &Verdict, file: &Path) -> anyhow::Result<()> {
    let end = history.ops.iter().map(|done| done.called).max().unwrap_or(0);
    let found: BTreeSet<(u32, u64)> =
        verdict.violations.iter().flat_map(|violation| violation.ops.iter().copied()).collect();
    let at = verdict.violations.first().map_or(end, |violation| violation.at.min(end));
    let involved = history.ops.iter().filter(|done| found.contains(&done.id)).map(|done| done.called);
    let at = involved.filter(|called| *called <= at).max().unwrap_or(at);
    let (from, to) = (at.saturating_sub(AROUND_NS), at + AROUND_NS);
    let x = |time: u64| 160 + (time.clamp(from, to) - from) * WIDTH / (to - from);

    let mut rows: BTreeMap<&str, Row<'_>> = BTreeMap::new();
    let is_near = |done: &&Done| done.called <= to && done.returned >= from;
    let (of_finding, others): (Vec<_>, Vec<_>) =
        history.ops.iter().filter(is_near).partition(|done| found.contains(&done.id));
    // What was found first, so that nothing else takes its room.
    for done in of_finding.into_iter().chain(others).take(BARS_MAX) {
        rows.entry(&done.client).or_default().ops.push(done);
    }
    let lines =
        history.clients.iter().flat_map(|(name, client)| client.lines.iter().map(move |line| (name, line)));
    for (client, line) in lines.filter(|(_, (when, _))| (from..=to).contains(when)).take(BARS_MAX) {
        rows.entry(client).or_default().lines.push(line);
    }
    let mut page =
        format!("<!doctype html><meta charset=utf-8><title>coordfault</title><style>{STYLE}</style>");
    page.push_str("<h3>Found</h3><ul>");
    for violation in &verdict.violations {
        write!(page, "<li><b>{}</b> {}", violation.checker, escape(&violation.text))?;
    }
    page.push_str("</ul><h3>Faults</h3><ul>");
    for (when, fault) in &history.faults {
        write!(page, "<li>{:+.3} s: {}", seconds(*when, at), escape(&fault.text))?;
    }
    write!(
        page,
        "</ul><h3>Two seconds before and after</h3><div style='position:relative;width:{}px'>",
        WIDTH + 160
    )?;
    for (when, fault) in history.faults.iter().filter(|(when, _)| (from..=to).contains(when)) {
        write!(page, "<div class=fault style='left:{}px' title='{}'></div>", x(*when), escape(&fault.text))?;
    }
    if !verdict.violations.is_empty() {
        write!(page, "<div class='fault moment' style='left:{}px' title='found'></div>", x(at))?;
    }
    for (client, Row { ops, lines }) in rows {
        write!(page, "<div class=row><div class=name>{}</div>", escape(client))?;
        for done in ops {
            let class = match (found.contains(&done.id), done.returned == u64::MAX, done.op.is_write()) {
                (true, ..) => "bar found",
                (_, true, _) => "bar open",
                (_, _, true) => "bar write",
                _ => "bar",
            };
            let (left, right) = (x(done.called), x(done.returned));
            let title = format!("{:+.6} s: {:?} → {:?}", seconds(done.called, at), done.op, done.answer);
            let (width, title) = (right - left, escape(&title));
            write!(
                page,
                "<div class='{class}' style='left:{left}px;width:{width}px' title='{title}'></div>"
            )?;
        }
        for (when, what) in lines {
            let title = escape(&format!("{:+.6} s: {what:?}", seconds(*when, at)));
            write!(page, "<div class=tick style='left:{}px' title='{title}'></div>", x(*when))?;
        }
        page.push_str("</div>");
    }
    page.push_str("</div>");
    std::fs::write(file, page).with_context(|| format!("write {}", file.display()))
}

fn seconds(when: u64, at: u64) -> f64 {
    (when as f64 - at as f64) / 1e9
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&#39;")
}
