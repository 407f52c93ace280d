//! What shape an answer is asked for in, and what is found in its text: the seam between the HTTP
//! interface and whatever knows grammars and the models' ways to write tool calls.
//!
//! Knows neither of the two.

use serde_json::Value;

use crate::engine::Constraint;

/// A shape that an answer must have.
#[derive(Clone, Debug, PartialEq)]
pub enum StructureSpec {
    /// Any JSON object.
    JsonObject,
    /// JSON that fits a schema.
    JsonSchema(Value),
    /// A text that a regular expression matches from its beginning to its end.
    Regex(String),
    /// A grammar as text (Lark's or GBNF's notation).
    Grammar(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Calls of functions, as the model writes them.
    Tools { tools: Vec<Tool>, choice: ToolChoice, parallel: bool },
}

/// A function that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    pub name: String,
    pub description: Option<String>,
    /// The JSON schema of its arguments, an object.
    pub parameters: Value,
    /// Arguments must fit the schema even where the model is free not to call.
    pub strict: bool,
}

/// Whether the model has to call a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    None,
    Auto,
    Required,
    /// This one.
    Named(String),
}

/// Why a shape cannot be asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StructureError {
    pub message: String,
}

/// What is found in an answer's text, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    Text(String),
    Reasoning(String),
    /// A call begins. Indices count from 0 without gaps.
    ToolCall {
        index: usize,
        id: String,
        name: String,
    },
    /// A further piece of a call's arguments, as JSON text.
    ToolArguments {
        index: usize,
        text: String,
    },
}

/// Takes the text of one answer apart while it grows.
pub trait OutputParser: Send {
    /// What is certain after this text.
    fn push(&mut self, text: &str) -> Vec<Delta>;

    /// What is left when the text is over.
    fn finish(&mut self) -> Vec<Delta>;
}

/// Makes constraints and parsers for one model.
pub trait Structures: Send + Sync {
    /// A constraint at the beginning of an answer.
    ///
    /// # Errors
    /// What is wrong with the shape: no valid schema, regular expression or grammar, nothing fits
    /// it, or it is too large.
    fn constraint(&self, spec: &StructureSpec) -> Result<Box<dyn Constraint>, StructureError>;

    /// A parser at the beginning of an answer to `prompt`, whose end may have begun the reasoning.
    /// With no `tools`, or with [`ToolChoice::None`], nothing is taken for a call.
    fn parser(&self, tools: &[Tool], choice: &ToolChoice, prompt: &str) -> Box<dyn OutputParser>;
}
