//! Holds answers to a form: JSON schemas, patterns, grammars and tool calls become masks over the
//! vocabulary, computed by llguidance.
//!
//! Everything that comes in here is untrusted. Sizes are bounded before anything is compiled, the
//! compiler's own effort is bounded by its limits, and it runs on a thread with a stack for the
//! deepest schema that passes. Knows token ids and their bytes; no HTTP, and no model.

mod grammar;
mod matching;
mod pattern;
mod schema;
mod tokens;
mod tools;

use std::sync::Arc;

use llguidance::ParserFactory;
use llguidance::api::{GrammarWithLexer, ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::InferenceCapabilities;
use llm::Tokenizer;
use serde_json::json;

use crate::engine::Constraint;
use crate::parse::{AnswerParser, ReasoningFormat, ToolFormat};
use crate::structure::{OutputParser, StructureError, StructureSpec, Structures};
use matching::Matching;

/// The longest pattern or grammar, and the longest list of choices.
const TEXT_BYTES_MAX: usize = 64 << 10;
/// Enough for the deepest schema, in builds without optimization too. Only what is used of it is
/// ever backed by memory.
const STACK_BYTES: usize = 256 << 20;

/// What every compiled grammar must keep to.
fn limits() -> ParserLimits {
    ParserLimits {
        // About 20 ms.
        initial_lexer_fuel: 1_000_000,
        // About 15 ms.
        step_lexer_fuel: 200_000,
        // About 2.5 ms.
        step_max_items: 50_000,
        // 1 to 2 kB each, so 50 MB at most in one answer; real schemas need a few thousand.
        max_lexer_states: 32_768,
        max_grammar_size: 250_000,
        // Four for each property that may come next.
        max_items_in_row: 8_000,
        // Tokens and grammars of requests do not belong in error messages.
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// The grammars and parsers of one model.
pub struct ModelStructures {
    tokenizer: Arc<Tokenizer>,
    factory: ParserFactory,
    tools: Option<ToolFormat>,
    reasoning: Option<ReasoningFormat>,
}

impl ModelStructures {
    /// Builds the tables for `tokenizer`, once for all requests. `vocab_size` is the model's, which
    /// may be larger than the tokenizer's; `end_tokens` are those that end its answers. Without
    /// `tools`, requests with tools are refused; without `reasoning`, answers hold no thoughts.
    ///
    /// # Errors
    /// When none of the end tokens is in the vocabulary, or the vocabulary is unusable.
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        vocab_size: usize,
        end_tokens: &[u32],
        tools: Option<ToolFormat>,
        reasoning: Option<ReasoningFormat>,
    ) -> Result<ModelStructures, StructureError> {
        let refuse = |what: String| StructureError { what, param: "model" };
        let environment =
            tokens::environment(&tokenizer, vocab_size, end_tokens).ok_or_else(|| {
                refuse(format!(
                    "none of the end tokens {end_tokens:?} is in the vocabulary of {vocab_size} \
                     tokens, so that no constrained answer could end"
                ))
            })?;
        let mut factory = ParserFactory::new(
            &environment,
            InferenceCapabilities::default(),
            &SlicedBiasComputer::general_slices(),
        )
        .map_err(|error| refuse(format!("the vocabulary is unusable: {error}")))?;
        *factory.limits_mut() = limits();
        factory.quiet();
        Ok(ModelStructures { tokenizer, factory, tools, reasoning })
    }

    /// How thoughts stand in the answer to `prompt`, for templates that open the tag in some prompts
    /// and not in others.
    pub fn reasoning_behind(&self, prompt: &str) -> Option<ReasoningFormat> {
        self.reasoning.map(|_| ReasoningFormat::of_prompt(prompt))
    }

    /// As [`Structures::constraint`], for answers with thoughts as `reasoning` says.
    ///
    /// # Errors
    /// What cannot be enforced and why.
    pub fn constraint_with(
        &self,
        spec: &StructureSpec,
        reasoning: Option<ReasoningFormat>,
    ) -> Result<Box<dyn Constraint>, StructureError> {
        let (what, param) = match spec {
            StructureSpec::JsonObject | StructureSpec::JsonSchema(_) => {
                ("the JSON schema", "response_format")
            }
            StructureSpec::Regex(_) => ("the regular expression", STRUCTURED),
            StructureSpec::Grammar(_) => ("the grammar", STRUCTURED),
            StructureSpec::Choice(_) => ("the list of choices", STRUCTURED),
            StructureSpec::Tools { .. } => ("a tool's schema", "tools"),
        };
        match self.compile(self.grammar(spec, reasoning)?) {
            Ok(matching) => Ok(Box::new(matching)),
            Err(reason) => {
                Err(StructureError { what: format!("{what} cannot be enforced: {reason}"), param })
            }
        }
    }

    /// As [`Structures::parser`], for answers with thoughts as `reasoning` says.
    pub fn parser_with(&self, tools: bool, reasoning: Option<ReasoningFormat>) -> AnswerParser {
        AnswerParser::new(self.tools.filter(|_| tools), reasoning)
    }

    fn grammar(
        &self,
        spec: &StructureSpec,
        reasoning: Option<ReasoningFormat>,
    ) -> Result<TopLevelGrammar, StructureError> {
        let behind_thought = |grammar| grammar::behind_thought(&self.tokenizer, reasoning, grammar);
        match spec {
            StructureSpec::JsonObject => Ok(behind_thought(schema(&json!({ "type": "object" }))?)),
            StructureSpec::JsonSchema(asked) => Ok(behind_thought(schema(asked)?)),
            StructureSpec::Regex(pattern) => {
                check_bytes(pattern.len(), "the regular expression")?;
                let size = pattern::size(pattern)
                    .map_err(|reason| structured(format!("the request {reason}")))?;
                if size > pattern::SIZE_MAX {
                    let what = "the regular expression repeats too much".to_owned();
                    return Err(structured(what));
                }
                Ok(behind_thought(grammar::regex(pattern)))
            }
            StructureSpec::Grammar(text) => {
                check_bytes(text.len(), "the grammar")?;
                schema::check_within(text)
                    .map_err(|reason| structured(format!("a schema in the grammar {reason}")))?;
                Ok(behind_thought(GrammarWithLexer::from_lark(text.clone())))
            }
            StructureSpec::Choice(choices) => {
                let bytes: usize = choices.iter().map(String::len).sum();
                check_bytes(bytes, "the list of choices")?;
                if choices.is_empty() {
                    return Err(structured("the list of choices is empty".to_owned()));
                }
                Ok(behind_thought(grammar::choice(choices)))
            }
            StructureSpec::Tools { tools, choice, parallel } => {
                let Some(format) = self.tools else {
                    return Err(StructureError {
                        what: "the model's chat template has no known format for tool calls; \
                               start the server with --tool-call-parser"
                            .to_owned(),
                        param: "tools",
                    });
                };
                let calls = tools::Calls {
                    tokenizer: &self.tokenizer,
                    format,
                    reasoning,
                    parallel: *parallel,
                };
                calls.grammar(tools, choice)
            }
        }
    }

    fn compile(&self, grammar: TopLevelGrammar) -> Result<Matching, String> {
        std::thread::scope(|scope| {
            let compile = || {
                let parser = self.factory.create_parser(grammar);
                parser
                    .map_err(|error| matching::sentence(&error.to_string()))
                    .and_then(Matching::begin)
            };
            let thread = std::thread::Builder::new()
                .name("grammar".to_owned())
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, compile)
                .map_err(|error| format!("no thread for it could be started ({error})"))?;
            thread.join().unwrap_or_else(|_| Err("the compiler failed on it".to_owned()))
        })
    }
}

impl Structures for ModelStructures {
    fn constraint(
        &self,
        spec: &StructureSpec,
        prompt: &str,
    ) -> Result<Box<dyn Constraint>, StructureError> {
        self.constraint_with(spec, self.reasoning_behind(prompt))
    }

    fn parser(&self, tools: bool, prompt: &str) -> Box<dyn OutputParser> {
        Box::new(self.parser_with(tools, self.reasoning_behind(prompt)))
    }

    /// Decode with special tokens kept, for answers that go through a parser.
    fn needs_special_tokens(&self) -> bool {
        let tools = self
            .tools
            .into_iter()
            .flat_map(|tools| [Some(tools.opening()), tools.closing()].into_iter().flatten());
        let thoughts = self.reasoning.into_iter().flat_map(|_| ["<think>", "</think>"]);
        tools.chain(thoughts).any(|tag| grammar::tag(&self.tokenizer, tag).special)
    }
}

fn schema(asked: &serde_json::Value) -> Result<GrammarWithLexer, StructureError> {
    let prepared = schema::prepare(asked, false).map_err(|reason| StructureError {
        what: format!("the JSON schema {reason}"),
        param: "response_format",
    })?;
    Ok(GrammarWithLexer::from_json_schema(prepared))
}

/// The parameter of vLLM's that holds patterns, grammars and choices.
const STRUCTURED: &str = "structured_outputs";

fn structured(what: String) -> StructureError {
    StructureError { what, param: STRUCTURED }
}

fn check_bytes(bytes: usize, what: &str) -> Result<(), StructureError> {
    if bytes > TEXT_BYTES_MAX {
        let what = format!("{what} has {bytes} bytes, but at most {TEXT_BYTES_MAX} are taken");
        return Err(structured(what));
    }
    Ok(())
}
