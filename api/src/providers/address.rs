//! Where a provider of each kind is asked.

use reqwest::Url;
use tollgate_domain::llm::ProviderKind;

use super::check_url;
use crate::problem::Problem;

const GEMINI: &str = "https://generativelanguage.googleapis.com/v1beta";

/// An address and, of Bedrock alone, the region for which its requests are signed.
pub fn address(kind: ProviderKind, base_url: Option<&str>, region: Option<&str>) -> Result<(Url, Option<String>), Problem> {
    let refuse = |field: &str, sentence: &str| Err(Problem::field(field, sentence));
    if region.is_some() && kind != ProviderKind::Bedrock {
        return refuse("/region", "only a provider of kind \"bedrock\" has a region");
    }
    if region.is_some_and(|region| !is_region(region)) {
        return refuse("/region", "use a region's name, such as \"eu-central-1\"");
    }
    let url = match (kind, base_url, region) {
        (_, Some(url), _) => check_url(url)?,
        (ProviderKind::Gemini, None, _) => check_url(GEMINI)?,
        (ProviderKind::Bedrock, None, Some(region)) => check_url(&bedrock(region))?,
        (ProviderKind::Bedrock, None, None) => return refuse("/region", "name the region, or the address by \"base_url\""),
        (ProviderKind::OpenAi | ProviderKind::Anthropic, None, _) => {
            return refuse("/base_url", "name the address: many servers speak what this kind speaks");
        }
    };
    if kind != ProviderKind::Bedrock {
        return Ok((url, None));
    }
    match (region, region_of(&url)) {
        (Some(region), Some(said)) if region != said => {
            refuse("/region", &format!("the address lies in \"{said}\", and what is signed for another region is refused there"))
        }
        (Some(region), _) => Ok((url.clone(), Some(region.to_owned()))),
        (None, Some(said)) => Ok((url.clone(), Some(said.to_owned()))),
        (None, None) => refuse("/region", "name the region for which requests are signed: this address does not say it"),
    }
}

fn bedrock(region: &str) -> String {
    let china = if region.starts_with("cn-") { ".cn" } else { "" };
    format!("https://bedrock-runtime.{region}.amazonaws.com{china}")
}

/// The region that an address of Amazon's names: the label behind the service's.
pub fn region_of(url: &Url) -> Option<&str> {
    let host = url.host_str()?;
    let is_theirs = [".amazonaws.com", ".amazonaws.com.cn", ".api.aws"].iter().any(|domain| host.ends_with(domain));
    let mut labels = host.split('.').skip_while(|label| !label.starts_with("bedrock-runtime"));
    labels.next().filter(|_| is_theirs)?;
    labels.next().filter(|label| is_region(label))
}

fn is_region(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (3..=32).contains(&text.len()) && text.contains('-') && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_address_and_bedrock_a_region() {
        let of = |kind, base, region| address(kind, base, region).map(|(url, region)| (url.to_string(), region)).ok();
        let at = |url: &str, region: &str| Some((url.to_owned(), Some(region.to_owned())));
        assert_eq!(of(ProviderKind::Gemini, None, None), Some((GEMINI.to_owned(), None)));
        assert_eq!(of(ProviderKind::OpenAi, None, None), None);
        assert_eq!(of(ProviderKind::Anthropic, Some("https://api.anthropic.com"), Some("eu-west-1")), None);
        let ireland = "https://bedrock-runtime.eu-west-1.amazonaws.com/";
        assert_eq!(of(ProviderKind::Bedrock, None, Some("eu-west-1")), at(ireland, "eu-west-1"));
        assert_eq!(of(ProviderKind::Bedrock, Some(ireland), None), at(ireland, "eu-west-1"));
        assert_eq!(of(ProviderKind::Bedrock, Some(ireland), Some("us-east-1")), None, "it would be refused there");
        let vpc = "https://vpce-1.bedrock-runtime.us-west-2.vpce.amazonaws.com/";
        assert_eq!(of(ProviderKind::Bedrock, Some(vpc), None), at(vpc, "us-west-2"));
        let china = "https://bedrock-runtime.cn-north-1.amazonaws.com.cn/";
        assert_eq!(of(ProviderKind::Bedrock, None, Some("cn-north-1")), at(china, "cn-north-1"));
        assert_eq!(of(ProviderKind::Bedrock, Some("http://127.0.0.1:9"), None), None, "nobody knows what to sign for");
        assert_eq!(
            of(ProviderKind::Bedrock, Some("http://127.0.0.1:9"), Some("eu-west-1")),
            at("http://127.0.0.1:9/", "eu-west-1")
        );
        for odd in ["", "EU-WEST-1", "a/b", "eu west", "euwest"] {
            assert_eq!(of(ProviderKind::Bedrock, None, Some(odd)), None, "{odd}");
        }
    }
}
