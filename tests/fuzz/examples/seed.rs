//! Writes the corpora to start from: `seed DIR` fills `DIR/<target>/`. The same files every time.

// No target: cargo-fuzz builds every binary with the engine's flags, and this one lacks the engine.

use std::path::PathBuf;
use std::{env, fs, io, process};

fn main() -> io::Result<()> {
    let Some(dir) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: seed DIR");
        process::exit(2);
    };
    for (target, inputs) in pinion_fuzz::seed::corpora() {
        let dir = dir.join(target);
        fs::create_dir_all(&dir)?;
        for (number, input) in inputs.iter().enumerate() {
            fs::write(dir.join(format!("seed-{number:03}")), input)?;
        }
        println!("{}: {} inputs", dir.display(), inputs.len());
    }
    Ok(())
}
