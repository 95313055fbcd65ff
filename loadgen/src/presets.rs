//! Published workloads by name. A preset is a list of options: what stands behind it on the command line overrides it.
//!
//! Sources: *ETC*, *USR*: Atikoglu et al., "Workload Analysis of a Large-Scale Key-Value Store", SIGMETRICS 2012 (value sizes
//! of ETC as the generalised Pareto distribution given there; keys have the mean size). *cluster..*: Yang, Yue and Vinayak,
//! "A large scale analysis of hundreds of in-memory cache clusters at Twitter", OSDI 2020, and the table `2020Mar` of the
//! published traces: mean key size, mean value size, Zipf alpha, common times to live, operations (gets count as get, add as
//! set). *ycsb_..*: Cooper et al., "Benchmarking Cloud Serving Systems with YCSB", SoCC 2010, core workloads, at 100 bytes.

/// Name and options.
pub const PRESETS: [(&str, &str); 11] = [
    ("etc", "--key_size 36 --value_size pareto:0,214.476,0.348238 --ratio get:30,set:1 --distribution zipf:0.99 --fill_misses"),
    ("usr", "--key_size 19 --value_size 2 --ratio get:998,set:2 --distribution zipf:0.99"),
    (
        "cluster4",
        "--key_size 67 --value_size 2439 --ratio get:93,set:7 --distribution zipf:1.10 \
         --ttl 60s:39,300s:24,1h:13,600s:12,4h:9,1d:3 --fill_misses",
    ),
    ("cluster12", "--key_size 44 --value_size 1030 --ratio set:80,get:20 --distribution zipf:0.30 --ttl 300s"),
    (
        "cluster22",
        "--key_size 54 --value_size 4 --ratio get:72,incr:18,set:10 --distribution zipf:0.76 --ttl 1d:85,1h:11,1800s:3",
    ),
    ("cluster29", "--key_size 36 --value_size 799 --ratio get:86,set:13 --distribution zipf:1.23 --ttl 1h:67,2h:33"),
    ("cluster45", "--key_size 14 --value_size 120 --ratio get:85,set:15 --distribution zipf:0.64 --ttl 15d"),
    (
        "cluster52",
        "--key_size 20 --value_size 273 --ratio get:91,set:4,cas:2 --distribution zipf:1.21 --ttl 1d:65,14d:27,12h:7 --fill_misses",
    ),
    ("ycsb_a", "--value_size 100 --ratio get:50,set:50 --distribution zipf:0.99"),
    ("ycsb_b", "--value_size 100 --ratio get:95,set:5 --distribution zipf:0.99"),
    ("ycsb_d", "--value_size 100 --ratio get:95,set:5 --distribution latest:0.99"),
];

/// Puts the options of each `--preset NAME` in its place, up to a lone `--`.
pub fn expanded(arguments: Vec<String>) -> Result<Vec<String>, String> {
    let mut output = Vec::new();
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        if argument == "--" {
            output.push(argument);
            output.extend(rest);
            break;
        }
        let name = match argument.strip_prefix("--preset") {
            Some("") => rest.next(),
            Some(after) if after.starts_with('=') => Some(after[1..].to_owned()),
            _ => {
                output.push(argument);
                continue;
            }
        };
        let known = PRESETS.iter().find(|(known, _)| Some(*known) == name.as_deref());
        let (_, options) = known.ok_or_else(|| format!("--preset wants one of {}", names()))?;
        output.extend(options.split_whitespace().map(str::to_owned));
    }
    Ok(output)
}

/// All names.
pub fn names() -> String {
    PRESETS.map(|(name, _)| name).join(", ")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn every_preset_is_accepted_and_can_be_overridden() {
        for (name, _) in PRESETS {
            let line = format!("loadgen run --preset {name} --key_size 77");
            let arguments = expanded(line.split(' ').map(str::to_owned).collect()).expect("known");
            let options = crate::options::Options::try_parse_from(arguments).unwrap_or_else(|error| panic!("{name}: {error}"));
            let crate::options::Action::Run(run) = options.action else { panic!("a run") };
            assert_eq!(run.work.key_size, 77);
        }
        assert!(expanded(vec!["--preset".into(), "x".into()]).is_err());
    }
}
