//! Schemas, patterns and grammars that are wrong, impossible or meant to do harm: each is refused
//! in a sentence, or works within bounds.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

#[path = "support/structures.rs"]
mod structures;

use serde_json::{Value, json};
use serve::structure::{StructureSpec, Structures};
use structures::Subject;

#[test]
fn probe() {
    let subject = Subject::tiny();
    let mut chain = serde_json::Map::new();
    for i in 0..199 { chain.insert(format!("d{i}"), json!({"type":"object","properties":{"x":{"$ref":format!("#/$defs/d{}",i+1)}}, "required":["x"]})); }
    chain.insert("d199".into(), json!({"type":"null"}));
    let mut deep = json!({});
    for _ in 0..31 { deep = json!({ "items": deep, "type":"array" }); }
    let mut wide = serde_json::Map::new();
    for i in 0..4000 { wide.insert(format!("p{i}"), json!({"type":"string"})); }
    let mut doubling = json!({"type":"string"});
    for _ in 0..30 { doubling = json!({"anyOf":[doubling, {"type":"null"}]}); }
    let mut refdouble = serde_json::Map::new();
    for i in 0..100 { refdouble.insert(format!("d{i}"), json!({"allOf":[{"$ref":format!("#/$defs/d{}",i+1)},{"$ref":format!("#/$defs/d{}",i+1)}]})); }
    refdouble.insert("d100".into(), json!({"type":"object","properties":{"a":{"type":"integer"}}}));
    let j = StructureSpec::JsonSchema;
    let r = |s: &str| StructureSpec::Regex(s.to_owned());
    let g = |s: String| StructureSpec::Grammar(s);
    let specs = vec![
        ("chain", j(json!({"$ref":"#/$defs/d0","$defs":chain}))),
        ("deep", j(deep)),
        ("wide", j(json!({"type":"object","properties":wide}))),
        ("doubling", j(doubling)),
        ("refdouble", j(json!({"$ref":"#/$defs/d0","$defs":refdouble}))),
        ("selfref", j(json!({"$ref":"#"}))),
        ("selfallof", j(json!({"allOf":[{"$ref":"#"},{"type":"object"}]}))),
        ("infinite", j(json!({"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}))),
        ("enum empty", j(json!({"type":"string","enum":[]}))),
        ("contradiction", j(json!({"allOf":[{"type":"string"},{"type":"integer"}]}))),
        ("contr req", j(json!({"type":"object","properties":{"a":{"allOf":[{"type":"string"},{"type":"integer"}]}},"required":["a"]}))),
        ("minmax", j(json!({"type":"integer","minimum":5,"maximum":4}))),
        ("minmaxlen", j(json!({"type":"string","minLength":5,"maxLength":4}))),
        ("minmaxitems", j(json!({"type":"array","minItems":5,"maxItems":4}))),
        ("pattern+len", j(json!({"type":"string","pattern":"^a$","minLength":4}))),
        ("badtype", j(json!({"type":"strin"}))),
        ("badprops", j(json!({"type":"object","properties":[]}))),
        ("badpattern", j(json!({"type":"string","pattern":"("}))),
        ("lookahead", j(json!({"type":"string","pattern":"(?=a)b"}))),
        ("not", j(json!({"not":{"type":"string"}}))),
        ("unique", j(json!({"type":"array","uniqueItems":true}))),
        ("badref", j(json!({"$ref":"#/$defs/none"}))),
        ("remoteref", j(json!({"$ref":"https://example.com/x"}))),
        ("2000 items", j(json!({"type":"array","minItems":2000, "maxItems":2000,"items":{"type":"array","maxItems":2000}}))),
        ("2000^3 items", j(json!({"type":"array","minItems":2000,"items":{"type":"array","minItems":2000,"items":{"type":"array","minItems":2000}}}))),
        ("len", j(json!({"type":"string","minLength":20000,"maxLength":20000}))),
        ("enum big", j(json!({"enum": (0..15000).map(|i| format!("value number {i} {}", i*7919)).collect::<Vec<_>>()}))),
        ("pattern exp", j(json!({"type":"string","pattern":"(a|aa|aaa|b.*c.*d.*){50,1000}"}))),
        ("huge num", j(json!({"type":"number","minimum":1e300,"maximum":1e308}))),
        ("multipleof", j(json!({"type":"number","multipleOf":0.0000001234567}))),
        ("multipleof0", j(json!({"type":"integer","multipleOf":0}))),
        ("multipleofbig", j(json!({"type":"integer","multipleOf":999983}))),
        ("rx exp", r("(a|b)*a(a|b){200}")),
        ("rx nested", r("((a{100}){100}){100}")),
        ("rx big", r("a{1000000000}")),
        ("rx big2", r("(ab){100000}")),
        ("rx unbalanced", r("(")),
        ("rx unicode", r(r"\p{L}{1,500}\p{N}{1,500}")),
        ("rx dot", r("(.{0,1000}x){0,1000}")),
        ("rx parens", r(&("(".repeat(4000) + &")".repeat(4000)))),
        ("rx never", r(r"[^\s\S]")),
        ("rx backref", r(r"(a)\1")),
        ("rx wordb", r(r"\bword\b")),
        ("rx alternation", r(&(0..6000).map(|i| format!("word{i}")).collect::<Vec<_>>().join("|"))),
        ("lark parens", g(format!("start: {}\"a\"{}", "(".repeat(8000), ")".repeat(8000)))),
        ("lark tildes", g(format!("start: A\nA: {}\"a\"", "~".repeat(8000)))),
        ("lark rep", g("start: \"a\"{1000000000}".into())),
        ("lark rep2", g("start: x{1000}\nx: y{1000}\ny: z{1000}\nz: \"a\" | \"b\"".into())),
        ("lark left", g("start: start".into())),
        ("lark ambiguous", g("start: start start | \"a\" | ".into())),
        ("lark empty", g(String::new())),
        ("lark json", g("start: %json {\"type\":\"array\",\"minItems\":1000000000}".into())),
        ("lark jsonlen", g("start: %json {\"type\":\"string\",\"minLength\":1000000000}".into())),
        ("lark undefined", g("start: other".into())),
        ("lark special", g("start: <|im_end|>".into())),
        ("lark special2", g("start: <[99999999]>".into())),
        ("lark import", g("%import common.INT\nstart: INT".into())),
        ("lark max_tokens", g("start[max_tokens=3]: /.*/".into())),
        ("lark stop", g("start: a \"x\"\na[stop=\"\"]: /.*/".into())),
        ("lark stop2", g("start: a \"x\"\na[stop=\"b\"]: /.*/".into())),
        ("lark gram ref", g("start: @other".into())),
        ("lark sub", g(format!("start: A\nA: %regex {{\"substring_chars\": \"{}\"}}", "abcdefgh ".repeat(5000)))),
        ("lark not", g("start: A\nA: /(.|\\n)*/ & ~/(.|\\n)*(a|b){30}c(.|\\n)*/".into())),
        ("choice", StructureSpec::Choice((0..5000).map(|i| format!("choice{i}")).collect())),
        ("choice empty", StructureSpec::Choice(vec![String::new()])),
        ("choice dup", StructureSpec::Choice(vec!["a".into(), "a".into()])),
    ];
    let only = std::env::var("ONLY").ok();
    for (name, spec) in specs {
        if only.as_ref().is_some_and(|o| o != name) { continue; }
        let t = std::time::Instant::now();
        match subject.structures.constraint(&spec) {
            Err(e) => println!("{name}: {:?} REFUSED {e}", t.elapsed()),
            Ok(mut c) => {
                let compiled = t.elapsed();
                let t = std::time::Instant::now();
                let mut seed = 1u64; let mut out = String::from("running"); let mut n=0; let mut worst = std::time::Duration::ZERO; let mut toks=vec![];
                for _ in 0..300 {
                    if c.is_complete() { out = "complete".into(); break; }
                    let t = std::time::Instant::now();
                    let a = match subject.allowed(c.as_mut()) { Ok(a) => a, Err(e) => { out = format!("ALLOW ERR {e}"); break; } };
                    worst = worst.max(t.elapsed());
                    seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
                    if a.is_empty() { out = "EMPTY".into(); break; }
                    let tk = a[(seed >> 33) as usize % a.len()];
                    if tk == subject.end { out="ended".into(); break; }
                    if let Err(e) = c.advance(tk) { out = format!("ADVANCE ERR {e}"); break; }
                    toks.push(tk); n += 1;
                }
                let rss = std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096 >> 20;
                println!("{name}: compiled {compiled:?}; {n} tokens {:?} worst {worst:?} {out} rss {rss} MB {:?}", t.elapsed(), subject.text(&toks).chars().take(50).collect::<String>());
            }
        }
    }
}
