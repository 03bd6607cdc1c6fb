//! Where ONNX Runtime put the operators of a model: read from the profile of one run, which is all it tells.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::device::Provider;

/// How many operators each provider took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Placement {
    /// The number of operators that ran, by ONNX Runtime's name of the provider. What TensorRT makes an
    /// engine of counts as one.
    #[serde(rename = "by_provider")]
    pub nodes: BTreeMap<String, usize>,
    /// The kinds of operators that ran on the processor.
    #[serde(rename = "kinds_on_cpu")]
    pub on_cpu: BTreeSet<String>,
}

/// An event of a profile, as far as it is of use here.
#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    cat: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    args: Args,
}

#[derive(Default, Deserialize)]
struct Args {
    #[serde(default)]
    provider: String,
    #[serde(default)]
    op_name: String,
}

impl Placement {
    /// Reads a profile.
    pub(super) fn read(profile: &Path) -> Result<Self, String> {
        let file = File::open(profile).map_err(|e| e.to_string())?;
        let events: Vec<Event> = serde_json::from_reader(BufReader::new(file))
            .map_err(|e| format!("a profile that cannot be read: {e}"))?;
        let mut placement = Placement::default();
        // One that runs several times, in a loop, is still one.
        let mut seen = BTreeSet::new();
        for Event { cat, name, args } in events {
            let ran = cat == "Node" && name.ends_with("_kernel_time") && !args.provider.is_empty();
            if ran && seen.insert(name) {
                if args.provider == Provider::Cpu.name() {
                    placement.on_cpu.insert(args.op_name);
                }
                *placement.nodes.entry(args.provider).or_default() += 1;
            }
        }
        Ok(placement)
    }

    /// Operators that this provider took.
    pub fn of(&self, provider: Provider) -> usize {
        self.nodes.get(provider.name()).copied().unwrap_or(0)
    }

    /// Operators that cards took, by whatever provider.
    pub fn on_gpu(&self) -> usize {
        self.of(Provider::Cuda) + self.of(Provider::TensorRt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_counted_by_provider() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let node = |name: &str, op: &str, provider: &str| {
            format!(r#"{{"cat":"Node","name":"{name}","args":{{"op_name":"{op}","provider":"{provider}"}}}}"#)
        };
        let (cuda, cpu) = ("CUDAExecutionProvider", "CPUExecutionProvider");
        let events = [
            r#"{"cat":"Session","name":"model_run","args":{}}"#.to_owned(),
            node("conv_kernel_time", "Conv", cuda),
            node("conv_fence_before", "Conv", cuda),
            node("add_kernel_time", "Add", cuda),
            node("add_kernel_time", "Add", cuda),
            node("shape_kernel_time", "Shape", cpu),
            node("gather_kernel_time", "Gather", cpu),
            r#"{"cat":"Node","name":"odd_kernel_time"}"#.to_owned(),
        ];
        std::fs::write(file.path(), format!("[{}]", events.join(","))).unwrap();
        let placement = Placement::read(file.path()).unwrap();
        assert_eq!((placement.of(Provider::Cuda), placement.of(Provider::Cpu)), (2, 2));
        assert_eq!((placement.on_gpu(), placement.of(Provider::TensorRt)), (2, 0));
        assert_eq!(placement.on_cpu.iter().collect::<Vec<_>>(), ["Gather", "Shape"]);
        std::fs::write(file.path(), "[{\"cat\":").unwrap();
        assert!(Placement::read(file.path()).unwrap_err().contains("cannot be read"));
    }
}
