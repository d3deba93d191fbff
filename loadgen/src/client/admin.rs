//! The requests of operators: `POST /admin/pause`, `/resume`, `/cancel` and `/redeliver`.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Api;
use crate::answers::RequestFailure;

impl Api {
    /// Pauses or resumes everything, or the callbacks to an origin. Returns whether it was not so
    /// before.
    ///
    /// # Errors
    /// There was no successful answer before the deadline.
    pub async fn pause(
        &self,
        origin: Option<&str>,
        pauses: bool,
        deadline: Instant,
    ) -> Result<bool, RequestFailure> {
        #[derive(Deserialize)]
        struct Done {
            changed: bool,
        }
        let body = match origin {
            Some(origin) => json!({"origin": origin}),
            None => json!({"everything": true}),
        };
        let action = if pauses { "pause" } else { "resume" };
        let done: Done = self.operate(action, &body, deadline).await?;
        Ok(done.changed)
    }

    /// Sends `body` to `/admin/{action}`, and returns the answer to a page of an action by filter.
    ///
    /// # Errors
    /// There was no successful answer before the deadline.
    pub async fn act_by_filter<T: DeserializeOwned>(
        &self,
        action: &str,
        body: &Value,
        deadline: Instant,
    ) -> Result<T, RequestFailure> {
        self.operate(action, body, deadline).await
    }

    async fn operate<T: DeserializeOwned>(
        &self,
        action: &str,
        body: &Value,
        deadline: Instant,
    ) -> Result<T, RequestFailure> {
        let mut request = Request::new(Full::from(Bytes::from(body.to_string())));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = format!("{}/admin/{action}", self.base)
            .parse()
            .map_err(|error| RequestFailure::Connection(format!("{error}")))?;
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
        let body = self.send(request, StatusCode::OK, deadline).await?;
        serde_json::from_slice(&body).map_err(|error| {
            RequestFailure::WrongAnswer(format!("not an answer to /admin/{action}: {error}"))
        })
    }
}
