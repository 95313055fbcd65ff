//! The knobs, one row each: where it is, what is wanted, why.
//!
//! Values are those that ScyllaDB's perftune, tuned's profiles for latency and throughput, Aerospike and memcached's documents agree
//! on; where they differ, the harmless one. What a knob brings is told in `tuning/README.md`, as far as it was measured.
//!
//! Lives here: the list. Not here: reading files (`Machine`), what is done about it (`pbtune`).

use super::{Finding, Machine, Needs, State, Write};

/// One row.
pub(super) struct Knob {
    name: &'static str,
    why: &'static str,
    /// What to do where no file can be written.
    remedy: &'static str,
    look: fn(&Machine, Needs) -> Seen,
}

/// What a look at a knob brought.
struct Seen {
    found: String,
    wanted: String,
    state: State,
    writes: Vec<Write>,
}

impl Seen {
    fn not_applicable(found: &str) -> Self {
        Self { found: found.into(), wanted: "-".into(), state: State::NotApplicable, writes: Vec::new() }
    }

    fn new(found: impl ToString, wanted: impl ToString, good: bool) -> Self {
        let state = if good { State::Good } else { State::Wanting };
        Self { found: found.to_string(), wanted: wanted.to_string(), state, writes: Vec::new() }
    }

    /// Adds what would put it right, unless it is right.
    fn by(mut self, writes: Vec<Write>) -> Self {
        if self.state != State::Good {
            self.writes = writes;
        }
        self
    }
}

impl Knob {
    pub(super) fn look(&self, machine: &Machine, needs: Needs) -> Finding {
        let Seen { found, wanted, state, writes } = (self.look)(machine, needs);
        Finding { name: self.name, found, wanted, why: self.why, state, remedy: self.remedy, writes }
    }
}

const BY_PBTUNE: &str = "pbtune apply";

pub(super) const KNOBS: &[Knob] = &[
    Knob { name: "irq", why: "a packet should interrupt the core that serves its connection", remedy: BY_PBTUNE, look: irq },
    Knob {
        name: "rps",
        why: "with fewer receive queues than cores, the others would get no packets first hand",
        remedy: BY_PBTUNE,
        look: |machine, needs| steering(machine, needs, "rx-", "rps_cpus"),
    },
    Knob {
        name: "xps",
        why: "a core should send on a queue of its own, or on any where they are few",
        remedy: BY_PBTUNE,
        look: |machine, needs| steering(machine, needs, "tx-", "xps_cpus"),
    },
    Knob {
        name: "somaxconn",
        why: "a burst of new connections beyond it is refused before anyone accepts",
        remedy: BY_PBTUNE,
        look: |machine, _| at_least(machine, "/proc/sys/net/core/somaxconn", 4096),
    },
    Knob {
        name: "syn_backlog",
        why: "half-open connections beyond it are dropped and come again a second later",
        remedy: BY_PBTUNE,
        look: |machine, _| at_least(machine, "/proc/sys/net/ipv4/tcp_max_syn_backlog", 4096),
    },
    Knob {
        name: "busy_poll",
        why: "polling a network card instead of waiting for its interrupt saves microseconds and costs a CPU; no use on loopback",
        remedy: "pbtune apply --only busy_poll",
        look: busy_poll,
    },
    Knob {
        name: "governor",
        why: "a CPU that clocks down between requests answers the next one slowly",
        remedy: BY_PBTUNE,
        look: governor,
    },
    Knob {
        name: "c_states",
        why: "leaving a deep sleep takes up to hundreds of microseconds; staying out of it costs power",
        remedy: "pbtune apply --only c_states",
        look: c_states,
    },
    Knob {
        name: "huge_pages",
        why: "index and segments lie in 2 MiB pages where the system gives them: fewer misses in the address cache",
        remedy: BY_PBTUNE,
        look: huge_pages,
    },
    Knob {
        name: "swappiness",
        why: "an item that was swapped out is slower than the database behind the cache",
        remedy: BY_PBTUNE,
        look: |machine, _| at_most(machine, "/proc/sys/vm/swappiness", 10, 1),
    },
    Knob {
        name: "nofile",
        why: "every connection is a file descriptor",
        remedy: "LimitNOFILE in the unit, or `ulimit -n`",
        look: |machine, needs| {
            limit(machine, "Max open files", u64::from(needs.connections) + 16 * u64::from(needs.cores) + 32, 1)
        },
    },
    Knob {
        name: "memlock",
        why: "the rings of the cores are locked memory",
        remedy: "LimitMEMLOCK in the unit, or `ulimit -l`",
        look: |machine, needs| limit(machine, "Max locked memory", (u64::from(needs.cores) * 448 + 512) << 10, 1024),
    },
    Knob { name: "io_uring", why: "without io_uring no core starts", remedy: BY_PBTUNE, look: io_uring },
    Knob {
        name: "clocksource",
        why: "a clock that is read by a system call costs each turn of a core microseconds",
        remedy: BY_PBTUNE,
        look: clocksource,
    },
    Knob {
        name: "numa_balancing",
        why: "the kernel would unmap pages to see who uses them; cores are pinned, and the answer is known",
        remedy: BY_PBTUNE,
        look: numa_balancing,
    },
];

fn write(path: impl Into<String>, value: impl ToString) -> Write {
    Write { path: path.into().into(), value: value.to_string() }
}

fn at_least(machine: &Machine, path: &str, least: i64) -> Seen {
    let Some(found) = machine.number(path) else { return Seen::not_applicable("not readable") };
    Seen::new(found, format!("at least {least}"), found >= least).by(vec![write(path, least)])
}

fn at_most(machine: &Machine, path: &str, most: i64, better: i64) -> Seen {
    let Some(found) = machine.number(path) else { return Seen::not_applicable("not readable") };
    Seen::new(found, format!("at most {most}"), found <= most).by(vec![write(path, better)])
}

/// Interfaces with a device behind them: neither loopback nor bridges.
fn interfaces(machine: &Machine) -> Vec<String> {
    let has_device = |name: &String| !machine.names(&format!("/sys/class/net/{name}/device")).is_empty();
    machine.names("/sys/class/net").into_iter().filter(has_device).collect()
}

/// Interrupts of an interface's queues: its device's own, or for virtio the ones of the device above it.
fn interrupts(machine: &Machine, interface: &str) -> Vec<String> {
    let device = format!("/sys/class/net/{interface}/device");
    [format!("{device}/msi_irqs"), format!("{device}/../msi_irqs")]
        .iter()
        .map(|folder| machine.names(folder))
        .find(|names| !names.is_empty())
        .unwrap_or_default()
}

fn irq(machine: &Machine, needs: Needs) -> Seen {
    let (mut wrong, mut writes, mut count) = (Vec::new(), Vec::new(), 0);
    for interface in interfaces(machine) {
        for (number, interrupt) in interrupts(machine, &interface).iter().enumerate() {
            let path = format!("/proc/irq/{interrupt}/smp_affinity_list");
            let Some(found) = machine.read(&path) else { continue };
            let core = (number % usize::from(needs.cores.max(1))).to_string();
            count += 1;
            if found != core {
                wrong.push(format!("{interface} {interrupt}: {found}"));
                writes.push(write(path, core));
            }
        }
    }
    match count {
        0 | 1 => Seen::not_applicable("no network card with several interrupts"),
        _ => Seen::new(shown(&wrong, count), "interrupt i on core i", wrong.is_empty()).by(writes),
    }
}

/// What of many is not as wanted: the first ones.
fn shown(wrong: &[String], count: usize) -> String {
    match wrong {
        [] => format!("all {count} as wanted"),
        [first] => first.clone(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    }
}

/// Receive or transmit queues: each its own core where there are enough, all cores for each where they are few.
fn steering(machine: &Machine, needs: Needs, prefix: &str, file: &str) -> Seen {
    let (mut wrong, mut writes, mut count) = (Vec::new(), Vec::new(), 0);
    for interface in interfaces(machine) {
        let folder = format!("/sys/class/net/{interface}/queues");
        let queues: Vec<String> = machine.names(&folder).into_iter().filter(|name| name.starts_with(prefix)).collect();
        for (number, queue) in queues.iter().enumerate() {
            let path = format!("{folder}/{queue}/{file}");
            // A card with one transmit queue has the file and refuses to read it.
            let Some(found) = machine.read(&path) else { continue };
            let enough = queues.len() >= usize::from(needs.cores);
            let wanted = match (enough, prefix) {
                (true, "rx-") => mask(0..0),
                (true, _) => mask(number as u16..number as u16 + 1),
                (false, _) => mask(0..needs.cores),
            };
            count += 1;
            if digits(&found) != digits(&wanted) {
                wrong.push(format!("{interface} {queue}: {found}"));
                writes.push(write(path, wanted));
            }
        }
    }
    match count {
        0 => Seen::not_applicable("no network card with queues"),
        _ => Seen::new(shown(&wrong, count), "every core reached", wrong.is_empty()).by(writes),
    }
}

/// CPUs as the kernel writes them: words of 32 bits in hexadecimal, commas between, the highest first.
fn mask(cpus: std::ops::Range<u16>) -> String {
    let words = usize::from(cpus.end.max(1)).div_ceil(32);
    let bit = |cpu: u16| 1u32 << (cpu % 32);
    let word = |index: usize| cpus.clone().filter(|cpu| usize::from(cpu / 32) == index).map(bit).fold(0, |all, one| all | one);
    (0..words).rev().map(|index| format!("{:x}", word(index))).collect::<Vec<_>>().join(",")
}

/// A mask without what does not count: leading zeros and commas.
fn digits(mask: &str) -> String {
    let words = mask.split(',').map(|word| format!("{word:0>8}")).collect::<String>();
    words.trim_start_matches('0').to_owned()
}

fn busy_poll(machine: &Machine, _: Needs) -> Seen {
    let paths = ["/proc/sys/net/core/busy_poll", "/proc/sys/net/core/busy_read"];
    let Some(found) = machine.number(paths[0]) else { return Seen::not_applicable("not readable") };
    if interfaces(machine).is_empty() {
        return Seen::not_applicable("no network card");
    }
    let state = if found > 0 { State::Good } else { State::Optional };
    let writes = if found > 0 { Vec::new() } else { paths.map(|path| write(path, 50)).to_vec() };
    Seen { found: found.to_string(), wanted: "50, if latency is all".into(), state, writes }
}

fn cpus(machine: &Machine) -> Vec<String> {
    let is_cpu = |name: &String| name.strip_prefix("cpu").is_some_and(|rest| rest.parse::<u16>().is_ok());
    machine.names("/sys/devices/system/cpu").into_iter().filter(is_cpu).collect()
}

fn governor(machine: &Machine, _: Needs) -> Seen {
    let path = |cpu: &String| format!("/sys/devices/system/cpu/{cpu}/cpufreq/scaling_governor");
    let found: Vec<(String, String)> =
        cpus(machine).iter().filter_map(|cpu| Some((path(cpu), machine.read(&path(cpu))?))).collect();
    let Some((_, first)) = found.first() else { return Seen::not_applicable("the hypervisor or the firmware decides") };
    let wrong: Vec<_> = found.iter().filter(|(_, governor)| governor != "performance").collect();
    let shown = wrong.first().map_or(first, |(_, governor)| governor);
    let writes = wrong.iter().map(|(path, _)| write(path.clone(), "performance")).collect();
    Seen::new(shown, "performance", wrong.is_empty()).by(writes)
}

fn c_states(machine: &Machine, _: Needs) -> Seen {
    let mut writes = Vec::new();
    let mut deepest = 0;
    let mut states = 0;
    for cpu in cpus(machine) {
        let folder = format!("/sys/devices/system/cpu/{cpu}/cpuidle");
        for state in machine.names(&folder) {
            let Some(latency) = machine.number(&format!("{folder}/{state}/latency")) else { continue };
            states += 1;
            let path = format!("{folder}/{state}/disable");
            if latency > DEEP_SLEEP_US && machine.number(&path) == Some(0) {
                deepest = deepest.max(latency);
                writes.push(write(path, 1));
            }
        }
    }
    if states == 0 {
        return Seen::not_applicable("the hypervisor decides");
    }
    let wanted = format!("at most {DEEP_SLEEP_US} us, if latency is all");
    let state = if writes.is_empty() { State::Good } else { State::Optional };
    Seen { found: format!("{deepest} us to wake"), wanted, state, writes }
}

/// Sleeps that take longer to leave count as deep, in microseconds.
const DEEP_SLEEP_US: i64 = 10;

fn huge_pages(machine: &Machine, _: Needs) -> Seen {
    let path = "/sys/kernel/mm/transparent_hugepage/enabled";
    let Some(line) = machine.read(path) else { return Seen::not_applicable("the kernel has none") };
    let found = line.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']')).unwrap_or(&line);
    Seen::new(found, "madvise or always", matches!(found, "madvise" | "always")).by(vec![write(path, "madvise")])
}

/// A limit of this process, in units of `unit` bytes.
fn limit(machine: &Machine, name: &str, needed: u64, unit: u64) -> Seen {
    let Some(limits) = machine.read("/proc/self/limits") else { return Seen::not_applicable("not readable") };
    let line = limits.lines().find_map(|line| line.strip_prefix(name));
    let Some(hard) = line.and_then(|line| line.split_whitespace().nth(1)) else {
        return Seen::not_applicable("not readable");
    };
    let number = hard.parse::<u64>().unwrap_or(u64::MAX);
    let found = if number == u64::MAX { "unlimited".into() } else { shown_units(number, unit) };
    Seen::new(found, format!("at least {}", shown_units(needed, unit)), number >= needed)
}

fn shown_units(number: u64, unit: u64) -> String {
    if unit == 1 { number.to_string() } else { format!("{} KiB", number / unit) }
}

fn io_uring(machine: &Machine, _: Needs) -> Seen {
    let path = "/proc/sys/kernel/io_uring_disabled";
    // Kernels before 6.6 have no such switch.
    let Some(found) = machine.number(path) else { return Seen::not_applicable("no switch in this kernel") };
    let words = ["allowed", "for a group only", "forbidden"].get(found as usize).copied().unwrap_or("forbidden");
    Seen::new(words, "allowed", found == 0).by(vec![write(path, 0)])
}

fn clocksource(machine: &Machine, _: Needs) -> Seen {
    let folder = "/sys/devices/system/clocksource/clocksource0";
    let Some(found) = machine.read(&format!("{folder}/current_clocksource")) else {
        return Seen::not_applicable("not readable");
    };
    let available = machine.read(&format!("{folder}/available_clocksource")).unwrap_or_default();
    // Those that are read without a system call.
    let fast = ["tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page"];
    let better = fast.iter().find(|name| available.split_whitespace().any(|word| word == **name));
    match better {
        _ if fast.contains(&found.as_str()) => Seen::new(&found, "one that is read without a system call", true),
        Some(better) => Seen::new(&found, better, false).by(vec![write(format!("{folder}/current_clocksource"), better)]),
        None => Seen::not_applicable(&found),
    }
}

fn numa_balancing(machine: &Machine, _: Needs) -> Seen {
    let path = "/proc/sys/kernel/numa_balancing";
    let nodes = machine.names("/sys/devices/system/node");
    if nodes.iter().filter(|name| name.starts_with("node")).count() < 2 {
        return Seen::not_applicable("one memory node");
    }
    let Some(found) = machine.number(path) else { return Seen::not_applicable("not in this kernel") };
    Seen::new(found, 0, found == 0).by(vec![write(path, 0)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_those_of_the_kernel() {
        assert_eq!(mask(0..0), "0");
        assert_eq!(mask(0..4), "f");
        assert_eq!(mask(3..4), "8");
        assert_eq!(mask(0..40), "ff,ffffffff");
        assert_eq!(mask(33..34), "2,0");
        assert_eq!(digits("00000000,0000000f"), digits("f"));
        assert_ne!(digits("1,00000000"), digits("1"));
    }
}
