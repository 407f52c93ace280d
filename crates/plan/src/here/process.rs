//! The planner's side of a measurement: starts the process that measures, asks, and ends it.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use runtime::environment::required_environment;
use runtime::worker::MemoryUse;
use runtime::{CacheFolder, PluginLocation};

use super::HereError;
use super::job::{ANSWER, Answer, Case, Job, Question, Work};

/// How much of what a process said before it crashed is worth showing.
const TAIL_BYTES: usize = 400;

/// How measuring processes are started.
#[derive(Clone, Debug)]
pub struct Measurer {
    /// This very program, and what makes it [`answer`](super::answer).
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub cache: CacheFolder,
    /// The CPU's plugin.
    pub location: PluginLocation,
}

/// A job under way in a process of its own, which ends when this is dropped.
pub struct Measuring {
    child: Child,
    /// What it says beside its answers.
    errors: Option<std::thread::JoinHandle<String>>,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// What the compiler says of the program.
    pub memory: Option<MemoryUse>,
    /// Of the arrays that stay between runs, what a run replaces.
    pub changing_bytes: u64,
    /// What was resident before programs and weights were.
    pub opened_bytes: u64,
    /// What was once they were compiled.
    pub resident_bytes: u64,
}

impl Measurer {
    /// Starts all jobs at once, so that they compile side by side, and answers when every one is compiled.
    ///
    /// # Errors
    /// A process that does not start, and what its compiler objects to.
    pub fn start(
        &self,
        jobs: Vec<(String, Work)>,
        devices: usize,
    ) -> Result<Vec<Measuring>, HereError> {
        let started: Vec<_> = jobs
            .into_iter()
            .map(|(model, work)| self.start_one(model, work, devices))
            .collect::<Result<_, _>>()?;
        let compiled = started.into_iter().map(|mut measuring| match measuring.hear()? {
            Answer::Compiled { memory, changing_bytes, opened_bytes, resident_bytes } => {
                (measuring.memory, measuring.changing_bytes) = (memory, changing_bytes);
                (measuring.opened_bytes, measuring.resident_bytes) = (opened_bytes, resident_bytes);
                Ok(measuring)
            }
            other => Err(unexpected(&other)),
        });
        compiled.collect()
    }

    fn start_one(&self, model: String, work: Work, devices: usize) -> Result<Measuring, HereError> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command.envs(required_environment(&self.location, devices));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let start = |source| HereError::Start { program: self.program.clone(), source };
        let mut child = command.spawn().map_err(start)?;
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(HereError::Broken { message: "it has no input".to_string() });
        };
        let cache = self.cache.root().to_path_buf();
        let job = Job { cache, plugin: self.location.path.clone(), model, work };
        let text = serde_json::to_string(&job)
            .map_err(|error| HereError::Broken { message: error.to_string() })?;
        // One that has ended already is asked why when its answer is read.
        let _ = writeln!(input, "{text}");
        let output = BufReader::new(output);
        // Read as it comes, or a process that says much would wait for its reader.
        let errors = child.stderr.take().map(|mut errors| {
            std::thread::spawn(move || {
                let mut said = Vec::new();
                let _ = errors.read_to_end(&mut said);
                String::from_utf8_lossy(&said).into_owned()
            })
        });
        Ok(Measuring {
            child,
            errors,
            input,
            output,
            memory: None,
            changing_bytes: 0,
            opened_bytes: 0,
            resident_bytes: 0,
        })
    }
}

fn unexpected(answer: &Answer) -> HereError {
    match answer {
        Answer::Failed { message } => HereError::Broken { message: message.clone() },
        other => HereError::Broken { message: format!("it answered {other:?}") },
    }
}

impl Measuring {
    /// Brings weights to the device.
    ///
    /// # Errors
    /// What the process reports, or that it ended.
    pub fn load(&mut self) -> Result<(), HereError> {
        match self.ask(Question::Load)? {
            Answer::Loaded => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// The seconds of so many runs of a case, after one that does not count. `between_bytes` of memory are
    /// gone through before each.
    ///
    /// # Errors
    /// What the process reports, or that it ended.
    pub fn run(
        &mut self,
        case: Case,
        times: usize,
        between_bytes: u64,
    ) -> Result<Vec<f64>, HereError> {
        match self.ask(Question::Run { case, times, between_bytes })? {
            Answer::Ran { seconds } => Ok(seconds),
            other => Err(unexpected(&other)),
        }
    }

    /// The most memory that the process has had.
    ///
    /// # Errors
    /// What the process reports, or that it ended.
    pub fn peak_bytes(&mut self) -> Result<Option<u64>, HereError> {
        match self.ask(Question::Memory)? {
            Answer::Memory { peak_bytes } => Ok(peak_bytes),
            other => Err(unexpected(&other)),
        }
    }

    fn ask(&mut self, question: Question) -> Result<Answer, HereError> {
        let text = serde_json::to_string(&question)
            .map_err(|error| HereError::Broken { message: error.to_string() })?;
        let _ = writeln!(self.input, "{text}").and_then(|()| self.input.flush());
        self.hear()
    }

    fn hear(&mut self) -> Result<Answer, HereError> {
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.output.read_line(&mut line);
            if !matches!(read, Ok(count) if count > 0) {
                return Err(self.ended());
            }
            let answer = line.strip_prefix(ANSWER).map(str::trim);
            if let Some(answer) = answer.and_then(|text| serde_json::from_str(text).ok()) {
                return Ok(answer);
            }
        }
    }

    /// Why there is no answer any more.
    fn ended(&mut self) -> HereError {
        let _ = self.child.kill();
        let how = self.child.wait().map_or_else(|error| error.to_string(), |how| how.to_string());
        let mut said = String::new();
        if let Some(errors) = self.errors.take() {
            said = errors.join().unwrap_or_default();
        }
        let from = said.len().saturating_sub(TAIL_BYTES);
        let tail = said.get(from..).unwrap_or_default().trim().replace('\n', " ");
        let said = if tail.is_empty() { String::new() } else { format!(": {tail}") };
        HereError::Broken { message: format!("the process that measures ended ({how}){said}") }
    }
}

impl Drop for Measuring {
    fn drop(&mut self) {
        // It holds nothing that would be lost.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
