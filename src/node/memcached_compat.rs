//! Commands that tune what is not here: `slabs`, `lru`, `lru_crawler`.
//!
//! There are no slabs, LRU lists or crawler, so a well-formed line changes nothing and is answered as by a memcached that had
//! nothing to do; a malformed one gets memcached's error, so that scripts notice their typing mistakes here as there.
//!
//! Lives here: from the words of a line to its answer. Not here: dumps of keys (`control`).

/// What a `lru_crawler` line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crawl {
    /// This line is the answer.
    Line(&'static str),
    /// All keys: short (`mgdump`) or with what is known of them (`metadump`).
    Dump {
        /// Keys only, as `mg` lines.
        short: bool,
    },
}

const OK: &str = "OK";
const END: &str = "END";
const ERROR: &str = "ERROR";
const BAD_FORMAT: &str = "CLIENT_ERROR bad command line format";
const BAD_CLASS: &str = "BADCLASS invalid class id";

/// Highest slab class of memcached; items are presented as class 1.
pub const CLASS_MAX: u32 = 63;
/// Longest sleep of the crawler between items, in microseconds. memcached 1.6.
const SLEEP_US_MAX: u32 = 1_000_000;
/// Most of memory for the hot and the warm list together, in percent. memcached 1.6.
const PERCENT_MAX: u32 = 80;

/// The answer to a `slabs` or `lru` line, without its line end.
pub fn tune(line: &[u8]) -> &'static str {
    let words: Vec<&str> = words(line).collect();
    match words[..] {
        ["slabs", "reassign", source, target] => reassign(source, target),
        ["slabs", "automove", ref rest @ ..] => automove(rest),
        ["lru", "mode", "flat" | "segmented"] => OK,
        ["lru", "tune", hot, warm, hot_factor, warm_factor] => match (number(hot), number(warm)) {
            (Some(hot), Some(warm)) if hot.saturating_add(warm) > PERCENT_MAX => "ERROR hot and warm pcts must not exceed 80",
            (Some(_), Some(_)) => match (hot_factor.parse::<f64>(), warm_factor.parse::<f64>()) {
                (Ok(hot), Ok(warm)) if hot > 0.0 && warm > 0.0 => OK,
                (Ok(_), Ok(_)) => "ERROR hot/warm age factors must be greater than 0",
                _ => ERROR,
            },
            _ => ERROR,
        },
        ["lru", "temp_ttl", seconds] if seconds.parse::<i32>().is_ok() => OK,
        _ => ERROR,
    }
}

fn reassign(source: &str, target: &str) -> &'static str {
    let (Ok(source), Ok(target)) = (source.parse::<i32>(), target.parse::<i32>()) else { return BAD_FORMAT };
    let is_class = |class: i32| class <= CLASS_MAX as i32;
    match () {
        () if source == target => "SAME src and dst class are identical",
        () if !is_class(source) || !is_class(target) || target < 0 => "BADCLASS invalid src or dst class id",
        () => "NOSPARE source class has no spare pages",
    }
}

fn automove(words: &[&str]) -> &'static str {
    match words {
        ["ratio" | "freeratio", value, ..] if value.parse::<f64>().is_ok() => OK,
        ["ratio" | "freeratio", ..] => ERROR,
        ["window", value, ..] if number(value).is_some() => OK,
        ["window", ..] => BAD_FORMAT,
        [level, ..] => match number(level) {
            Some(0..=2) => OK,
            Some(_) => ERROR,
            None => BAD_FORMAT,
        },
        [] => ERROR,
    }
}

/// What the words behind `lru_crawler` ask for.
pub fn crawl(line: &[u8], dump_disabled: bool) -> Crawl {
    let words: Vec<&str> = words(line).collect();
    let short = words.first() == Some(&"mgdump");
    Crawl::Line(match words[..] {
        ["enable" | "disable"] => OK,
        ["sleep", us] => match number(us) {
            Some(us) if us > SLEEP_US_MAX => "CLIENT_ERROR sleep must be one second or less",
            Some(_) => OK,
            None => BAD_FORMAT,
        },
        ["tocrawl", count] if number(count).is_some() => OK,
        ["tocrawl", _] => BAD_FORMAT,
        ["crawl", "all"] => OK,
        ["crawl", classes] if self::classes(classes).is_some() => OK,
        ["metadump", _] if dump_disabled => "ERROR metadump not allowed",
        ["mgdump", _] if dump_disabled => "ERROR key dump not allowed",
        ["metadump" | "mgdump", "all" | "hash"] => return Crawl::Dump { short },
        ["metadump" | "mgdump", classes] => match self::classes(classes) {
            Some(true) => return Crawl::Dump { short },
            Some(false) if short => "EN",
            Some(false) => END,
            None => BAD_CLASS,
        },
        ["crawl", _] => BAD_CLASS,
        _ => ERROR,
    })
}

/// Whether class 1 is among these, in which all items are presented; `None` if one of them is no class.
fn classes(list: &str) -> Option<bool> {
    let classes: Option<Vec<u32>> =
        list.split(',').map(|class| number(class).filter(|class| (1..=CLASS_MAX).contains(class))).collect();
    classes.map(|classes| classes.contains(&1))
}

/// The words of a line; a word that is not UTF-8 is one that no command has.
pub fn words(line: &[u8]) -> impl Iterator<Item = &str> {
    let words = line.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    words.map(|word| std::str::from_utf8(word).unwrap_or("\u{fffd}"))
}

/// A word as a number: digits only.
pub fn number(word: &str) -> Option<u32> {
    word.bytes().all(|byte| byte.is_ascii_digit()).then(|| word.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuning_lines_are_answered_like_memcached() {
        let lines = [
            ("slabs foo bar", ERROR),
            ("slabs reassign 1", ERROR),
            ("slabs reassign 1 2", "NOSPARE source class has no spare pages"),
            ("slabs reassign 0 1", "NOSPARE source class has no spare pages"),
            ("slabs reassign 99 1", "BADCLASS invalid src or dst class id"),
            ("slabs reassign 1 1", "SAME src and dst class are identical"),
            ("slabs reassign a b", BAD_FORMAT),
            ("slabs automove 0", OK),
            ("slabs automove 2", OK),
            ("slabs automove 3", ERROR),
            ("slabs automove a", BAD_FORMAT),
            ("slabs automove ratio", ERROR),
            ("slabs automove ratio x", ERROR),
            ("slabs automove window", BAD_FORMAT),
            ("slabs automove ratio 0.5", OK),
            ("slabs automove window 10.5", BAD_FORMAT),
            ("lru mode flat", OK),
            ("lru mode segmented", OK),
            ("lru mode foo", ERROR),
            ("lru tune 10 25 0.1 2.0", OK),
            ("lru tune 10 25", ERROR),
            ("lru tune 90 90 0.1 2.0", "ERROR hot and warm pcts must not exceed 80"),
            ("lru tune 4294967295 1 0.1 2.0", "ERROR hot and warm pcts must not exceed 80"),
            ("lru tune a b c d", ERROR),
            ("lru tune 10 25 0 2.0", "ERROR hot/warm age factors must be greater than 0"),
            ("lru tune 10 25 x 2.0", ERROR),
            ("lru temp_ttl 5", OK),
            ("lru temp_ttl -1", OK),
            ("lru temp_ttl a", ERROR),
            ("extstore foo bar", ERROR),
            ("", ERROR),
            ("slabs \u{80}", ERROR),
        ];
        for (line, answer) in lines {
            assert_eq!(tune(line.as_bytes()), answer, "{line}");
        }
        assert_eq!(tune(b"slabs automove \xff\xfe"), BAD_FORMAT);
    }

    #[test]
    fn crawler_lines_are_answered_like_memcached() {
        let lines = [
            ("enable", OK),
            ("disable", OK),
            ("enable x", ERROR),
            ("sleep 0", OK),
            ("sleep 1000000", OK),
            ("sleep 1000001", "CLIENT_ERROR sleep must be one second or less"),
            ("sleep", ERROR),
            ("tocrawl 10", OK),
            ("tocrawl a", BAD_FORMAT),
            ("crawl all", OK),
            ("crawl 1,2", OK),
            ("crawl 0", BAD_CLASS),
            ("crawl 99", BAD_CLASS),
            ("crawl abc", BAD_CLASS),
            ("crawl", ERROR),
            ("metadump 2", END),
            ("metadump 99", BAD_CLASS),
            ("metadump 0", BAD_CLASS),
            ("metadump abc", BAD_CLASS),
            ("metadump all all", ERROR),
            ("metadump", ERROR),
            ("mgdump 2", "EN"),
            ("foo bar", ERROR),
            ("", ERROR),
        ];
        for (line, answer) in lines {
            assert_eq!(crawl(line.as_bytes(), false), Crawl::Line(answer), "{line}");
        }
        for (line, short) in [("metadump all", false), ("metadump hash", false), ("metadump 1,2", false), ("mgdump hash", true)]
        {
            assert_eq!(crawl(line.as_bytes(), false), Crawl::Dump { short }, "{line}");
        }
        assert_eq!(crawl(b"metadump all", true), Crawl::Line("ERROR metadump not allowed"));
        assert_eq!(crawl(b"mgdump all", true), Crawl::Line("ERROR key dump not allowed"));
    }
}
