//! `fungible serve`: a model behind OpenAI's interface, with a chat page.

pub mod open_files;
mod target;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use llm::ModelFiles;
use serve::constraint::ModelStructures;
use serve::engine::{Answering, Engine};
use serve::http::{ApiKey, ModelText, Opener, Server, ServerSettings, TlsFiles, TraceSettings};
use serve::parse::{ReasoningFormat, ToolFormat};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::generate::no_tokenizer;
use crate::arguments::serve::ServeArguments;
use crate::console;
use crate::engine::{self, Ready};
use crate::failure::{Exit, Failure, Outcome};

pub fn run(arguments: &ServeArguments) -> Outcome {
    if arguments.target.compile_only {
        return target::run(&arguments.model, &arguments.engine, &arguments.target);
    }
    // In a fresh process there is nobody else to restart with what the plugin wants.
    engine::restart_if_needed(&arguments.engine)?;
    let mut settings = settings(arguments)?;
    if let Some(traces) = &settings.traces {
        console::remark(format!("traces of requests go to {}", traces.shown()));
    }
    let tool_format = tool_format(arguments)?;
    settings.connections_max = open_files::make_room(settings.connections_max);
    start_log(arguments.log_json);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (stop, stopped) = watch::channel(false);
    on_signal(stop)?;
    runtime.block_on(async {
        // Listening comes first: a port that is taken is known before minutes of compiling.
        let listener = listen(arguments).await?;
        let address = listener.local_addr()?;
        let server = Server::starting(settings)?;
        let opener = server.opener();
        let mut asked = stopped.clone();
        let serving = tokio::spawn(server.run(vec![listener], async move {
            let _ = asked.wait_for(|&stop| stop).await;
        }));
        let given = arguments.clone();
        let loading = tokio::task::spawn_blocking(move || open(&given, tool_format, &opener, address));
        let mut asked = stopped.clone();
        let engine = tokio::select! {
            loaded = loading => loaded.map_err(|error| Failure::new(Exit::Failure, error.to_string()))??,
            _ = asked.wait_for(|&stop| stop) => {
                console::remark("stopped before the model was ready");
                runtime::end_process(Exit::Interrupted as i32);
            }
        };
        let cut_off = tokio::select! {
            cut_off = serving => cut_off.map_err(|error| Failure::new(Exit::Failure, error.to_string()))?,
            () = end_of(&engine) => {
                let message = "the engine stopped unexpectedly, so nothing can be answered any more; start the server again, and report it if it persists";
                return Err(Failure::new(Exit::Failure, message));
            }
        };
        engine.stop();
        if cut_off > 0 {
            let message = format!("{cut_off} answers were not finished within the drain time and were cut off");
            return Err(Failure::new(Exit::Failure, message));
        }
        Ok(())
    })
}

/// Comes back when the engine is gone, which only a defect can bring about.
async fn end_of(engine: &Engine) {
    while engine.is_running() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Gets the model ready and lets the server answer with it.
fn open(
    arguments: &ServeArguments,
    tool_format: Option<ToolFormat>,
    opener: &Opener,
    address: SocketAddr,
) -> Result<Arc<Engine>, Failure> {
    let started = Instant::now();
    let Ready { files, programs, settings } = engine::prepare(&arguments.model, &arguments.engine)?;
    let devices = programs.engine().mesh().devices();
    let chip = devices.first().map_or("nothing", |device| device.kind()).to_string();
    let count = devices.len();
    let summary = engine::summary(&programs);
    let engine = Arc::new(Engine::start(programs, settings)?);
    engine::adapters::load(&engine, &arguments.engine)?;
    let text = model_text(arguments, &files, tool_format, &engine, chip, count)?;
    opener.open(engine.clone(), Arc::new(text));
    for line in summary {
        console::remark(line);
    }
    let scheme = if arguments.ssl_certfile.is_some() { "https" } else { "http" };
    let seconds = started.elapsed().as_secs_f64();
    console::remark(format!("ready after {seconds:.1} s"));
    let page = if arguments.no_page { "" } else { " (chat page)" };
    console::line(format!("{scheme}://{address}/{page}"));
    console::remark(format!(
        "OpenAI interface {scheme}://{address}/v1, described at /docs; metrics at /metrics"
    ));
    Ok(engine)
}

fn model_text(
    arguments: &ServeArguments,
    files: &ModelFiles,
    tool_format: Option<ToolFormat>,
    engine: &Engine,
    chip: String,
    devices: usize,
) -> Result<ModelText, Failure> {
    let Some(tokenizer) = files.tokenizer()? else { return Err(no_tokenizer(&arguments.model)) };
    let tokenizer = Arc::new(tokenizer);
    let chat_template = files.chat_template()?;
    let source = chat_template.as_ref().map_or("", |template| template.source());
    // A template that says nothing of tools is told of them in the system prompt, in the commonest way.
    let tools = tool_format.or_else(|| ToolFormat::of_template(source)).or_else(|| {
        (!source.is_empty() && !source.contains("tools")).then_some(ToolFormat::HermesList)
    });
    let reasoning = ReasoningFormat::of_template(source, "");
    let end_tokens = files.config.eos_token_ids.clone();
    let vocab_size = engine.limits().vocab_size;
    let structures =
        ModelStructures::new(tokenizer.clone(), vocab_size, &end_tokens, tools, reasoning)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(ModelText {
        tokenizer,
        chat_template,
        end_tokens,
        served_names: served_names(arguments),
        chip: chip.clone(),
        devices,
        root: arguments.model.clone(),
        created_seconds: now.as_secs(),
        system_fingerprint: format!("fungible-{}-{chip}", env!("CARGO_PKG_VERSION"))
            .replace(' ', "-"),
        structures: Arc::new(structures),
    })
}

fn served_names(arguments: &ServeArguments) -> Vec<String> {
    match arguments.served_model_name.is_empty() {
        true => vec![arguments.model.clone()],
        false => arguments.served_model_name.clone(),
    }
}

fn settings(arguments: &ServeArguments) -> Result<ServerSettings, Failure> {
    let usage = |error: &dyn std::fmt::Display| Failure::usage(error.to_string());
    let names = served_names(arguments);
    if let Some(adapter) = arguments.engine.adapter.iter().find(|one| names.contains(&one.name)) {
        let name = &adapter.name;
        let message = format!("`{name}` names an adapter and the model; give one another name");
        return Err(Failure::usage(message));
    }
    let mut api_keys = Vec::new();
    for key in &arguments.api_key {
        api_keys.push(ApiKey::new(key.clone(), None).map_err(|error| usage(&error))?);
    }
    if let Some(file) = &arguments.api_key_file {
        api_keys.extend(ApiKey::read_file(file)?);
    }
    let address = arguments.otlp_traces_endpoint.as_deref();
    let traces = match TraceSettings::find(address, |name| std::env::var(name).ok()) {
        Ok(traces) => traces,
        Err(error) if address.is_some() => return Err(usage(&error)),
        // Variables are often set for all programs of a machine: no reason not to serve.
        Err(error) => {
            let name = "OpenTelemetry's variables (OTEL_...) cannot be followed";
            console::warning(&format!("{name}, so no traces are sent: {error}"));
            None
        }
    };
    let files = arguments.ssl_certfile.clone().zip(arguments.ssl_keyfile.clone());
    Ok(ServerSettings {
        api_keys,
        tls: files.map(|(certificates, key)| TlsFiles { certificates, key }),
        traces,
        max_tokens_cap: arguments.max_tokens,
        cors_origins: arguments.allowed_origins.clone(),
        drain_limit: Duration::from_secs(arguments.drain_seconds),
        logs_prompts: arguments.log_prompts,
        serves_page: !arguments.no_page,
        // They name folders of this machine, so room that was made for them is the permission.
        adapters_at_run_time: arguments.engine.max_loras.is_some_and(|slots| slots > 0),
        ..ServerSettings::default()
    })
}

fn tool_format(arguments: &ServeArguments) -> Result<Option<ToolFormat>, Failure> {
    let Some(name) = &arguments.tool_call_parser else { return Ok(None) };
    match ToolFormat::of_name(name) {
        Some(format) => Ok(Some(format)),
        None => Err(Failure::usage(format!(
            "there is no tool-call parser `{name}`; there are hermes, hermes_list, llama3_json and mistral"
        ))),
    }
}

async fn listen(arguments: &ServeArguments) -> Result<TcpListener, Failure> {
    let address = (arguments.host.as_str(), arguments.port);
    TcpListener::bind(address).await.map_err(|error| {
        let (host, port) = address;
        Failure::new(
            Exit::Failure,
            format!(
                "cannot listen on {host}:{port}: {error}; choose another with --host and --port"
            ),
        )
    })
}

/// One line for each request, on standard error.
pub fn start_log(json: bool) {
    let lines = tracing_subscriber::fmt().with_writer(std::io::stderr);
    // Whoever has set a log of his own keeps it.
    let _ = match json {
        true => lines.json().flatten_event(true).try_init(),
        false => lines.with_ansi(false).compact().try_init(),
    };
}

/// The first signal lets answers finish, the second ends the process.
fn on_signal(stop: watch::Sender<bool>) -> Outcome {
    ctrlc::set_handler(move || {
        if stop.send_replace(true) {
            runtime::end_process(Exit::Interrupted as i32);
        }
        console::remark("stopping: answers under way are finished first");
    })?;
    Ok(())
}
