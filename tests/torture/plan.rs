//! From a seed to what is done to a ring, step by step, so that it can be told and done again.
//!
//! ```text
//!   nodes that are stopped, cut off, or killed and not yet filled again:  never more than `Shape::absent_max` at a time, because only
//!   then the ring promises that what was acknowledged is there: each write has min(redundancy, nodes - absent) copies
//! ```
//!
//! Lives here: choices. Not here: carrying them out (`episode`).

use std::fmt;

use super::random::Random;

/// What the ring of an episode looks like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Cores of each node.
    pub cores: Vec<usize>,
    pub redundancy: usize,
    /// The nodes prove to each other that they know a secret.
    pub secret: bool,
}

impl Shape {
    pub fn nodes(&self) -> usize {
        self.cores.len()
    }

    /// Nodes that may be away at the same time.
    pub fn absent_max(&self) -> usize {
        (self.redundancy - 1).min((self.nodes() - 1) / 2)
    }
}

/// What goes wrong in an episode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Theme {
    /// Nothing, but pauses of the clients.
    Calm,
    /// SIGSTOP and SIGCONT.
    Stops,
    /// kill -9 and start again.
    Kills,
    /// Both.
    Mixed,
    /// Nodes without clients are cut off.
    Cuts,
    /// Ways that delay.
    Slow,
    /// Everything is flushed now and then, and nodes are stopped.
    Flushes,
    /// Nodes with clients on both sides of a cut.
    Parted,
    /// Connections between nodes end, and can be made again at once.
    Breaks,
    /// Stops, kills, delays and breaks, one into the other.
    Storm,
}

/// One after the other by seed: a few seeds in a row have them all.
const THEMES: [Theme; 16] = [
    Theme::Calm,
    Theme::Stops,
    Theme::Kills,
    Theme::Cuts,
    Theme::Mixed,
    Theme::Parted,
    Theme::Storm,
    Theme::Stops,
    Theme::Breaks,
    Theme::Slow,
    Theme::Kills,
    Theme::Flushes,
    Theme::Cuts,
    Theme::Stops,
    Theme::Mixed,
    Theme::Parted,
];

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Clients go on.
    Wait {
        ms: u64,
    },
    /// Clients ask nothing.
    Lull {
        ms: u64,
    },
    Stop {
        node: usize,
    },
    Resume {
        node: usize,
    },
    Kill {
        node: usize,
    },
    Start {
        node: usize,
    },
    /// Clients leave the node and do not come back before `Admit`.
    Clear {
        node: usize,
    },
    Admit {
        node: usize,
    },
    /// No byte passes from one to the other.
    Cut {
        from: usize,
        to: usize,
    },
    Delay {
        from: usize,
        to: usize,
        ms: u64,
    },
    /// The connections between two nodes end.
    Break {
        from: usize,
        to: usize,
    },
    /// All ways are whole again. `reset`: connections that were cut end, instead of passing on what they hold.
    Heal {
        reset: bool,
    },
    Flush {
        node: usize,
    },
    /// Every node says that everything has gone where it belongs.
    Settle,
}

/// All that a seed determines.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub theme: Theme,
    pub shape: Shape,
    pub steps: Vec<Step>,
    /// At the end, every node is stopped in turn while the others are read.
    pub takes_turns: bool,
}

/// Collects the steps of a plan.
struct Planner {
    random: Random,
    shape: Shape,
    steps: Vec<Step>,
}

impl Plan {
    pub fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        (0..8).for_each(|_| _ = random.next());
        let nodes = random.pick(&[3, 3, 4, 5, 5]);
        let redundancy = random.pick(&[2, 2, 3, 3]);
        let cores = (0..nodes).map(|_| random.pick(&[1, 2])).collect();
        let theme = THEMES[seed as usize % THEMES.len()];
        let (takes_turns, secret) = (random.one_in(4), random.one_in(2));
        let mut planner = Planner { random, shape: Shape { cores, redundancy, secret }, steps: Vec::new() };
        planner.fill(theme);
        Self { seed, theme, shape: planner.shape, steps: planner.steps, takes_turns }
    }

    /// Whether clients are on both sides of a cut.
    pub fn is_parted(&self) -> bool {
        self.theme == Theme::Parted
    }
}

impl Planner {
    fn fill(&mut self, theme: Theme) {
        self.wait(200, 600);
        let rounds = 2 + self.random.below(3);
        for round in 0..rounds {
            match theme {
                Theme::Calm => self.wait(300, 800),
                Theme::Stops => self.stops(),
                Theme::Kills => self.kills(),
                Theme::Mixed => {
                    let choice = self.random.below(3);
                    [Self::stops, Self::kills, Self::stop_and_kill][choice as usize](self);
                }
                Theme::Cuts => self.cut_off(),
                Theme::Slow => self.slow(),
                Theme::Flushes => self.flushes(),
                Theme::Parted if round == 0 => self.part(),
                Theme::Parted => break,
                Theme::Breaks => self.breaks(),
                Theme::Storm => self.storm(),
            }
            if self.random.one_in(4) {
                let ms = 300 + self.random.below(1700);
                self.steps.push(Step::Lull { ms });
            }
            self.wait(50, 500);
        }
    }

    fn wait(&mut self, least: u64, most: u64) {
        let ms = least + self.random.below(most - least);
        self.steps.push(Step::Wait { ms });
    }

    /// Some nodes that may be away together, in random order.
    fn some_nodes(&mut self) -> Vec<usize> {
        let count = 1 + self.random.below(self.shape.absent_max() as u64) as usize;
        let mut nodes: Vec<usize> = (0..self.shape.nodes()).collect();
        for index in (1..nodes.len()).rev() {
            nodes.swap(index, self.random.below(index as u64 + 1) as usize);
        }
        nodes.truncate(count);
        nodes
    }

    /// How long a node stands still: hardly noticed, at the border, or taken to be away.
    fn stop_ms(&mut self) -> (u64, u64) {
        self.random.pick(&[(20, 300), (350, 750), (350, 750), (800, 2500)])
    }

    fn stops(&mut self) {
        let nodes = self.some_nodes();
        if let [first, second] = nodes[..]
            && self.random.one_in(2)
        {
            return self.stop_within_a_stop(first, second);
        }
        for &node in &nodes {
            self.steps.push(Step::Stop { node });
            self.wait(1, 200);
        }
        let (least, most) = self.stop_ms();
        self.wait(least, most);
        // Short pauses in a row: each ends before or just after the others have noticed.
        if self.random.one_in(3) {
            for _ in 0..2 {
                self.steps.push(Step::Resume { node: nodes[0] });
                self.wait(1, 400);
                self.steps.push(Step::Stop { node: nodes[0] });
                self.wait(100, 700);
            }
        }
        for &node in &nodes {
            self.steps.push(Step::Resume { node });
            self.wait(1, 200);
        }
        self.steps.push(Step::Settle);
    }

    /// While one node is away, another is for a while: what is written then lies where neither has been.
    fn stop_within_a_stop(&mut self, outer: usize, inner: usize) {
        self.steps.push(Step::Stop { node: outer });
        self.wait(600, 1500);
        self.steps.push(Step::Stop { node: inner });
        self.wait(1200, 2800);
        self.steps.push(Step::Resume { node: inner });
        self.wait(100, 1000);
        self.steps.push(Step::Resume { node: outer });
        self.wait(1, 200);
        self.steps.push(Step::Settle);
    }

    fn kills(&mut self) {
        let nodes = self.some_nodes();
        for &node in &nodes {
            self.steps.push(Step::Kill { node });
            self.wait(1, 300);
        }
        let (least, most) = self.random.pick(&[(1, 100), (300, 1500)]);
        self.wait(least, most);
        for &node in &nodes {
            self.steps.push(Step::Start { node });
        }
        // A node that nobody asks anything comes back as well.
        if self.random.one_in(2) {
            let ms = 400 + self.random.below(800);
            self.steps.push(Step::Lull { ms });
        } else {
            self.wait(1, 600);
        }
        self.steps.push(Step::Settle);
    }

    fn stop_and_kill(&mut self) {
        let nodes = self.some_nodes();
        let [killed, stopped] = nodes[..] else { return self.kills() };
        let first = self.random.one_in(2);
        let steps = [Step::Stop { node: stopped }, Step::Kill { node: killed }];
        self.steps.push(steps[usize::from(first)].clone());
        self.wait(10, 900);
        self.steps.push(steps[usize::from(!first)].clone());
        self.wait(10, 1200);
        self.steps.push(Step::Start { node: killed });
        self.wait(1, 500);
        self.steps.push(Step::Resume { node: stopped });
        self.wait(10, 300);
        self.steps.push(Step::Settle);
    }

    /// A node without clients is cut off, in one direction or both: the others must not notice more than that it is away.
    fn cut_off(&mut self) {
        let nodes = self.some_nodes();
        nodes.iter().for_each(|&node| self.steps.push(Step::Clear { node }));
        self.wait(10, 200);
        for &node in &nodes {
            for other in (0..self.shape.nodes()).filter(|other| !nodes.contains(other)) {
                self.steps.push(Step::Cut { from: node, to: other });
                self.steps.push(Step::Cut { from: other, to: node });
            }
        }
        let (least, most) = self.stop_ms();
        self.wait(least, most);
        let reset = self.random.one_in(2);
        self.steps.push(Step::Heal { reset });
        self.wait(1, 400);
        self.steps.push(Step::Settle);
        nodes.iter().for_each(|&node| self.steps.push(Step::Admit { node }));
    }

    fn slow(&mut self) {
        let count = 1 + self.random.below(self.shape.nodes() as u64);
        for _ in 0..count {
            let (from, to) = self.two_nodes();
            let ms = 2 + self.random.below(58);
            self.steps.push(Step::Delay { from, to, ms });
        }
        self.wait(300, 1500);
        self.steps.push(Step::Heal { reset: false });
        self.wait(10, 300);
    }

    fn breaks(&mut self) {
        let count = 1 + self.random.below(6);
        for _ in 0..count {
            let (from, to) = self.two_nodes();
            self.steps.push(Step::Break { from, to });
            self.wait(1, 400);
        }
    }

    /// Nodes go and come while others are still finding out about those before.
    fn storm(&mut self) {
        let (mut stopped, mut killed, mut started) = (Vec::new(), Vec::new(), Vec::new());
        let count = 6 + self.random.below(10);
        for _ in 0..count {
            let absent = stopped.len() + killed.len() + started.len();
            let present: Vec<usize> = (0..self.shape.nodes())
                .filter(|node| ![&stopped, &killed, &started].iter().any(|of| of.contains(node)))
                .collect();
            match self.random.below(8) {
                0..=3 if absent < self.shape.absent_max() => {
                    let node = self.random.pick(&present);
                    let stops = self.random.one_in(2);
                    self.steps.push(if stops { Step::Stop { node } } else { Step::Kill { node } });
                    if stops { &mut stopped } else { &mut killed }.push(node);
                }
                4 => {
                    let ((from, to), ms) = (self.two_nodes(), 2 + self.random.below(28));
                    self.steps.push(Step::Delay { from, to, ms });
                }
                5 => {
                    let (from, to) = self.two_nodes();
                    self.steps.push(Step::Break { from, to });
                }
                _ if !stopped.is_empty() => self.steps.push(Step::Resume { node: stopped.remove(0) }),
                _ if !killed.is_empty() => {
                    started.push(killed.remove(0));
                    self.steps.extend(started.last().map(|&node| Step::Start { node }));
                }
                // Who was started is away until it has everything again.
                _ if !started.is_empty() => {
                    started.clear();
                    self.steps.push(Step::Settle);
                }
                _ => {}
            }
            self.wait(5, 500);
        }
        self.steps.extend(stopped.into_iter().map(|node| Step::Resume { node }));
        self.steps.extend(killed.into_iter().map(|node| Step::Start { node }));
        self.steps.extend([Step::Heal { reset: false }, Step::Settle]);
    }

    fn flushes(&mut self) {
        let node = self.some_nodes()[0];
        let asked = (node + 1 + self.random.below(self.shape.nodes() as u64 - 1) as usize) % self.shape.nodes();
        if self.random.one_in(2) {
            self.steps.push(Step::Stop { node });
            self.wait(1, 400);
            self.steps.push(Step::Flush { node: asked });
            self.wait(1, 1000);
            self.steps.push(Step::Resume { node });
        } else {
            self.steps.push(Step::Flush { node: asked });
        }
        self.wait(10, 300);
        self.steps.push(Step::Settle);
    }

    fn two_nodes(&mut self) -> (usize, usize) {
        let nodes = self.shape.nodes() as u64;
        let from = self.random.below(nodes);
        let to = (from + 1 + self.random.below(nodes - 1)) % nodes;
        (from as usize, to as usize)
    }

    /// Two sides, or two nodes that do not hear each other, or one that does not hear another.
    fn part(&mut self) {
        let nodes = self.shape.nodes();
        match self.random.below(4) {
            0 => {
                let (from, to) = self.two_nodes();
                self.steps.push(Step::Cut { from, to });
            }
            1 => {
                let (from, to) = self.two_nodes();
                self.steps.extend([Step::Cut { from, to }, Step::Cut { from: to, to: from }]);
            }
            _ => {
                let side: Vec<bool> = (0..nodes).map(|node| node > 0 && (node == 1 || self.random.one_in(2))).collect();
                for from in 0..nodes {
                    for to in (0..nodes).filter(|&to| side[from] != side[to]) {
                        self.steps.push(Step::Cut { from, to });
                    }
                }
            }
        }
        let (least, most) = self.random.pick(&[(50, 500), (500, 1000), (1000, 3000)]);
        self.wait(least, most);
        let reset = self.random.one_in(2);
        self.steps.push(Step::Heal { reset });
        self.wait(10, 500);
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wait { ms } => write!(f, "wait {ms}"),
            Self::Lull { ms } => write!(f, "lull {ms}"),
            Self::Stop { node } => write!(f, "stop n{node}"),
            Self::Resume { node } => write!(f, "resume n{node}"),
            Self::Kill { node } => write!(f, "kill n{node}"),
            Self::Start { node } => write!(f, "start n{node}"),
            Self::Clear { node } => write!(f, "clear n{node}"),
            Self::Admit { node } => write!(f, "admit n{node}"),
            Self::Cut { from, to } => write!(f, "cut n{from}-n{to}"),
            Self::Delay { from, to, ms } => write!(f, "delay n{from}-n{to} {ms}"),
            Self::Break { from, to } => write!(f, "break n{from}-n{to}"),
            Self::Heal { reset } => write!(f, "heal{}", if *reset { " reset" } else { "" }),
            Self::Flush { node } => write!(f, "flush n{node}"),
            Self::Settle => write!(f, "settle"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_seed_is_a_plan() {
        for seed in 1..200 {
            assert_eq!(format!("{:?}", Plan::new(seed)), format!("{:?}", Plan::new(seed)));
        }
    }

    #[test]
    fn never_more_nodes_are_away_than_the_promise_allows() {
        for seed in 1..2000 {
            let plan = Plan::new(seed);
            let (mut stopped, mut killed, mut cut) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
            let mut cleared = BTreeSet::new();
            for step in &plan.steps {
                match *step {
                    Step::Stop { node } => assert!(stopped.insert(node)),
                    Step::Resume { node } => assert!(stopped.remove(&node)),
                    Step::Kill { node } => assert!(killed.insert(node)),
                    Step::Clear { node } => assert!(cleared.insert(node)),
                    Step::Admit { node } => assert!(cleared.remove(&node)),
                    Step::Cut { from, .. } if cleared.contains(&from) => _ = cut.insert(from),
                    Step::Cut { to, .. } => assert!(plan.is_parted() || cleared.contains(&to)),
                    Step::Heal { .. } => cut.clear(),
                    Step::Settle => {
                        assert!(stopped.is_empty() && cut.is_empty(), "{plan:?}");
                        killed.clear();
                    }
                    _ => {}
                }
                assert!(stopped.len() + killed.len() + cut.len() <= plan.shape.absent_max(), "{plan:?}");
            }
            assert!(stopped.is_empty() && killed.is_empty() && cut.is_empty() && cleared.is_empty(), "{plan:?}");
        }
    }
}
