//! What an answer must look like, and what comes out of one: the contract between the HTTP
//! interface, which is asked for structure, and the grammars and parsers behind it.

use crate::engine::Constraint;

/// The form that an answer must have.
#[derive(Clone, Debug, PartialEq)]
pub enum StructureSpec {
    /// Any JSON object.
    JsonObject,
    JsonSchema(serde_json::Value),
    /// The whole answer matches.
    Regex(String),
    /// In Lark's syntax, as llguidance has it.
    Grammar(String),
    /// One of these, to the letter.
    Choice(Vec<String>),
    Tools {
        tools: Vec<Tool>,
        choice: ToolChoice,
        /// More than one call in an answer.
        parallel: bool,
    },
}

/// A function that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    pub name: String,
    pub description: Option<String>,
    /// JSON schema of the arguments, an object.
    pub parameters: Option<serde_json::Value>,
    /// Refuse a schema that cannot be enforced to the letter.
    pub strict: bool,
}

/// Whether the model must call tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    None,
    Auto,
    Required,
    Named(String),
}

/// A piece of a parsed answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    Text(String),
    Reasoning(String),
    /// A call begins; its arguments follow.
    ToolCall {
        index: usize,
        id: String,
        name: String,
    },
    /// More of the JSON text of a call's arguments.
    ToolArguments {
        index: usize,
        text: String,
    },
}

/// Takes an answer apart while it comes in.
pub trait OutputParser: Send {
    /// The next piece of text, cut anywhere.
    fn push(&mut self, text: &str) -> Vec<Delta>;

    /// What is left at the answer's end.
    fn finish(&mut self) -> Vec<Delta>;
}

/// Grammars and parsers for one model.
pub trait Structures: Send + Sync {
    /// What holds an answer to `spec`. Takes milliseconds: not for a thread that serves others.
    ///
    /// # Errors
    /// What cannot be enforced and why.
    fn constraint(&self, spec: &StructureSpec) -> Result<Box<dyn Constraint>, StructureError>;

    /// Takes tool calls, reasoning or both out of an answer.
    fn parser(&self, tools: bool, reasoning: bool) -> Box<dyn OutputParser>;
}

/// What the client asked for cannot be had; 400 in HTTP.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct StructureError {
    pub what: String,
    /// The request's parameter at fault.
    pub param: &'static str,
}
