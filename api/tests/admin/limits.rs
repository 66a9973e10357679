//! Rate limits as admins set them: what is counted, and what each unit needs.

use serde_json::{Value, json};
use sqlx::PgPool;

use crate::world::World;

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn each_unit_says_what_it_needs(pool: PgPool) {
    let w = World::new(pool).await;
    let tenant = w.tenant("a").await;
    let owner = w.token(&tenant, "owner").await;
    let path = format!("{tenant}/rate-limits");
    let set = async |fields: Value| {
        let mut body = json!({"scope": {"tenant": true}});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        w.post(&owner, &path, body).await
    };
    let calls = set(json!({"max": 1_000_000, "per": "second"})).await;
    assert_eq!((calls.status.as_u16(), &calls.json["unit"], &calls.json["per"]), (201, &json!("call"), &json!("second")));
    let tokens = set(json!({"max": 100_000_000, "per": "minute", "unit": "token"})).await;
    assert_eq!((tokens.status.as_u16(), &tokens.json["unit"]), (201, &json!("token")));
    let at_once = set(json!({"max": 100_000, "unit": "concurrent"})).await;
    assert_eq!((at_once.status.as_u16(), &at_once.json["unit"], &at_once.json["per"]), (201, &json!("concurrent"), &Value::Null));
    for (body, pointer) in [
        (json!({"max": 1_000_001, "per": "second"}), "/max"),
        (json!({"max": 0, "per": "second"}), "/max"),
        (json!({"max": 100_000_001, "per": "day", "unit": "token"}), "/max"),
        (json!({"max": 100_001, "unit": "concurrent"}), "/max"),
        (json!({"max": 1}), "/per"),
        (json!({"max": 1, "unit": "token"}), "/per"),
        (json!({"max": 1, "unit": "concurrent", "per": "day"}), "/per"),
    ] {
        let refused = set(body.clone()).await;
        refused.is(422, "invalid");
        assert_eq!(refused.pointer(), pointer, "{body}: {}", refused.text);
    }

    let patch =
        async |id: &str, body: Value| w.call(&owner, "PATCH", &format!("{path}/{id}"), Some(body), &[("if-match", "*")]).await;
    let refused = patch(&at_once.id(), json!({"per": "day"})).await;
    refused.is(422, "invalid");
    assert_eq!(refused.pointer(), "/per");
    let refused = patch(&calls.id(), json!({"max": 2_000_000})).await;
    refused.is(422, "invalid");
    assert_eq!(refused.pointer(), "/max");
    let changed = patch(&at_once.id(), json!({"max": 5})).await;
    assert_eq!((changed.status.as_u16(), &changed.json["max"], &changed.json["unit"]), (200, &json!(5), &json!("concurrent")));
    let listed = w.get(&owner, &path).await;
    assert_eq!(listed.json["items"].as_array().unwrap().len(), 3);
}
