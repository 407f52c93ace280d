//! The `fungible` binary: flags, commands, progress, printing. The only crate that prints and that
//! turns errors into exit codes.

mod arguments;
mod commands;
mod console;
mod engine;
mod failure;
mod model;
mod open;

use clap::Parser;

use arguments::{Arguments, Command};
use failure::Outcome;

fn main() {
    // A compile worker is this same binary started again; it never returns from here.
    runtime::worker::main_if_worker(engine::register);
    let arguments = Arguments::parse();
    // Before anything looks at a chip.
    let catalog = runtime::chips::use_file(arguments.command.catalog());
    let result = match catalog {
        Ok(()) => run(arguments.command),
        Err(error) => Err(error.into()),
    };
    let code = match result {
        Ok(()) => 0,
        Err(failure) => {
            if !failure.is_silent() {
                console::error(&failure.to_string());
            }
            failure.code()
        }
    };
    // Work may still be on its way to a device: what the command that failed did not wait for.
    runtime::end_process(code.into())
}

fn run(command: Command) -> Outcome {
    match command {
        Command::Quickstart(arguments) => commands::quickstart::run(&arguments),
        Command::Chat(arguments) => commands::chat::run(&arguments),
        Command::Generate(arguments) => commands::generate::run(&arguments),
        Command::Score(arguments) => commands::score::run(&arguments),
        Command::Serve(arguments) => commands::serve::run(&arguments),
        Command::Train(arguments) if commands::keys::are_wanted(&arguments) => {
            commands::keys::run()
        }
        Command::Train(arguments) => commands::train::run(&arguments),
        Command::Eval(arguments) => commands::eval::run(&arguments),
        Command::Export(arguments) => commands::export::run(&arguments),
        Command::Compile(arguments) => commands::compile::run(&arguments),
        Command::Profile(arguments) => commands::profile::run(&arguments),
        Command::Chips(arguments) => commands::chips::run(&arguments),
        Command::Gateway(arguments) => commands::gateway::run(&arguments),
        Command::Tenants(arguments) => commands::tenants::run(&arguments),
        Command::Usage(arguments) => commands::usage::run(&arguments),
        Command::Plan(arguments) => commands::plan::run(&arguments),
        Command::Doctor(arguments) => commands::doctor::run(&arguments),
        Command::Plugin(arguments) => commands::plugin::run(&arguments),
        Command::Bench(arguments) => commands::bench::run(&arguments),
        Command::Measure => commands::measure::run(),
        Command::Probe(arguments) => commands::probe::run(&arguments),
    }
}
