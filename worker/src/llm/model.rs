//! Which provider answers for a model's name, and in which order the others come after it.

use std::sync::Arc;

use tollgate_domain::{
    llm::{Target, names},
    policy::Reason,
};
use tollgate_store::providers::Provider;

use super::dialect::Dialect;
use crate::{caller::Caller, script::random};

/// A model at a provider.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub provider: Arc<Provider>,
    /// As the provider names it.
    pub model: String,
}

/// Where a request for `model` may go, the first try first. A name is looked for among the tenant's model routes, then as
/// `provider/model`, then among the models that providers say they serve: there, those who speak as the caller does come first.
///
/// # Errors
/// Why it goes nowhere, and what there is to add.
pub fn candidates(caller: &Caller, dialect: Dialect, model: &str) -> Result<Vec<Candidate>, (Reason, Option<String>)> {
    let config = caller.config();
    let allowed = config.keys.get(&caller.key).is_some_and(|key| key.models.as_ref().is_none_or(|models| names(models, model)));
    if !allowed {
        return Err((Reason::ModelNotAllowed, None));
    }
    // By whom it would be served, did they speak otherwise.
    let mut other = None;
    let mut reaches = |provider: &Provider| {
        let reached = dialect.reaches(provider.kind);
        if !reached {
            other.get_or_insert_with(|| provider.clone());
        }
        reached
    };
    let found: Vec<Candidate> = if let Some(route) = config.routes.iter().find(|route| route.name == model) {
        let at = |target: Target| {
            let provider = config.providers.iter().find(|provider| provider.id == target.provider_id)?;
            reaches(provider).then(|| Candidate { provider: provider.clone(), model: target.model })
        };
        let weighted = shuffled(route.targets.clone(), |target| target.weight);
        weighted.into_iter().filter_map(at).collect()
    } else if let Some((provider, own)) = named(&config.providers, model) {
        let serves = (provider.models.is_empty() || names(&provider.models, own)) && reaches(provider);
        serves.then(|| Candidate { provider: Arc::clone(provider), model: own.to_owned() }).into_iter().collect()
    } else {
        let native = |provider: &&Arc<Provider>| provider.kind == dialect.kind();
        let names = |provider: &&Arc<Provider>| !provider.models.is_empty() && names(&provider.models, model);
        let takes_any = |provider: &&Arc<Provider>| provider.models.is_empty();
        // Whoever names the model goes before those who would take any. Who speaks otherwise and names it is not followed by those who may
        // not know it, and who does not name it is asked only where there is nobody else.
        let (own, others): (Vec<_>, Vec<_>) = config.providers.iter().filter(names).partition(native);
        let (any, any_other): (Vec<_>, Vec<_>) = config.providers.iter().filter(takes_any).partition(native);
        let others: Vec<_> = others.into_iter().filter(|provider| reaches(provider)).collect();
        let any = if own.is_empty() && !others.is_empty() { Vec::new() } else { any };
        let mut all: Vec<&Arc<Provider>> = own.into_iter().chain(others).chain(any).collect();
        if all.is_empty() {
            all.extend(any_other.into_iter().filter(|provider| reaches(provider)));
        }
        all.into_iter().cloned().map(|provider| Candidate { provider, model: model.to_owned() }).collect()
    };
    match other {
        _ if !found.is_empty() => Ok(found),
        None => Err((Reason::UnknownModel, None)),
        Some(Provider { name, kind, .. }) => {
            let (route, own) = (dialect.route(), dialect.kind());
            Err((
                Reason::UnknownModel,
                Some(format!("{route} is served by providers of kind \"{own}\" alone, and \"{name}\" is of kind \"{kind}\"")),
            ))
        }
    }
}

/// The provider that a name begins with: nobody else answers for it.
fn named<'a>(providers: &'a [Arc<Provider>], model: &'a str) -> Option<(&'a Arc<Provider>, &'a str)> {
    let (name, own) = model.split_once('/')?;
    Some((providers.iter().find(|provider| provider.name == name)?, own))
}

/// In an order by chance in which each comes first as often as its weight says; those without one stay as they are, at the end.
pub fn shuffled<T>(items: Vec<T>, weight: impl Fn(&T) -> u32) -> Vec<T> {
    let (mut weighted, rest): (Vec<T>, Vec<T>) = items.into_iter().partition(|item| weight(item) > 0);
    let mut order = Vec::with_capacity(weighted.len() + rest.len());
    while !weighted.is_empty() {
        let sum: u64 = weighted.iter().map(|item| u64::from(weight(item))).sum();
        let mut at = random() % sum;
        let place = weighted.iter().position(|item| {
            let own = u64::from(weight(item));
            let here = at < own;
            at = at.saturating_sub(own);
            here
        });
        order.push(weighted.swap_remove(place.unwrap_or(0)));
    }
    order.extend(rest);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_comes_first_as_often_as_its_weight_says() {
        let mut first = [0; 4];
        for _ in 0..4000 {
            let order = shuffled(vec![(0, 3), (1, 1), (2, 0), (3, 0)], |item| item.1);
            first[order[0].0] += 1;
            assert_eq!([order[2].0, order[3].0], [2, 3], "those without a weight keep their order");
        }
        assert!((2700..3300).contains(&first[0]) && first[0] + first[1] == 4000, "{first:?}");
    }
}
