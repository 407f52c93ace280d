//! Which shape an answer is asked for in: `response_format`, vLLM's `guided_*` and
//! `structured_outputs`, tools.
//!
//! Knows no grammar: a shape is only named here.

use serde_json::{Value, json};

use super::error::ApiError;
use super::fields::{Fields, wrong_type};
use crate::structure::{StructureSpec, Tool, ToolChoice};

const TOOLS_MAX: usize = 128;

/// A shape, and the functions that may be called in it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shape {
    pub spec: Option<StructureSpec>,
    pub tools: Vec<Tool>,
    pub choice: ToolChoice,
    pub parallel: bool,
}

impl Shape {
    /// Of text without functions: completions.
    pub fn of_text(fields: &Fields<'_>) -> Result<Shape, ApiError> {
        let spec = one_of(response_format(fields)?, guided(fields)?)?;
        Ok(Shape { spec, tools: Vec::new(), choice: ToolChoice::None, parallel: true })
    }

    pub fn of_chat(fields: &Fields<'_>) -> Result<Shape, ApiError> {
        for (name, instead) in [("functions", "tools"), ("function_call", "tool_choice")] {
            if fields.get(name).is_some() {
                let message = format!("{name} is not supported any more; use {instead}");
                return Err(ApiError::unsupported(name, message));
            }
        }
        let asked = one_of(response_format(fields)?, guided(fields)?)?;
        Shape::with_tools(fields, Wrapping::Chat, asked)
    }

    pub fn of_responses(fields: &Fields<'_>) -> Result<Shape, ApiError> {
        let format = match fields.object("text")? {
            Some(text) => match text.object("format")? {
                Some(format) => spec_of_format(&format, &format)?,
                None => None,
            },
            None => None,
        };
        Shape::with_tools(fields, Wrapping::Flat, one_of(format, guided(fields)?)?)
    }

    fn with_tools(
        fields: &Fields<'_>,
        wrapping: Wrapping,
        asked: Option<StructureSpec>,
    ) -> Result<Shape, ApiError> {
        let tools = tools(fields, wrapping)?;
        let choice = tool_choice(fields, &tools)?;
        let parallel = fields.flag("parallel_tool_calls")?.unwrap_or(true);
        let must_call = matches!(choice, ToolChoice::Required | ToolChoice::Named(_));
        let may_call = must_call || choice == ToolChoice::Auto && !tools.is_empty();
        let strict = tools.iter().any(|tool| tool.strict);
        if must_call && asked.is_some() {
            let message = "an answer cannot be a call of a function and have a format of its own; \
                           leave out one of the two";
            return Err(ApiError::field("tool_choice", message));
        }
        let spec = match asked {
            None if must_call || may_call && strict => Some(StructureSpec::Tools {
                tools: tools.clone(),
                choice: choice.clone(),
                parallel,
            }),
            asked => asked,
        };
        Ok(Shape { spec, tools, choice, parallel })
    }

    /// Whether the model is shown the functions.
    pub fn offers_tools(&self) -> bool {
        !self.tools.is_empty() && self.choice != ToolChoice::None
    }

    /// The functions as chat templates expect them.
    pub fn template_tools(&self) -> Option<Vec<Value>> {
        let shown = |tool: &Tool| {
            let mut function = json!({"name": tool.name});
            if let Some(description) = &tool.description {
                function["description"] = json!(description);
            }
            function["parameters"] = schema_of(tool);
            json!({"type": "function", "function": function})
        };
        self.offers_tools().then(|| self.tools.iter().map(shown).collect())
    }
}

fn one_of(
    left: Option<StructureSpec>,
    right: Option<StructureSpec>,
) -> Result<Option<StructureSpec>, ApiError> {
    match (left, right) {
        (Some(_), Some(_)) => Err(more_than_one()),
        (left, right) => Ok(left.or(right)),
    }
}

fn more_than_one() -> ApiError {
    ApiError::invalid("more than one format is asked for; give one")
}

fn response_format(fields: &Fields<'_>) -> Result<Option<StructureSpec>, ApiError> {
    let Some(format) = fields.object("response_format")? else { return Ok(None) };
    match format.object("json_schema")? {
        Some(inner) => spec_of_format(&format, &inner),
        None => spec_of_format(&format, &format),
    }
}

/// `inner` is where the schema stands.
fn spec_of_format(
    format: &Fields<'_>,
    inner: &Fields<'_>,
) -> Result<Option<StructureSpec>, ApiError> {
    match format.text("type")?.ok_or_else(|| format.missing("type"))? {
        "text" => Ok(None),
        "json_object" => Ok(Some(StructureSpec::JsonObject)),
        "json_schema" => {
            let schema = inner.get("schema").ok_or_else(|| inner.missing("schema"))?;
            Ok(Some(StructureSpec::JsonSchema(json_schema(schema, &inner.path("schema"))?)))
        }
        other => Err(ApiError::field(
            format.path("type"),
            format!("the format `{other}` is unknown; text, json_object and json_schema are known"),
        )),
    }
}

/// A schema is an object, or true or false; vLLM's clients also send it as text.
fn json_schema(value: &Value, path: &str) -> Result<Value, ApiError> {
    match value {
        Value::Object(_) | Value::Bool(_) => Ok(value.clone()),
        Value::String(text) => match serde_json::from_str(text) {
            Ok(schema @ (Value::Object(_) | Value::Bool(_))) => Ok(schema),
            _ => Err(ApiError::field(path, format!("{path} is a text that is no JSON schema"))),
        },
        _ => Err(wrong_type(path.to_owned(), "a JSON schema", value)),
    }
}

/// vLLM's older fields, and the object that has replaced them.
fn guided(fields: &Fields<'_>) -> Result<Option<StructureSpec>, ApiError> {
    let mut found = named_specs(fields, "guided_")?;
    if let Some(outputs) = fields.object("structured_outputs")? {
        found.extend(named_specs(&outputs, "")?);
        outputs.refuse(
            "structural_tag",
            &[],
            "structural tags are not supported; use a grammar",
        )?;
    }
    match found.len() {
        0 | 1 => Ok(found.pop()),
        _ => Err(more_than_one()),
    }
}

fn named_specs(fields: &Fields<'_>, prefix: &str) -> Result<Vec<StructureSpec>, ApiError> {
    let mut found = Vec::new();
    let name = |kind: &str| format!("{prefix}{kind}");
    if let Some(schema) = fields.get(&name("json")) {
        let schema = json_schema(schema, &fields.path(&name("json")))?;
        found.push(StructureSpec::JsonSchema(schema));
    }
    if let Some(regex) = fields.text(&name("regex"))? {
        found.push(StructureSpec::Regex(regex.to_owned()));
    }
    if let Some(grammar) = fields.text(&name("grammar"))? {
        found.push(StructureSpec::Grammar(grammar.to_owned()));
    }
    if fields.list(&name("choice"))?.is_some() {
        let texts = fields.texts(&name("choice"))?;
        if texts.is_empty() {
            let path = fields.path(&name("choice"));
            return Err(ApiError::field(path.clone(), format!("{path} is empty; give one text")));
        }
        found.push(StructureSpec::Choice(texts));
    }
    if fields.flag(&name("json_object"))?.unwrap_or(false) {
        found.push(StructureSpec::JsonObject);
    }
    Ok(found)
}

/// Where a function's own fields stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrapping {
    /// Under `function`.
    Chat,
    /// Beside `type`, in the interface for responses.
    Flat,
}

fn tools(fields: &Fields<'_>, wrapping: Wrapping) -> Result<Vec<Tool>, ApiError> {
    let list = fields.list("tools")?.map_or(&[][..], Vec::as_slice);
    if list.len() > TOOLS_MAX {
        let message = format!("there are {} tools; {TOOLS_MAX} are the most", list.len());
        return Err(ApiError::field("tools", message));
    }
    let mut found: Vec<Tool> = Vec::with_capacity(list.len());
    for (at, value) in list.iter().enumerate() {
        let tool = Fields::of(value, format!("tools[{at}]"))?;
        let kind = tool.text("type")?.ok_or_else(|| tool.missing("type"))?;
        if kind != "function" {
            let message = format!("tools of type `{kind}` are not supported, only functions are");
            return Err(ApiError::unsupported(tool.path("type"), message));
        }
        let function = match wrapping {
            Wrapping::Chat => tool.object("function")?.ok_or_else(|| tool.missing("function"))?,
            Wrapping::Flat => tool,
        };
        let name = function.text("name")?.ok_or_else(|| function.missing("name"))?;
        if !is_function_name(name) {
            let message = "a function's name has 1 to 64 letters, digits, `_`, `-` or `.`";
            return Err(ApiError::field(function.path("name"), message));
        }
        if found.iter().any(|tool| tool.name == name) {
            let message = format!("there are two functions with the name `{name}`");
            return Err(ApiError::field(function.path("name"), message));
        }
        let parameters = function.object("parameters")?;
        found.push(Tool {
            name: name.to_owned(),
            description: function.text("description")?.map(str::to_owned),
            parameters: parameters.map(|schema| Value::Object(schema.map().clone())),
            strict: function.flag("strict")?.unwrap_or(false),
        });
    }
    Ok(found)
}

/// The schema of a function's arguments; of one without, that there are none.
pub(crate) fn schema_of(tool: &Tool) -> Value {
    tool.parameters.clone().unwrap_or_else(|| json!({"type": "object", "properties": {}}))
}

fn is_function_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(is_allowed)
}

fn tool_choice(fields: &Fields<'_>, tools: &[Tool]) -> Result<ToolChoice, ApiError> {
    let path = fields.path("tool_choice");
    let choice = match fields.get("tool_choice") {
        None if tools.is_empty() => ToolChoice::None,
        None => ToolChoice::Auto,
        Some(Value::String(word)) => match word.as_str() {
            "none" => ToolChoice::None,
            "auto" => ToolChoice::Auto,
            "required" => ToolChoice::Required,
            other => {
                let message = format!(
                    "tool_choice is `{other}`; it must be none, auto, required or a function"
                );
                return Err(ApiError::field(path, message));
            }
        },
        Some(value) => {
            let object = Fields::of(value, path.clone())?;
            if object.text("type")?.is_some_and(|kind| kind != "function") {
                let message = "tool_choice can name a function, and nothing else";
                return Err(ApiError::unsupported(object.path("type"), message));
            }
            let function = object.object("function")?.unwrap_or(object);
            let name = function.text("name")?.ok_or_else(|| function.missing("name"))?;
            if !tools.iter().any(|tool| tool.name == name) {
                let message = format!("tool_choice names `{name}`, which is not among the tools");
                return Err(ApiError::field(path, message));
            }
            ToolChoice::Named(name.to_owned())
        }
    };
    if choice == ToolChoice::Required && tools.is_empty() {
        let message = "tool_choice is `required`, but there are no tools; give some";
        return Err(ApiError::field(path, message));
    }
    Ok(choice)
}
