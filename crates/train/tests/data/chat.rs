//! Conversations: what is learned from them, and how they are packed.

use llm::ModelFiles;

use super::*;

const TEMPLATE: &str = "{% for message in messages %}[{{ message.role }}]{{ message.content }}$\n\
    {% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";

fn with_template() -> Sandbox {
    let mut sandbox = Sandbox::new();
    sandbox.template = Some(ChatTemplate::new(TEMPLATE, &Default::default()).unwrap());
    sandbox
}

fn line(messages: &[(&str, &str)]) -> String {
    let messages: Vec<_> = messages
        .iter()
        .map(|(role, content)| serde_json::json!({"role": role, "content": content}))
        .collect();
    serde_json::json!({ "messages": messages }).to_string() + "\n"
}

/// The text of a row's segments, and the text of their targets.
fn segments(tokenizer: &Tokenizer, batch: &Batch, row: usize) -> Vec<(String, String)> {
    let places = row * batch.sequence_length..(row + 1) * batch.sequence_length;
    let last = batch.segments[places.clone()].iter().copied().max().unwrap();
    let decode = |ids: Vec<u32>| tokenizer.decode(&ids, false).unwrap();
    (1..=last)
        .map(|segment| {
            let inside = || places.clone().filter(|at| batch.segments[*at] == segment);
            let tokens = inside().map(|at| batch.tokens[at] as u32).collect();
            let targets = inside().map(|at| batch.targets[at]).filter(|target| *target >= 0);
            (decode(tokens), decode(targets.map(|target| target as u32).collect()))
        })
        .collect()
}

#[test]
fn only_what_the_assistant_said_is_learned() {
    let sandbox = with_template();
    let lines = [
        line(&[("user", "Hi"), ("assistant", "Yes?"), ("user", "Bye"), ("assistant", "See you.")]),
        line(&[("user", "nobody answers")]),
        line(&[("system", "S"), ("user", "1"), ("assistant", "2")]),
        line(&[("user", "long"), ("assistant", &"la".repeat(50))]),
        line(&[
            ("user", &"so long that there is no room for an answer ".repeat(2)),
            ("assistant", "x"),
        ]),
    ];
    let path = sandbox.write("chat.jsonl", lines.concat());
    let data = sandbox.open(&config(80, &[at(&path)]), 4).unwrap();
    let report = &data.training.sources()[0];
    assert_eq!((report.documents, report.rows), (5, 3));
    assert_eq!((report.truncated, report.without_answer), (1, 2));
    let batch = data.training.batch(0, 0..3).unwrap();
    check_batch(&batch);
    let first = segments(&sandbox.tokenizer, &batch, 0);
    assert_eq!(
        first,
        [(
            "[user]Hi$\n[assistant]Yes?$\n[user]Bye$\n[assistant]See you.$\n".to_owned(),
            "Yes?$See you.$".to_owned()
        )]
    );
    assert_eq!(segments(&sandbox.tokenizer, &batch, 1)[0].1, "2$");
    // Of the long one, as much is learned as fits: what follows its last token still counts.
    let long = &segments(&sandbox.tokenizer, &batch, 2)[0];
    assert_eq!((long.0.len(), long.1.len()), (80, 80 - "[user]long$\n[assistant]".len() + 1));
}

/// Finding answers renders the conversation up to each of them; of a long one only those that a row
/// can show are looked for. This template tells by refusing to render longer beginnings.
#[test]
fn of_a_long_conversation_only_the_beginning_is_rendered_again() {
    let mut sandbox = Sandbox::new();
    let template = "{% if messages | length >= 400 and messages | length < 1000 %}\
        {{ raise_exception('rendered in part') }}{% endif %}";
    let use_template = |template: &str, sandbox: &mut Sandbox| {
        sandbox.template = Some(ChatTemplate::new(template, &Default::default()).unwrap());
    };
    let messages = [("user", "What is it?"), ("assistant", "It is what it is.")].repeat(500);
    let path = sandbox.write("chat.jsonl", line(&messages));
    use_template(&format!("{template}{TEMPLATE}"), &mut sandbox);
    let open = |sandbox: &Sandbox, length| {
        let data = sandbox.open(&config(length, &[at(&path)]), 1).unwrap();
        (data.training.batch(0, 0..1).unwrap(), data.training.sources()[0].clone())
    };
    let (batch, report) = open(&sandbox, 96);
    let learned = &segments(&sandbox.tokenizer, &batch, 0)[0].1;
    assert_eq!(learned, "It is what it is.$It is what it is.$");
    assert_eq!((report.documents, report.truncated), (1, 1));
    assert!(report.tokens > 20_000, "{}", report.tokens);
    // As far as the longest row that these tokens are for.
    let (batch, _) = open(&sandbox, 4096);
    let (text, learned) = &segments(&sandbox.tokenizer, &batch, 0)[0];
    let answers = text.matches("[assistant]It").count();
    assert!(text.len() == 4096 && learned.matches("It is").count() == answers, "{answers}");
    // Nor does it hide another template, or make every start as long.
    use_template(&format!("{template}{}", TEMPLATE.replace('$', "!")), &mut sandbox);
    let (batch, _) = open(&sandbox, 64);
    assert!(segments(&sandbox.tokenizer, &batch, 0)[0].1.starts_with("It is what it is.!"));
    // Longer rows look further.
    let message = explain(&sandbox.open(&config(30_000, &[at(&path)]), 1).unwrap_err());
    assert!(message.contains("rendered in part"), "{message}");
}

#[test]
fn conversations_stay_whole() {
    let sandbox = with_template();
    let lines: String =
        (0..30).map(|number| line(&[("user", &"?".repeat(number)), ("assistant", "!")])).collect();
    let path = sandbox.write("chat.jsonl", lines);
    let data = sandbox.open(&config(64, &[at(&path)]), 1).unwrap();
    let mut seen = Vec::new();
    for step in 0..data.training.batches() {
        let batch = data.training.batch(step, 0..1).unwrap();
        check_batch(&batch);
        for (text, learned) in segments(&sandbox.tokenizer, &batch, 0) {
            assert!(text.starts_with("[user]") && text.ends_with("[assistant]!$\n"), "{text}");
            assert_eq!(learned, "!$");
            seen.push(text.matches('?').count());
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..30).collect::<Vec<_>>());
    assert!(data.training.rows() < 30, "nothing was packed");
    // The last tenth of the conversations is held out.
    let part = DataConfig { validation_fraction: 0.1, ..config(64, &[at(&path)]) };
    let part = sandbox.open(&part, 1).unwrap();
    let held_out = part.validation.unwrap();
    let batch = held_out.batch(0, 0..1).unwrap();
    let first = &segments(&sandbox.tokenizer, &batch, 0)[0].0;
    assert_eq!(first.matches('?').count(), 27);
}

#[test]
fn smollm2_learns_answers_and_their_ends() {
    let Some(path) = shared::smollm2("smollm2_learns_answers_and_their_ends") else { return };
    let files = ModelFiles::open(&path).unwrap();
    let tokenizer = files.tokenizer().unwrap().unwrap();
    let template = files.chat_template().unwrap().unwrap();
    let sandbox = Sandbox::new();
    let path = sandbox.write(
        "chat.jsonl",
        line(&[
            ("system", "You are brief."),
            ("user", "Sag\n\n  <b>etwas</b> 🦇"),
            ("assistant", "\n  Ein Wort:  bätman\n\n"),
            ("user", "assistant"),
            ("assistant", "Yes."),
        ]) + &line(&[("user", "2 + 2?"), ("assistant", "4")]),
    );
    let model = ModelSide {
        tokenizer: &tokenizer,
        chat_template: Some(&template),
        vocab_size: files.config.vocab_size,
        max_positions: Some(files.config.max_position_embeddings),
    };
    let config = config(128, &[at(&path)]);
    let data = Data::open(&config, &model, &sandbox.cache, 1, &mut |_| {}).unwrap();
    let batch = data.training.batch(0, 0..1).unwrap();
    check_batch(&batch);
    let segments = segments(&tokenizer, &batch, 0);
    // Without its first line end: that one shares a token with the line end before the answer.
    assert_eq!(segments[0].1, " Ein Wort:  bätman\n\n<|im_end|>Yes.<|im_end|>");
    assert_eq!(
        segments[0].0,
        "<|im_start|>system\nYou are brief.<|im_end|>\n<|im_start|>user\nSag\n\n  <b>etwas</b> \
         🦇<|im_end|>\n<|im_start|>assistant\n\n  Ein Wort:  bätman\n\n<|im_end|>\n<|im_start|>\
         user\nassistant<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n"
    );
    // The template adds a system message of its own where there is none.
    assert!(segments[1].0.starts_with("<|im_start|>system\n"), "{}", segments[1].0);
    assert_eq!(segments[1].1, "4<|im_end|>");
}
