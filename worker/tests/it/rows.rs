//! The rows of a store: jobs that a test accepts, and what becomes of them.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use storm_shared::{
    models::{CallbackUrl, Records, ReportName, ReportSpec, Request, RequestId, Status},
    services::store::{NewJob, Store},
};

/// What has a store whose jobs a worker runs.
pub(crate) trait Rows {
    fn store(&self) -> &Store;

    async fn accept(&self, records: u64, callback_url: Option<String>) -> RequestId {
        accept(self.store(), records, callback_url).await
    }

    /// Accepts a job of `tenant`, whose report has the tenant's name.
    async fn accept_of(&self, tenant: &str, callback_url: &str) -> RequestId {
        let id = RequestId::generate();
        let spec = ReportSpec {
            report_name: ReportName::try_from(tenant.to_owned()).unwrap(),
            ..spec(1)
        };
        let callback = CallbackUrl::parse(callback_url).unwrap();
        let job = NewJob {
            created_by: Some(tenant.parse().unwrap()),
            ..NewJob::new(id, spec, Some(callback))
        };
        self.store().accept(job).await.unwrap();
        id
    }

    async fn find(&self, id: RequestId) -> Request {
        self.store().find(id).await.unwrap().unwrap()
    }

    /// Polls until the row is as `wanted`.
    async fn row_when(&self, id: RequestId, wanted: impl Fn(&Request) -> bool) -> Request {
        loop {
            let row = self.find(id).await;
            if wanted(&row) {
                return row;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The row once the job has ended.
    async fn ended(&self, id: RequestId) -> Request {
        let is_final = |row: &Request| matches!(row.status, Status::Completed | Status::Failed);
        self.row_when(id, is_final).await
    }
}

/// Whether a job ended no earlier than it was due when it was `scheduled`. What is shown of the
/// store's clock can differ from the wall clock by some milliseconds.
pub(crate) fn ended_when_due(row: &Request, scheduled: &Request) -> bool {
    let parse = |at: &Option<String>| at.as_ref().unwrap().parse::<Timestamp>().unwrap();
    let late = parse(&row.completed_at).duration_since(parse(&scheduled.next_attempt_at));
    late > SignedDuration::from_millis(-50)
}

pub(crate) async fn accept(store: &Store, records: u64, callback_url: Option<String>) -> RequestId {
    let id = RequestId::generate();
    let callback = callback_url.map(|url| CallbackUrl::parse(&url).unwrap());
    let job = NewJob::new(id, spec(records), callback);
    store.accept(job).await.unwrap();
    id
}

pub(crate) fn spec(records: u64) -> ReportSpec {
    ReportSpec {
        report_name: ReportName::try_from("Q1_Finance".to_owned()).unwrap(),
        records: Records::new(records, Records::MAX_ASYNC).unwrap(),
    }
}
