//! Compiles the client's part of `proto/`. The kit has messages of its own, so that it shares no code with
//! the server that it tests, and a change of the server does not build it anew.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = "../../proto";
    println!("cargo::rerun-if-changed={protos}");
    let descriptors = protox::compile(["rpc.proto", "v3election.proto", "v3lock.proto"], [protos])?;
    prost_build::Config::new()
        // A `bytes` field becomes a slice of the buffer it was read from.
        .bytes(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
