//! Compiles `proto/` to Rust without a protobuf compiler on the machine, notes what is built of what, and
//! writes down for the JSON gateway which fields the messages have (`rpc/json/schema.rs`).

#![expect(clippy::disallowed_methods, reason = "cargo and packagers speak to a build script by variables")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};

/// What a command says on its standard output; None if it fails or is not there.
fn said(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// The commit, for `--version`. A packager without a repository sets PINION_BUILD_COMMIT.
fn commit() -> String {
    println!("cargo::rerun-if-env-changed=PINION_BUILD_COMMIT");
    if let Ok(given) = std::env::var("PINION_BUILD_COMMIT") {
        return given;
    }
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = said("git", &["rev-parse", "--git-path", file]) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let Some(commit) = said("git", &["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    let is_changed = said("git", &["status", "--porcelain", "--untracked-files=no"]);
    if is_changed.is_none_or(|files| files.is_empty()) { commit } else { format!("{commit}+") }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let of_cargo = |name: &str| std::env::var(name).unwrap_or_default();
    let compiler = said(&of_cargo("RUSTC"), &["--version"]).unwrap_or_default();
    println!("cargo::rustc-env=PINION_COMMIT={}", commit());
    println!("cargo::rustc-env=PINION_BUILD={}, {}, {compiler}", of_cargo("PROFILE"), of_cargo("TARGET"));
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
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("json_schema.rs"), Schema::of(&descriptors).write())?;
    prost_build::Config::new()
        // A `bytes` field becomes a slice of the buffer it was read from.
        .bytes(["."])
        .compile_fds(descriptors)?;
    Ok(())
}

/// The messages and enums of all files, by their full names.
struct Schema<'a> {
    messages: BTreeMap<String, &'a DescriptorProto>,
    enums: BTreeMap<String, &'a EnumDescriptorProto>,
    /// Path of a call, its request, its answer.
    calls: Vec<(String, String, String)>,
}

impl<'a> Schema<'a> {
    fn of(set: &'a FileDescriptorSet) -> Self {
        let mut schema = Self { messages: BTreeMap::new(), enums: BTreeMap::new(), calls: Vec::new() };
        for file in &set.file {
            let package = format!(".{}", file.package());
            // Members' own conversation is no JSON.
            if package.starts_with(".pinion.") {
                continue;
            }
            for message in &file.message_type {
                schema.add_message(&package, message);
            }
            for values in &file.enum_type {
                schema.enums.insert(format!("{package}.{}", values.name()), values);
            }
            for service in &file.service {
                for call in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), call.name());
                    schema.calls.push((path, call.input_type().to_owned(), call.output_type().to_owned()));
                }
            }
        }
        schema
    }

    fn add_message(&mut self, parent: &str, message: &'a DescriptorProto) {
        let name = format!("{parent}.{}", message.name());
        for nested in &message.nested_type {
            self.add_message(&name, nested);
        }
        for values in &message.enum_type {
            self.enums.insert(format!("{name}.{}", values.name()), values);
        }
        self.messages.insert(name, message);
    }

    /// The messages that are part of a call, and their enums.
    fn used(&self) -> BTreeSet<String> {
        let mut used = BTreeSet::new();
        let mut next: Vec<&str> =
            self.calls.iter().flat_map(|(_, request, answer)| [request.as_str(), answer.as_str()]).collect();
        while let Some(name) = next.pop() {
            if used.insert(name.to_owned()) {
                let fields = self.messages.get(name).into_iter().flat_map(|message| &message.field);
                next.extend(fields.map(|field| field.type_name()).filter(|name| !name.is_empty()));
            }
        }
        used
    }

    fn write(&self) -> String {
        let mut out = String::new();
        let used = self.used();
        for (name, values) in self.enums.iter().filter(|(name, _)| used.contains(*name)) {
            let values: String = (values.value.iter())
                .map(|value| format!("({:?}, {}), ", value.name(), value.number()))
                .collect();
            out += &format!("static {}: Enum = Enum {{ values: &[{values}] }};\n", constant(name));
        }
        for (name, message) in self.messages.iter().filter(|(name, _)| used.contains(*name)) {
            let mut fields: Vec<_> = message.field.iter().collect();
            fields.sort_by_key(|field| field.number());
            out += &format!("static {}: Message = Message {{ fields: &[\n", constant(name));
            for field in fields {
                let kind = match field.r#type() {
                    Type::Int64 => "Kind::Int64".to_owned(),
                    Type::Uint64 => "Kind::Uint64".to_owned(),
                    Type::Uint32 => "Kind::Uint32".to_owned(),
                    Type::Bool => "Kind::Bool".to_owned(),
                    Type::String => "Kind::Text".to_owned(),
                    Type::Bytes => "Kind::Bytes".to_owned(),
                    Type::Enum => format!("Kind::Enum(&{})", constant(field.type_name())),
                    Type::Message => format!("Kind::Message(&{})", constant(field.type_name())),
                    other => panic!("{name}.{} is {other:?}, which the gateway does not know", field.name()),
                };
                let oneof = match field.oneof_index {
                    Some(oneof) => format!("Some({oneof})"),
                    None => "None".to_owned(),
                };
                out += &format!(
                    "    Field {{ number: {}, name: {:?}, camel: {:?}, kind: {kind}, repeated: {}, oneof: {oneof} }},\n",
                    field.number(),
                    field.name(),
                    field.json_name(),
                    field.label() == Label::Repeated,
                );
            }
            out += "] };\n";
        }
        out += "fn call(path: &str) -> Option<Call> {\n    Some(match path {\n";
        for (path, request, answer) in &self.calls {
            let (request, answer) = (constant(request), constant(answer));
            out += &format!("        {path:?} => Call {{ request: &{request}, answer: &{answer} }},\n");
        }
        out += "        _ => return None,\n    })\n}\n";
        out
    }
}

/// The name of a message or an enum, as a constant's.
fn constant(name: &str) -> String {
    name.trim_start_matches('.').replace('.', "_").to_uppercase()
}
