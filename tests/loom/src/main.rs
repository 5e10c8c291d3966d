//! `atom-loom`: runs the models of the sources as they are. `atom-loom NAME MODEL`: one model, of a mutation or a room.

use std::process::ExitCode;
use std::time::Instant;

use atom_loom::{MUTATIONS, Model, ROOMS};

fn run(models: &[Model], wanted: Option<&str>) -> bool {
    let mut ran = false;
    for (name, model) in models {
        if wanted.is_none_or(|wanted| wanted == *name) {
            let began = Instant::now();
            print!("{name}: ");
            model();
            println!("{name}: holds, {:.1} s", began.elapsed().as_secs_f64());
            ran = true;
        }
    }
    ran
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (name, model) = (args.next(), args.next());
    let mut ran = false;
    for (room, models) in ROOMS {
        if name.as_deref().is_none_or(|name| name == room) {
            ran |= run(models, model.as_deref());
        }
    }
    for mutation in MUTATIONS {
        if name.as_deref() == Some(mutation.name) {
            ran |= run(mutation.models, model.as_deref());
        }
    }
    if ran {
        return ExitCode::SUCCESS;
    }
    eprintln!("no such model; without arguments all of the sources as they are run");
    ExitCode::from(2)
}
