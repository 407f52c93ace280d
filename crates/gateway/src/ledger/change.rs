//! Changes of tenants and keys as statements that both databases understand: each change is one
//! transaction, after which everybody sees a new version.

use crate::tenants::{StoredKey, Tenant};

#[derive(Clone)]
pub(crate) enum Change {
    AddTenant {
        tenant: Tenant,
        key: StoredKey,
    },
    SetTenant(Tenant),
    RemoveTenant(String),
    AddKey(StoredKey),
    /// The old key ends (unless it ends earlier already), a new one begins.
    RotateKey {
        old: String,
        ends_milliseconds: i64,
        new: StoredKey,
    },
    RevokeKey {
        tenant: String,
        name: String,
        ends_milliseconds: i64,
    },
}

#[derive(Clone)]
pub(crate) enum Value {
    Text(String),
    Integer(i64),
    Bytes(Vec<u8>),
}

/// Its parameters are `$1`, `$2` and so on, in that order in the text: SQLite numbers them as they
/// come, PostgreSQL by their names.
pub(crate) struct Statement {
    pub(crate) sql: &'static str,
    pub(crate) values: Vec<Value>,
    /// Whether the change is not done at all if this touches no row: somebody else was first.
    pub(crate) must_touch: bool,
}

pub(crate) const RAISE_VERSION: &str = "UPDATE changes SET version = version + 1";

impl Change {
    pub(crate) fn statements(&self) -> Result<Vec<Statement>, serde_json::Error> {
        let text = |text: &str| Value::Text(text.to_string());
        let end = "UPDATE keys SET ends_milliseconds = $1 WHERE tenant = $2 AND name = $3 \
                   AND (ends_milliseconds IS NULL OR ends_milliseconds > $4)";
        let end = |tenant: &str, name: &str, at: i64| {
            let values = vec![Value::Integer(at), text(tenant), text(name), Value::Integer(at)];
            Statement { sql: end, values, must_touch: false }
        };
        Ok(match self {
            Change::AddTenant { tenant, key } => {
                let sql = "INSERT INTO tenants (name, settings) VALUES ($1, $2) \
                           ON CONFLICT DO NOTHING";
                let values = vec![text(&tenant.name), Value::Text(serde_json::to_string(tenant)?)];
                vec![Statement { sql, values, must_touch: true }, add(key)]
            }
            Change::SetTenant(tenant) => {
                let sql = "UPDATE tenants SET settings = $1 WHERE name = $2";
                let values = vec![Value::Text(serde_json::to_string(tenant)?), text(&tenant.name)];
                vec![Statement { sql, values, must_touch: true }]
            }
            Change::RemoveTenant(name) => {
                let remove =
                    |sql, must_touch| Statement { sql, values: vec![text(name)], must_touch };
                vec![
                    remove("DELETE FROM tenants WHERE name = $1", true),
                    remove("DELETE FROM keys WHERE tenant = $1", false),
                ]
            }
            Change::AddKey(key) => vec![lock(&key.tenant), add(key)],
            Change::RotateKey { old, ends_milliseconds, new } => {
                vec![lock(&new.tenant), add(new), end(&new.tenant, old, *ends_milliseconds)]
            }
            Change::RevokeKey { tenant, name, ends_milliseconds } => {
                vec![end(tenant, name, *ends_milliseconds)]
            }
        })
    }
}

/// A key must not come to a tenant that is being removed.
fn lock(tenant: &str) -> Statement {
    let sql = "UPDATE tenants SET name = name WHERE name = $1";
    Statement { sql, values: vec![Value::Text(tenant.to_string())], must_touch: true }
}

fn add(key: &StoredKey) -> Statement {
    let sql = "INSERT INTO keys (digest, tenant, name, last_four, created_milliseconds) \
               VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
    let values = vec![
        Value::Bytes(key.digest.to_vec()),
        Value::Text(key.tenant.clone()),
        Value::Text(key.name.clone()),
        Value::Text(key.last_four.clone()),
        Value::Integer(key.created_milliseconds),
    ];
    Statement { sql, values, must_touch: true }
}
