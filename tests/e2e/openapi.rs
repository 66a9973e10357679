//! The admin API's description: what is checked in, what the binary prints and what the server serves are one.

use std::fs;

use crate::harness::{Tollgate, binary, clean_command, http_client, root};

fn printed() -> String {
    let output = clean_command(&binary("tollgate")).arg("openapi").output().expect("tollgate openapi");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn the_description_in_the_repository_is_the_binarys_own() {
    let kept = fs::read_to_string(root().join("openapi/admin.json")).expect("openapi/admin.json");
    let printed = printed();
    let differs = kept.lines().zip(printed.lines()).position(|(kept, printed)| kept != printed);
    let at = differs.unwrap_or(kept.lines().count().min(printed.lines().count()));
    assert!(
        kept == printed,
        "openapi/admin.json is stale from line {} on; `make openapi` writes it anew.\n kept: {}\n is:   {}",
        at + 1,
        kept.lines().nth(at).unwrap_or("<end>"),
        printed.lines().nth(at).unwrap_or("<end>"),
    );
}

#[tokio::test]
async fn the_description_is_served_and_its_page_loads_nothing_from_elsewhere() {
    let tollgate = Tollgate::shared().await;
    let admin = tollgate.admin().anonymous();
    let served = admin.get("/openapi.json").await;
    assert_eq!(served.header("content-type"), Some("application/json"));
    let printed: serde_json::Value = serde_json::from_str(&printed()).expect("JSON");
    assert_eq!(served.expect(200), printed);

    // With or without the slash, as a browser would follow it.
    let mut page = admin.get("/docs").await;
    if let Some(next) = page.header("location").map(str::to_owned) {
        page = admin.get(&next).await;
    }
    assert_eq!(page.status, 200, "{}", page.text);
    assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")), "{:?}", page.headers);
    for scheme in ["http://", "https://", "src=\"//", "href=\"//"] {
        assert!(!page.text.contains(scheme), "the page names another host ({scheme}): {}", page.text);
    }
    let links: Vec<&str> = ["src=\"", "href=\""]
        .iter()
        .flat_map(|attribute| page.text.split(attribute).skip(1))
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert!(links.len() >= 3, "{links:?}");
    for link in links {
        let path = link.trim_start_matches("./");
        let url = format!("{}/docs/{path}", tollgate.api_url);
        let status = http_client().get(&url).send().await.expect("an answer").status();
        assert!(status.is_success(), "{url}: {status}");
    }
}
