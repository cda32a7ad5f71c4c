//! Compiles `proto/` to Rust without a protobuf compiler on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = [
        "kv.proto",
        "auth.proto",
        "rpc.proto",
        "v3election.proto",
        "v3lock.proto",
        "health.proto",
        "peer.proto",
    ];
    let descriptors = protox::compile(files, ["proto"])?;
    prost_build::Config::new()
        // A `bytes` field becomes a slice of the buffer it was read from.
        .bytes(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
