//! `pbtune` on made-up machines: files below a folder, the program itself, its exit codes.
//!
//! Lives here: check, plan, apply, revert as a user sees them. Not here: masks and other small laws (beside the code).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A machine in a folder of its own.
struct Made {
    root: PathBuf,
}

const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units     \n\
    Max open files            1024                 524288               files     \n\
    Max locked memory         8388608              unlimited            bytes     \n";

/// A server with a card of two queues, as the kernel shows it.
const SERVER: &[(&str, &str)] = &[
    ("proc/sys/net/core/somaxconn", "128\n"),
    ("proc/sys/net/ipv4/tcp_max_syn_backlog", "4096\n"),
    ("proc/sys/net/core/busy_poll", "0\n"),
    ("proc/sys/net/core/busy_read", "0\n"),
    ("proc/sys/vm/swappiness", "60\n"),
    ("proc/sys/kernel/io_uring_disabled", "0\n"),
    ("proc/sys/kernel/numa_balancing", "1\n"),
    ("proc/self/limits", LIMITS),
    ("proc/irq/40/smp_affinity_list", "0-3\n"),
    ("proc/irq/41/smp_affinity_list", "1\n"),
    ("sys/class/net/eth0/device/msi_irqs/40", "msix\n"),
    ("sys/class/net/eth0/device/msi_irqs/41", "msix\n"),
    ("sys/class/net/eth0/queues/rx-0/rps_cpus", "00000000\n"),
    ("sys/class/net/eth0/queues/rx-1/rps_cpus", "f\n"),
    ("sys/class/net/eth0/queues/tx-0/xps_cpus", "f\n"),
    ("sys/class/net/eth0/queues/tx-1/xps_cpus", "f\n"),
    ("sys/class/net/lo/mtu", "65536\n"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n"),
    ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "performance\n"),
    ("sys/devices/system/cpu/cpu0/cpuidle/state1/latency", "2\n"),
    ("sys/devices/system/cpu/cpu0/cpuidle/state1/disable", "0\n"),
    ("sys/devices/system/cpu/cpu0/cpuidle/state2/latency", "133\n"),
    ("sys/devices/system/cpu/cpu0/cpuidle/state2/disable", "0\n"),
    ("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n"),
    ("sys/devices/system/clocksource/clocksource0/available_clocksource", "tsc hpet acpi_pm\n"),
    ("sys/devices/system/node/node0/meminfo", ""),
    ("sys/devices/system/node/node1/meminfo", ""),
    ("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n"),
];

/// A virtual machine with nothing of its own.
const VIRTUAL: &[(&str, &str)] = &[
    ("proc/sys/net/core/somaxconn", "4096\n"),
    ("proc/sys/net/ipv4/tcp_max_syn_backlog", "8192\n"),
    ("proc/sys/net/core/busy_poll", "0\n"),
    ("proc/sys/vm/swappiness", "1\n"),
    ("proc/self/limits", LIMITS),
    ("sys/class/net/lo/mtu", "65536\n"),
    ("sys/devices/system/cpu/cpu0/topology/core_id", "0\n"),
    ("sys/devices/system/clocksource/clocksource0/current_clocksource", "kvm-clock\n"),
    ("sys/devices/system/node/node0/meminfo", ""),
    ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
];

impl Made {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let root = std::env::temp_dir().join(format!("pbtune-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        for (path, text) in files {
            let place = root.join(path);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(place, text).unwrap();
        }
        Self { root }
    }

    fn record(&self) -> PathBuf {
        self.root.join("record")
    }

    /// Exit code and output of a run.
    fn run(&self, words: &str) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pbtune"));
        command.arg("--root").arg(&self.root).arg("--record").arg(self.record()).args(["--cores", "2"]);
        let output = command.args(words.split_whitespace()).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap().trim().to_owned()
    }

    /// Every file of the machine.
    fn everything(&self) -> BTreeMap<String, String> {
        let texts = SERVER.iter().filter(|(path, _)| self.root.join(path).exists());
        texts.map(|(path, _)| (path.to_string(), self.read(path))).collect()
    }

    /// State of each knob as `check` tells it.
    fn states(&self) -> BTreeMap<String, String> {
        let (_, text) = self.run("check --json");
        let findings: serde_json::Value = serde_json::from_str(&text).unwrap();
        let word = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        findings.as_array().unwrap().iter().map(|finding| (word(&finding["knob"]), word(&finding["state"]))).collect()
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

#[test]
fn a_check_names_what_is_wanting_and_changes_nothing() {
    let made = Made::new("check", SERVER);
    let before = made.everything();
    let expected = [
        ("irq", "WANTING"),
        ("rps", "WANTING"),
        ("xps", "WANTING"),
        ("somaxconn", "WANTING"),
        ("syn_backlog", "good"),
        ("busy_poll", "optional"),
        ("governor", "WANTING"),
        ("c_states", "optional"),
        ("huge_pages", "WANTING"),
        ("swappiness", "WANTING"),
        ("nofile", "good"),
        ("memlock", "good"),
        ("io_uring", "good"),
        ("clocksource", "WANTING"),
        ("numa_balancing", "WANTING"),
    ];
    assert_eq!(made.states(), expected.map(|(knob, state)| (knob.to_owned(), state.to_owned())).into());
    let (code, text) = made.run("");
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("somaxconn       WANTING         128 "), "{text}");
    assert!(text.ends_with("9 wanting; `pbtune plan` shows what would be written\n"), "{text}");
    assert_eq!(made.run("plan").0, 1);
    assert_eq!(made.everything(), before);
    assert!(!made.record().exists());
}

#[test]
fn the_table_fits_a_hundred_columns_and_gives_a_reason_for_what_is_not_good() {
    for (name, files) in [("server-table", SERVER), ("virtual-table", VIRTUAL)] {
        let made = Made::new(name, files);
        let mut long = String::from("always [madvise] never");
        (0..60).for_each(|number| long += &format!(" some-long-word-{number}"));
        fs::write(made.root.join("sys/devices/system/clocksource/clocksource0/current_clocksource"), &long).unwrap();
        let (_, text) = made.run("check --connections 600000");
        let longest = text.lines().max_by_key(|line| line.chars().count()).unwrap();
        assert!(longest.chars().count() <= 100, "{longest}");
        assert!(text.contains("some-long-word-0") && text.contains("some-long-word-59"), "{text}");
        let table: Vec<&str> = text.lines().collect();
        let reason = table.iter().position(|line| line.starts_with("nofile          WANTING")).map(|at| table[at + 1].trim());
        assert_eq!(reason, Some("every connection is a file descriptor"), "{text}");
        assert!(!text.contains("without io_uring no core starts"), "what is good needs no reason: {text}");
    }
}

#[test]
fn what_a_virtual_machine_does_not_have_is_not_applicable() {
    let made = Made::new("virtual", VIRTUAL);
    for knob in ["irq", "rps", "xps", "busy_poll", "governor", "c_states", "io_uring", "numa_balancing"] {
        assert_eq!(made.states()[knob], "not applicable", "{knob}");
    }
    let (code, text) = made.run("check");
    assert_eq!(code, 0, "{text}");
    assert_eq!(made.run("plan"), (0, "nothing to write\n".into()));
}

#[test]
fn limits_are_held_against_what_the_node_needs_and_left_to_people() {
    let made = Made::new("limits", VIRTUAL);
    assert_eq!(made.run("check --connections 524000").0, 0);
    let (code, text) = made.run("check --connections 600000");
    assert_eq!(code, 1, "{text}");
    let (code, text) = made.run("apply --connections 600000");
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("nofile          by hand: LimitNOFILE"), "{text}");
}

#[test]
fn apply_writes_the_plan_and_revert_undoes_it() {
    let made = Made::new("apply", SERVER);
    let before = made.everything();
    let (_, plan) = made.run("plan");
    let (code, text) = made.run("apply");
    assert_eq!(code, 0, "{text}");
    for line in plan.lines().filter(|line| line.starts_with("echo")) {
        let (value, rest) = line.strip_prefix("echo '").unwrap().split_once("' > /").unwrap();
        assert_eq!(made.read(rest.split_whitespace().next().unwrap()), value);
    }
    assert_eq!(made.read("sys/kernel/mm/transparent_hugepage/enabled"), "madvise");
    assert_eq!(made.read("sys/class/net/eth0/queues/tx-1/xps_cpus"), "2");
    assert_eq!(made.read("proc/irq/40/smp_affinity_list"), "0");
    assert_eq!(made.read("proc/sys/net/core/busy_poll"), "0", "what is optional is left alone");
    // A second time there is nothing to do, and the old values stay the first ones.
    fs::write(made.root.join("proc/sys/vm/swappiness"), "30").unwrap();
    made.run("apply");
    assert_eq!(made.read("proc/sys/vm/swappiness"), "1");
    assert_eq!(made.run("revert").0, 0);
    let after = made.everything();
    let word = |text: &String| {
        text.split_whitespace().find(|word| word.starts_with('[')).map_or(text.clone(), |word| word[1..word.len() - 1].into())
    };
    let expected: BTreeMap<_, _> = before.iter().map(|(path, text)| (path.clone(), word(text))).collect();
    let got: BTreeMap<_, _> = after.iter().map(|(path, text)| (path.clone(), word(text))).collect();
    assert_eq!(got, expected);
    assert!(!made.record().exists());
    assert_eq!(made.run("revert"), (0, "0 written back\n".into()));
}

#[test]
fn only_what_is_named_is_changed_even_if_optional() {
    let made = Made::new("only", SERVER);
    assert_eq!(made.run("apply --only c_states,busy_poll").0, 0);
    assert_eq!(made.read("sys/devices/system/cpu/cpu0/cpuidle/state2/disable"), "1");
    assert_eq!(made.read("sys/devices/system/cpu/cpu0/cpuidle/state1/disable"), "0");
    assert_eq!(made.read("proc/sys/net/core/busy_poll"), "50");
    assert_eq!(made.read("proc/sys/vm/swappiness"), "60");
    let (code, text) = made.run("apply --only swapiness");
    assert_eq!(code, 2);
    assert!(text.contains("--only swapiness: there is no such knob; there are irq, "), "{text}");
}

#[test]
fn a_crash_midway_can_be_reverted() {
    let made = Made::new("crash", SERVER);
    let whole = "{\"path\":\"/proc/sys/vm/swappiness\",\"old\":\"60\"}\n";
    // Died between the record and the write; died in the middle of a line of the record.
    for text in [whole.to_owned(), format!("{whole}{{\"path\":\"/proc/sys/net/co")] {
        fs::write(made.record(), text).unwrap();
        assert_eq!(made.run("revert"), (0, "/proc/sys/vm/swappiness: 60\n1 written back\n".into()));
        assert_eq!(made.read("proc/sys/vm/swappiness"), "60");
    }
    // Died after some writes, and applied again before anyone reverted.
    fs::write(made.record(), format!("{whole}{{\"path\":\"/proc/sys/net/co")).unwrap();
    fs::write(made.root.join("proc/sys/vm/swappiness"), "1").unwrap();
    made.run("apply");
    made.run("revert");
    assert_eq!(made.read("proc/sys/vm/swappiness"), "60");
    assert_eq!(made.read("proc/sys/net/core/somaxconn"), "128");
}

#[test]
fn a_damaged_record_and_a_refused_write_are_told() {
    let made = Made::new("damaged", SERVER);
    fs::write(made.record(), "not JSON\n").unwrap();
    let (code, text) = made.run("revert");
    assert_eq!(code, 2);
    assert!(text.contains("is damaged"), "{text}");
    fs::remove_file(made.record()).unwrap();
    // A folder in the place of a file cannot be written, whoever asks.
    let place = made.root.join("proc/irq/40/smp_affinity_list");
    fs::write(made.record(), "{\"path\":\"/proc/irq/40\",\"old\":\"0\"}\n").unwrap();
    assert!(place.exists());
    let (code, text) = made.run("revert");
    assert_eq!(code, 2, "{text}");
    assert!(made.record().exists(), "the record is kept");
}

#[test]
fn this_machine_can_be_looked_at() {
    let output = Command::new(env!("CARGO_BIN_EXE_pbtune")).output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 1)));
    assert!(Path::new("/proc").exists() && String::from_utf8(output.stdout).unwrap().lines().count() > 10);
}
