//! Bearers: expiry, revocation, and people of an identity provider.

use chrono::Duration;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tollgate_boot::{Config, config::Oidc};

use crate::world::World;

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t49_every_bearer_of_nobody_gets_the_same_answer(pool: PgPool) {
    let world = World::new(pool).await;
    let tenant = world.tenant("A").await;
    let body = json!({"name": "x", "role": "owner", "expires_at": "2027-01-01T00:00:00Z"});
    let expiring =
        world.post(&world.root, &format!("{tenant}/service-tokens"), body).await.json["secret"].as_str().unwrap().to_owned();
    assert_eq!(world.get(&expiring, &tenant).await.status, 200);
    world.pass(Duration::days(365));
    let key = world.post(&world.root, &format!("{tenant}/keys"), json!({"name": "x", "tool_group_ids": []})).await;
    let stranger = World::new(world.pool.clone()).await;
    let mut typo = world.root.clone();
    typo.replace_range(60..61, if &typo[60..61] == "a" { "b" } else { "a" });
    let nobodies = [
        String::new(),
        "x".into(),
        expiring,
        key.json["secret"].as_str().unwrap().to_owned(),
        typo,
        "a.b.c".into(),
        format!("{}x", stranger.root),
        "' OR 1=1 --".replace(' ', "_"),
        "../../etc/passwd".into(),
    ];
    let mut bodies = Vec::new();
    for nobody in nobodies {
        let mut reply = world.get(&nobody, &tenant).await;
        reply.is(401, "unauthenticated");
        assert_eq!(reply.headers["www-authenticate"], "Bearer");
        reply.json["request_id"].take();
        bodies.push(reply.json);
    }
    assert!(bodies.windows(2).all(|w| w[0] == w[1]));
}

/// An identity provider that serves one key, and counts how often it is asked.
struct Provider {
    issuer: String,
    key: EncodingKey,
    other: EncodingKey,
    asked: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

/// Ed25519 keys of this test alone, in PKCS#8.
fn key(seed: u8) -> EncodingKey {
    let mut der = vec![0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    der.extend([seed; 32]);
    EncodingKey::from_ed_der(&der)
}

async fn provider() -> Provider {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&key(1), Algorithm::EdDSA).unwrap()).unwrap();
    jwk["kid"] = json!("k1");
    let set = json!({"keys": [{"kty": "unheard-of"}, jwk]}).to_string();
    let discovery = json!({"issuer": issuer, "jwks_uri": format!("{issuer}/jwks")}).to_string();
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = std::sync::Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let read = stream.read(&mut head).await.unwrap();
            let body = if head[..read].starts_with(b"GET /jwks ") {
                counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                &set
            } else {
                &discovery
            };
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    Provider { issuer, key: key(1), other: key(2), asked }
}

fn sign(key: &EncodingKey, kid: &str, claims: &Value) -> String {
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some(kid.to_owned());
    encode(&header, claims, key).unwrap()
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t14_t15_people_come_in_by_their_providers_rules(pool: PgPool) {
    let provider = provider().await;
    let oidc = Oidc {
        issuer: provider.issuer.clone(),
        audience: "tollgate".into(),
        algorithms: vec!["EdDSA".into()],
        jwks_url: None,
        tenant_claim: Some("tenant".into()),
        role_claim: Some("roles".into()),
    };
    let world = World::with_config(pool, Config { oidc: vec![oidc], ..Config::default() }).await;
    let (a, b) = (world.tenant("A").await, world.tenant("B").await);
    let now = tollgate_domain::Clock::now(&*world.clock).timestamp();
    let claims = |change: Value| {
        let mut claims = json!({"iss": provider.issuer, "aud": "tollgate", "sub": "ann", "exp": now + 300, "tenant": "a", "roles": ["finance", "unheard-of"]});
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    };
    let token = |change: Value| sign(&provider.key, "k1", &claims(change));

    assert_eq!(world.get(&token(json!({})), &a).await.status, 200);
    world.get(&token(json!({})), &b).await.is(404, "not_found");
    world.post(&token(json!({})), &format!("{a}/teams"), json!({"name": "x"})).await.is(403, "forbidden");
    assert_eq!(world.get(&token(json!({"aud": ["x", "tollgate"], "exp": now - 59})), &a).await.status, 200, "within the leeway");
    for (change, why) in [
        (json!({"aud": "another"}), "audience"),
        (json!({"iss": format!("{}/", provider.issuer)}), "issuer"),
        (json!({"exp": now - 61}), "expired"),
        (json!({"exp": null}), "no expiry"),
        (json!({"nbf": now + 61}), "not yet"),
        (json!({"tenant": "nowhere"}), "tenant"),
        (json!({"roles": ["unheard-of"]}), "role"),
        (json!({"sub": ""}), "subject"),
    ] {
        let reply = world.get(&token(change), &a).await;
        assert_eq!(reply.code(), "unauthenticated", "{why}: {}", reply.text);
    }
    world.get(&sign(&provider.other, "k1", &claims(json!({}))), &a).await.is(401, "unauthenticated");
    // HMAC under the public key, and no signature at all.
    let hs = encode(&Header::new(Algorithm::HS256), &claims(json!({})), &EncodingKey::from_secret(b"k")).unwrap();
    world.get(&hs, &a).await.is(401, "unauthenticated");
    let none = format!("eyJhbGciOiJub25lIn0.{}.", token(json!({})).split('.').nth(1).unwrap());
    world.get(&none, &a).await.is(401, "unauthenticated");

    // Unknown keys ask the provider once, not once each.
    let before = provider.asked.load(std::sync::atomic::Ordering::SeqCst);
    for i in 0..10 {
        world.get(&sign(&provider.other, &format!("k{i}0"), &claims(json!({}))), &a).await.is(401, "unauthenticated");
    }
    assert_eq!((before, provider.asked.load(std::sync::atomic::Ordering::SeqCst)), (1, 1));

    // Without the claims, the tenant's own list of admins decides.
    let plain = token(json!({"tenant": null, "roles": null}));
    world.get(&plain, &b).await.is(401, "unauthenticated");
    let binding = json!({"name": "Ann", "issuer": provider.issuer, "subject": "ann", "role": "operator"});
    let made = world.post(&world.root, &format!("{b}/admins"), binding.clone()).await;
    assert_eq!(made.status, 201, "{}", made.text);
    world.post(&world.root, &format!("{b}/admins"), binding).await.is(409, "conflict");
    assert_eq!(world.get(&plain, &b).await.status, 200);
    world.get(&plain, &a).await.is(404, "not_found");
    let path = format!("{b}/admins/{}", made.id());
    assert_eq!(world.call(&world.root, "DELETE", &path, None, &[("if-match", "*")]).await.status, 204);
    world.get(&plain, &b).await.is(401, "unauthenticated");
}
