//! `atom pack split`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use atom_cli::output::{bytes, print_json, print_line, table};
use atom_cli::session::Session;
use atom_core::onnx::Cut;
use atom_core::ort::{Environment, EnvironmentOptions};
use atom_core::{Error, ErrorKind, Result};
use atom_import::split::{REPORT, Report, WEIGHTS, split};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The graph, an .onnx file.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// A module and the tensors that it computes; several separated by commas: `lower=h1,m1,upper=h2`. May be given again.
    #[arg(long, value_name = "NAME=TENSOR,…", required = true)]
    cut: Vec<String>,
    /// The folder to make.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// The size of a dimension that the graph names, for the runs that prove the modules: `height=224`. May be given again.
    #[arg(long, value_name = "NAME=N", value_parser = size)]
    size: Vec<(String, usize)>,
}

fn size(text: &str) -> Result<(String, usize), String> {
    let size = text
        .split_once('=')
        .and_then(|(name, size)| Some((name, size.parse().ok()?)));
    match size {
        Some((name, size)) if !name.is_empty() && size > 0 => Ok((name.to_owned(), size)),
        _ => Err(format!("{text:?} is no size: height=224 is")),
    }
}

pub fn run(session: &Session, args: &Args) -> Result<ExitCode> {
    Environment::open(&EnvironmentOptions {
        library: session.global.ort_library.clone(),
        threads: session.global.threads,
    })?;
    let sizes: BTreeMap<String, usize> = args.size.iter().cloned().collect();
    let report = split(&args.model, &cuts(&args.cut)?, &args.output, &sizes)?;
    if session.global.json {
        print_json(&report)?;
    } else {
        show(&report, args)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `NAME=TENSOR` begins a module, `TENSOR` alone belongs to the one before.
fn cuts(texts: &[String]) -> Result<Vec<Cut>> {
    let mut cuts: Vec<Cut> = Vec::new();
    for text in texts {
        let mut open = false;
        for part in text.split(',') {
            let part = part.trim();
            match (part.split_once('='), cuts.last_mut()) {
                (Some((name, tensor)), _) if !name.is_empty() && !tensor.is_empty() => {
                    let (name, tensors) = (name.to_owned(), vec![tensor.to_owned()]);
                    cuts.push(Cut { name, tensors });
                    open = true;
                }
                (None, Some(last)) if open && !part.is_empty() => {
                    last.tensors.push(part.to_owned())
                }
                _ => {
                    let why = format!("--cut {text:?}: {part:?} names no module and tensor");
                    return Err(Error::new(ErrorKind::InvalidArgument, why).remedy(
                        "write NAME=TENSOR, further tensors of that module behind commas",
                    ));
                }
            }
        }
    }
    Ok(cuts)
}

fn show(report: &Report, args: &Args) -> Result<()> {
    let rows: Vec<Vec<String>> = report
        .modules
        .iter()
        .map(|module| {
            vec![
                module.name.clone(),
                module.inputs.join(", "),
                module.outputs.join(", "),
                module.nodes.to_string(),
                bytes(module.weights_bytes),
            ]
        })
        .collect();
    print_line(&table(
        &["module", "reads", "computes", "nodes", "weights"],
        &rows,
        &[3, 4],
    ))?;
    print_line(&format!(
        "  {} of weights in {WEIGHTS}, {} of them read by several modules",
        bytes(report.weights_bytes),
        bytes(report.shared_bytes)
    ))?;
    for proved in &report.proof {
        let how = match proved.bit_equal {
            true => "every bit equals the model's".to_owned(),
            false => format!(
                "differs from the model's by at most {:.1e}, within {:.1e}",
                proved.largest_difference, proved.allowed
            ),
        };
        print_line(&format!("  {} {:?}: {how}", proved.output, proved.shape))?;
    }
    print_line(&format!("  report: {}", args.output.join(REPORT).display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_read_from_one_option_or_several() {
        let texts = |texts: &[&str]| {
            texts
                .iter()
                .map(|&text| text.to_owned())
                .collect::<Vec<_>>()
        };
        let cut = |name: &str, tensors: &[&str]| Cut {
            name: name.to_owned(),
            tensors: texts(tensors),
        };
        let expected = vec![cut("a", &["x", "y"]), cut("b", &["z"])];
        assert_eq!(cuts(&texts(&["a=x,y,b=z"])).unwrap(), expected);
        assert_eq!(cuts(&texts(&["a=x,y", "b=z"])).unwrap(), expected);
        for wrong in [
            &["x"][..],
            &["a="],
            &["=x"],
            &["a=x,,y"],
            &["a=x", "y"],
            &[""],
        ] {
            let refused = cuts(&texts(wrong)).expect_err("no cut");
            assert!(refused.remedy_text().is_some(), "{refused}");
        }
        assert!(size("height=224").is_ok() && size("height=0").is_err() && size("224").is_err());
    }
}
