//! Which provider answers for a model's name, and in which order the others come after it.

use tollgate_domain::{
    llm::{ProviderKind, Target, names},
    policy::Reason,
};
use tollgate_store::providers::Provider;

use crate::{caller::Caller, script::random};

/// A model at a provider.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub provider: Provider,
    /// As the provider names it.
    pub model: String,
}

/// Where a request for `model` may go, the first try first. A name is looked for among the tenant's model routes, then as
/// `provider/model`, then among the models that providers say they serve.
///
/// # Errors
/// Why it goes nowhere.
pub fn candidates(caller: &Caller, kind: ProviderKind, model: &str) -> Result<Vec<Candidate>, Reason> {
    let config = caller.config();
    let allowed = config.keys.get(&caller.key).is_some_and(|key| key.models.as_ref().is_none_or(|models| names(models, model)));
    if !allowed {
        return Err(Reason::ModelNotAllowed);
    }
    let speak = || config.providers.iter().filter(|provider| provider.kind == kind);
    let found: Vec<Candidate> = if let Some(route) = config.routes.iter().find(|route| route.name == model) {
        let at = |target: Target| {
            let provider = speak().find(|provider| provider.id == target.provider_id)?.clone();
            Some(Candidate { provider, model: target.model })
        };
        let weighted = shuffled(route.targets.clone(), |target| target.weight);
        weighted.into_iter().filter_map(at).collect()
    } else if let Some((provider, own)) = named(&config.providers, model) {
        let serves = provider.kind == kind && (provider.models.is_empty() || names(&provider.models, own));
        serves.then(|| Candidate { provider: provider.clone(), model: own.to_owned() }).into_iter().collect()
    } else {
        let serve = |listed: bool| {
            let fits =
                move |provider: &&Provider| provider.models.is_empty() != listed && (!listed || names(&provider.models, model));
            speak().filter(fits).cloned().map(|provider| Candidate { provider, model: model.to_owned() })
        };
        // Whoever names the model goes before those who would take any.
        serve(true).chain(serve(false)).collect()
    };
    if found.is_empty() { Err(Reason::UnknownModel) } else { Ok(found) }
}

/// The provider that a name begins with: nobody else answers for it.
fn named<'a>(providers: &'a [Provider], model: &'a str) -> Option<(&'a Provider, &'a str)> {
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
