//! What `tests/tools` does on machines that lack something: a folder of stubs is the whole `PATH`, so nothing else can be found.
//!
//! ```text
//!   machine/bin: cc git memcached ...    stubs that do nothing             one left out = that tool is missing
//!                id                      prints 0 or 1000
//!                apt-get sudo rustup     write what they are told to `told`; apt-get puts stubs for what it installs beside itself
//! ```
//!
//! Lives here: the decisions of the script. Not here: whether Debian's packages hold what is hoped for.
#![allow(clippy::disallowed_methods)] // a test starts a script

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each tool that a step may need, and the one package that is to be asked for where it is missing.
const TOOLS: &[(&str, &str)] = &[
    ("cc", "gcc"),
    ("libc", "libc6-dev"),
    ("git", "git"),
    ("memcached", "memcached"),
    ("redis-server", "redis-server"),
    ("python3", "python3"),
    ("ip", "iproute2"),
    ("unshare", "util-linux"),
    ("valgrind", "valgrind"),
    ("promtool", "prometheus"),
    ("venv", "python3-venv"),
    ("curl", "curl"),
    ("memccapable", "libmemcached-tools"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("chromium", "chromium"),
    ("wrk", "wrk"),
    ("h2load", "nghttp2-client"),
];
const STEPS: &[&str] = &["format", "lint", "test", "torture", "debugtime", "miri", "loom", "docs", "page", "clients"];

/// A machine in a folder of its own.
struct Machine {
    folder: PathBuf,
}

/// How the script ended: exit code, standard output, standard error, and what installers were told, a line each.
struct End {
    code: i32,
    said: String,
    complained: String,
    told: Vec<String>,
}

impl Machine {
    /// A machine with a Rust toolchain, apt-get and all tools, whose user is root.
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("pbcache-setup-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("bin")).unwrap();
        let machine = Self { folder };
        machine.user(0);
        machine.put("cargo", "");
        machine.put("rustup", "echo \"rustup $*\" >>\"$TOLD\"");
        std::os::unix::fs::symlink("/usr/bin/env", machine.path("env")).unwrap();
        machine.put("sudo", "echo \"sudo $*\" >>\"$TOLD\"; [ \"$1\" != --non-interactive ] || shift; SUDO=1 exec \"$@\"");
        machine.apt(true);
        TOOLS.iter().for_each(|(tool, _)| machine.add(tool));
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join("bin").join(name)
    }

    fn put(&self, name: &str, script: &str) {
        fs::write(self.path(name), format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn user(&self, id: u32) {
        self.put("id", &format!("echo {id}"));
    }

    /// The package manager: it writes down its words and whether it was root, and what it installs is there if it `works`.
    fn apt(&self, works: bool) {
        let mut script = String::from("echo \"apt-get $*\" >>\"$TOLD\"; [ \"$(id)\" = 0 ] || [ -n \"$SUDO\" ] || exit 100\n");
        for (tool, package) in TOOLS.iter().filter(|_| works) {
            let bring = format!(": >\"$HAVE/{tool}\"; /bin/chmod +x \"$HAVE/{tool}\"");
            script += &format!("case \" $* \" in *' {package} '*) {bring} ;; esac\n");
        }
        self.put("apt-get", &script);
    }

    fn add(&self, tool: &str) {
        match tool {
            // What is no command has a file too: for the header that cc finds, and for the module that python3 finds.
            "cc" => self.put("cc", "[ -e \"$HAVE/libc\" ]"),
            "python3" => self.put("python3", "[ -e \"$HAVE/venv\" ]"),
            _ => self.put(tool, ""),
        }
    }

    fn without(self, tools: &[&str]) -> Self {
        tools.iter().for_each(|tool| fs::remove_file(self.path(tool)).unwrap());
        self
    }

    fn run(&self, words: &[&str]) -> End {
        self.run_with(words, &[])
    }

    fn run_with(&self, words: &[&str], environment: &[(&str, &Path)]) -> End {
        let (told, bin) = (self.folder.join("told"), self.folder.join("bin"));
        fs::write(&told, "").unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools");
        // The shell's own path: `PATH` holds no shell either.
        let mut command = Command::new("/bin/bash");
        command.arg(script).args(words).env_clear().env("PATH", &bin).env("TOLD", &told).env("HAVE", &bin);
        command.envs(environment.iter().copied());
        let output = command.stdin(std::process::Stdio::null()).output().unwrap();
        End {
            code: output.status.code().unwrap(),
            said: String::from_utf8(output.stdout).unwrap(),
            complained: String::from_utf8(output.stderr).unwrap(),
            told: fs::read_to_string(told).unwrap().lines().map(str::to_owned).collect(),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl End {
    /// The packages that apt-get was told to install.
    fn packages(&self) -> Vec<&str> {
        let lines = self.told.iter().filter_map(|line| line.strip_prefix("apt-get install "));
        lines.flat_map(|line| line.split(' ')).filter(|word| !word.starts_with('-') && !word.contains("::")).collect()
    }

    /// Nothing was installed, and one sentence says what to do.
    fn assert_refuses(&self, parts: &[&str]) {
        assert_eq!((self.code, self.said.as_str(), self.told.len()), (2, "", 0), "{}{:?}", self.complained, self.told);
        assert_eq!(self.complained.lines().count(), 1, "{}", self.complained);
        parts.iter().for_each(|part| assert!(self.complained.contains(part), "`{part}` in {}", self.complained));
    }
}

#[test]
fn where_nothing_is_missing_nothing_is_installed_or_said() {
    for user in [0, 1000] {
        let machine = Machine::new(&format!("whole-{user}"));
        machine.user(user);
        let end = machine.run(STEPS);
        assert_eq!((end.code, end.said, end.complained, end.told), (0, String::new(), String::new(), Vec::new()));
    }
}

#[test]
fn each_missing_tool_is_installed_by_its_package_and_by_no_other() {
    for (tool, package) in TOOLS {
        let machine = Machine::new(&format!("without-{tool}")).without(&[tool]);
        let end = machine.run(STEPS);
        let mut wanted = vec![*package];
        // Without a compiler nothing can be said of its headers, and without python3 nothing of its modules: both are asked for.
        wanted.extend(match *tool {
            "cc" => Some("libc6-dev"),
            "python3" => Some("python3-venv"),
            _ => None,
        });
        assert_eq!(end.packages(), wanted, "{tool}: {:?}", end.told);
        assert_eq!((end.code, end.complained.as_str()), (0, ""), "{tool}");
        assert_eq!(end.said, format!("tests/run installs with apt-get: {}\n", wanted.join(" ")));
        assert_eq!(end.told[0], "apt-get update --quiet --quiet", "packages are looked up anew");
    }
}

#[test]
fn a_step_asks_for_its_own_tools_only() {
    let machine = Machine::new("steps").without(&["memcached", "valgrind", "npm", "node", "venv"]);
    for (step, wanted) in [
        ("format", &[][..]),
        ("lint", &[]),
        ("docs", &[]),
        ("debugtime", &[]),
        ("miri", &[]),
        ("loom", &[]),
        ("test", &["memcached", "valgrind"]),
        ("page", &["nodejs", "npm"]),
        ("clients", &["memcached", "python3-venv", "nodejs", "npm"]),
    ] {
        machine.apt(false);
        assert_eq!(machine.run(&[step]).packages(), wanted, "{step}");
    }
}

#[test]
fn a_memcached_of_ones_own_building_is_enough() {
    let machine = Machine::new("own").without(&["memcached"]);
    let end = machine.run_with(&["test"], &[("MEMCACHED", machine.path("git").as_path())]);
    assert_eq!((end.code, end.told.len()), (0, 0), "{}", end.complained);
}

#[test]
fn who_is_not_root_installs_with_sudo() {
    let machine = Machine::new("sudo").without(&["memcached"]);
    machine.user(1000);
    let end = machine.run(&["test"]);
    assert_eq!((end.code, end.packages()), (0, vec!["memcached"]), "{} {:?}", end.complained, end.told);
    assert!(end.told[0].starts_with("sudo --non-interactive apt-get update"), "{:?}", end.told);
}

#[test]
fn where_it_cannot_install_it_says_in_one_sentence_what_to_do() {
    let lacking = |name: &str| Machine::new(name).without(&["memcached", "npm"]);
    let by_hand = ["memcached and npm are missing", "as root, `apt-get install memcached npm`"];

    let machine = lacking("nobody").without(&["sudo"]);
    machine.user(1000);
    machine.run(STEPS).assert_refuses(&by_hand);

    lacking("unwilling").run(&[&["--no-install"], STEPS].concat()).assert_refuses(&by_hand);

    let end = lacking("elsewhere").without(&["apt-get"]).run(STEPS);
    end.assert_refuses(&["memcached and npm are missing", "no Debian", "memcached npm"]);
}

#[test]
fn an_installer_that_fails_or_brings_nothing_is_told() {
    let machine = Machine::new("fails").without(&["memcached"]);
    machine.put("apt-get", "echo 'E: no such thing' >&2; exit 100");
    let end = machine.run(&["test"]);
    let last = end.complained.lines().last().unwrap();
    assert_eq!(end.code, 2);
    assert!(end.complained.contains("E: no such thing") && last.contains("apt-get failed"), "{}", end.complained);

    machine.apt(false);
    let end = machine.run(&["test"]);
    assert_eq!((end.code, end.packages()), (2, vec!["memcached"]));
    assert!(end.complained.contains("apt-get installed memcached, and still memcached is missing"), "{}", end.complained);
}

#[test]
fn the_rust_toolchain_is_looked_at_too() {
    let machine = Machine::new("no-cargo").without(&["cargo"]);
    machine.run(&["format"]).assert_refuses(&["cargo is missing", "install a Rust toolchain"]);

    let machine = Machine::new("bare-rust");
    machine.put("cargo", "[ \"$1\" != clippy ]");
    machine.run(&["--no-install", "format", "lint"]).assert_refuses(&["clippy is missing", "`rustup component add clippy`"]);
    let end = machine.run(&["format", "lint", "test"]);
    assert_eq!((end.code, end.told), (0, vec!["rustup component add clippy".to_owned()]), "{}", end.complained);
    let end = machine.run(&["format", "test"]);
    assert_eq!((end.code, end.told.len()), (0, 0), "only the step that lints needs it");
    machine.without(&["rustup"]).run(&["lint"]).assert_refuses(&["clippy is missing"]);
}

#[test]
fn the_nightly_toolchain_with_miri_is_installed_for_the_step_that_needs_it() {
    let nightly = include_str!("nightly").trim();
    let install = format!("rustup toolchain install {nightly} --profile minimal --component miri --component rust-src");
    let machine = Machine::new("no-miri");
    machine.put("cargo", "[ \"$2\" != miri ] || /bin/grep -q 'toolchain install' \"$TOLD\"");
    machine.run(&["--no-install", "test", "miri"]).assert_refuses(&["Miri is missing", &format!("`{install}`")]);
    let end = machine.run(&["test", "miri"]);
    assert_eq!((end.code, end.told), (0, vec![install]), "{}", end.complained);
    assert_eq!(end.said, format!("tests/run installs with rustup: {nightly} with miri and rust-src\n"));
    assert_eq!(machine.run(&["test"]).told.len(), 0, "only that step needs it");

    machine.put("cargo", "[ \"$2\" != miri ]");
    let end = machine.run(&["miri"]);
    assert!(end.code == 2 && end.complained.contains("and still Miri does not run"), "{}", end.complained);
}

#[test]
fn a_step_that_does_not_exist_is_refused_before_anything_is_done() {
    let run = |words: &[&str]| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/run");
        let output = Command::new(script).args(words).output().unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let (code, said) = run(&["format", "tset"]);
    assert_eq!((code, said.as_str()), (Some(2), "tests/run: there is no step 'tset'; see tests/run --help\n"));
    let (code, help) = run(&["--help"]);
    assert_eq!(code, Some(0));
    assert!(help.contains(&format!("steps: {};", STEPS.join(" "))) && help.contains("--no-install"), "{help}");
}
