//! The house rules that a compiler does not know, as a test over the sources.

use std::fs;
use std::path::Path;

use tiderace::codes::TABLE;

/// Who may `use crate::` whom. What is not listed is forbidden; a module may always use itself.
const MAY_USE: &[(&str, &[&str])] = &[
    // Leaves.
    ("limits", &[]),
    ("codes", &[]),
    ("metrics", &["limits", "codes"]),
    ("mutations", &[]),
    ("channels", &[]),
    ("config", &["channels", "limits"]),
    // A client of servers, ours and others': it shares nothing with the server but bytes on the wire.
    ("watch", &["codec", "limits"]),
    ("sys", &["frame", "limits"]),
    // Pure: bytes, tokens, sessions, truth, and the core that joins them.
    ("codec", &["codes", "limits"]),
    ("frame", &["codec"]),
    ("auth", &["channels", "codec", "limits"]),
    ("proxy", &["auth", "channels", "codec", "limits"]),
    ("protocol", &["auth", "channels", "codec", "codes", "limits", "proxy"]),
    ("hub", &["channels", "protocol", "codec", "frame", "limits", "metrics", "mutations"]),
    ("api", &["protocol", "hub", "codec", "auth", "codes", "limits", "metrics"]),
    (
        "core",
        &[
            "channels",
            "codec",
            "frame",
            "protocol",
            "hub",
            "auth",
            "api",
            "codes",
            "limits",
            "metrics",
            "mutations",
            "proxy",
        ],
    ),
    // Impure: one core, the process, the program.
    ("backend", &["auth", "hub", "limits", "protocol", "proxy"]),
    ("jwks", &["auth", "backend", "limits"]),
    ("shard", &["backend", "core", "hub", "jwks", "protocol", "proxy", "frame", "sys", "limits"]),
    (
        "server",
        &[
            "backend", "shard", "core", "channels", "api", "hub", "protocol", "proxy", "auth",
            "codes", "config", "jwks", "limits", "sys",
        ],
    ),
    ("cli", &["auth", "codes", "server", "config", "jwks", "sys", "limits", "watch"]),
    ("lib", &[]),
    ("main", &["cli"]),
];

/// Modules that decide: the simulation runs them, so they may not reach for the world.
const PURE: &[&str] =
    &["channels", "codec", "frame", "auth", "protocol", "proxy", "hub", "api", "core"];

/// Files that decide, in modules that do not only that.
const PURE_FILES: &[&str] = &[
    "watch/endpoint.rs",
    "watch/heartbeat.rs",
    "watch/messages.rs",
    "watch/policy.rs",
    "watch/response.rs",
    "watch/sse.rs",
];

/// What a pure module must not mention.
const IMPURE: &[&str] = &[
    "std::net",
    "std::thread",
    "Instant",
    "SystemTime",
    "glommio",
    "io_uring",
    "rand::",
    "getrandom",
];

/// Values of `std::net` that are no sockets.
const ADDRESSES: &[&str] = &["IpAddr", "Ipv4Addr", "Ipv6Addr", "SocketAddr"];

/// Words that say nothing about what is inside.
const EMPTY_WORDS: &[&str] = &["manager", "utils", "util", "helper", "helpers"];

const LINES_MAX: usize = 700;
const COLUMNS_MAX: usize = 120;

/// A source file, its path relative to `src`.
struct Source<'a> {
    path: &'a str,
    text: &'a str,
}

impl<'a> Source<'a> {
    /// The top-level module, such as `codec` of `codec/http.rs`.
    fn module(&self) -> &'a str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.trim_end_matches(".rs")
    }

    /// The lines before the unit tests, with their numbers.
    fn product_lines(&self) -> impl Iterator<Item = (usize, &'a str)> {
        let lines = self.text.lines().take_while(|line| *line != "#[cfg(test)]");
        lines.enumerate().map(|(index, line)| (index + 1, line))
    }

    /// The same without comments and the content of texts.
    fn product_code(&self) -> impl Iterator<Item = (usize, String)> {
        self.product_lines().map(|(number, line)| (number, code_of(line)))
    }
}

/// A line without its comment and the content of its texts. A text of several lines counts as code.
fn code_of(line: &str) -> String {
    let line = line.replace("\\\"", "").replace("'\"'", "");
    let outside = line.split('"').step_by(2).collect::<Vec<_>>().join("\"\"");
    outside.split("//").next().unwrap_or_default().to_owned()
}

/// Names behind `crate::`, also those of one nested list: `use crate::{a, b::c};`.
fn crate_names(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (_, rest) in
        code.match_indices("crate::").map(|(at, found)| (at, &code[at + found.len()..]))
    {
        let Some(list) = rest.strip_prefix('{') else {
            names.push(words(rest).next().unwrap_or_default().to_owned());
            continue;
        };
        let mut depth = 0;
        let mut item = String::new();
        for c in list.chars() {
            match c {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => names.push(std::mem::take(&mut item)),
                _ if depth == 0 => item.push(c),
                _ => {}
            }
        }
        names.push(item);
    }
    names.iter().filter_map(|name| words(name).next()).map(str::to_owned).collect()
}

/// Identifiers of a text.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

fn check_imports(source: &Source, faults: &mut Vec<String>) {
    let module = source.module();
    let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
        faults.push(format!("{}: module {module} is not in the table MAY_USE", source.path));
        return;
    };
    let code: String = source.product_code().map(|(_, line)| line + "\n").collect();
    for name in crate_names(&code) {
        if name != module && !allowed.contains(&name.as_str()) {
            faults.push(format!("{}: {module} may not use {name}", source.path));
        }
    }
}

fn check_purity(source: &Source, faults: &mut Vec<String>) {
    if !PURE.contains(&source.module()) && !PURE_FILES.contains(&source.path) {
        return;
    }
    for (number, line) in source.product_code() {
        let addresses_only = line.contains("std::net")
            && words(&line)
                .filter(|word| word.starts_with(char::is_uppercase))
                .all(|word| ADDRESSES.contains(&word))
            && words(&line).any(|word| ADDRESSES.contains(&word));
        for word in IMPURE {
            if line.contains(word) && !(*word == "std::net" && addresses_only) {
                faults.push(format!("{}:{number}: {word} in a pure module", source.path));
            }
        }
    }
}

fn check_unsafe(source: &Source, faults: &mut Vec<String>) {
    if source.module() == "sys" {
        return;
    }
    for (number, line) in source.text.lines().enumerate() {
        let code = code_of(line);
        if words(&code).any(|word| word == "unsafe") {
            faults.push(format!("{}:{}: unsafe outside src/sys", source.path, number + 1));
        }
    }
}

fn check_first_line(source: &Source, faults: &mut Vec<String>) {
    if !source.text.starts_with("//! ") {
        faults.push(format!("{}: the first line must state the file's idea with //!", source.path));
    }
}

fn check_words(source: &Source, faults: &mut Vec<String>) {
    let empty = |word: &str| {
        let snake: String = word
            .chars()
            .flat_map(|c| c.is_uppercase().then_some('_').into_iter().chain(c.to_lowercase()))
            .collect();
        snake.split('_').any(|part| EMPTY_WORDS.contains(&part))
    };
    for word in words(source.path).filter(|word| empty(word)) {
        faults.push(format!("{}: {word} says nothing", source.path));
    }
    for (index, line) in source.text.lines().enumerate() {
        let code = code_of(line);
        for word in words(&code).filter(|word| empty(word)) {
            faults.push(format!("{}:{}: {word} says nothing", source.path, index + 1));
        }
        if words(line).any(|word| ["TODO", "FIXME", "XXX"].contains(&word)) {
            faults.push(format!("{}:{}: unfinished", source.path, index + 1));
        }
    }
}

fn check_size(source: &Source, faults: &mut Vec<String>) {
    let lines = source.product_lines().count();
    if lines > LINES_MAX {
        faults.push(format!("{}: {lines} lines before the tests", source.path));
    }
    for (index, line) in source.text.lines().enumerate() {
        let columns = line.chars().count();
        if columns > COLUMNS_MAX {
            faults.push(format!("{}:{}: {columns} columns", source.path, index + 1));
        }
    }
}

const CHECKS: &[fn(&Source, &mut Vec<String>)] =
    &[check_imports, check_purity, check_unsafe, check_first_line, check_words, check_size];

fn visit(directory: &Path, root: &Path, faults: &mut Vec<String>) -> usize {
    let mut entries: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let mut files = 0;
    for path in entries {
        if path.is_dir() {
            files += visit(&path, root, faults);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let relative = path.strip_prefix(root).unwrap().to_str().unwrap();
            let source = Source { path: relative, text: &text };
            for check in CHECKS {
                check(&source, faults);
            }
            files += 1;
        }
    }
    files
}

#[test]
fn the_sources_keep_the_house_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut faults = Vec::new();
    let files = visit(&root, &root, &mut faults);
    assert!(files > 5, "only {files} files were found");
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// The code of all files but the table of codes, without tests.
fn product_code_of(directory: &Path, all: &mut String) {
    for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        let name = path.file_stem().unwrap().to_str().unwrap();
        if path.is_dir() && name != "tests" {
            product_code_of(&path, all);
        } else if path.is_file() && !["codes", "tests"].contains(&name) {
            let text = fs::read_to_string(&path).unwrap();
            let source = Source { path: name, text: &text };
            for (_, code) in source.product_code() {
                all.push_str(&code);
                all.push('\n');
            }
        }
    }
}

#[test]
fn codes_that_the_server_never_tells_are_marked_and_no_others() {
    let mut code = String::new();
    product_code_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut code);
    let mut wrong = Vec::new();
    for line in TABLE {
        let of = match line.kind {
            "error" => "ErrorCode",
            "unsubscribe" => "Unsubscribed",
            _ => "CloseReason",
        };
        let constant = format!("{of}::{}", line.name);
        let named = code.match_indices(&constant).any(|(at, _)| {
            let next = code[at + constant.len()..].chars().next();
            !next.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_')
        });
        if named != line.is_told() {
            wrong.push(format!("{constant}: named by the server: {named}; marked: {line:?}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    assert!(TABLE.iter().any(|line| !line.is_told()), "there is a mark at all");
}

/// What one check says about one small file.
fn faults_of(check: fn(&Source, &mut Vec<String>), path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    check(&Source { path, text }, &mut faults);
    faults
}

#[test]
fn a_forbidden_import_is_found() {
    let faults = |path, text| faults_of(check_imports, path, text);
    assert_eq!(
        faults("codec/http.rs", "use crate::hub::Hub;"),
        ["codec/http.rs: codec may not use hub"]
    );
    assert_eq!(faults("codec/http.rs", "use crate::{\n    codes,\n    hub::{a, b},\n};").len(), 1);
    assert_eq!(faults("codec/http.rs", "fn f() { crate::shard::turn() }").len(), 1);
    assert_eq!(faults("new.rs", "").len(), 1, "a module that the table lacks");
    assert!(
        faults("codec/http.rs", "use crate::{codes, limits};\nuse crate::codec::x;").is_empty()
    );
    assert!(faults("codec/http.rs", "#[cfg(test)]\nuse crate::hub::Hub;").is_empty());
}

#[test]
fn an_impure_word_is_found() {
    let faults = |text| faults_of(check_purity, "hub/home.rs", text);
    assert_eq!(faults("use std::time::Instant;").len(), 1);
    assert_eq!(faults("use std::net::TcpStream;").len(), 1);
    assert_eq!(faults("use std::net::{IpAddr, TcpStream};").len(), 1);
    assert_eq!(faults("let now = glommio::now();").len(), 1);
    assert!(
        faults("use std::net::IpAddr;\n// no Instant here\nuse std::time::Duration;").is_empty()
    );
    assert!(faults_of(check_purity, "shard/mod.rs", "use std::time::Instant;").is_empty());
    assert_eq!(faults_of(check_purity, "watch/policy.rs", "use std::time::Instant;").len(), 1);
    assert!(faults_of(check_purity, "watch/stream.rs", "use std::time::Instant;").is_empty());
}

#[test]
fn unsafe_outside_sys_is_found() {
    assert_eq!(faults_of(check_unsafe, "core/mod.rs", "let x = unsafe { f() };").len(), 1);
    assert!(faults_of(check_unsafe, "sys/ring.rs", "unsafe {}").is_empty());
    assert!(faults_of(check_unsafe, "core/mod.rs", "// unsafe\nlet unsafe_code = 1;").is_empty());
}

#[test]
fn a_file_without_its_idea_is_found() {
    assert_eq!(faults_of(check_first_line, "codes.rs", "use std::fmt;").len(), 1);
    assert!(faults_of(check_first_line, "codes.rs", "//! Why.\n").is_empty());
}

#[test]
fn empty_and_unfinished_words_are_found() {
    let faults = |path, text| faults_of(check_words, path, text);
    assert_eq!(faults("core/utils.rs", "").len(), 1);
    assert_eq!(faults("core/a.rs", "struct ConnectionManager;").len(), 1);
    assert_eq!(faults("core/a.rs", "fn parse_helper() {}").len(), 1);
    assert_eq!(faults("core/a.rs", "// TODO: later").len(), 1);
    assert!(faults("core/a.rs", r#"let a = "presence_manager"; // b"#).is_empty());
    assert!(faults("core/a.rs", "let utility = 1; // a helper of clients").is_empty());
}

#[test]
fn long_files_and_lines_are_found() {
    assert_eq!(faults_of(check_size, "a.rs", &"\n".repeat(LINES_MAX + 1)).len(), 1);
    assert_eq!(faults_of(check_size, "a.rs", &"x".repeat(COLUMNS_MAX + 1)).len(), 1);
    let tests = format!("//! A.\n#[cfg(test)]\n{}", "\n".repeat(LINES_MAX));
    assert!(faults_of(check_size, "a.rs", &tests).is_empty());
    assert!(faults_of(check_size, "a.rs", &"x".repeat(COLUMNS_MAX)).is_empty());
}
