//! Qualcomm's NPU (and, on x86_64, its emulator): a plug-in library that drives QNN's own.

use std::env;
use std::ffi::CStr;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::floor::Floor;
use super::options::{Legal, Pairs, Rule, wrong};
use super::plugin::{self, Plugin, PluginDevice};
use super::qnn_library::interface;
use super::{Backend, Device, Presence, Provider, ProviderOptions, Setting};
use crate::cache;
use crate::error::Result;
use crate::ort::Environment;
use crate::ort::options::SessionOptions;

/// The name it is registered by, which is also what placements call it.
const NAME: &CStr = c"QNNExecutionProvider";
const LIBRARY: &str = "libonnxruntime_providers_qnn.so";
/// Names the plug-in's library.
const LIBRARY_VARIABLE: &str = "ATOM_QNN_LIBRARY";
/// Names the SoC in place of what manifests say: they do not know the board.
const SOC_VARIABLE: &str = "ATOM_QNN_SOC";
/// QNN's number of a SoC and the architecture of its NPU.
const SOCS: [(i64, i64); 8] = [
    (30, 68),
    (36, 69),
    (43, 73),
    (57, 75),
    (60, 73),
    (69, 79),
    (77, 73),
    (87, 81),
];

/// Whether QNN's library for this processor plays the NPU. Elsewhere it only talks to one.
const EMULATES: bool = cfg!(target_arch = "x86_64");

/// What its sessions leave behind.
pub(super) static FLOOR: Floor = Floor::new();

/// What is settled once for the process.
static STATE: Mutex<State> = Mutex::new(State {
    plugin: None,
    setup: None,
});

struct State {
    plugin: Option<Plugin>,
    /// The library and SoC of the first session: QNN's device keeps them until the process ends.
    setup: Option<Setup>,
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) struct Qnn;

impl Backend for Qnn {
    fn rules(&self) -> &'static [Rule] {
        const fn rule(key: &'static str, legal: Legal) -> Rule {
            Rule { key, legal }
        }
        const RULES: &[Rule] = &[
            rule("backend_type", Legal::Words(&["htp", "gpu", "cpu"])),
            rule("backend_path", Legal::Library { begins: "libQnn" }),
            rule(
                "soc_model",
                Legal::Numbers(&[30, 36, 43, 57, 60, 69, 77, 87]),
            ),
            rule("htp_arch", Legal::Numbers(&[68, 69, 73, 75, 79, 81])),
            rule(
                "htp_performance_mode",
                Legal::Words(&[
                    "burst",
                    "balanced",
                    "default",
                    "high_performance",
                    "high_power_saver",
                    "low_balanced",
                    "low_power_saver",
                    "power_saver",
                    "extreme_power_saver",
                    "sustained_high_performance",
                ]),
            ),
            rule("vtcm_mb", Legal::Between(1, 8)),
            rule(
                "htp_graph_finalization_optimization_mode",
                Legal::Between(0, 3),
            ),
            rule(
                "qnn_context_priority",
                Legal::Words(&["low", "normal", "normal_high", "high"]),
            ),
            rule("enable_htp_fp16_precision", Legal::Switch),
            rule("enable_htp_spill_fill_buffer", Legal::Switch),
            rule("rpc_control_latency", Legal::Between(0, 10_000)),
        ];
        RULES
    }

    fn check(&self, options: &ProviderOptions) -> Result<()> {
        if options.contains_key("backend_type") && options.contains_key("backend_path") {
            return Err(
                wrong(Provider::Qnn, "has both backend_type and backend_path")
                    .remedy("give one of them: each names the library"),
            );
        }
        let given = |key: &str| match options.get(key) {
            Some(Setting::Number(number)) => Some(*number),
            _ => None,
        };
        match (given("soc_model"), given("htp_arch")) {
            (None, Some(_)) => {
                return Err(wrong(Provider::Qnn, "has htp_arch without soc_model")
                    .remedy("give soc_model, which htp_arch follows from"));
            }
            (Some(soc), Some(arch)) if !SOCS.contains(&(soc, arch)) => {
                let right = arch_of(soc).unwrap_or(0);
                return Err(wrong(
                    Provider::Qnn,
                    format_args!("has soc_model = {soc} with htp_arch = {arch}"),
                )
                .remedy(format!("that SoC has htp_arch = {right}; or leave it out")));
            }
            (None, None)
                if options.get("enable_htp_fp16_precision") == Some(&Setting::Switch(true)) =>
            {
                return Err(wrong(
                    Provider::Qnn,
                    "has enable_htp_fp16_precision without soc_model",
                )
                .remedy("give soc_model: without it QNN takes a chip that has no 16-bit floats"));
            }
            _ => {}
        }
        Ok(())
    }

    fn presence(&self, environment: &Environment) -> Presence {
        let mut presence = Presence {
            provider: Provider::Qnn,
            library: None,
            version: None,
            devices: Vec::new(),
            missing: None,
        };
        let found = find(environment).and_then(|library| {
            presence.library = Some(library);
            let plugin = plugin(environment)?;
            let device = device(&plugin, "htp")?;
            presence.devices = vec![Device {
                emulated: device.about.kind == "cpu",
                ..device.about.clone()
            }];
            let backend = Setup::of(&plugin, &ProviderOptions::new())?.library;
            presence.version = Some(interface(&backend)?.to_string());
            Ok(())
        });
        presence.missing = found.err();
        presence
    }

    fn known(&self, environment: &Environment) -> Presence {
        if state().plugin.is_some() {
            return self.presence(environment);
        }
        let found = find(environment);
        Presence {
            provider: Provider::Qnn,
            library: found.clone().ok(),
            version: None,
            devices: Vec::new(),
            missing: found.err(),
        }
    }

    fn compiler(
        &self,
        environment: &Environment,
        options: &ProviderOptions,
    ) -> Result<Option<String>> {
        let absent = |why: String| super::absent(Provider::Qnn, why);
        let plugin = plugin(environment).map_err(absent)?;
        let setup = Setup::of(&plugin, options).map_err(absent)?;
        let version = interface(&setup.library).map_err(absent)?;
        let mut all = format!("{version}, {}", setup.soc());
        for (key, value) in rest(options) {
            all.push_str(&format!(", {key} = {value}"));
        }
        Ok(Some(all))
    }

    fn append(
        &self,
        environment: &Environment,
        options: &ProviderOptions,
        session: &SessionOptions,
    ) -> Result<()> {
        let absent = |why: String| super::absent(Provider::Qnn, why);
        let plugin = plugin(environment).map_err(absent)?;
        let setup = Setup::of(&plugin, options).map_err(absent)?;
        let kind = match setup.library.file_name().and_then(|name| name.to_str()) {
            Some("libQnnGpu.so") => "gpu",
            Some("libQnnCpu.so") => "cpu",
            _ => "htp",
        };
        let device = device(&plugin, kind).map_err(absent)?;
        // With a library that is missing or something else the session would be made, name QNN, and run on the processor.
        interface(&setup.library).map_err(absent)?;
        {
            let mut state = state();
            match &state.setup {
                Some(first) if *first != setup => {
                    return Err(wrong(
                        Provider::Qnn,
                        format_args!(
                            "is set up for {first} in this process, asked for was {setup}"
                        ),
                    )
                    .remedy("one process has one SoC: use the same, or another process"));
                }
                _ => state.setup = Some(setup.clone()),
            }
        }
        let mut pairs = vec![("backend_path", setup.library.display().to_string())];
        if let Some((soc, arch)) = setup.soc {
            pairs.push(("soc_model", soc.to_string()));
            pairs.push(("htp_arch", arch.to_string()));
        }
        pairs.extend(rest(options).map(|(key, value)| (key.as_str(), value.to_string())));
        plugin::append(
            Provider::Qnn,
            environment,
            device,
            &Pairs::new(pairs)?,
            session,
        )
    }
}

/// What QNN's device is set up with.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setup {
    /// QNN's library for the chip.
    library: PathBuf,
    /// SoC and architecture; absent: what the board has.
    soc: Option<(i64, i64)>,
}

impl Setup {
    /// What `options`, which were checked, and the environment ask for.
    fn of(plugin: &Plugin, options: &ProviderOptions) -> Result<Self, String> {
        let text = |key: &str| match options.get(key) {
            Some(Setting::Text(text)) => Some(text.as_str()),
            _ => None,
        };
        let name = match (text("backend_path"), text("backend_type")) {
            (Some(name), _) => name,
            (None, Some("gpu")) => "libQnnGpu.so",
            (None, Some("cpu")) => "libQnnCpu.so",
            (None, _) => "libQnnHtp.so",
        };
        let beside = plugin.library.with_file_name(name);
        // On a board it may lie where the loader looks.
        let library = if beside.exists() { beside } else { name.into() };
        let forced = env::var(SOC_VARIABLE)
            .ok()
            .filter(|value| !value.is_empty());
        let soc =
            match (forced, options.get("soc_model")) {
                (Some(value), _) => Some(value.parse().map_err(|_| {
                    format!("{SOC_VARIABLE} = {value:?} is not the number of a SoC")
                })?),
                (None, Some(Setting::Number(soc))) => Some(*soc),
                (None, _) => None,
            };
        let soc = match soc {
            None => None,
            Some(soc) => {
                let arch = arch_of(soc).ok_or_else(|| {
                    let known: Vec<_> = SOCS.iter().map(|(soc, _)| soc.to_string()).collect();
                    format!(
                        "{SOC_VARIABLE} = {soc} is no SoC that is known: {}",
                        known.join(", ")
                    )
                })?;
                Some((soc, arch))
            }
        };
        Ok(Self { library, soc })
    }

    fn soc(&self) -> String {
        match self.soc {
            Some((soc, arch)) => format!("SoC {soc} (v{arch})"),
            None => "the SoC that is here".to_owned(),
        }
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.library.display(), self.soc())
    }
}

/// The options that are not settled by a [`Setup`].
fn rest(options: &ProviderOptions) -> impl Iterator<Item = (&String, &Setting)> {
    const SETTLED: [&str; 4] = ["backend_type", "backend_path", "soc_model", "htp_arch"];
    let mine = |(key, _): &(&String, &Setting)| !SETTLED.contains(&key.as_str());
    options.iter().filter(mine)
}

fn arch_of(soc: i64) -> Option<i64> {
    let found = SOCS.iter().find(|(known, _)| *known == soc);
    found.map(|(_, arch)| *arch)
}

/// The plug-in's library, or why there is none.
fn find(environment: &Environment) -> Result<PathBuf, String> {
    if let Some(path) = env::var_os(LIBRARY_VARIABLE).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        return if path.is_file() {
            Ok(std::path::absolute(&path).unwrap_or(path))
        } else {
            Err(format!(
                "{LIBRARY_VARIABLE} names {}, which is not there",
                path.display()
            ))
        };
    }
    let places = [
        cache::dir().join("qnn").join(LIBRARY),
        environment.library().with_file_name(LIBRARY),
    ];
    if let Some(found) = places.iter().find(|place| place.is_file()) {
        return Ok(found.clone());
    }
    let places = places.map(|place| place.display().to_string());
    Err(format!(
        "there is no {LIBRARY}: neither {} (or set {LIBRARY_VARIABLE})",
        places.join(" nor ")
    ))
}

/// The registered plug-in; registers it if need be.
fn plugin(environment: &Environment) -> Result<Plugin, String> {
    let library = find(environment)?;
    let mut state = state();
    if let Some(plugin) = &state.plugin {
        return Ok(plugin.clone());
    }
    let plugin = plugin::register(environment, NAME, &library).map_err(|e| e.to_string())?;
    state.plugin = Some(plugin.clone());
    Ok(plugin)
}

/// The device to run on: the NPU (or GPU) itself, or the processor that plays it.
fn device<'a>(plugin: &'a Plugin, kind: &str) -> Result<&'a PluginDevice, String> {
    let wanted = if kind == "htp" { "npu" } else { kind };
    let real = plugin
        .devices
        .iter()
        .find(|device| device.about.kind == wanted);
    let played = || plugin.devices.iter().find(|_| EMULATES);
    real.or_else(played).ok_or_else(|| {
        let there = plugin
            .devices
            .iter()
            .map(|device| device.about.kind.as_str());
        let there: Vec<_> = there.collect();
        format!(
            "{} finds no {wanted} on this machine, only: {}",
            plugin.library.display(),
            if there.is_empty() {
                "nothing".to_owned()
            } else {
                there.join(", ")
            }
        )
    })
}

#[cfg(test)]
#[path = "qnn_tests.rs"]
mod tests;
