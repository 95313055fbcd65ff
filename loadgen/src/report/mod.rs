//! From counts to something to read. One module per form.

pub mod text;

use crate::options::Run;
use crate::run::Finished;

/// Prints the report of a run.
pub fn write(_options: &Run, finished: &Finished) -> Result<(), String> {
    print!("{}", text::run(&finished.outcome.tally));
    for growth in &finished.growth {
        println!("{}", text::growth(growth));
    }
    if let Some(words) = &finished.invalid {
        println!("INVALID: {words}");
    }
    Ok(())
}
