//! People who come with a token of their identity provider.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::{KeyPair, KeySize},
    signature::KeyPair as _,
};
use axum::{Json, Router, extract::State, routing::get};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::harness::{Options, Tenant, Tollgate, until};

/// A key of an issuer.
struct SigningKey {
    id: String,
    encoding: EncodingKey,
    jwk: Value,
}

impl SigningKey {
    fn new(id: &str) -> Self {
        let pair = KeyPair::generate(KeySize::Rsa2048).expect("a key");
        let der = AsDer::<Pkcs8V1Der>::as_der(&pair).expect("PKCS 8");
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der.as_ref()));
        let public = pair.public_key();
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let jwk = json!({
            "kty": "RSA", "use": "sig", "alg": "RS256", "kid": id,
            "n": part(public.modulus().big_endian_without_leading_zero()),
            "e": part(public.exponent().big_endian_without_leading_zero()),
        });
        Self { id: id.to_owned(), encoding: EncodingKey::from_rsa_pem(pem.as_bytes()).expect("PEM"), jwk }
    }

    fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some(self.id.clone());
        encode(&header, claims, &self.encoding).expect("signed")
    }
}

/// An identity provider: its discovery document and its keys.
struct Issuer {
    url: String,
    keys: Arc<Mutex<Vec<Value>>>,
}

impl Issuer {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let keys = Arc::<Mutex<Vec<Value>>>::default();
        let discovery = json!({"issuer": url, "jwks_uri": format!("{url}/keys")});
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(async move || Json(discovery)))
            .route(
                "/keys",
                get(async |State(keys): State<Arc<Mutex<Vec<Value>>>>| Json(json!({"keys": *keys.lock().expect("lock")}))),
            )
            .with_state(Arc::clone(&keys));
        listener.set_nonblocking(true).expect("a socket");
        tokio::spawn(async move { axum::serve(tokio::net::TcpListener::from_std(listener).expect("a listener"), router).await });
        Self { url, keys }
    }

    fn publish(&self, keys: &[&SigningKey]) {
        *self.keys.lock().expect("lock") = keys.iter().map(|key| key.jwk.clone()).collect();
    }
}

#[expect(clippy::disallowed_methods, reason = "a test's own clock")]
fn now() -> i64 {
    chrono::Utc::now().timestamp()
}

#[tokio::test]
async fn t14_t15_a_person_is_who_the_configured_issuer_says_and_nobody_else() {
    let (issuer, other) = (Issuer::start(), Issuer::start());
    let (first, second, foreign) = (SigningKey::new("k1"), SigningKey::new("k2"), SigningKey::new("k1"));
    issuer.publish(&[&first]);
    other.publish(&[&foreign]);
    let entry = |issuer: &str, audience: &str| {
        format!("[[oidc]]\nissuer = {issuer:?}\naudience = {audience:?}\ntenant_claim = \"tenant\"\nrole_claim = \"role\"\n")
    };
    let config = entry(&issuer.url, "tollgate") + &entry(&other.url, "elsewhere");
    let tollgate = Tollgate::start(Options { config, ..Options::default() }).await;
    let (tenant, stranger) = (Tenant::new(&tollgate, "People").await, Tenant::new(&tollgate, "Others").await);
    let admin = tollgate.admin();

    let claims = |role: Value| {
        json!({"iss": issuer.url, "aud": "tollgate", "sub": "person-1", "email": "ada@example.com", "iat": now(), "exp": now() + 300,
            "tenant": tenant.id, "role": role})
    };
    let get = async |token: &str, path: &str| admin.with_token(token).get(path).await;
    let (keys, costs, calls) = (tenant.path("keys"), tenant.path("reports/costs"), tenant.path("tool-calls"));

    // The role decides: finance reads reports and no rows, an auditor reads rows, an operator makes keys.
    let finance = first.sign(&claims(json!("finance")));
    assert_eq!(get(&finance, &costs).await.status, 200);
    let denied = get(&finance, &calls).await;
    assert_eq!(denied.expect(403)["code"], "forbidden");
    let auditor = first.sign(&claims(json!("auditor")));
    assert_eq!(get(&auditor, &calls).await.status, 200);
    let new_key = json!({"name": "k", "tool_group_ids": []});
    assert_eq!(admin.with_token(&auditor).post(&keys, new_key.clone()).await.status, 403);
    let made = admin.with_token(&first.sign(&claims(json!(["viewer", "admin"])))).post(&keys, new_key).await;
    assert_eq!(made.status, 201, "of several roles the strongest that is known: {}", made.text);
    // What a person did stands under their name.
    let events = tenant.list("admin-events").await;
    assert!(events.iter().any(|event| event["action"] == "key.create" && event.to_string().contains("person-1")), "{events:?}");
    // Their tenant is theirs alone, by id or by slug.
    assert_eq!(get(&finance, &stranger.path("reports/costs")).await.status, 404);
    assert_eq!(get(&finance, "/v1/tenants").await.status, 403, "the platform's");

    // Everything that is wrong about a token reads alike.
    let nobody = admin.anonymous().get(&costs).await;
    let told = |answer: &crate::harness::Answer| {
        let mut body = answer.expect(401);
        let fields = body.as_object_mut().expect("a problem");
        fields.remove("request_id");
        fields.remove("instance");
        (body, answer.header("www-authenticate").map(str::to_owned))
    };
    let with = |field: &str, value: Value| {
        let mut claims = claims(json!("owner"));
        claims[field] = value;
        claims
    };
    let without = |field: &str| {
        let mut claims = claims(json!("owner"));
        claims.as_object_mut().expect("claims").remove(field);
        claims
    };
    let (head, rest) = finance.split_once('.').expect("three parts");
    let (body, signature) = rest.split_once('.').expect("three parts");
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let hs256 = {
        // Signed with the public key as if it were a shared secret.
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some("k1".to_owned());
        let secret = first.jwk["n"].as_str().expect("a modulus").as_bytes();
        encode(&header, &claims(json!("owner")), &EncodingKey::from_secret(secret)).expect("signed")
    };
    let mut rs512 = Header::new(Algorithm::RS512);
    rs512.kid = Some("k1".to_owned());
    let wrong = [
        ("another audience", first.sign(&with("aud", json!("another")))),
        ("an audience of the other issuer's", first.sign(&with("aud", json!("elsewhere")))),
        ("no audience", first.sign(&without("aud"))),
        ("an unknown issuer", first.sign(&with("iss", json!("http://127.0.0.1:1")))),
        ("the issuer with a slash", first.sign(&with("iss", json!(format!("{}/", issuer.url))))),
        ("no issuer", first.sign(&without("iss"))),
        ("T15: the other issuer's key under this issuer's name", foreign.sign(&claims(json!("owner")))),
        ("T15: this issuer's key under the other's name", first.sign(&json!({"iss": other.url, "aud": "elsewhere", "sub": "p", "exp": now() + 300, "tenant": tenant.id, "role": "owner"}))),
        ("expired", first.sign(&with("exp", json!(now() - 120)))),
        ("no expiry", first.sign(&without("exp"))),
        ("not yet", first.sign(&with("nbf", json!(now() + 600)))),
        ("no subject", first.sign(&without("sub"))),
        ("an unknown role", first.sign(&claims(json!("emperor")))),
        ("an unknown tenant", first.sign(&with("tenant", json!("ten_nothing")))),
        ("alg none", format!("{}.{body}.", part(json!({"alg": "none", "typ": "JWT"})))),
        ("alg none, spelt otherwise", format!("{}.{body}.{signature}", part(json!({"alg": "nOnE", "kid": "k1"})))),
        ("a symmetric algorithm", hs256),
        ("an algorithm that is not listed", encode(&rs512, &claims(json!("owner")), &first.encoding).expect("signed")),
        ("another key's name", second.sign(&claims(json!("owner")))),
        ("a bent body", format!("{head}.{}.{signature}", part(claims(json!("owner"))))),
        ("a bent signature", format!("{head}.{body}.{}", URL_SAFE_NO_PAD.encode([7; 256]))),
        ("two parts", format!("{head}.{body}")),
    ];
    for (what, token) in &wrong {
        let answer = get(token, &costs).await;
        assert_eq!(told(&answer), told(&nobody), "{what}");
    }

    // Another key takes over, without a restart. The provider is not asked more than once in 30 s.
    issuer.publish(&[&second]);
    let rotated = second.sign(&claims(json!("finance")));
    until("the new key is known", Duration::from_secs(60), async || (get(&rotated, &costs).await.status == 200).then_some(()))
        .await;
    let old = get(&finance, &costs).await;
    assert_eq!(told(&old), told(&nobody), "what the withdrawn key signed is worth nothing now");
}
