//! The program.
use pbcache::node::{Node, Options};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str, default: &str| {
        arguments.iter().position(|a| a == name).and_then(|i| arguments.get(i + 1)).cloned().unwrap_or(default.into())
    };
    let options = Options {
        cores: value("--cores", "1").parse().unwrap(),
        memory_bytes: value("--memory_size", "100").parse::<usize>().unwrap() << 20,
        engine: if value("--engine", "pump") == "streams" {
            pbcache::runtime::Engine::Streams
        } else {
            pbcache::runtime::Engine::Pump
        },
        addresses: vec![format!("127.0.0.1:{}", value("--port", "11211")).parse().unwrap()],
    };
    let _node = Node::start(&options).unwrap();
    println!("listening");
    loop {
        std::thread::park();
    }
}
