//! Grammars of tool calls, in the way that the model's family writes them.
//!
//! Calls are held to the form from their first character on. With a free choice, what is text stays
//! free until a call begins.

use std::collections::HashSet;

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llm::Tokenizer;
use serde_json::{Value, json};

use super::grammar::{self, Rules};
use super::schema;
use crate::parse::{ReasoningFormat, ToolFormat};
use crate::structure::{StructureError, Tool, ToolChoice};

/// As many as OpenAI takes.
const TOOLS_MAX: usize = 128;
/// No name of a function is longer.
const NAME_BYTES_MAX: usize = 256;

pub(super) struct Calls<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) format: ToolFormat,
    pub(super) reasoning: Option<ReasoningFormat>,
    pub(super) parallel: bool,
}

fn refuse(what: String, param: &'static str) -> StructureError {
    StructureError { what, param }
}

impl Calls<'_> {
    /// The grammar of answers that call `tools` as `choice` says.
    ///
    /// # Errors
    /// What is wrong with the tools, or with the choice among them.
    pub(super) fn grammar(
        &self,
        tools: &[Tool],
        choice: &ToolChoice,
    ) -> Result<TopLevelGrammar, StructureError> {
        check(tools)?;
        let mut rules = Rules::default();
        if *choice == ToolChoice::None {
            rules.add("start", "TEXT");
            rules.add("TEXT", grammar::TEXT);
            return Ok(rules.finish());
        }
        let allowed: Vec<&Tool> = match choice {
            ToolChoice::Named(name) => {
                let named: Vec<&Tool> = tools.iter().filter(|tool| tool.name == *name).collect();
                if named.is_empty() {
                    let what = format!("there is no tool `{name}` among the request's tools");
                    return Err(refuse(what, "tool_choice"));
                }
                named
            }
            _ if tools.is_empty() => {
                let what = "there are no tools to call; give `tools`".to_owned();
                return Err(refuse(what, "tools"));
            }
            _ => tools.iter().collect(),
        };
        let parallel = self.parallel && !matches!(choice, ToolChoice::Named(_));
        let free = *choice == ToolChoice::Auto;
        let body = self.body(&mut rules, parallel, free, &allowed);
        grammar::start(&mut rules, self.tokenizer, self.reasoning, &body);
        if free && self.reasoning.is_none() {
            rules.add("TEXT", grammar::TEXT);
        }
        self.objects(&mut rules, &allowed)?;
        Ok(rules.finish())
    }

    /// Writes the rules around calls, and returns the one of the whole answer.
    fn body(&self, rules: &mut Rules, parallel: bool, free: bool, tools: &[&Tool]) -> String {
        let opening = grammar::tag(self.tokenizer, self.format.opening());
        match self.format {
            ToolFormat::Hermes => {
                let closing = grammar::tag(self.tokenizer, "</tool_call>").rule;
                rules.add("inner", &format!("\"\\n\" object \"\\n\" {closing}"));
            }
            ToolFormat::HermesList => {
                let closing = grammar::tag(self.tokenizer, "</tool_call>").rule;
                let more = if parallel { " (\", \" object)*" } else { "" };
                rules.add("inner", &format!("\"[\" object{more} \"]\" {closing}"));
            }
            ToolFormat::Mistral => {
                let more = if parallel { " (\", \" object)*" } else { "" };
                rules.add("inner", &format!("(\" [\" | \"[\") object{more} \"]\""));
            }
            // There is no way to write two.
            ToolFormat::Llama3Json => {
                if !free {
                    return "object".to_owned();
                }
                // Any object may be an answer, but not one that begins as a call does.
                let heads: Vec<String> =
                    tools.iter().map(|tool| grammar::literal(&self.head(&tool.name))).collect();
                rules.add("CALL", &format!("({}) {}", heads.join(" | "), grammar::TEXT));
                rules.add("PLAIN", &format!("{} & ~CALL", grammar::TEXT));
                return match opening.special {
                    true => format!("PLAIN | object | {} object", opening.rule),
                    false => "PLAIN | object".to_owned(),
                };
            }
        }
        let one_list = matches!(self.format, ToolFormat::HermesList | ToolFormat::Mistral);
        if free {
            grammar::text_until(rules, "lead", &opening);
            return match parallel && !one_list {
                true => "(lead inner)* TEXT".to_owned(),
                false => "TEXT | lead inner".to_owned(),
            };
        }
        match parallel && !one_list {
            true => format!("{0} inner (\"\\n\" {0} inner)*", opening.rule),
            false => format!("{} inner", opening.rule),
        }
    }

    /// Writes the rule `object`: one call of one of the tools.
    fn objects(&self, rules: &mut Rules, tools: &[&Tool]) -> Result<(), StructureError> {
        let mut objects = Vec::new();
        for (index, tool) in tools.iter().enumerate() {
            let parameters = parameters(tool).map_err(|reason| {
                refuse(format!("the schema of tool `{}` {reason}", tool.name), "tools")
            })?;
            let name = format!("arguments{index}");
            let arguments = rules.part(&name, GrammarWithLexer::from_json_schema(parameters));
            let head = grammar::literal(&self.head(&tool.name));
            objects.push(format!("{head} {arguments} \"}}\""));
        }
        rules.add("object", &objects.join(" | "));
        Ok(())
    }

    /// What stands in front of the arguments.
    fn head(&self, name: &str) -> String {
        let key = match self.format {
            ToolFormat::Llama3Json => "parameters",
            _ => "arguments",
        };
        format!("{{\"name\": {}, \"{key}\": ", Value::from(name))
    }
}

fn check(tools: &[Tool]) -> Result<(), StructureError> {
    if tools.len() > TOOLS_MAX {
        let what = format!("there are {} tools, but at most {TOOLS_MAX} are taken", tools.len());
        return Err(refuse(what, "tools"));
    }
    let mut names = HashSet::new();
    for tool in tools {
        if tool.name.is_empty() || tool.name.len() > NAME_BYTES_MAX {
            let what = format!("a tool's name must have 1 to {NAME_BYTES_MAX} bytes");
            return Err(refuse(what, "tools"));
        }
        if !names.insert(tool.name.as_str()) {
            return Err(refuse(format!("two tools have the name `{}`", tool.name), "tools"));
        }
    }
    schema::check_all(tools.iter().filter_map(|tool| tool.parameters.as_ref()))
        .map_err(|reason| refuse(format!("the schema of all tools together {reason}"), "tools"))
}

/// The schema of a tool's arguments: always an object.
fn parameters(tool: &Tool) -> Result<Value, String> {
    let Some(parameters) = &tool.parameters else {
        let none = json!({ "type": "object", "properties": {}, "additionalProperties": false });
        return schema::prepare(&none, false);
    };
    let mut prepared = schema::prepare(parameters, !tool.strict)?;
    if let Value::Object(members) = &mut prepared {
        match members.get("type") {
            None => {
                members.insert("type".to_owned(), "object".into());
            }
            Some(kind) if kind == "object" => {}
            Some(_) => return Err("is not of type `object`, as arguments are".to_owned()),
        }
    }
    Ok(prepared)
}
