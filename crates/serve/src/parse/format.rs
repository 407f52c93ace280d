//! Which way a model writes tool calls and thoughts, found out from its chat template.

/// How a family of models writes tool calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolFormat {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, once for each call: Hermes, Qwen.
    Hermes,
    /// The same tags around a list of all calls: SmolLM2.
    HermesList,
    /// `{"name": …, "parameters": {…}}` and nothing else, perhaps behind `<|python_tag|>`:
    /// Llama 3.
    Llama3Json,
    /// `[TOOL_CALLS] [{"name": …, "arguments": {…}}]`: Mistral.
    Mistral,
}

impl ToolFormat {
    /// The names by which people choose a format, vLLM's where it has one.
    pub const NAMES: [(&'static str, ToolFormat); 4] = [
        ("hermes", ToolFormat::Hermes),
        ("hermes_list", ToolFormat::HermesList),
        ("llama3_json", ToolFormat::Llama3Json),
        ("mistral", ToolFormat::Mistral),
    ];

    /// None for an unknown name.
    pub fn of_name(name: &str) -> Option<ToolFormat> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, format)| *format)
    }

    /// The name that [`of_name`](ToolFormat::of_name) knows it by.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, format)| *format == self).map_or("", |(name, _)| name)
    }

    /// The format that a chat template's source teaches. None if it says nothing of tools, or
    /// teaches a format that is not known here.
    pub fn of_template(source: &str) -> Option<ToolFormat> {
        if source.contains("[TOOL_CALLS]") {
            // The newest Mistrals write `[TOOL_CALLS]name[ARGS]{…}`.
            return (!source.contains("[ARGS]")).then_some(ToolFormat::Mistral);
        }
        if let Some(at) = source.find("<tool_call>") {
            // Qwen3-Coder: `<tool_call><function=name><parameter=key>`.
            if source.contains("<function=") {
                return None;
            }
            let list = source.match_indices("<tool_call>").any(|(at, tag)| {
                source[at + tag.len()..].trim_start_matches([' ', '\n']).starts_with('[')
            });
            let written = source[at..].contains("</tool_call>");
            return written.then_some(match list {
                true => ToolFormat::HermesList,
                false => ToolFormat::Hermes,
            });
        }
        // Llama 3.1 and 3.2 spell the format out in the prompt.
        let llama = source.contains("<|python_tag|>")
            || (source.contains("<|start_header_id|>") && source.contains("\"parameters\""));
        (llama && source.contains("tools")).then_some(ToolFormat::Llama3Json)
    }
}

/// How a model's thoughts stand in its answers, always between `<think>` and `</think>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReasoningFormat {
    /// The answer may begin with `<think>`.
    Tagged,
    /// The template's end opens the tag already: the answer begins inside.
    Opened,
}

impl ReasoningFormat {
    /// From a chat template's source and from a prompt that it rendered, with the beginning of an
    /// answer. None for models that do not think in tags.
    pub fn of_template(source: &str, prompt: &str) -> Option<ReasoningFormat> {
        let thinks = source.contains("<think>") || source.contains("</think>");
        thinks.then(|| ReasoningFormat::of_prompt(prompt))
    }

    /// From the prompt alone, for a model that thinks in tags.
    pub fn of_prompt(prompt: &str) -> ReasoningFormat {
        match prompt.trim_end().ends_with("<think>") {
            true => ReasoningFormat::Opened,
            false => ReasoningFormat::Tagged,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_tell_their_format() {
        use ToolFormat::{Hermes, HermesList, Llama3Json, Mistral};
        let cases: [(&str, Option<ToolFormat>); 8] = [
            // Qwen 2.5 and 3.
            (
                "{%- if tools %}…within <tool_call></tool_call> XML tags:\\n<tool_call>\\n{\"name\": \
                 <function-name>, \"arguments\": <args-json-object>}\\n</tool_call>",
                Some(Hermes),
            ),
            // SmolLM2's prompt for tools.
            ("<tool_call>[\n{\"name\": \"func_name1\"}]</tool_call>", Some(HermesList)),
            // Qwen3-Coder.
            ("<tool_call>\\n<function=example>\\n<parameter=a></tool_call>", None),
            (
                "{% if tools %}<|start_header_id|>…{\"name\": function name, \"parameters\": \
                 dictionary}",
                Some(Llama3Json),
            ),
            ("{% if tools %}{{ '<|python_tag|>' }}", Some(Llama3Json)),
            ("{{ \"[TOOL_CALLS] [\" }}", Some(Mistral)),
            ("{{ '[TOOL_CALLS]' + name + '[ARGS]' }}", None),
            ("{{ '<|im_start|>' + message['role'] }}", None),
        ];
        for (source, format) in cases {
            assert_eq!(ToolFormat::of_template(source), format, "{source}");
        }
    }

    #[test]
    fn names_go_both_ways() {
        for (name, format) in ToolFormat::NAMES {
            assert_eq!(ToolFormat::of_name(name), Some(format));
            assert_eq!(format.name(), name);
        }
        assert_eq!(ToolFormat::of_name("pythonic"), None);
    }

    #[test]
    fn an_open_tag_is_seen_in_the_prompt() {
        let of = ReasoningFormat::of_template;
        assert_eq!(of("…<think>…", "<|Assistant|><think>\n"), Some(ReasoningFormat::Opened));
        let closed = "<|im_start|>assistant\n<think>\n\n</think>\n\n";
        assert_eq!(of("…<think>…", closed), Some(ReasoningFormat::Tagged));
        assert_eq!(of("plain", "<|im_start|>assistant\n"), None);
    }
}
