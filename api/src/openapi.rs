//! The description of the API, made from the table of routes: what is common to all routes is said once, here.

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Content, HttpMethod, Info, License, OpenApi, PathItem, Ref, RefOr, Required, Response, ResponseBuilder, Schema, Server,
        path::{Operation, Parameter, ParameterBuilder, ParameterIn, Paths},
        schema::{ObjectBuilder, Type},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

use crate::{
    problem::{FieldError, Kind, ProblemBody},
    router::{Entry, RouteInfo, entries},
};

const TEXT: &str = "Tenants, virtual keys, upstreams, tools, prices and audit of Tollgate. Every call carries a bearer token; \
lists are paged by opaque tokens; a POST may carry an Idempotency-Key; PATCH and DELETE carry the ETag that was read as If-Match; \
refusals are RFC 9457 problems with a stable `code`.";

/// The whole description.
#[must_use]
pub fn describe() -> OpenApi {
    let mut info = Info::new("Tollgate admin API", env!("CARGO_PKG_VERSION"));
    info.description = Some(TEXT.to_owned());
    info.license = Some(License::new("Apache-2.0"));
    let mut api = OpenApi::new(info, Paths::new());
    let mut components = utoipa::openapi::Components::new();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A platform token, a service token of the tenant, or an ID token of a configured identity provider."))
        .build();
    components.security_schemes.insert("bearer".to_owned(), RefOr::T(SecurityScheme::Http(bearer)));
    components.schemas.insert("Problem".to_owned(), ProblemBody::schema());
    components.schemas.insert(FieldError::name().into_owned(), FieldError::schema());
    let mut operations = Vec::new();
    for Entry { route, name, docs: (schemas, paths, _) } in entries() {
        components.schemas.extend(schemas);
        for (path, item) in paths.paths {
            operations.push((path, complete(item, &route, name)));
        }
    }
    for (path, item) in operations {
        match api.paths.paths.get_mut(&path) {
            Some(there) => there.merge_operations(item),
            None => drop(api.paths.paths.insert(path, item)),
        }
    }
    api.components = Some(components);
    api.servers = Some(vec![Server::new("/")]);
    api.security = Some(vec![SecurityRequirement::new("bearer", Vec::<String>::new())]);
    api
}

/// Pretty, stable, and ending in a newline.
#[must_use]
pub fn json() -> String {
    let mut text = describe().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

/// Add to the operation what follows from its line in the table.
fn complete(mut item: PathItem, route: &RouteInfo, name: &str) -> PathItem {
    for (method, slot) in slots(&mut item) {
        if let Some(operation) = slot {
            let module: Vec<&str> = name.split("::").map(str::trim).filter(|part| *part != "handle").collect();
            operation.operation_id = Some(module.join("_"));
            operation.tags = module.first().map(|tag| vec![tag.replace('_', "-")]);
            path_parameters(operation, route.path);
            header_parameters(operation, &method);
            refusals(operation, route, &method);
        }
    }
    item
}

fn path_parameters(operation: &mut Operation, path: &str) {
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let ours: Vec<Parameter> = names
        .map(|name| {
            let what = name.trim_end_matches("_id").replace('_', " ");
            parameter(name, ParameterIn::Path, Required::True, &format!("The {what}'s id."))
        })
        .collect();
    let all = operation.parameters.get_or_insert_default();
    all.retain(|p| !matches!(p, RefOr::T(p) if p.parameter_in == ParameterIn::Path));
    all.splice(0..0, ours.into_iter().map(RefOr::T));
}

fn header_parameters(operation: &mut Operation, method: &HttpMethod) {
    let header = match method {
        HttpMethod::Post => parameter(
            "Idempotency-Key",
            ParameterIn::Header,
            Required::False,
            "A request that is sent again under the same key is answered again, not done again; kept for 24 hours.",
        ),
        HttpMethod::Patch | HttpMethod::Delete => {
            parameter("If-Match", ParameterIn::Header, Required::True, "The ETag that was read, or `*`.")
        }
        _ => return,
    };
    operation.parameters.get_or_insert_default().push(RefOr::T(header));
}

fn parameter(name: &str, place: ParameterIn, required: Required, text: &str) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(required)
        .description(Some(text))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .build()
}

/// The refusals that a route has by what it is; the annotation's own come first and stay.
fn refusals(operation: &mut Operation, route: &RouteInfo, method: &HttpMethod) {
    let mut kinds = vec![Kind::Unauthenticated, Kind::Forbidden, Kind::Internal, Kind::Unavailable];
    if route.path.contains('{') {
        kinds.push(Kind::NotFound);
    }
    match method {
        HttpMethod::Post => {
            kinds.extend([Kind::Malformed, Kind::Slow, Kind::Conflict, Kind::TooLarge, Kind::NotJson, Kind::Invalid])
        }
        HttpMethod::Patch => {
            kinds.extend([
                Kind::Malformed,
                Kind::Slow,
                Kind::Conflict,
                Kind::Stale,
                Kind::TooLarge,
                Kind::NotJson,
                Kind::Invalid,
                Kind::MissingIfMatch,
            ]);
        }
        HttpMethod::Delete => kinds.extend([Kind::Conflict, Kind::Stale, Kind::MissingIfMatch]),
        _ => kinds.extend([Kind::Malformed, Kind::Invalid]),
    }
    for kind in kinds {
        let status = kind.status().as_u16().to_string();
        let there = &mut operation.responses.responses;
        there.entry(status).or_insert_with(|| RefOr::T(refusal(kind)));
    }
}

fn refusal(kind: Kind) -> Response {
    let schema: RefOr<Schema> = RefOr::Ref(Ref::from_schema_name("Problem"));
    ResponseBuilder::new().description(kind.title()).content("application/problem+json", Content::new(Some(schema))).build()
}

fn slots(item: &mut PathItem) -> [(HttpMethod, &mut Option<Operation>); 5] {
    [
        (HttpMethod::Get, &mut item.get),
        (HttpMethod::Post, &mut item.post),
        (HttpMethod::Put, &mut item.put),
        (HttpMethod::Patch, &mut item.patch),
        (HttpMethod::Delete, &mut item.delete),
    ]
}

/// The methods that an item describes.
#[cfg(test)]
pub(crate) fn methods(item: &PathItem) -> Vec<&'static str> {
    let all = [("get", &item.get), ("post", &item.post), ("put", &item.put), ("patch", &item.patch), ("delete", &item.delete)];
    all.into_iter().filter(|(_, slot)| slot.is_some()).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn every_operation_is_whole() {
        let api: Value = serde_json::from_str(&json()).unwrap();
        assert_eq!(json(), json(), "stable");
        let mut ids = std::collections::BTreeSet::new();
        let mut operations = 0;
        for (path, item) in api["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                operations += 1;
                let name = format!("{method} {path}");
                assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{name}: the id comes twice");
                assert!(operation["summary"].as_str().is_some_and(|s| !s.is_empty()), "{name} has no doc comment");
                let success = operation["responses"].as_object().unwrap().keys().filter(|s| s.starts_with('2')).count();
                assert!(success > 0, "{name} describes no success");
                assert!(operation["responses"]["401"]["content"]["application/problem+json"].is_object(), "{name}");
            }
        }
        assert_eq!(operations, entries().len());
        // Every schema that is referred to is there.
        let text = json();
        for reference in text.split("#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(api["components"]["schemas"][name].is_object(), "no schema {name}");
        }
    }
}
