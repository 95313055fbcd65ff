//! The shape of the sources, checked: floors, file heads, lengths, unsafe code, words that may not stay.
//!
//! Each rule is a function from a file to its complaints, and has a planted file that it must catch. One looks at a whole folder.
//!
//! Lives here: rules that the compiler and clippy do not know. Not here: style that formatting settles.
#![allow(clippy::disallowed_methods)] // a test may wait, read and connect

use std::fs;
use std::path::{Path, PathBuf};

/// Longest function, in lines with its signature: one screen.
const FUNCTION_LINES_MAX: usize = 70;
/// Longest file, in lines, tests included.
const FILE_LINES_MAX: usize = 900;

/// Modules by floor. A module imports only from lower floors; `SIBLINGS` also may not import each other.
const FLOORS: &[&[&str]] = &[
    &[
        "command",
        "key",
        "time",
        "version",
        "limits",
        "metrics",
        "latency",
        "observe",
        "arena",
        "buffer",
        "routing",
        "placement",
        "sync",
    ],
    &["protocol", "engine", "peer", "membership", "storage"],
    &["cluster"],
    &["shard"],
    &["runtime"],
    &["node"],
];
/// The floor whose modules are strangers to each other.
const SIBLINGS: usize = 1;
/// The highest floor without clocks, sockets and threads.
const PURE_FLOOR_MAX: usize = 3;

/// A source file and where it lies below the root.
struct Source {
    path: String,
    text: String,
}

type Rule = fn(&Source) -> Vec<String>;

const RULES: &[(&str, Rule)] = &[
    ("floors", floors),
    ("head", head),
    ("function length", function_length),
    ("file length", file_length),
    ("unsafe", unsafe_code),
    ("clocks and sockets", clocks_and_sockets),
    ("unfinished", unfinished),
    ("names", names),
    ("places", places),
    ("one home", one_home),
];

/// Types whose methods lie in several files of their folder. The list may only become shorter.
const SPREAD: &[(&str, &str)] =
    &[("Ring", "src/placement/"), ("Engine", "src/engine/"), ("Core", "src/runtime/"), ("Pump", "src/runtime/pump/")];

/// A folder whose files, but for its door `mod.rs`, use each other in one direction only.
const WITHOUT_CIRCLES: &str = "src/cluster/";

#[test]
fn the_sources_are_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut complaints = Vec::new();
    for folder in ["src", "loadgen/src", "tuning/src", "tests", "benches"] {
        for path in rust_files(&root.join(folder)) {
            let relative = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            let source = Source { text: fs::read_to_string(&path).unwrap(), path: relative };
            for (name, rule) in RULES {
                complaints.extend(rule(&source).into_iter().map(|text| format!("{}: {name}: {text}", source.path)));
            }
        }
    }
    assert!(complaints.is_empty(), "{} complaints\n{}", complaints.len(), complaints.join("\n"));
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() && !path.join("Cargo.toml").exists() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The module of `src/` that a path belongs to, and its floor.
fn place(path: &str) -> Option<(&str, usize)> {
    let module = path.strip_prefix("src/")?.split('/').next()?.trim_end_matches(".rs");
    Some((module, FLOORS.iter().position(|floor| floor.contains(&module))?))
}

/// The lines in front of the first test module.
fn product(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    text[..end].lines().enumerate().map(|(index, line)| (index + 1, line))
}

/// A line without its comment. Good enough: no string of ours holds `//` but addresses.
fn code(line: &str) -> &str {
    line.find("//").map_or(line, |at| &line[..at])
}

fn floors(source: &Source) -> Vec<String> {
    let Some((module, floor)) = place(&source.path) else { return Vec::new() };
    let mut complaints = Vec::new();
    // As one text: a `use` may have several lines.
    let text: String = product(&source.text).flat_map(|(_, line)| [code(line), "\n"]).collect();
    for (at, found) in text.match_indices("crate::") {
        let number = text[..at].lines().count().max(1);
        for other in modules(&text[at + found.len()..]) {
            let Some(target) = FLOORS.iter().position(|modules| modules.contains(&other)) else { continue };
            if target > floor || (target == floor && floor == SIBLINGS && other != module) {
                complaints.push(format!("line {number}: {module} imports {other}"));
            }
        }
    }
    complaints
}

/// The modules that a path goes to behind its `crate::`: one, or several in braces, `{a, b::{c, d}}`.
fn modules(path: &str) -> Vec<&str> {
    let name = |text: &str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let Some(group) = path.strip_prefix('{') else { return vec![&path[..name(path)]] };
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                let part = group[start..at].trim_start();
                found.push(&part[..name(part)]);
                start = at + 1;
                if letter == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    found
}

fn head(source: &Source) -> Vec<String> {
    let head: String = source.text.lines().take_while(|line| line.starts_with("//!")).collect();
    let short = source.path == "src/lib.rs" || source.path.ends_with("main.rs");
    match () {
        () if head.is_empty() => vec!["the file has no head".into()],
        () if !short && source.path.starts_with("src/") && !(head.contains("Lives here") && head.contains("Not here")) => {
            vec!["the head does not say what lives here and what does not".into()]
        }
        () => Vec::new(),
    }
}

fn function_length(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut open: Option<(usize, usize, &str)> = None;
    for (index, line) in source.text.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let words = line.trim_start();
        if open.is_none() && starts_function(words) && !words.ends_with(';') && !words.ends_with("{}") {
            open = Some((index, indent, words));
        }
        if let Some((start, depth, name)) = open
            && indent == depth
            && (words == "}" || (index == start && words.ends_with('}')) || words.ends_with(");"))
        {
            let lines = index - start + 1;
            if lines > FUNCTION_LINES_MAX {
                complaints.push(format!("line {}: {lines} lines: {name}", start + 1));
            }
            open = None;
        }
    }
    complaints
}

/// Whether a function begins here, whoever may call it and however it is called.
fn starts_function(mut words: &str) -> bool {
    words = words.strip_prefix("pub").map_or(words, |rest| rest.trim_start_matches(|c: char| c != ' '));
    while let Some((word, rest)) = words.trim_start().split_once(' ') {
        match word {
            "fn" => return true,
            "const" | "async" | "unsafe" | "extern" | "\"C\"" => words = rest,
            _ => return false,
        }
    }
    false
}

fn file_length(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    if lines > FILE_LINES_MAX { vec![format!("{lines} lines")] } else { Vec::new() }
}

fn unsafe_code(source: &Source) -> Vec<String> {
    if !source.path.starts_with("src/") {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    let says = source.text.lines().take_while(|line| line.starts_with("//!")).any(|line| line.contains("nsafe"));
    let lines: Vec<&str> = source.text.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        let code = code(line);
        if !(code.contains("unsafe {") || code.contains("unsafe impl") || code.contains("unsafe fn")) {
            continue;
        }
        if !says {
            complaints.push(format!("line {}: unsafe code in a file whose head does not say so", index + 1));
        }
        let near = &lines[index.saturating_sub(12)..index];
        if !near.iter().any(|line| line.contains("SAFETY:") || line.contains("# Safety")) {
            complaints.push(format!("line {}: no SAFETY comment", index + 1));
        }
    }
    complaints
}

fn clocks_and_sockets(source: &Source) -> Vec<String> {
    let Some((_, floor)) = place(&source.path) else { return Vec::new() };
    if floor > PURE_FLOOR_MAX {
        return Vec::new();
    }
    let forbidden = ["SystemTime", "std::time::Instant", "thread::sleep", "std::net", "std::fs", "std::thread", "rand::"];
    product(&source.text)
        .flat_map(|(number, line)| {
            let found = forbidden.iter().filter(move |word| code(line).contains(**word));
            found.map(move |word| format!("line {number}: {word} below the runtime"))
        })
        .collect()
}

fn unfinished(source: &Source) -> Vec<String> {
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("db", "g!("),
    ];
    let found = |line: &str| words.iter().find(|word| line.contains(**word)).copied();
    source
        .text
        .lines()
        .enumerate()
        .filter_map(|(index, line)| found(line).map(|word| format!("line {}: {word}", index + 1)))
        .collect()
}

fn names(source: &Source) -> Vec<String> {
    let empty = ["utils", "util", "common", "types", "manager", "helpers", "misc"];
    let stems = source.path.split('/').map(|part| part.trim_end_matches(".rs"));
    stems.filter(|stem| empty.contains(stem)).map(|stem| format!("'{stem}' says nothing about what is in it")).collect()
}

fn places(source: &Source) -> Vec<String> {
    let paths = [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/wo", "rk/")];
    let found = |line: &str| paths.iter().find(|path| line.contains(**path)).copied();
    source
        .text
        .lines()
        .enumerate()
        .filter_map(|(index, line)| found(line).map(|path| format!("line {}: a path of a machine: {path}", index + 1)))
        .collect()
}

/// A type's own methods lie in the file that defines it: what a file does to a type of another file goes through that type's methods.
fn one_home(source: &Source) -> Vec<String> {
    if !source.path.starts_with("src/") {
        return Vec::new();
    }
    let name = |text: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("").to_string();
    let lines: Vec<&str> = product(&source.text).map(|(_, line)| line).collect();
    let defines = |wanted: &str| {
        let mut words =
            lines.iter().flat_map(|line| ["struct ", "enum ", "union "].iter().filter_map(|word| line.split_once(word)));
        words.any(|(_, rest)| name(rest) == wanted)
    };
    let is_spread = |wanted: &str| SPREAD.iter().any(|&(spread, folder)| spread == wanted && source.path.starts_with(folder));
    let mut complaints = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(rest) = line.strip_prefix("impl").filter(|rest| rest.starts_with([' ', '<']) && !rest.contains(" for "))
        else {
            continue;
        };
        // Behind the parameters of the block, if it has some.
        let subject = if rest.starts_with('<') { rest.split_once("> ").map_or(rest, |(_, subject)| subject) } else { rest };
        let subject = name(subject.trim_start());
        if !defines(&subject) && !is_spread(&subject) {
            complaints.push(format!("line {}: methods of {subject}, which is defined elsewhere", index + 1));
        }
    }
    complaints
}

/// Files of `WITHOUT_CIRCLES` that use each other in a circle, by the first and the last of it.
fn circles(sources: &[Source]) -> Vec<String> {
    let stem = |path: &str| {
        path.strip_prefix(WITHOUT_CIRCLES)?.strip_suffix(".rs").map(|stem| stem.trim_end_matches("/mod").to_string())
    };
    let files: Vec<(String, &Source)> =
        sources.iter().filter_map(|source| Some((stem(&source.path)?, source))).filter(|(stem, _)| stem != "mod").collect();
    let uses = |from: &str, source: &Source| -> Vec<usize> {
        let text: String = product(&source.text).flat_map(|(_, line)| [code(line), "\n"]).collect();
        let folder = from.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut targets = Vec::new();
        for (start, base) in [("super::", folder), ("crate::cluster::", ""), ("self::", from)] {
            // `super` of a folder's `mod.rs` is the folder above it.
            let base = if start == "super::" && source.path.ends_with("/mod.rs") { "" } else { base };
            for (at, found) in text.match_indices(start) {
                let wanted = modules(&text[at + found.len()..]);
                let rest = text[at + found.len()..].split([';', ' ', '(']).next().unwrap_or("");
                let deep = rest.split("::").take(2).collect::<Vec<_>>().join("/");
                let names = wanted.iter().map(|name| name.to_string()).chain([deep]);
                let names = names.map(|name| if base.is_empty() { name } else { format!("{base}/{name}") });
                targets.extend(names.filter_map(|name| files.iter().position(|(stem, _)| *stem == name && stem != from)));
            }
        }
        targets
    };
    let edges: Vec<Vec<usize>> = files.iter().map(|(stem, source)| uses(stem, source)).collect();
    // What can be reached from each, step by step, until nothing is added.
    let mut reached = edges.clone();
    for _ in 0..files.len() {
        for list in &mut reached {
            let more: Vec<usize> = list.iter().flat_map(|&next| edges[next].iter().copied()).collect();
            list.extend(more);
            list.sort_unstable();
            list.dedup();
        }
    }
    let round = |index: &usize| reached[*index].contains(index);
    (0..files.len()).filter(round).map(|index| format!("{}: uses what uses it", files[index].1.path)).collect()
}

#[test]
fn the_files_of_the_cluster_use_each_other_in_one_direction() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: PathBuf| Source {
        text: fs::read_to_string(&path).unwrap(),
        path: path.strip_prefix(root).unwrap().to_string_lossy().into_owned(),
    };
    let sources: Vec<Source> = rust_files(&root.join(WITHOUT_CIRCLES)).into_iter().map(read).collect();
    assert!(sources.len() > 10, "the folder has moved");
    let found = circles(&sources);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_circle_is_found_however_it_is_written() {
    let plant = |path: &str, text: &str| Source { path: format!("{WITHOUT_CIRCLES}{path}"), text: text.into() };
    let one_way = [plant("serve.rs", "use super::merge::take;\n"), plant("merge.rs", "use super::{Turn, links};\n")];
    assert!(circles(&one_way).is_empty());
    let pairs = [
        ["serve.rs", "use super::merge::take;\n", "merge.rs", "use super::{Turn, serve};\n"],
        ["serve.rs", "fn f() { super::merge::take() }\n", "merge.rs", "use crate::cluster::serve::g;\n"],
        ["serve.rs", "use super::handoff::purge;\n", "handoff/purge.rs", "use crate::cluster::serve::g;\n"],
        ["handoff/replay.rs", "use super::{purge, transfer};\n", "handoff/purge.rs", "use super::replay;\n"],
        ["handoff/mod.rs", "use self::replay::send;\n", "handoff/replay.rs", "use crate::cluster::handoff;\n"],
    ];
    for [first, first_text, second, second_text] in pairs {
        let found = circles(&[plant(first, first_text), plant(second, second_text)]);
        assert_eq!(found.len(), 2, "{first} and {second}: {found:?}");
    }
    let long = [plant("a.rs", "use super::b;\n"), plant("b.rs", "use super::c;\n"), plant("c.rs", "use super::a;\n")];
    assert_eq!(circles(&long).len(), 3);
}

#[test]
fn every_rule_catches_what_it_is_for() {
    let long = format!("//! Head. Not here: x.\nfn long() {{\n{}}}\n", "    step();\n".repeat(FUNCTION_LINES_MAX));
    let [constant, wide] = ["const fn", "pub(super) unsafe fn"].map(|start| long.replace("fn long", &format!("{start} long")));
    let planted: &[(&str, &str, &str)] = &[
        ("floors", "src/engine/index.rs", "use crate::shard::Shard;\n"),
        ("floors", "src/engine/index.rs", "use crate::protocol::Session;\n"),
        ("floors", "src/engine/index.rs", "use crate::{key::Key, shard::Shard};\n"),
        ("floors", "src/engine/index.rs", "use crate::{\n    command::{Command, Verb},\n    protocol,\n};\n"),
        ("floors", "src/cluster/serve.rs", "use crate::shard::Shard;\n"),
        ("floors", "src/peer/frame/mod.rs", "use crate::engine::Cursor;\n"),
        ("floors", "src/routing.rs", "use crate::cluster::Origin;\n"),
        ("floors", "src/key.rs", "fn f() { crate::engine::g() }\n"),
        ("head", "src/engine/index.rs", "use std::mem;\n"),
        ("head", "src/engine/index.rs", "//! An index.\n"),
        ("head", "src/engine/index.rs", "//! An index. Lives here: lines.\n"),
        ("head", "src/engine/index.rs", "//! An index. Not here: items.\n"),
        ("function length", "src/engine/index.rs", &long),
        ("function length", "src/engine/index.rs", &constant),
        ("function length", "src/engine/index.rs", &wide),
        ("file length", "src/engine/index.rs", &"// x\n".repeat(FILE_LINES_MAX + 1)),
        ("unsafe", "src/engine/index.rs", "//! An index.\n// SAFETY: none\nfn f() { unsafe { g() } }\n"),
        ("unsafe", "src/engine/index.rs", "//! Unsafe lives here.\nfn f() { unsafe { g() } }\n"),
        ("clocks and sockets", "src/shard/mod.rs", "use std::time::SystemTime;\n"),
        ("unfinished", "src/shard/mod.rs", concat!("fn f() { to", "do!() }\n")),
        ("names", "src/shard/utils.rs", ""),
        ("one home", "src/cluster/serve.rs", "impl Turn<'_> {\n}\n"),
        ("one home", "src/cluster/serve.rs", "impl<T: Ord> Peers<T> {\n}\n"),
        ("one home", "src/shard/mod.rs", "struct Enginery;\nimpl Engine {\n}\n"),
        ("places", "src/shard/mod.rs", concat!("const P: &str = \"/ho", "me/me\";\n")),
    ];
    for &(name, path, text) in planted {
        let rule = RULES.iter().find(|(rule, _)| *rule == name).unwrap().1;
        let complaints = rule(&Source { path: path.into(), text: text.into() });
        assert!(!complaints.is_empty(), "{name} does not catch {text:?} in {path}");
    }
}

#[test]
fn the_rules_let_good_files_pass() {
    let good = "//! An index.\n//!\n//! Lives here: lines. Not here: items.\n\nuse crate::key::Key;\nuse crate::{command::Verb, limits};\n\nconst fn f(key: Key<'_>) -> u64 {\n    key.hash\n}\n";
    let source = Source { path: "src/engine/index.rs".into(), text: good.into() };
    assert!(RULES.iter().all(|(_, rule)| rule(&source).is_empty()));
}
