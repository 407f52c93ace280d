//! Configs, right ones and others.

use super::*;
use crate::money::Money;

const SMALL: &str = r#"
[pools.tpu]
chip = "v6e"
chips = 8
price = "2.70 usd/chip-hour"
backends = [{ url = "https://10.0.0.7:8000/v1/", api_key = { file = "secrets/key" } }]

[pools.hosted]
price = { input = "0.20 usd/million", output = "$0.60/million" }
backends = [{ url = "https://api.example.com", name = "hosted", continues = "never" }]

[models.chat]
pools = { tpu = { weight = 3, model = "meta/llama" }, hosted = {} }
policy = "fastest"
ttft = "500ms"

[models.small]
pools = ["hosted"]
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("/etc/gateway.toml"), text)
}

fn wrong(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn a_file_becomes_a_config() {
    let config = parse(SMALL).unwrap();
    assert_eq!(config.database, Database::Sqlite("/etc/gateway.db".into()));
    let tpu = &config.pools[0];
    assert_eq!((tpu.name.as_str(), tpu.price), ("tpu", Price::ChipHour(Money::from_dollars(2.7))));
    let backend = &tpu.backends[0];
    assert_eq!(
        (backend.url.as_str(), backend.name.as_str()),
        ("https://10.0.0.7:8000", "10.0.0.7:8000")
    );
    assert_eq!(backend.api_key, Some(Secret::File("/etc/secrets/key".into())));
    let chat = &config.models[0];
    assert_eq!(chat.policy, Policy::Fastest);
    assert_eq!(chat.ttft, Some(Duration::from_millis(500)));
    let pools: Vec<_> =
        chat.pools.iter().map(|pool| (pool.pool.as_str(), pool.model.as_str())).collect();
    assert_eq!(pools, [("tpu", "meta/llama"), ("hosted", "chat")]);
    assert_eq!(config.models[1].pools[0].pool, "hosted");
}

#[test]
fn what_is_wrong_has_a_line_and_the_nearest_name() {
    let changed = |from: &str, to: &str| wrong(&SMALL.replace(from, to));
    assert_eq!(
        changed("policy = \"fastest\"", "polcy = \"fastest\""),
        "/etc/gateway.toml:14: unknown key `polcy`; did you mean `policy`?"
    );
    assert_eq!(
        changed("\"fastest\"", "\"fastes\""),
        "/etc/gateway.toml:14: unknown value `fastes`; did you mean `fastest`?"
    );
    assert_eq!(
        changed("pools = [\"hosted\"]", "pools = [\"hostd\"]"),
        "/etc/gateway.toml:18: there is no pool `hostd`; did you mean `hosted`?"
    );
    assert_eq!(
        changed("\"500ms\"", "\"500\""),
        "/etc/gateway.toml:15: expected a time with its unit, such as \"500ms\", \"30s\" or \"5m\", not \"500\""
    );
    for (from, to, expected) in [
        ("chips = 8\n", "", "say how many chips"),
        ("2.70 usd/chip-hour", "2.70", "such as \"2.70 usd/chip-hour\""),
        ("{ file = \"secrets/key\" }", "\"sk-secret\"", "does not stand in the config"),
        ("https://10.0.0.7:8000/v1/", "10.0.0.7:8000", "is no address of a server"),
        ("https://10.0.0.7:8000/v1/", "https://me:pw@host", "is no address of a server"),
        ("[pools.hosted]", "[pools.tpu]", "duplicate key"),
        ("weight = 3", "weight = -1", "the weight -1"),
        ("pools = [\"hosted\"]", "pools = []", "has no pools"),
        ("continues = \"never\"", "continues = \"nevr\"", "did you mean `never`"),
        (
            "pools = [\"hosted\"]",
            "pools = [\"hosted\"]\ncanary = { pool = \"hosted\", share = 0.1 }",
            "take it out of one of them",
        ),
    ] {
        let message = changed(from, to);
        assert!(message.contains(expected), "{message}");
        assert!(message.starts_with("/etc/gateway.toml:"), "{message}");
        assert!(!message.contains("sk-secret"), "{message}");
    }
    assert!(wrong("").contains("there are no pools"));
    assert!(wrong("database = \"postgres://a:b@c/d\"\n").contains("no pools"));
    assert!(
        wrong(&format!("database = \"postgres://a:b@c/d\"\n{SMALL}")).contains("does not stand")
    );
}

proptest::proptest! {
    #[test]
    fn any_file_is_a_config_or_an_error(text in ".{0,200}", cut in 0usize..600) {
        let _ = parse(&text);
        let end = (0..=cut.min(SMALL.len())).rev().find(|&at| SMALL.is_char_boundary(at));
        let _ = parse(&format!("{}{text}", &SMALL[..end.unwrap_or(0)]));
    }
}
