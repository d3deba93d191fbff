//! `GET /requests`.

use serde_json::{Value, json};

use crate::{
    auth::Tenants,
    client::{bare, post},
    redelivery::{HOOK, failed},
    server::Server,
};

const JOB: &str = r#"{"records": 1, "report_name": "a"}"#;

fn ids(page: &Value) -> Vec<String> {
    let requests = page["requests"].as_array().unwrap();
    let id = |request: &Value| request["id"].as_str().unwrap().to_owned();
    requests.iter().map(id).collect()
}

#[tokio::test]
async fn requests_are_listed_newest_first_in_pages() {
    let server = Server::start(&[]).await;
    let empty = server.ask(bare("GET", "/requests")).await;
    assert_eq!(empty.status, 200);
    assert_eq!(empty.json(), json!({"requests": [], "next_cursor": null}));

    let mut newest_first = Vec::new();
    for _ in 0..5 {
        let accepted = server.ask(post("/async", JOB)).await.json();
        newest_first.insert(0, accepted["request_id"].as_str().unwrap().to_owned());
    }
    let filters = "status=PENDING&created_after=2020-01-01T00:00:00%2B01:00&limit=2";
    let mut path = format!("/requests?{filters}");
    let mut found = Vec::new();
    let mut lengths = Vec::new();
    loop {
        let answer = server.ask(bare("GET", &path)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let page = answer.json();
        lengths.push(ids(&page).len());
        found.extend(ids(&page));
        let Value::String(cursor) = &page["next_cursor"] else {
            break;
        };
        path = format!("/requests?{filters}&cursor={cursor}");
    }
    assert_eq!((found, lengths), (newest_first, vec![2, 2, 1]));
}

#[tokio::test]
async fn an_entry_has_the_fields_of_the_request_without_its_payloads() {
    let server = Server::start(&[]).await;
    let id = failed(&server.app.store, HOOK).await;
    let page = server.ask(bare("GET", "/requests?status=FAILED")).await;
    let page = page.json();
    let request = server.ask(bare("GET", &format!("/requests/{id}"))).await;
    let request = request.json();
    let entry = &page["requests"][0];
    let fields = [
        "id",
        "mode",
        "handler",
        "status",
        "callback_url",
        "created_at",
        "completed_at",
        "failure",
    ];
    assert_eq!(entry.as_object().unwrap().len(), fields.len(), "{entry}");
    for field in fields {
        assert_eq!(entry[field], request[field], "{field}");
    }
}

#[tokio::test]
async fn a_bad_parameter_is_422_and_names_what_is_accepted() {
    let server = Server::start(&[]).await;
    server.ask(post("/async", JOB)).await;
    server.ask(post("/async", JOB)).await;
    let first = server.ask(bare("GET", "/requests?limit=1")).await.json();
    let cursor = first["next_cursor"].as_str().unwrap();
    for (query, field) in [
        ("status=failed", "status"),
        ("handler=A", "handler"),
        ("handler=pdf", "handler"),
        ("created_after=1764000000", "created_after"),
        ("created_before=", "created_before"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("cursor=x", "cursor"),
        (&format!("cursor={cursor}&status=PENDING"), "cursor"),
        ("page=2", "page"),
        ("limit=1&limit=1", "limit"),
        ("cursor=%00%ff", "cursor"),
    ] {
        let answer = server.ask(bare("GET", &format!("/requests?{query}"))).await;
        assert_eq!(answer.problem(), "422 validation", "{query}");
        let errors = &answer.json()["errors"];
        assert_eq!(errors[0]["field"], field, "{query}");
        assert_eq!(errors.as_array().unwrap().len(), 1, "{errors}");
    }
    let again = format!("/requests?limit=2&cursor={cursor}");
    let answer = server.ask(bare("GET", &again)).await;
    assert_eq!(
        ids(&answer.json()).len(),
        1,
        "another limit is no other list"
    );
}

#[tokio::test]
async fn the_list_is_read_only() {
    let server = Server::start(&[]).await;
    for method in ["POST", "PUT", "DELETE"] {
        let answer = server.ask(bare(method, "/requests")).await;
        assert_eq!(answer.problem(), "405 method-not-allowed");
        assert_eq!(answer.header("allow"), Some("GET, HEAD"));
    }
    let mut client = server.connect().await;
    client.send(bare("HEAD", "/requests")).await;
    assert_eq!(client.head().await.status, 200);
}

#[tokio::test]
async fn a_tenant_lists_only_its_own_requests() {
    let tenants = Tenants::start(&[("RATE_LIMIT", "9/h")]).await;
    let mut of_one = Vec::new();
    for _ in 0..2 {
        let accepted = tenants.ask_as(&tenants.one, &post("/async", JOB)).await;
        of_one.insert(
            0,
            accepted.json()["request_id"].as_str().unwrap().to_owned(),
        );
        tenants.ask_as(&tenants.other, &post("/async", JOB)).await;
    }
    let first = bare("GET", "/requests?limit=1");
    let page = tenants.ask_as(&tenants.one, &first).await;
    assert!(
        page.header("ratelimit").unwrap().contains("r=6"),
        "it counts against the limit"
    );
    let page = page.json();
    let cursor = page["next_cursor"].as_str().unwrap();
    let next = bare("GET", &format!("/requests?limit=1&cursor={cursor}"));
    let last = tenants.ask_as(&tenants.one, &next).await.json();
    assert_eq!([ids(&page), ids(&last)].concat(), of_one);
    assert_eq!(last["next_cursor"], Value::Null);
    // The cursor says where to begin, and not whose requests are listed.
    let of_other = tenants.ask_as(&tenants.other, &next).await.json();
    assert!(ids(&of_other).iter().all(|id| !of_one.contains(id)));
    assert_eq!(ids(&of_other).len(), 1);
    let anonymous = tenants.server.ask(&first).await;
    assert_eq!(anonymous.problem(), "401 unauthorized");
}
