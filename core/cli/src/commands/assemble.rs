//! `atom assemble`.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use atom_core::control::{Control, Priority};
use atom_core::storyboard::{MAX_SCRIPT_BYTES, Storyboard, StoryboardOptions, Unmatched};
use atom_core::task::assemble::AssembleQuery;
use atom_core::{Error, ErrorKind, Result};

use crate::args::AssembleArgs;
use crate::output::{nanoseconds, print_line, seconds, write_file};
use crate::page;
use crate::session::Session;

pub fn run(session: &mut Session, args: &AssembleArgs) -> Result<ExitCode> {
    let query = AssembleQuery {
        script: read(&args.script)?,
        title: args.title.clone(),
        options: StoryboardOptions {
            per_line: args.per_line,
            min_length_ns: nanoseconds("--min-length", args.min_length)?,
            max_length_ns: nanoseconds("--max-length", args.max_length)?,
            variety: args.variety,
            min_score: args.min_score,
            stream: args.stream.clone(),
            from_ns: args.from.map(|s| nanoseconds("--from", s)).transpose()?,
            to_ns: args.to.map(|s| nanoseconds("--to", s)).transpose()?,
        },
    };
    let store = session.store(false)?;
    let control = Control {
        priority: Priority::Interactive,
        ..Control::default()
    };
    let storyboard = session.runtime()?.assemble(&store, &query, &control)?;
    let json = session.global.json;
    if json {
        print_line(&storyboard.to_json())?;
    } else {
        print(&storyboard)?;
    }
    if let Some(file) = &args.output {
        write_file(file, &format!("{}\n", storyboard.to_json()), json)?;
    }
    if let Some(file) = &args.otio {
        write_file(file, &storyboard.to_otio(), json)?;
    }
    if let Some(file) = &args.html {
        write_file(file, &page::storyboard(&store, &storyboard)?, json)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The script in `file`, or on standard input; never more of it than a script may have.
fn read(file: &Path) -> Result<String> {
    let limit = MAX_SCRIPT_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    let (name, read) = if file == Path::new("-") {
        let read = std::io::stdin().take(limit).read_to_end(&mut bytes);
        ("standard input".to_owned(), read)
    } else {
        let opened = File::open(file);
        let read = opened.and_then(|file| file.take(limit).read_to_end(&mut bytes));
        (file.display().to_string(), read)
    };
    read.map_err(|error| Error::io(format!("script {name}"), &error))?;
    if bytes.len() > MAX_SCRIPT_BYTES {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("script {name} has more than {MAX_SCRIPT_BYTES} bytes"),
        )
        .remedy("describe each shot in one short line"));
    }
    String::from_utf8(bytes).map_err(|_| {
        Error::new(
            ErrorKind::InvalidArgument,
            format!("script {name} is not UTF-8"),
        )
        .remedy("convert it")
    })
}

fn print(storyboard: &Storyboard) -> Result<()> {
    for (number, line) in storyboard.lines.iter().enumerate() {
        print_line(&format!("  {}", line.text))?;
        for clip in storyboard.clips.iter().filter(|clip| clip.line == number) {
            print_line(&format!(
                "    {:>8.2} – {:<8.2} s  {:.3}  {}",
                seconds(clip.start_ns),
                seconds(clip.end_ns),
                clip.score,
                storyboard.stream_name(clip)
            ))?;
        }
        if let Some(reason) = line.unmatched {
            print_line(&format!("    no clip: {}", why(reason)))?;
        }
    }
    Ok(())
}

/// Why a line has no clip, for people.
pub fn why(reason: Unmatched) -> &'static str {
    match reason {
        Unmatched::NoMatch => "nothing in the store is similar enough",
        Unmatched::TooShort => "what is similar enough is shorter than a clip may be",
        Unmatched::Taken => "what is similar enough is in the clips of other lines",
    }
}
